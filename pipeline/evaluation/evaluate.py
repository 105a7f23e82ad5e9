"""Evaluation: a completion network and the methods beside it on fixed samples, either those packed
for validation or image and mask files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config.baseline_names import BASELINE_NAMES
from pipeline.config.schema import Config
from pipeline.engines.ddp import Worker
from pipeline.evaluation.baselines import MID_GREY, baselines_left_out, classic_baselines
from pipeline.evaluation.batch_norm_recalibration import recalibrated
from pipeline.evaluation.bootstrap_intervals import bootstrap_intervals
from pipeline.evaluation.feature_metrics import PerceptualNetworks, distribution_metrics
from pipeline.evaluation.metrics import OF_ALL_SAMPLES, SAMPLE_METRICS
from pipeline.evaluation.per_sample import EvaluationContext, ImageBatch, Measurements, measure
from pipeline.evaluation.report import BLENDED, NETWORK, Evaluation
from pipeline.step.device_feed import images_to_device, masks_to_device
from pipeline.step.training_data import reader_spec
from shards.evaluation_sets.image_mask_pairs import ImageMaskPairs
from shards.format.manifest import load_manifest
from shards.reading.batches import Batch, BatchAssembler
from shards.reading.in_order import read_in_order

__all__ = ["NETWORK", "Evaluation", "evaluate", "evaluate_files", "evaluate_network", "recalibrate"]

_RECALIBRATION_BATCH = 16


def evaluate(
    network: nn.Module,
    shards_url: str,
    context: EvaluationContext,
    *,
    batch_size: int = 16,
    limit: int = 0,
    baselines: Sequence[str] = BASELINE_NAMES,
    blend: bool = True,
    cache: str = "",
    cache_limit_bytes: int = 0,
) -> Evaluation:
    """`network` in eval mode and on the device, on the validation samples of a packed set.

    `limit` takes that many samples, spread evenly over the split. `baselines` names the methods
    beside it; `blend` adds the network's completions after the paper's post-processing.
    Collective: every rank must call.
    Raises ValueError for a set without validation samples.
    """
    manifest = load_manifest(shards_url)
    samples = evaluated_samples(manifest.num_samples("val"), limit)

    def batches() -> Iterator[ImageBatch]:
        mine = samples[context.rank :: context.world_size]
        for batch in read_in_order(shards_url, "val", mine, batch_size, cache, cache_limit_bytes):
            yield ImageBatch(batch.images, *sample_tensors(batch, context.device))

    methods = classic_baselines(manifest.mean_color, baselines)
    side = manifest.recipe.crop_size
    measured = measure(network, batches(), len(samples), side, methods, context, blend=blend)
    evaluated = {"shards": shards_url, "data_fingerprint": manifest.fingerprint}
    images = np.array(samples) // manifest.recipe.masks.masks_per_image
    return _evaluation(measured, context, {**evaluated, **_left_out(baselines)}, images)


def evaluate_files(
    network: nn.Module,
    pairs: ImageMaskPairs,
    context: EvaluationContext,
    *,
    batch_size: int = 16,
    limit: int = 0,
    baselines: Sequence[str] = BASELINE_NAMES,
    blend: bool = True,
) -> Evaluation:
    """Evaluate as `evaluate` does, on image and mask files.

    The flat colour is left out of the methods: it would be that of a training set. Collective:
    every rank must call.
    """
    chosen = evaluated_samples(len(pairs.pairs), limit)

    def batches() -> Iterator[ImageBatch]:
        mine = chosen[context.rank :: context.world_size]
        for start in range(0, len(mine), batch_size):
            read = [pairs.read(number) for number in mine[start : start + batch_size]]
            images, masks = (np.stack(column) for column in zip(*read, strict=True))
            tensor = torch.from_numpy(masks).unsqueeze(1).to(context.device, torch.float32)
            yield ImageBatch(images, images_to_device(images, context.device), tensor)

    names = [name for name in baselines if name != "mean colour"]
    methods = classic_baselines(MID_GREY, names)
    measured = measure(network, batches(), len(chosen), pairs.side, methods, context, blend=blend)
    images = np.array([pairs.pairs[number].image for number in chosen])
    sets = np.array([pairs.pairs[number].set_name for number in chosen])
    evaluated = {"files": pairs.description(), **_left_out(names)}
    return _evaluation(measured, context, evaluated, images, sets)


def _left_out(baselines: Sequence[str]) -> dict[str, Any]:
    missing = baselines_left_out(baselines)
    return {"baselines_left_out": missing} if missing else {}


def _evaluation(
    measured: Measurements,
    context: EvaluationContext,
    evaluated: dict[str, Any],
    images: np.ndarray,
    sets: np.ndarray | None = None,
) -> Evaluation:
    """`images` and `sets` tell of each sample which image it is of, and which set of masks."""
    names = [] if sets is None else list(dict.fromkeys(sets.tolist()))
    members = {name: np.flatnonzero(sets == name) for name in names} if len(names) > 1 else {}

    def group(chosen: np.ndarray) -> dict[str, Any]:
        return {"num_samples": len(chosen), "methods": measured.means(chosen)}

    everything = group(np.arange(len(measured.values)))
    by_set = {name: group(chosen) for name, chosen in members.items()}
    if measured.features is not None:
        subjects = [np.arange(len(measured.values)), *members.values()]
        found = _distribution_metrics(measured.methods, measured.features, subjects, context)
        for one, metrics in zip([everything, *by_set.values()], found, strict=True):
            for method, its_metrics in metrics.items():
                one["methods"][method] |= its_metrics
    return Evaluation(
        **everything,
        evaluated={**evaluated, "precision": context.precision},
        by_set=by_set,
        by_hole_area={name: group(chosen) for name, chosen in measured.by_hole_area().items()},
        intervals=bootstrap_intervals(
            measured.values, images, measured.methods, SAMPLE_METRICS, compared=(BLENDED,)
        ),
    )


def _distribution_metrics(
    methods: list[str], features: np.ndarray, subjects: list[np.ndarray], context: EvaluationContext
) -> list[dict[str, dict[str, float]]]:
    """By method, of each subject's samples. Rank 0 computes and sends them to the others."""
    values = np.zeros((len(subjects), len(methods), len(OF_ALL_SAMPLES)))
    if context.rank == 0:
        for row, chosen in enumerate(subjects):
            originals, *completed = features[chosen].transpose(1, 0, 2)
            for column, of_method in enumerate(completed):
                metrics = distribution_metrics(originals, of_method)
                values[row, column] = [metrics[name] for name in OF_ALL_SAMPLES]
                context.alive()
    return [
        {
            method: dict(zip(OF_ALL_SAMPLES, of_method, strict=True))
            for method, of_method in zip(methods, of_subject, strict=True)
        }
        for of_subject in context.all_reduce_sum(values).tolist()
    ]


