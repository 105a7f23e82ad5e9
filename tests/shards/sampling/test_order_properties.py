"""What holds of the order of samples for any sizes of shards, batches and worlds."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shards.sampling.mixture import MixedOrder, share_lanes
from shards.sampling.order import LaneOrder, SampleAddress, lanes_of
from tests.fuzz.mutations import fuzzed

# Empty shards, shards of one sample, one giant among them, fewer shards than lanes.
COUNTS = st.one_of(
    st.lists(st.sampled_from([0, 1, 2, 5, 9, 30]), min_size=1, max_size=12),
    st.lists(st.integers(0, 3), min_size=1, max_size=40),
    st.lists(st.integers(0, 4), max_size=4).map(lambda small: [*small, 150, *small]),
)
BATCH_SIZES = st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24])
SEEDS = st.integers(0, 2**40)
STEPS = st.one_of(st.integers(0, 60), st.integers(0, 10**6))
Batch = list[SampleAddress]


def order_of(counts: list[int], batch_size: int, seed: int) -> LaneOrder:
    assume(sum(counts) >= batch_size)
    return LaneOrder(counts, batch_size, seed)


def divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def batch_at(order: LaneOrder, step: int, lanes: Iterable[int]) -> Batch:
    return [order.locate(step, lane) for lane in lanes]


@fuzzed(60)
@given(counts=COUNTS, batch_size=BATCH_SIZES, seed=SEEDS, epoch=st.integers(0, 10**5))
def test_an_epoch_has_no_sample_twice_and_as_many_as_its_batches(
    counts: list[int], batch_size: int, seed: int, epoch: int
) -> None:
    order = order_of(counts, batch_size, seed)
    steps = order.steps_per_epoch
    assert steps == sum(counts) // batch_size
    read = [
        address
        for step in range(epoch * steps, (epoch + 1) * steps)
        for address in batch_at(order, step, range(batch_size))
    ]
    assert {address.epoch for address in read} == {epoch}
    places = {(address.shard, address.position) for address in read}
    assert len(read) == len(places) == batch_size * steps
    everything = {(s, position) for s, count in enumerate(counts) for position in range(count)}
    assert places <= everything
    if sum(counts) % batch_size == 0:
        assert places == everything


@fuzzed(60)
@given(counts=COUNTS, batch_size=BATCH_SIZES, seed=SEEDS, step=STEPS, draw=st.data())
def test_the_batch_is_the_same_list_for_every_world_size(
    counts: list[int], batch_size: int, seed: int, step: int, draw: st.DataObject
) -> None:
    whole = batch_at(order_of(counts, batch_size, seed), step, range(batch_size))
    world_size = draw.draw(st.sampled_from(divisors(batch_size)))
    ranks = [
        batch_at(LaneOrder(counts, batch_size, seed), step, lanes_of(batch_size, rank, world_size))
        for rank in range(world_size)
    ]
    assert {len(share) for share in ranks} == {batch_size // world_size}
    assert [address for share in ranks for address in share] == whole


@fuzzed(60)
@given(counts=COUNTS, batch_size=BATCH_SIZES, seed=SEEDS, step=STEPS, draw=st.data())
def test_resuming_anywhere_with_another_world_size_continues_the_order(
    counts: list[int], batch_size: int, seed: int, step: int, draw: st.DataObject
) -> None:
    walked = order_of(counts, batch_size, seed)
    start = max(0, step - draw.draw(st.integers(0, 25)))
    before, after = draw.draw(st.tuples(*[st.sampled_from(divisors(batch_size))] * 2))
    rank = draw.draw(st.integers(0, before - 1))
    lanes = lanes_of(batch_size, rank, before)
    continued = [batch_at(walked, at, lanes) for at in range(start, step + 3)]
    resumed = [
        [
            address
            for one in range(after)
            for address in batch_at(
                LaneOrder(counts, batch_size, seed), at, lanes_of(batch_size, one, after)
            )
        ]
        for at in range(step, step + 3)
    ]
    assert [batch[lanes.start : lanes.stop] for batch in resumed] == continued[step - start :]


def shards_of_lane(order: LaneOrder, lane: int, steps: range) -> list[int]:
    """The shards in the order in which the lane opens them."""
    read = [order.locate(step, lane)[:2] for step in steps]
    return [read[0][1], *(b[1] for a, b in pairwise(read) if a != b)]


@fuzzed(60)
@given(counts=COUNTS, batch_size=BATCH_SIZES, seed=SEEDS, step=st.integers(0, 200), draw=st.data())
def test_shards_ahead_are_what_the_lanes_read_at_the_step_and_next(
    counts: list[int], batch_size: int, seed: int, step: int, draw: st.DataObject
) -> None:
    order = order_of(counts, batch_size, seed)
    world_size = draw.draw(st.sampled_from(divisors(batch_size)))
    lanes = lanes_of(batch_size, draw.draw(st.integers(0, world_size - 1)), world_size)
    ahead = LaneOrder(counts, batch_size, seed).shards_ahead(step, lanes)
    epoch_end = (step // order.steps_per_epoch + 2) * order.steps_per_epoch
    read = [shards_of_lane(order, lane, range(step, epoch_end))[:2] for lane in lanes]
    now = {shards[0] for shards in read}
    assert set(ahead[: len(now)]) == now
    assert sorted(ahead) == sorted({shard for shards in read for shard in shards})


@fuzzed(40)
@given(counts=COUNTS, batch_size=BATCH_SIZES, seed=SEEDS, draw=st.data())
def test_a_rank_reads_no_other_shards_than_those_under_its_lanes(
    counts: list[int], batch_size: int, seed: int, draw: st.DataObject
) -> None:
    order = order_of(counts, batch_size, seed)
    world_size = draw.draw(st.sampled_from(divisors(batch_size)))
    steps = order.steps_per_epoch
    by_rank = [
        {
            order.locate(step, lane).shard
            for step in range(steps)
            for lane in lanes_of(batch_size, rank, world_size)
        }
        for rank in range(world_size)
    ]
    by_lane = [set(shards_of_lane(order, lane, range(steps))) for lane in range(batch_size)]
    for rank, read in enumerate(by_rank):
        assert read == set().union(*(by_lane[k] for k in lanes_of(batch_size, rank, world_size)))
    # Laid end to end, a shard is cut only where one rank's span ends and the next one's begins.
    assert sum(map(len, by_rank)) <= len(set().union(*by_rank)) + world_size - 1


@fuzzed(80)
@given(counts=COUNTS, batch_size=BATCH_SIZES, seed=SEEDS, step=STEPS, draw=st.data())
def test_a_substitute_is_a_pure_function_and_lies_inside_its_shard(
    counts: list[int], batch_size: int, seed: int, step: int, draw: st.DataObject
) -> None:
    order = order_of(counts, batch_size, seed)
    address = order.locate(step, draw.draw(st.integers(0, batch_size - 1)))
    attempt, other_shard = draw.draw(st.integers(1, 64)), draw.draw(st.booleans())
    found = order.substitute(address, attempt, other_shard)
    assert found == LaneOrder(counts, batch_size, seed).substitute(address, attempt, other_shard)
    assert found == order.substitute(address, attempt, other_shard)
    assert found.epoch == address.epoch
    assert 0 <= found.position < counts[found.shard]
    if not other_shard and attempt < counts[address.shard]:
        assert found.shard == address.shard
        assert found.position != address.position


@fuzzed(60)
@given(counts=COUNTS, seed=SEEDS)
def test_substitutes_go_through_the_shard_and_then_through_the_others(
    counts: list[int], seed: int
) -> None:
    order = order_of(counts, 1, seed)
    address = order.locate(0, 0)
    own, filled = counts[address.shard], sum(count > 0 for count in counts)
    tried = [order.substitute(address, attempt, False) for attempt in range(1, own + filled - 1)]
    assert {one.position for one in tried[: own - 1]} == set(range(own)) - {address.position}
    assert len({one.shard for one in tried[own - 1 :]} - {address.shard}) == filled - 1
    others = {order.substitute(address, attempt, True).shard for attempt in range(1, filled)}
    assert others | {address.shard} == {s for s, count in enumerate(counts) if count}


WEIGHTS = st.lists(
    st.one_of(st.integers(1, 9).map(float), st.floats(0.01, 100)), min_size=1, max_size=5
)


def shared(batch_size: int, weights: list[float]) -> list[int]:
    try:
        return share_lanes(batch_size, weights)
    except ValueError:
        assume(False)
        raise


@fuzzed(100)
@given(batch_size=st.integers(1, 64), weights=WEIGHTS)
def test_each_set_has_its_share_of_the_lanes_to_within_one(
    batch_size: int, weights: list[float]
) -> None:
    exact = [batch_size * weight / sum(weights) for weight in weights]
    try:
        lanes = share_lanes(batch_size, weights)
    except ValueError as error:
        assert "has no place for a set" in str(error)
        assert min(exact) < 1
        return
    counts = Counter(lanes)
    assert len(lanes) == batch_size
    assert set(counts) == set(range(len(weights)))
    assert all(abs(counts[k] - share) < 1 + 1e-9 for k, share in enumerate(exact))


@fuzzed(100)
@given(batch_size=st.sampled_from([4, 8, 12, 24, 48]), weights=WEIGHTS, draw=st.data())
def test_a_sets_lanes_are_spread_evenly_over_the_ranks(
    batch_size: int, weights: list[float], draw: st.DataObject
) -> None:
    lanes = shared(batch_size, weights)
    world_size = draw.draw(st.sampled_from(divisors(batch_size)))
    for data_set in range(len(weights)):
        even = lanes.count(data_set) / world_size
        for rank in range(world_size):
            share = lanes_of(batch_size, rank, world_size)
            count = lanes[share.start : share.stop].count(data_set)
            assert abs(count - even) <= len(weights)


@fuzzed(60)
@given(sets=st.lists(COUNTS, min_size=1, max_size=3), seed=SEEDS, step=STEPS, draw=st.data())
def test_a_set_of_a_mixture_keeps_the_order_of_its_own_lanes(
    sets: list[list[int]], seed: int, step: int, draw: st.DataObject
) -> None:
    weights = draw.draw(st.lists(st.integers(1, 5), min_size=len(sets), max_size=len(sets)))
    lanes = shared(12, list(map(float, weights)))
    assume(all(sum(counts) >= lanes.count(k) for k, counts in enumerate(sets)))
    mixed = MixedOrder(sets, lanes, seed)
    found = [mixed.locate(step, lane) for lane in range(12)]
    assert [one.data_set for one in found] == lanes
    for data_set, counts in enumerate(sets):
        own = [one.address for one in found if one.data_set == data_set]
        alone = LaneOrder(counts, len(own), seed)
        assert own == batch_at(alone, step, range(len(own)))
        ahead = [s for k, s in mixed.shards_ahead(step, range(12)) if k == data_set]
        assert ahead == alone.shards_ahead(step, range(len(own)))


@pytest.mark.parametrize("weights", [[0.0, 1.0], [-1.0], [float("nan")], [float("inf"), 1.0]])
def test_weights_that_are_none_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        share_lanes(8, weights)


@pytest.mark.parametrize(("batch_size", "weights"), [(8, [100.0, 1.0]), (2, [1.0, 1.0, 1.0])])
def test_a_set_without_a_lane_is_refused(batch_size: int, weights: list[float]) -> None:
    with pytest.raises(ValueError, match=f"a batch of {batch_size} samples has no place"):
        share_lanes(batch_size, weights)


def test_seeking_in_ten_million_samples_keeps_little() -> None:
    lanes = range(64)
    tracemalloc.start()
    try:
        order = LaneOrder([1000] * 10_000, 64, seed=3)
        for step in (0, 1, 10**9, 77_777, *range(156_240, 156_260)):
            batch = batch_at(order, step, lanes)
            order.shards_ahead(step, lanes)
            order.substitute(batch[0], 1, True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(order._segments) == len(lanes)
    assert order._epoch_table.cache_info().currsize <= 4
    assert order._inside.cache_info().currsize <= len(lanes) + 16
    assert peak < 20_000_000  # bytes; a table of all samples would take 80 MB
