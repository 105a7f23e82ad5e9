"""The samples by which a network is brought to 8 bits, and others to see what that has changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.config.schema import CompletionConfig, Config, DataConfig
from pipeline.engines.ddp import Worker
from pipeline.evaluation.evaluate import evaluated_samples, sample_tensors, training_batches
from pipeline.step.training_data import training_data
from shards.format.manifest import load_manifest
from shards.reading.in_order import read_in_order

COMPARED_IMAGES = 64
_BATCH = 16
Batches = list[tuple[Tensor, Tensor]]  # images (N, 3, S, S) in [0, 1] and masks (N, 1, S, S)


@dataclass(frozen=True)
class QuantizationSamples:
    """None is in both lists."""

    calibration: Batches
    comparison: Batches
    compared_split: str  # that `comparison` is of
    data_fingerprint: str  # of what was calibrated on

    @property
    def num_calibration_images(self) -> int:
        return sum(len(image) for image, _ in self.calibration)

    @property
    def num_compared_images(self) -> int:
        return sum(len(image) for image, _ in self.comparison)


def quantization_samples(config: Config, num_images: int) -> QuantizationSamples:
    """The first `num_images` of the training order, cropped as for training, or as many as there
    are in whole batches; to compare by, validation samples, or else training samples that follow.

    Raises ValueError where the set is too small for both.
    """
    data = training_data(config)
    available = data.num_samples("train")
    comparison = _validation_batches(config)
    if comparison:
        images, masks = _training_samples(config, num_images, available)
        return QuantizationSamples(
            _batches(images[:num_images], masks[:num_images]), comparison, "validation",
            data.fingerprint,
        )  # fmt: skip
    held = min(COMPARED_IMAGES, max(1, available // 5))
    images, masks = _training_samples(config, num_images + held, available)
    if len(images) <= held:
        raise ValueError(
            f"{config.data.shards} has {available} samples, too few to calibrate on some and "
            "compare by others; name a larger set with --shards"
        )
    used = min(num_images, len(images) - held)
    return QuantizationSamples(
        _batches(images[:used], masks[:used]), _batches(images[-held:], masks[-held:]), "training",
        data.fingerprint,
    )  # fmt: skip


def configuration_of(description: dict[str, Any], shards: str) -> Config:
    """For an exported network, which has no run's configuration: whole images of the set, scaled to
    anything between its crops and what it stores.
    """
    recipe = load_manifest(shards).recipe
    return Config(
        pack=recipe,
        data=DataConfig(
            shards=shards, short_side_min=recipe.crop_size, short_side_max=recipe.short_side
        ),
        completion=CompletionConfig(**description["completion"]),
    )


def _training_samples(config: Config, num_images: int, available: int) -> tuple[Tensor, Tensor]:
    """At least `num_images` where that many are available, and then in whole batches."""
    whole = -(-num_images // _BATCH) * _BATCH
    batches = training_batches(config, Worker(), min(whole, available))
    images, masks = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return images, masks


def _validation_batches(config: Config) -> Batches:
    url = config.validation_shards
    available = load_manifest(url).num_samples("val")
    if not available:
        return []
    data = config.data
    read: Iterable[Any] = read_in_order(
        url, "val", evaluated_samples(available, COMPARED_IMAGES), _BATCH,
        data.cache, data.cache_limit_bytes,
    )  # fmt: skip
    return [sample_tensors(batch, torch.device("cpu")) for batch in read]


def _batches(images: Tensor, masks: Tensor) -> Batches:
    return list(zip(images.split(_BATCH), masks.split(_BATCH), strict=True))
