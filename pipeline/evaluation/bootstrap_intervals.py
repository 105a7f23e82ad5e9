"""How far an evaluation's means could be off: intervals by the bootstrap over images.

Samples of one image, with several masks, are not independent of each other. So whole images are
drawn, each with all of its samples. All methods are measured on the same draws, and the difference
of two methods is taken within a draw: what makes an image hard for both cancels out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from shards.keyed_random import integers

CONFIDENCE = 0.95
NUM_RESAMPLES = 1000
_AT_A_TIME = 50  # resamples: their weights are a matrix of so many rows by the number of images

Intervals = dict[str, Any]


def bootstrap_intervals(
    values: np.ndarray,
    images: np.ndarray,
    methods: Sequence[str],
    metrics: Sequence[str],
    compared: Sequence[str] = (),
) -> Intervals:
    """Return percentile intervals of means, and of the first method's differences from the others.

    `values` (samples, methods, figures), NaN where a figure is not defined; `images` (samples,)
    gives the image of each sample. The draws depend on the number of images alone.

    The result holds `methods`, by method and figure [low, high]; `differences`, by method and
    figure {mean, low, high} of the first method minus that one, over the samples where both have
    the figure; `differences_of`, the same for each method of `compared` that was measured; and
    `confidence`, `num_resamples`, `num_images`. It is empty where there is but one image: nothing
    can be said of others then.
    """
    _, image_of_sample = np.unique(images, return_inverse=True)
    num_images = int(image_of_sample.max()) + 1
    if num_images < 2:
        return {}
    minuends = [0, *(methods.index(name) for name in compared if name in methods)]
    differences = [values[:, row : row + 1] - values for row in minuends]
    quantities = np.concatenate([values, *differences], axis=1)
    sums, counts = _by_image(quantities, image_of_sample, num_images)
    low, high = np.quantile(
        _resampled_means(sums, counts), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0
    )
    with np.errstate(invalid="ignore"):
        means = sums.sum(axis=0) / counts.sum(axis=0)

    def entries(row: int) -> dict[str, tuple[float, float, float]]:
        triples = zip(means[row].tolist(), low[row].tolist(), high[row].tolist(), strict=True)
        return {
            name: triple
            for name, triple in zip(metrics, triples, strict=True)
            if np.isfinite(triple).all()
        }

    def differences_of(block: int) -> dict[str, dict[str, dict[str, float]]]:
        start = len(methods) * (block + 1)
        return {
            method: {
                name: {"mean": mean, "low": low, "high": high}
                for name, (mean, low, high) in entries(start + row).items()
            }
            for row, method in enumerate(methods)
            if row != minuends[block]
        }

    return {
        "confidence": CONFIDENCE,
        "num_resamples": NUM_RESAMPLES,
        "num_images": num_images,
        "methods": {
            method: {name: [low, high] for name, (_, low, high) in entries(row).items()}
            for row, method in enumerate(methods)
        },
        "differences": differences_of(0),
        "differences_of": {
            methods[row]: differences_of(block) for block, row in enumerate(minuends) if block
        },
    }


def _by_image(
    quantities: np.ndarray, image_of_sample: np.ndarray, num_images: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over an image's samples and how many have a number, both (images, rows, figures)."""
    sums = np.zeros((num_images, *quantities.shape[1:]))
    counts = np.zeros_like(sums)
    np.add.at(sums, image_of_sample, np.nan_to_num(quantities, nan=0.0))
    np.add.at(counts, image_of_sample, ~np.isnan(quantities))
    return sums, counts


def _resampled_means(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(resamples, rows, figures); NaN where a draw has no sample with the figure."""
    num_images, *shape = sums.shape
    flat_sums, flat_counts = sums.reshape(num_images, -1), counts.reshape(num_images, -1)
    parts = []
    for start in range(0, NUM_RESAMPLES, _AT_A_TIME):
        times_drawn = np.stack(
            [_draw(number, num_images) for number in range(start, start + _AT_A_TIME)]
        )
        with np.errstate(invalid="ignore"):
            parts.append((times_drawn @ flat_sums) / (times_drawn @ flat_counts))
    return np.concatenate(parts).reshape(NUM_RESAMPLES, *shape)


def _draw(number: int, num_images: int) -> np.ndarray:
    """float64 (images,): how often each image is in one resample."""
    chosen = integers(
        0, "bootstrap of an evaluation", number, low=0, high=num_images - 1, count=num_images
    )
    return np.bincount(chosen, minlength=num_images).astype(np.float64)
