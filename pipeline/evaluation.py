"""Evaluation: a completion network and classic methods on the fixed validation samples.

The samples are dealt out to the ranks and their figures brought together, so that the means depend
neither on the number of ranks nor on the batch size.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

from pipeline.baselines import Baseline, classic_baselines
from pipeline.config import Config
from pipeline.feed import images_to_device, masks_to_device
from pipeline.map_figures import map_figures
from pipeline.masking import composite
from pipeline.metrics import FIGURES, image_figures, known_mse, quantized
from pipeline.networks.erasing import completed_by
from pipeline.recalibration import recalibrated
from pipeline.workers import Worker
from shards.batches import Batch, BatchAssembler, ReaderSpec, read_in_order
from shards.manifest import load_manifest

NETWORK = "glcic"  # the network's name among the methods
_RECALIBRATION_BATCH = 16

Figures = dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """Means over the samples: `methods` maps a method to its figures, see `pipeline.metrics`.

    A figure that a method has for none of the samples is left out; one that is not defined for some
    of them is the mean over the others.
    """

    methods: dict[str, Figures]
    num_samples: int
    evaluated: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    def _rows(self) -> Iterator[tuple[str, list[str]]]:
        for name, (heading, decimals) in FIGURES.items():
            values = [figures.get(name) for figures in self.methods.values()]
            yield heading, ["-" if v is None else f"{v:.{decimals}f}" for v in values]

    def to_table(self) -> Table:
        table = Table("", title=f"{self.num_samples} validation samples")
        for method in self.methods:
            table.add_column(method, justify="right")
        for heading, values in self._rows():
            table.add_row(heading, *values)
        return table

    def to_markdown(self) -> str:
        lines = [
            "| " + " | ".join([f"{self.num_samples} samples", *self.methods]) + " |",
            "| --- |" + " ---: |" * len(self.methods),
        ]
        lines += [f"| {' | '.join([heading, *values])} |" for heading, values in self._rows()]
        return "\n".join(lines) + "\n"


def evaluate(
    network: nn.Module,
    shards_url: str,
    *,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    all_reduce_sum: Callable[[np.ndarray], np.ndarray] = lambda sums: sums,
    batch_size: int = 16,
    limit: int = 0,
    baselines: bool = True,
    precision: str = "fp32",
    map_scale: float = 2.0,
    threads: int = 1,
    cache: str = "",
    cache_limit_bytes: int = 0,
    alive: Callable[[], None] = lambda: None,
) -> Evaluation:
    """`network` in eval mode and on `device`, on the validation samples of a packed set.

    `limit` takes that many samples, spread evenly over the split. `all_reduce_sum` adds a float64
    array up over the ranks. `map_scale` is that of the loss, for networks with maps. `threads`
    compute the figures; `alive` is called after every batch.
    Collective: every rank must call.
    Raises ValueError for a set without validation samples.
    """
    manifest = load_manifest(shards_url)
    samples = evaluated_samples(manifest.num_samples("val"), limit)
    methods = classic_baselines(manifest.mean_color) if baselines else {}
    values = np.zeros((len(samples), 1 + len(methods), len(FIGURES)))
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
    mine = itertools.count(rank, world_size)  # rows of `values`
    with ThreadPoolExecutor(threads) as pool:
        for batch in read_in_order(
            shards_url, "val", samples[rank::world_size], batch_size, cache, cache_limit_bytes
        ):
            images, masks = sample_tensors(batch, device)
            with torch.inference_mode(), autocast:
                raw, maps = completed_by(network, images, masks)
            completed = composite(raw, images, masks)
            arrays = [batch.images, *map(_as_arrays, (completed, raw, masks))]
            fakeness = _as_arrays(maps[-1]) if maps else [None] * len(batch.images)
            figures_of = partial(_sample_figures, methods, map_scale)
            for figures in pool.map(figures_of, *arrays, fakeness):
                values[next(mine)] = figures
            alive()
    values = all_reduce_sum(values)
    return Evaluation(
        methods={
            name: mean_figures(values[:, column]) for column, name in enumerate([NETWORK, *methods])
        },
        num_samples=len(samples),
        evaluated={
            "shards": shards_url,
            "data_fingerprint": manifest.fingerprint,
            "precision": precision,
        },
    )


def mean_figures(values: np.ndarray) -> Figures:
    """Of (samples, FIGURES), NaN where a sample lacks a figure. One that all lack is left out."""
    return {
        name: float(np.nanmean(column))
        for name, column in zip(FIGURES, values.T, strict=True)
        if not np.isnan(column).all()
    }


def evaluated_samples(num_samples: int, limit: int) -> list[int]:
    """All sample numbers, or `limit` of them, spread evenly: neighbours share a class."""
    if num_samples == 0:
        raise ValueError(
            "the packed set has no validation samples; pack it with a pack.validation_fraction "
            "above 0 or from a source with a val folder"
        )
    count = min(limit or num_samples, num_samples)
    return [position * num_samples // count for position in range(count)]


def sample_tensors(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images (N, 3, S, S) float32 in [0, 1] and masks (N, 1, S, S) with 1 in the hole."""
    return images_to_device(batch.images, device), masks_to_device(batch, device)


