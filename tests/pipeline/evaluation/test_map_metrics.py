import math

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, spearmanr

from pipeline.evaluation.map_metrics import (
    MAP_METRICS,
    area_under_roc,
    attention_map_metrics,
    rank_correlation,
)


def sample() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    mask = np.zeros((16, 16), dtype=bool)
    mask[4:12, 6:14] = True
    error = np.where(mask, generator.random((16, 16)), 0)
    fakeness = np.round(error + 0.3 * generator.random((16, 16)), 1)  # with ties
    return {"fakeness": fakeness, "target": np.minimum(2 * error, 1), "error": error, "mask": mask}


def test_the_figures_are_those_of_the_textbook() -> None:
    values = sample()
    fakeness, mask = values["fakeness"], values["mask"]
    figures = attention_map_metrics(**values)
    assert tuple(figures) == MAP_METRICS
    assert figures["map_mae"] == pytest.approx(np.abs(fakeness - values["target"]).mean())
    expected = spearmanr(fakeness[mask], values["error"][mask]).statistic
    assert figures["map_error_correlation"] == pytest.approx(expected)
    above = mannwhitneyu(fakeness[mask], fakeness[~mask]).statistic
    assert figures["map_hole_auroc"] == pytest.approx(above / (mask.sum() * (~mask).sum()))


def test_what_is_outside_of_the_hole_does_not_move_the_correlation() -> None:
    values = sample()
    before = attention_map_metrics(**values)["map_error_correlation"]
    values["fakeness"] = np.where(values["mask"], values["fakeness"], 1)
    assert attention_map_metrics(**values)["map_error_correlation"] == before


def test_where_a_figure_is_not_defined_it_is_not_a_number() -> None:
    assert math.isnan(rank_correlation(np.ones(5), np.arange(5)))
    assert math.isnan(rank_correlation(np.arange(5), np.ones(5)))
    assert math.isnan(rank_correlation(np.array([]), np.array([])))
    assert math.isnan(area_under_roc(np.arange(4), np.ones(4, dtype=bool)))
    assert area_under_roc(np.zeros(4), np.array([True, False, False, False])) == 0.5
