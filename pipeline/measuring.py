"""The figures of single samples: what a network and the classic methods make of each.

The samples are dealt out to the ranks and their figures brought together, so that the means depend
neither on the number of ranks nor on the batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.baselines import Baseline
from pipeline.evaluation_report import NETWORK, Figures
from pipeline.map_figures import map_figures
from pipeline.masking import composite
from pipeline.metrics import SAMPLE_FIGURES, image_figures, known_mse, quantized
from pipeline.networks.erasing import completed_by
from pipeline.perceptual import PerceptualNetworks

HOLE_AREAS = 10  # groups of equal range


@dataclass(frozen=True)
class Measuring:
    """Where and how. `all_reduce_sum` adds an array up over the ranks."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    all_reduce_sum: Callable[[np.ndarray], np.ndarray] = lambda sums: sums
    precision: str = "fp32"
    map_scale: float = 2.0  # of the loss, for networks with maps
    threads: int = 1  # that compute the figures
    alive: Callable[[], None] = lambda: None  # called after every batch
    perceptual: PerceptualNetworks = field(default_factory=PerceptualNetworks)


class ImageBatch(NamedTuple):
    originals: np.ndarray  # uint8 (N, S, S, 3)
    images: Tensor  # the same on the device: (N, 3, S, S) in [0, 1]
    masks: Tensor  # (N, 1, S, S), 1 in the hole


@dataclass(frozen=True)
class Measurements:
    """Of all samples, on every rank."""

    methods: list[str]
    values: np.ndarray  # (N, methods, SAMPLE_FIGURES), NaN where a method has no such figure
    hole_shares: np.ndarray  # (N,), of the image's area
    features: np.ndarray | None  # float32 (N, 2, D): of the originals, of the network's composites

    def means(self, chosen: np.ndarray | slice = slice(None)) -> dict[str, Figures]:
        """By method, over the chosen samples."""
        values = self.values[chosen]
        return {name: _means(values[:, column]) for column, name in enumerate(self.methods)}

    def by_hole_area(self) -> dict[str, np.ndarray]:
        """The samples of each tenth of the range of hole areas that has any."""
        tenths = np.minimum((self.hole_shares * HOLE_AREAS).astype(int), HOLE_AREAS - 1)
        return {
            f"{100 * tenth // HOLE_AREAS}-{100 * (tenth + 1) // HOLE_AREAS} %": np.flatnonzero(
                tenths == tenth
            )
            for tenth in np.unique(tenths).tolist()
        }


def measure(
    network: nn.Module,
    batches: Iterable[ImageBatch],
    num_samples: int,
    side: int,
    baselines: dict[str, Baseline],
    how: Measuring,
) -> Measurements:
    """`network` in eval mode and on the device. `batches` holds this rank's samples: of all of them
    the `rank`-th and then every `world_size`-th, `side` pixels wide.

    Collective: every rank must call.
    """
    values = np.zeros((num_samples, 1 + len(baselines), len(SAMPLE_FIGURES)))
    hole_shares = np.zeros(num_samples)
    features = how.perceptual.room_for_features(num_samples, side)
    autocast = torch.autocast(
        how.device.type, dtype=torch.bfloat16, enabled=how.precision == "bf16"
    )
    start = how.rank
    with ThreadPoolExecutor(how.threads) as pool:
        for batch in batches:
            rows = start + how.world_size * np.arange(len(batch.originals))
            start = rows[-1] + how.world_size
            with torch.inference_mode(), autocast:
                raw, maps = completed_by(network, batch.images, batch.masks)
            completed = _as_arrays(composite(raw, batch.images, batch.masks))
            shown = quantized(completed)
            masks = _as_arrays(batch.masks)
            arrays = [batch.originals, completed, shown, _as_arrays(raw), masks]
            fakeness = _as_arrays(maps[-1]) if maps else [None] * len(rows)
            figures_of = partial(_sample_figures, baselines, how.map_scale)
            values[rows] = list(pool.map(figures_of, *arrays, fakeness))
            hole_shares[rows] = (masks > 0.5).mean(axis=(1, 2, 3))
            values[rows, 0, SAMPLE_FIGURES.index("lpips")] = how.perceptual.distances(
                batch.originals, shown
            )
            if features is not None:
                features[rows, 0] = how.perceptual.features(batch.originals)
                features[rows, 1] = how.perceptual.features(shown)
            how.alive()
    return Measurements(
        [NETWORK, *baselines],
        how.all_reduce_sum(values),
        how.all_reduce_sum(hole_shares),
        None if features is None else how.all_reduce_sum(features),
    )


def _means(values: np.ndarray) -> Figures:
    """Of (samples, SAMPLE_FIGURES), without what is not a number; what all lack is left out."""
    return {
        name: float(np.nanmean(column))
        for name, column in zip(SAMPLE_FIGURES, values.T, strict=True)
        if not np.isnan(column).all()
    }


def _as_arrays(values: Tensor) -> np.ndarray:
    return values.permute(0, 2, 3, 1).float().cpu().numpy()


def _sample_figures(
    baselines: dict[str, Baseline],
    map_scale: float,
    original: np.ndarray,
    completed: np.ndarray,
    shown: np.ndarray,
    raw: np.ndarray,
    mask: np.ndarray,
    fakeness: np.ndarray | None,
) -> np.ndarray:
    """(methods, figures) of one sample, NaN where a method has no such figure. `shown` is the
    composite `completed` in 8 bits.
    """
    hole = mask[..., 0] > 0.5
    own = image_figures(original, shown, hole)
    own["known_mse_of_raw"] = known_mse(original, raw, hole)
    if fakeness is not None:
        error = np.abs(completed - original.astype(np.float32) / 255).mean(axis=2)
        target = np.minimum(map_scale * error, 1)
        own |= map_figures(fakeness[..., 0], target, error, hole)
    rows = [own]
    rows += [image_figures(original, method(original, hole), hole) for method in baselines.values()]
    return np.array([[row.get(figure, np.nan) for figure in SAMPLE_FIGURES] for row in rows])
