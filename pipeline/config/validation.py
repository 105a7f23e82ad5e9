"""What is wrong with a configuration that types alone cannot say: one sentence per error."""

from __future__ import annotations

import math
from typing import Any

from pipeline.config.baseline_names import baseline_name_errors
from pipeline.config.engine_validation import engine_errors
from pipeline.config.model_validation import model_errors
from pipeline.config.schema import Config, OptimizerConfig
from pipeline.config.telemetry_validation import telemetry_errors
from shards.format.recipe import recipe_errors
from shards.reading.fresh_holes import fresh_mask_errors
from shards.sampling.mixture import share_lanes
from shards.sampling.order import lanes_of


def config_errors(config: Config) -> list[str]:
    """Return what types alone cannot say: one sentence per error."""
    errors = recipe_errors(config.pack)

    def require(holds: bool, name: str, allowed: str) -> None:
        if not holds:
            value: Any = config
            for part in name.split("."):
                value = getattr(value, part)
            errors.append(f"{name} is {value!r}: {allowed}")

    data, schedule, train = config.data, config.schedule, config.train
    require(config.seed >= 0, "seed", "must not be negative")
    named = config.name not in ("", ".", "..") and "/" not in config.name
    require(named, "name", "must be a word without a slash, it becomes a folder")
    crop = config.pack.crop_size
    require(data.short_side_min >= crop, "data.short_side_min", f"at least pack.crop_size ({crop})")
    require(
        data.short_side_max >= data.short_side_min,
        "data.short_side_max",
        f"at least data.short_side_min ({data.short_side_min})",
    )
    require(data.decode_threads >= 0, "data.decode_threads", "at least 0")
    require(data.prefetch_batches >= 2, "data.prefetch_batches", "at least 2")
    require(0 <= data.cache_limit_gb < math.inf, "data.cache_limit_gb", "at least 0, and finite")
    try:
        share_lanes(max(train.batch_size, 1), [data.weight, *(one.weight for one in data.mixture)])
    except ValueError as error:
        errors.append(f"data.weight and data.mixture: {error}")
    errors += _hole_errors(config)
    errors += model_errors(config)
    for phase in ("completion", "discriminator", "joint"):
        require(getattr(schedule, phase) >= 0, f"schedule.{phase}", "must not be negative")
    require(
        schedule.completion + schedule.discriminator + schedule.joint > 0,
        "schedule",
        "at least one phase needs a length above 0",
    )
    for name in ("completion_optimizer", "discriminator_optimizer"):
        optimizer: OptimizerConfig = getattr(config, name)
        rate = optimizer.learning_rate
        require(0 < rate < math.inf, f"{name}.learning_rate", "above 0, and finite")
        require(0 < optimizer.epsilon < math.inf, f"{name}.epsilon", "above 0, and finite")
        for value in ("beta1", "beta2", "rho"):
            require(0 <= getattr(optimizer, value) < 1, f"{name}.{value}", "at least 0, below 1")
    require(train.batch_size >= 1, "train.batch_size", "at least 1")
    require(train.micro_batch_size >= 0, "train.micro_batch_size", "at least 0")
    errors += _acceleration_errors(config)
    require(train.skip_limit >= 1, "train.skip_limit", "at least 1")
    require(0 <= train.ema_decay < 1, "train.ema_decay", "at least 0 and below 1")
    require(train.threads >= 0, "train.threads", "at least 0")
    require(train.timeout_s >= 1, "train.timeout_s", "at least 1")
    errors += engine_errors(config)
    require(config.checkpoint.every_steps >= 1, "checkpoint.every_steps", "at least 1")
    require(config.checkpoint.keep >= 1, "checkpoint.keep", "at least 1")
    require(config.parallel.bucket_cap_mb >= 0, "parallel.bucket_cap_mb", "at least 0")
    require(config.checkpoint.give_up_after_s >= 1, "checkpoint.give_up_after_s", "at least 1")
    require(config.log.every_steps >= 1, "log.every_steps", "at least 1")
    require(config.log.sheet_every_steps >= 0, "log.sheet_every_steps", "at least 0")
    require(config.log.sheet_images >= 1, "log.sheet_images", "at least 1")
    errors += telemetry_errors(config.telemetry)
    require(config.evaluation.every_steps >= 0, "evaluation.every_steps", "at least 0")
    require(config.evaluation.batch_size >= 1, "evaluation.batch_size", "at least 1")
    require(config.evaluation.limit >= 0, "evaluation.limit", "at least 0")
    require(
        config.evaluation.recalibration_images >= 0, "evaluation.recalibration_images", "at least 0"
    )
    errors += baseline_name_errors(config.evaluation.baselines)
    require(
        config.evaluation.weights == "raw" or train.ema_decay > 0,
        "evaluation.weights",
        "raw, since train.ema_decay is 0 and there is no average to evaluate",
    )
    return errors


def _hole_errors(config: Config) -> list[str]:
    data = config.data
    errors = fresh_mask_errors(data.fresh_masks, config.pack.crop_size)
    if data.fresh_masks and data.holes != "fresh":
        errors.append(
            f"data.fresh_masks is given, but data.holes is {data.holes!r}: set it to fresh, or "
            "leave data.fresh_masks out"
        )
    return errors


def _acceleration_errors(config: Config) -> list[str]:
    """Switches that do not go together, each with the reason."""
    errors = []
    train, synchronised = config.train, config.parallel.sync_batch_norm
    if train.compile and synchronised:
        errors.append(
            "train.compile is True: set it to false with parallel.sync_batch_norm, whose exchange "
            "lies inside the networks and cannot be part of one compiled graph"
        )
    if train.cuda_graphs:
        reasons = {
            "train.micro_batch_size 0, since one graph holds the whole step of one batch": (
                train.micro_batch_size != 0
            ),
            "train.precision fp32 or bf16, since the loss scale of fp16 is kept outside a graph": (
                train.precision == "fp16"
            ),
            "parallel.sync_batch_norm false, since its exchange is not recorded": synchronised,
        }
        errors += [
            f"train.cuda_graphs is True: it needs {reason}"
            for reason, holds in reasons.items()
            if holds
        ]
    return errors


def world_size_errors(config: Config, world_size: int) -> list[str]:
    """Check the world size: it is usable when every worker gets the same number of samples of each
    batch, in whole micro-batches.
    """
    batch_size, micro_batch_size = config.train.batch_size, config.train.micro_batch_size
    try:
        share = len(lanes_of(batch_size, rank=0, world_size=world_size))
    except ValueError as error:
        return [f"train.batch_size is {batch_size}: {error}"]
    if micro_batch_size and share % micro_batch_size:
        divisors = ", ".join(str(n) for n in range(1, share + 1) if share % n == 0)
        return [
            f"train.micro_batch_size is {micro_batch_size}, but each of {world_size} workers has "
            f"{share} samples of a batch; use one of {divisors}, or 0"
        ]
    return []
