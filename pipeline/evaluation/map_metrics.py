"""How well the finest fakeness map of a network with DAM blocks tells where its completion errs."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

MAP_METRICS = ("map_mae", "map_error_correlation", "map_hole_auroc")


def attention_map_metrics(
    fakeness: np.ndarray, target: np.ndarray, error: np.ndarray, mask: np.ndarray
) -> dict[str, float]:
    """By the names of MAP_METRICS; NaN where one is not defined.

    All (H, W): the map and what it is trained to show (`pipeline.step.losses.error_map`), both in
    [0, 1]; the composite's absolute error, not scaled; bool, True in the hole.
    """
    return {
        "map_mae": float(np.mean(np.abs(fakeness.astype(np.float64) - target))),
        "map_error_correlation": rank_correlation(fakeness[mask], error[mask]),
        "map_hole_auroc": area_under_roc(fakeness, mask),
    }


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's, of two flat arrays; NaN where one of them is constant or empty."""
    if not len(first) or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def area_under_roc(values: np.ndarray, is_positive: np.ndarray) -> float:
    """Return the probability that a positive has the higher value, ties counting half; NaN without
    positives or without negatives."""
    positives = int(is_positive.sum())
    negatives = is_positive.size - positives
    if not positives or not negatives:
        return float("nan")
    rank_sum = rankdata(values.ravel())[is_positive.ravel()].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))
