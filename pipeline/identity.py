"""What makes a run the same run: the part of the configuration that its weights depend on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from pipeline.config import Config

# What the weights at a step depend on. The rest (paths, intervals, timeouts) may change on resume,
# and so may the length of the last phase: it only moves the end. The engine may change too: all of
# them save the same whole state and follow the same trajectory, if not to the last bit.
_TRAJECTORY = {
    "seed": None,
    "data": ("short_side_min", "short_side_max", "horizontal_flip", "weight"),
    "completion": None,
    "discriminator": None,
    "loss": None,
    "schedule": ("unit", "completion", "discriminator"),
    "completion_optimizer": None,
    "discriminator_optimizer": None,
    # Not `dilation`: what it came to is a fact of the run, which its checkpoints keep.
    "train": (
        "batch_size",
        "micro_batch_size",
        "precision",
        "tf32",
        "channels_last",
        "compile",
        "cuda_graphs",
        "convolution",
        "ema_decay",
        "freeze",
    ),
    "parallel": ("sync_batch_norm", "compress_gradients"),
    "start": None,
}


def trajectory_mapping(config: Config) -> dict[str, Any]:
    """The fields that decide the weights at a step, flat: `loss.alpha` -> 0.0004."""
    flat: dict[str, Any] = {}
    for section, names in _TRAJECTORY.items():
        value = getattr(config, section)
        if not dataclasses.is_dataclass(value):
            flat[section] = value
            continue
        for entry in dataclasses.fields(value):
            if names is None or entry.name in names:
                field = getattr(value, entry.name)
                flat[f"{section}.{entry.name}"] = list(field) if type(field) is tuple else field
    # What is in the sets is told by their fingerprint; where they lie may change.
    flat["data.mixture"] = [one.weight for one in config.data.mixture]
    if not config.data.mixture:
        flat["data.weight"] = 1.0  # alone, a set has every lane whatever its weight
    return flat


def config_digest(config: Config) -> str:
    """SHA-256 of what decides the weights: a checkpoint resumes only under the same digest."""
    content = json.dumps(trajectory_mapping(config), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
