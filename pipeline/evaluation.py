"""Evaluation: a completion network and classic methods on fixed samples, either those packed for
validation or image and mask files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.baselines import classic_baselines
from pipeline.config import Config
from pipeline.evaluation_report import NETWORK, Evaluation
from pipeline.feed import images_to_device, masks_to_device
from pipeline.measuring import ImageBatch, Measurements, Measuring, measure
from pipeline.metrics import OF_ALL_SAMPLES
from pipeline.perceptual import PerceptualNetworks, feature_figures
from pipeline.recalibration import recalibrated
from pipeline.workers import Worker
from shards.batches import Batch, BatchAssembler, ReaderSpec, read_in_order
from shards.fixed_pairs import FixedPairs
from shards.manifest import load_manifest

__all__ = ["NETWORK", "Evaluation", "evaluate", "evaluate_files", "evaluate_network", "recalibrate"]

_RECALIBRATION_BATCH = 16


def evaluate(
    network: nn.Module,
    shards_url: str,
    how: Measuring,
    *,
    batch_size: int = 16,
    limit: int = 0,
    baselines: bool = True,
    cache: str = "",
    cache_limit_bytes: int = 0,
) -> Evaluation:
    """`network` in eval mode and on the device, on the validation samples of a packed set.

    `limit` takes that many samples, spread evenly over the split.
    Collective: every rank must call.
    Raises ValueError for a set without validation samples.
    """
    manifest = load_manifest(shards_url)
    samples = evaluated_samples(manifest.num_samples("val"), limit)

    def batches() -> Iterator[ImageBatch]:
        mine = samples[how.rank :: how.world_size]
        for batch in read_in_order(shards_url, "val", mine, batch_size, cache, cache_limit_bytes):
            yield ImageBatch(batch.images, *sample_tensors(batch, how.device))

    methods = classic_baselines(manifest.mean_color) if baselines else {}
    side = manifest.recipe.crop_size
    measured = measure(network, batches(), len(samples), side, methods, how)
    evaluated = {"shards": shards_url, "data_fingerprint": manifest.fingerprint}
    return _evaluation(measured, how, evaluated)


def evaluate_files(
    network: nn.Module,
    pairs: FixedPairs,
    how: Measuring,
    *,
    batch_size: int = 16,
    limit: int = 0,
    baselines: bool = True,
) -> Evaluation:
    """The same on image and mask files. Without the flat colour among the classic methods, which
    would be that of a training set. Collective: every rank must call.
    """
    chosen = evaluated_samples(len(pairs.pairs), limit)

    def batches() -> Iterator[ImageBatch]:
        mine = chosen[how.rank :: how.world_size]
        for start in range(0, len(mine), batch_size):
            read = [pairs.read(number) for number in mine[start : start + batch_size]]
            images, masks = (np.stack(column) for column in zip(*read, strict=True))
            tensor = torch.from_numpy(masks).unsqueeze(1).to(how.device, torch.float32)
            yield ImageBatch(images, images_to_device(images, how.device), tensor)

    methods = classic_baselines((0.5, 0.5, 0.5)) if baselines else {}
    methods.pop("mean colour", None)
    measured = measure(network, batches(), len(chosen), pairs.side, methods, how)
    sets = np.array([pairs.pairs[number].set_name for number in chosen])
    return _evaluation(measured, how, {"files": pairs.description()}, sets)


def _evaluation(
    measured: Measurements,
    how: Measuring,
    evaluated: dict[str, Any],
    sets: np.ndarray | None = None,
) -> Evaluation:
    names = [] if sets is None else list(dict.fromkeys(sets.tolist()))
    members = {name: np.flatnonzero(sets == name) for name in names} if len(names) > 1 else {}

    def group(chosen: np.ndarray) -> dict[str, Any]:
        return {"num_samples": len(chosen), "methods": measured.means(chosen)}

    everything = group(np.arange(len(measured.values)))
    by_set = {name: group(chosen) for name, chosen in members.items()}
    if measured.features is not None:
        subjects = [np.arange(len(measured.values)), *members.values()]
        found = _feature_figures(measured.features, subjects, how)
        for one, figures in zip([everything, *by_set.values()], found, strict=True):
            one["methods"][NETWORK] |= figures
    return Evaluation(
        **everything,
        evaluated={**evaluated, "precision": how.precision},
        by_set=by_set,
        by_hole_area={name: group(chosen) for name, chosen in measured.by_hole_area().items()},
    )


def _feature_figures(
    features: np.ndarray, subjects: list[np.ndarray], how: Measuring
) -> list[dict[str, float]]:
    """Of each subject's samples. Rank 0 computes and tells the others."""
    found = [dict.fromkeys(OF_ALL_SAMPLES, 0.0) for _ in subjects]
    if how.rank == 0:
        found = [feature_figures(*features[chosen].transpose(1, 0, 2)) for chosen in subjects]
    told = how.all_reduce_sum(np.array([[one[name] for name in OF_ALL_SAMPLES] for one in found]))
    return [dict(zip(OF_ALL_SAMPLES, row, strict=True)) for row in told.tolist()]


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