def _as_arrays(values: Tensor) -> np.ndarray:
    return values.permute(0, 2, 3, 1).float().cpu().numpy()


def _sample_figures(
    methods: dict[str, Baseline],
    map_scale: float,
    original: np.ndarray,
    completed: np.ndarray,
    raw: np.ndarray,
    mask: np.ndarray,
    fakeness: np.ndarray | None,
) -> np.ndarray:
    """(methods, figures) of one sample, NaN where a method has no such figure."""
    hole = mask[..., 0] > 0.5
    own = image_figures(original, quantized(completed), hole)
    own["known_mse_of_raw"] = known_mse(original, raw, hole)
    if fakeness is not None:
        error = np.abs(completed - original.astype(np.float32) / 255).mean(axis=2)
        target = np.minimum(map_scale * error, 1)
        own |= map_figures(fakeness[..., 0], target, error, hole)
    rows = [own]
    rows += [image_figures(original, method(original, hole), hole) for method in methods.values()]
    return np.array([[row.get(figure, np.nan) for figure in FIGURES] for row in rows])


def evaluate_network(
    network: nn.Module,
    config: Config,
    worker: Worker,
    *,
    baselines: bool = True,
    evaluated: dict[str, Any] | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Evaluation:
    """As `config.evaluation` says; `evaluated` adds to what the result says of its subject.

    `network` comes from `recalibrate`. Collective: every rank must call.
    """

    def all_reduce_sum(sums: np.ndarray) -> np.ndarray:
        return worker.all_reduce_sum_(torch.from_numpy(sums)).numpy()

    evaluation = evaluate(
        network,
        config.validation_shards,
        device=worker.device,
        rank=worker.rank,
        world_size=worker.world_size,
        all_reduce_sum=all_reduce_sum,
        batch_size=config.evaluation.batch_size,
        limit=config.evaluation.limit,
        baselines=baselines,
        precision=config.train.precision,
        map_scale=config.loss.map_scale,
        threads=worker.cores_per_rank,
        cache=config.data.cache,
        cache_limit_bytes=config.data.cache_limit_bytes,
        alive=alive,
    )
    facts = {"recalibration_images": config.evaluation.recalibration_images, **(evaluated or {})}
    return Evaluation(evaluation.methods, evaluation.num_samples, {**evaluation.evaluated, **facts})


def recalibrate(network: nn.Module, config: Config, worker: Worker) -> nn.Module:
    """A copy in eval mode whose batch norm was estimated anew on training images.

    The images are the first of the training order, in batches of 16 whatever the number of ranks.
    Collective: every rank must call.
    """
    num_images = config.evaluation.recalibration_images
    batches: Iterator[tuple[Tensor, Tensor]] | None = None
    if num_images:
        batches = _recalibration_batches(config, worker, num_images)
    with worker.autocast():
        return recalibrated(network, batches, worker.all_reduce_sum_)


def _recalibration_batches(
    config: Config, worker: Worker, num_images: int
) -> Iterator[tuple[Tensor, Tensor]]:
    data = config.data
    available = load_manifest(data.shards).num_samples("train")
    batch_size = min(_RECALIBRATION_BATCH, available)
    if data.mixture:  # every set has its share in a batch of training
        batch_size = config.train.batch_size
    spec = ReaderSpec(
        shards=data.shards,
        split="train",
        batch_size=batch_size,
        rank=0,
        world_size=1,
        seed=config.seed,
        short_side_min=data.short_side_min,
        short_side_max=data.short_side_max,
        horizontal_flip=data.horizontal_flip,
        decode_threads=worker.cores_per_rank,
        prefetch_batches=data.prefetch_batches,
        cache=data.cache,
        cache_limit_bytes=data.cache_limit_bytes,
        check_crc=data.check_crc,
        damaged=data.damaged,
        weight=data.weight,
        mixture=data.mixture,
    )
    num_batches = max(1, num_images // batch_size)
    with closing(BatchAssembler(spec)) as assembler:
        for number in range(worker.rank, num_batches, worker.world_size):
            yield sample_tensors(assembler.assemble(number), worker.device)
