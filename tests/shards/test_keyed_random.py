import numpy as np
import pytest

from shards.keyed_random import integers, permutation, raw, uniform


def test_the_same_arguments_give_the_same_numbers():
    assert raw(7, "masks", 3, count=5).tolist() == raw(7, "masks", 3, count=5).tolist()


@pytest.mark.parametrize(
    ("seed", "purpose", "indices"),
    [(8, "masks", (3,)), (7, "order", (3,)), (7, "masks", (4,)), (7, "masks", (3, 1))],
)
def test_another_seed_purpose_or_index_gives_other_numbers(seed, purpose, indices):
    reference = set(raw(7, "masks", 3, count=100).tolist())
    assert not reference & set(raw(seed, purpose, *indices, count=100).tolist())


def test_more_numbers_begin_with_fewer():
    assert raw(0, "a", 1, count=9)[:4].tolist() == raw(0, "a", 1, count=4).tolist()


def test_numbers_stay_the_same_between_releases():
    # Packed sets and resumed runs depend on these values.
    assert raw(0, "golden", 1, 2, count=2).tolist() == [15116534028789357105, 12794483118897680274]
    assert permutation(0, "golden", count=8).tolist() == [5, 7, 1, 6, 2, 4, 3, 0]


def test_uniform_numbers_fill_the_unit_interval_evenly():
    numbers = uniform(1, "uniform", count=20_000)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, bins=10, range=(0, 1))[0]
    assert abs(counts - 2000).max() < 5 * np.sqrt(2000 * 0.9)


def test_integers_reach_both_ends_and_nothing_beyond():
    numbers = integers(1, "integers", low=3, high=6, count=1000)
    assert set(numbers.tolist()) == {3, 4, 5, 6}


def test_every_integer_may_have_its_own_range():
    high = np.array([0, 10, 1000])
    numbers = integers(1, "integers", low=0, high=high, count=3)
    assert numbers[0] == 0
    assert (numbers <= high).all()


def test_a_permutation_holds_every_position_once():
    order = permutation(5, "order", 2, count=1000)
    assert sorted(order.tolist()) == list(range(1000))
    assert order.tolist() != list(range(1000))


def test_a_permutation_of_nothing_is_empty():
    assert permutation(5, "order", count=0).tolist() == []