def evaluated_samples(num_samples: int, limit: int) -> list[int]:
    """Return all sample numbers, or `limit` of them, spread evenly: neighbours share a class."""
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
    files: ImageMaskPairs | None = None,
    perceptual: PerceptualNetworks | None = None,
) -> Evaluation:
    """As `config.evaluation` says, or on `files`; `evaluated` adds to what the result says of its
    subject. Without `baselines` the network's composites are measured alone, without those after
    post-processing: what does not change while training, or is not needed then, costs nothing.

    `network` comes from `recalibrate`. Collective: every rank must call.
    """

    def all_reduce_sum(values: np.ndarray) -> np.ndarray:
        return worker.all_reduce_sum_(torch.from_numpy(values)).numpy()

    context = EvaluationContext(
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
    options: dict[str, Any] = {
        "batch_size": config.evaluation.batch_size,
        "limit": config.evaluation.limit,
        "baselines": config.evaluation.baselines if baselines else (),
        "blend": baselines,
    }
    if files is not None:
        evaluation = evaluate_files(network, files, context, **options)
    else:
        evaluation = evaluate(
            network,
            config.validation_shards,
            context,
            **options,
            cache=config.data.cache,
            cache_limit_bytes=config.data.cache_limit_bytes,
        )
    facts = {"recalibration_images": config.evaluation.recalibration_images, **(evaluated or {})}
    return replace(evaluation, evaluated={**evaluation.evaluated, **facts})


def recalibrate(network: nn.Module, config: Config, worker: Worker) -> nn.Module:
    """Return a copy in eval mode whose batch norm was re-estimated on training images.

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
            f"{data.shards} has no training images, from which batch norm is re-estimated; name "
            "the set that the network was trained on by --data.shards and this one by "
            "--evaluation.shards, or set --evaluation.recalibration-images 0"
        )
    batch_size = min(_RECALIBRATION_BATCH, available)
    if data.mixture:  # every set has its share in a batch of training
        batch_size = config.train.batch_size
    # The first steps of a training of that batch size, in which one rank would have all samples:
    # crops and holes are what training sees, whichever rank computes a batch.
    spec = replace(reader_spec(config, worker), batch_size=batch_size, rank=0, world_size=1)
    num_batches = max(1, num_images // batch_size)
    with closing(BatchAssembler(spec)) as assembler:
        for number in range(worker.rank, num_batches, worker.world_size):
            yield sample_tensors(assembler.assemble(number), worker.device)
