from __future__ import annotations

import itertools

import pytest

from shards.sampling.order import LaneOrder, SampleAddress, lanes_of

COUNTS = [7, 11, 5, 0, 9, 6]  # 38 samples; one shard is empty
BATCH_SIZE = 6  # 6 steps, 2 samples left out

GOLDEN = [
    SampleAddress(epoch=0, shard=0, position=3),
    SampleAddress(epoch=0, shard=1, position=2),
    SampleAddress(epoch=0, shard=2, position=1),
    SampleAddress(epoch=0, shard=0, position=2),
    SampleAddress(epoch=0, shard=1, position=1),
    SampleAddress(epoch=0, shard=2, position=3),
    SampleAddress(epoch=0, shard=0, position=1),
    SampleAddress(epoch=0, shard=2, position=4),
    SampleAddress(epoch=0, shard=2, position=2),
    SampleAddress(epoch=1, shard=2, position=3),
    SampleAddress(epoch=1, shard=2, position=4),
    SampleAddress(epoch=1, shard=0, position=1),
    SampleAddress(epoch=250, shard=1, position=0),
    SampleAddress(epoch=250, shard=0, position=0),
    SampleAddress(epoch=250, shard=2, position=0),
]


def make_order(seed: int = 5) -> LaneOrder:
    return LaneOrder(COUNTS, BATCH_SIZE, seed)


def epoch_samples(order: LaneOrder, epoch: int) -> list[tuple[int, int]]:
    """(shard, position) of a whole epoch, batch after batch."""
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    addresses = [order.locate(step, lane) for step in steps for lane in range(BATCH_SIZE)]
    assert {address.epoch for address in addresses} == {epoch}
    return [(address.shard, address.position) for address in addresses]


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_an_epoch_visits_each_sample_at_most_once(epoch: int) -> None:
    visited = epoch_samples(make_order(), epoch)
    assert len(visited) == len(set(visited)) == sum(COUNTS) // BATCH_SIZE * BATCH_SIZE
    assert all(0 <= position < COUNTS[shard] for shard, position in visited)


def test_an_epoch_is_complete_when_the_batch_divides_it() -> None:
    order = LaneOrder([10, 20, 6], BATCH_SIZE, seed=1)
    everything = {(s, p) for s, count in enumerate([10, 20, 6]) for p in range(count)}
    assert set(epoch_samples(order, 3)) == everything


def test_epochs_differ_in_order_and_in_what_they_leave_out() -> None:
    order = make_order()
    epochs = [epoch_samples(order, epoch) for epoch in range(8)]
    everything = {(s, p) for s, count in enumerate(COUNTS) for p in range(count)}
    left_out = {frozenset(everything - set(visited)) for visited in epochs}
    assert len({tuple(visited) for visited in epochs}) == 8
    assert len(left_out) == 8
    assert set().union(*epochs) == everything


def test_seeds_give_different_orders() -> None:
    assert epoch_samples(make_order(seed=1), 0) != epoch_samples(make_order(seed=2), 0)


def test_every_world_size_sees_the_same_batch_at_each_step() -> None:
    order = make_order()
    for step in (0, 5, 6, 13):
        whole = [order.locate(step, lane) for lane in range(BATCH_SIZE)]
        for world_size in (1, 2, 3, 6):
            shares = [lanes_of(BATCH_SIZE, rank, world_size) for rank in range(world_size)]
            assert [order.locate(step, lane) for share in shares for lane in share] == whole


def test_seeking_gives_what_iterating_gives() -> None:
    walked = make_order()
    for step in range(20):
        for lane in range(BATCH_SIZE):
            address = walked.locate(step, lane)
            if step % 4 == 3:
                assert make_order().locate(step, lane) == address


def test_asking_out_of_order_changes_nothing() -> None:
    order = make_order()
    places = [(step, lane) for step in range(30) for lane in range(BATCH_SIZE)]
    backwards = {place: order.locate(*place) for place in reversed(places)}
    assert [backwards[place] for place in places] == [order.locate(*place) for place in places]


def test_a_lane_reads_one_shard_to_the_end_of_its_span_before_the_next() -> None:
    order = LaneOrder([50] * 8, batch_size=4, seed=0)
    for lane in range(4):
        shards = [order.locate(step, lane).shard for step in range(order.steps_per_epoch)]
        changes = sum(a != b for a, b in itertools.pairwise(shards))
        assert changes == len(set(shards)) - 1


def test_the_order_is_the_one_that_runs_so_far_were_trained_in() -> None:
    order = LaneOrder([4, 3, 5], batch_size=3, seed=11)
    located = [order.locate(step, lane) for step in (0, 1, 3, 4, 1000) for lane in range(3)]
    assert located == GOLDEN


def test_shards_ahead_are_those_the_lanes_open_next() -> None:
    order = LaneOrder([12] * 6, batch_size=4, seed=3)  # 18 steps an epoch
    lanes = lanes_of(4, 1, 2)
    for step in (0, 7, 17, 30):
        ahead = order.shards_ahead(step, lanes)
        now = {order.locate(step, lane).shard for lane in lanes}
        assert set(ahead[: len(now)]) == now
        expected = set()
        for lane in lanes:
            later = range(step, 2 * order.steps_per_epoch + step // 18 * 18)
            walked = dict.fromkeys(order.locate(t, lane).shard for t in later)
            expected |= set(list(walked)[:2])
        assert set(ahead) == expected
        assert len(ahead) == len(set(ahead)) <= 2 * len(lanes)


def test_a_world_size_that_does_not_divide_the_batch_is_refused_with_those_that_do() -> None:
    with pytest.raises(ValueError, match=r"12 samples .* 5 workers.* 1, 2, 3, 4, 6, 12 of them"):
        lanes_of(12, 0, 5)


def test_a_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(ValueError, match="rank is 2"):
        lanes_of(12, 2, 2)


def test_fewer_samples_than_a_batch_are_refused_with_both_counts() -> None:
    with pytest.raises(ValueError, match="holds 7 samples, fewer than one batch of 8"):
        LaneOrder([3, 4], batch_size=8, seed=0)
