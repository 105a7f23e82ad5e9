"""The figures of single samples: what a network and the methods beside it make of each.

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

from pipeline.evaluation.baselines import Baseline
from pipeline.evaluation.feature_metrics import PerceptualNetworks
from pipeline.evaluation.map_metrics import attention_map_metrics
from pipeline.evaluation.metrics import SAMPLE_METRICS, image_metrics, known_mse
from pipeline.evaluation.report import BLENDED, NETWORK, Metrics
from pipeline.inference.photograph import quantized
from pipeline.inference.poisson_blending import blended
from pipeline.networks.base import completed_by
from pipeline.step.holes import composite

HOLE_AREAS = 10  # groups of equal range


@dataclass(frozen=True)
class EvaluationContext:
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
    values: np.ndarray  # (N, methods, SAMPLE_METRICS), NaN where a method has no such figure
    hole_shares: np.ndarray  # (N,), of the image's area
    # float32 (N, 1 + methods, D): of the originals, then of every method's composites
    features: np.ndarray | None

    def means(self, chosen: np.ndarray | slice = slice(None)) -> dict[str, Metrics]:
        """By method, over the chosen samples."""
        values = self.values[chosen]
        return {name: _means(values[:, column]) for column, name in enumerate(self.methods)}

    def by_hole_area(self) -> dict[str, np.ndarray]:
        """Return the samples of each tenth of the range of hole areas that has any."""
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
    context: EvaluationContext,
    *,
    blend: bool = True,
) -> Measurements:
    """Measure the network, its blended completions unless `blend` is false, and the baselines.

    `network` in eval mode and on the device. `batches` holds this rank's samples: of all of them
    the `rank`-th and then every `world_size`-th, `side` pixels wide.

    Collective: every rank must call.
    """
    methods = [NETWORK, *[BLENDED] * blend, *baselines]
    values = np.zeros((num_samples, len(methods), len(SAMPLE_METRICS)))
    hole_shares = np.zeros(num_samples)
    features = context.perceptual.room_for_features(num_samples, 1 + len(methods), side)
    start = context.rank
    with ThreadPoolExecutor(context.threads) as pool:
        for batch in batches:
            rows = start + context.world_size * np.arange(len(batch.originals))
            start = rows[-1] + context.world_size
            outputs = _outputs(network, batch, context)
            samples = list(
                pool.map(partial(_measure_sample, baselines, blend, context.map_scale), outputs)
            )
            values[rows] = [sample.metrics for sample in samples]
            hole_shares[rows] = [output.hole.mean() for output in outputs]
            composites = [
                np.stack(images)
                for images in zip(*(one.composites for one in samples), strict=True)
            ]
            for column, images in enumerate(composites):
                distances = context.perceptual.distances(batch.originals, images)
                values[rows, column, SAMPLE_METRICS.index("lpips")] = distances
            if features is not None:
                for column, images in enumerate([batch.originals, *composites]):
                    features[rows, column] = context.perceptual.features(images)
            context.alive()
    return Measurements(
        methods,
        context.all_reduce_sum(values),
        context.all_reduce_sum(hole_shares),
        None if features is None else context.all_reduce_sum(features),
    )


class _Output(NamedTuple):
    """What the network makes of one sample."""

    original: np.ndarray  # uint8 (S, S, 3)
    hole: np.ndarray  # bool (S, S)
    raw: np.ndarray  # float32 (S, S, 3) in [0, 1]
    completed: np.ndarray  # the same, with the original's known pixels
    fakeness: np.ndarray | None  # float32 (S, S), the finest map


class _Sample(NamedTuple):
    metrics: list[list[float]]  # of SAMPLE_METRICS, a row for each method
    composites: list[np.ndarray]  # uint8 (S, S, 3), one for each method


def _outputs(network: nn.Module, batch: ImageBatch, context: EvaluationContext) -> list[_Output]:
    autocast = torch.autocast(
        context.device.type, dtype=torch.bfloat16, enabled=context.precision == "bf16"
    )
    with torch.inference_mode(), autocast:
        raw, maps = completed_by(network, batch.images, batch.masks)
    finest = _as_arrays(maps[-1])[..., 0] if maps else [None] * len(batch.originals)
    arrays = (
        batch.originals,
        _as_arrays(batch.masks)[..., 0] > 0.5,
        _as_arrays(raw),
        _as_arrays(composite(raw, batch.images, batch.masks)),
        finest,
    )
    return [_Output(*one) for one in zip(*arrays, strict=True)]


def _means(values: np.ndarray) -> Metrics:
    """Of (samples, SAMPLE_METRICS), without what is not a number; what all lack is left out."""
    return {
        name: float(np.nanmean(column))
        for name, column in zip(SAMPLE_METRICS, values.T, strict=True)
        if not np.isnan(column).all()
    }


def _as_arrays(values: Tensor) -> np.ndarray:
    return values.permute(0, 2, 3, 1).float().cpu().numpy()


def _measure_sample(
    baselines: dict[str, Baseline], blend: bool, map_scale: float, output: _Output
) -> _Sample:
    """Return one sample by every method; NaN where a method has no such figure."""
    original, hole = output.original, output.hole
    shown = quantized(output.completed)
    composites = [shown, *([blended(shown, hole)] if blend else [])]
    composites += [method(original, hole) for method in baselines.values()]
    metrics = [image_metrics(original, completed, hole) for completed in composites]
    metrics[0] |= _network_metrics(output, map_scale)
    rows = [[one.get(name, np.nan) for name in SAMPLE_METRICS] for one in metrics]
    return _Sample(rows, composites)


def _network_metrics(output: _Output, map_scale: float) -> Metrics:
    """Of the network's raw output and of its finest map, which no other method has."""
    metrics = {"known_mse_of_raw": known_mse(output.original, output.raw, output.hole)}
    if output.fakeness is not None:
        error = np.abs(output.completed - output.original.astype(np.float32) / 255).mean(axis=2)
        target = np.minimum(map_scale * error, 1)
        metrics |= attention_map_metrics(output.fakeness, target, error, output.hole)
    return metrics
