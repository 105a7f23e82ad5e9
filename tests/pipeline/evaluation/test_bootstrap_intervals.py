import numpy as np
import pytest

from pipeline.evaluation.bootstrap_intervals import bootstrap_intervals

METHODS, METRICS = ["network", "other"], ["error"]


def values_of(*columns: np.ndarray) -> np.ndarray:
    """(samples, methods, 1)"""
    return np.stack(columns, axis=1)[..., None]


def test_the_interval_of_a_mean_is_that_of_the_textbook() -> None:
    errors = np.random.default_rng(0).normal(3, 2, 400)
    found = bootstrap_intervals(values_of(errors, errors), np.arange(400), METHODS, METRICS)
    low, high = found["methods"]["network"]["error"]
    standard_error = errors.std() / np.sqrt(400)
    assert low == pytest.approx(errors.mean() - 1.96 * standard_error, abs=0.3 * standard_error)
    assert high == pytest.approx(errors.mean() + 1.96 * standard_error, abs=0.3 * standard_error)
    assert found["num_images"] == 400


def test_samples_of_one_image_count_as_one_observation() -> None:
    of_images = np.random.default_rng(0).normal(0, 1, 50)
    images = np.repeat(np.arange(50), 16)

    def width(errors: np.ndarray, images: np.ndarray) -> float:
        found = bootstrap_intervals(values_of(errors, errors), images, METHODS, METRICS)
        low, high = found["methods"]["network"]["error"]
        return high - low

    once = width(of_images, np.arange(50))
    assert width(np.repeat(of_images, 16), images) == pytest.approx(once)
    assert width(np.repeat(of_images, 16), np.arange(800)) < 0.4 * once


def test_a_difference_is_taken_sample_by_sample() -> None:
    errors = np.random.default_rng(0).normal(0, 10, 100)
    found = bootstrap_intervals(values_of(errors - 1, errors), np.arange(100), METHODS, METRICS)
    difference = found["differences"]["other"]["error"]
    assert difference == pytest.approx({"mean": -1, "low": -1, "high": -1})
    low, high = found["methods"]["other"]["error"]
    assert high - low > 1


def test_the_same_samples_give_the_same_intervals() -> None:
    values = values_of(np.arange(30.0), np.arange(30.0) ** 2)
    first, second = (bootstrap_intervals(values, np.arange(30), METHODS, METRICS) for _ in range(2))
    assert first == second


def test_samples_without_the_figure_are_left_out_as_in_the_mean() -> None:
    errors = np.random.default_rng(0).normal(0, 1, 60)
    gaps = np.where(np.arange(60) % 3 == 0, np.nan, errors)
    found = bootstrap_intervals(values_of(gaps, errors), np.arange(60), METHODS, METRICS)
    low, high = found["methods"]["network"]["error"]
    assert low < np.nanmean(gaps) < high
    assert found["differences"]["other"]["error"]["mean"] == pytest.approx(0)
    nothing = np.full(60, np.nan)
    found = bootstrap_intervals(values_of(errors, nothing), np.arange(60), METHODS, METRICS)
    assert found["methods"]["other"] == found["differences"]["other"] == {}


def test_one_image_says_nothing_of_others() -> None:
    values = values_of(np.arange(4.0), np.arange(4.0))
    assert bootstrap_intervals(values, np.zeros(4), METHODS, METRICS) == {}


def test_further_methods_are_compared_with_each_other_within_a_draw() -> None:
    errors = np.random.default_rng(0).normal(10, 5, 100)
    values = np.stack([errors, errors - 1, errors - 3], axis=1)[:, :, None]
    methods = ("first", "second", "third")
    found = bootstrap_intervals(
        values, np.arange(100), methods, METRICS[:1], compared=("third", "not measured")
    )
    third = found["differences_of"]["third"]
    assert set(third) == {"first", "second"}
    for end in ("mean", "low", "high"):
        assert third["second"][METRICS[0]][end] == pytest.approx(-2)
        assert found["differences"]["third"][METRICS[0]][end] == pytest.approx(3)
    assert set(found["differences_of"]) == {"third"}