def evaluate_network(
    network: nn.Module,
    config: Config,
    worker: Worker,
    *,
    baselines: bool = True,
    evaluated: dict[str, Any] | None = None,
    alive: Callable[[], None] = lambda: None,
    files: FixedPairs | None = None,
    perceptual: PerceptualNetworks | None = None,
) -> Evaluation:
    """As `config.evaluation` says, or on `files`; `evaluated` adds to what the result says of its
    subject.

    `network` comes from `recalibrate`. Collective: every rank must call.
    """

    def all_reduce_sum(values: np.ndarray) -> np.ndarray:
        return worker.all_reduce_sum_(torch.from_numpy(values)).numpy()

    how = Measuring(
        device=worker.device,
        rank=worker.rank,
        world_size=worker.world_size,
        all_reduce_sum=all_reduce_sum,
        precision=config.train.precision,
        map_scale=config.loss.map_scale,
        threads=worker.cores_per_rank,
        alive=alive,
        perceptual=perceptual or PerceptualNetworks(),
    )
    batch_size, limit = config.evaluation.batch_size, config.evaluation.limit
    if files is not None:
        evaluation = evaluate_files(
            network, files, how, batch_size=batch_size, limit=limit, baselines=baselines
        )
    else:
        evaluation = evaluate(
            network,
            config.validation_shards,
            how,
            batch_size=batch_size,
            limit=limit,
            baselines=baselines,
            cache=config.data.cache,
            cache_limit_bytes=config.data.cache_limit_bytes,
        )
    facts = {"recalibration_images": config.evaluation.recalibration_images, **(evaluated or {})}
    return replace(evaluation, evaluated={**evaluation.evaluated, **facts})


def recalibrate(network: nn.Module, config: Config, worker: Worker) -> nn.Module:
    """A copy in eval mode whose batch norm was estimated anew on training images.

    The images are the first of the training order, in batches of 16 whatever the number of ranks.
    Collective: every rank must call.
    """
    num_images = config.evaluation.recalibration_images
    batches: Iterator[tuple[Tensor, Tensor]] | None = None
    if num_images:
        batches = training_batches(config, worker, num_images)
    with worker.autocast():
        return recalibrated(network, batches, worker.all_reduce_sum_)


def training_batches(
    config: Config, worker: Worker, num_images: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(image, mask) of the first images of the training order, of which the rank takes its share;
    in whole batches of 16, or of a mixture the run's own, at least one.

    Raises ValueError for a set without training images.
    """
    data = config.data
    available = load_manifest(data.shards).num_samples("train")
    if available == 0:
        raise ValueError(
            f"{data.shards} has no training images, from which batch norm is estimated anew; name "
            "the set that the network was trained on by --data.shards and this one by "
            "--evaluation.shards, or set --evaluation.recalibration-images 0"
        )
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
