"""What makes a run the same run: the part of the configuration that its weights depend on.

Runs outlive versions of this program. A field that a later version adds changes nothing of a run
made before it, so it must not change that run's digest either: see `ADDED_FIELDS`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pipeline.config.loading import config_mapping, parse_config
from pipeline.config.schema import Config

# Fields of the trajectory that were added after the commit 8345c66, each with the value that every
# run made before had in effect. At that value a field stays out of the digest, and a recorded
# configuration without it is read as having it. Whoever adds a field to a section below adds it
# here too, even where its default is another value; a field that no configuration has is left out.
ADDED_FIELDS: dict[str, Any] = {
    "loss.adversarial": "non_saturating",
    "data.holes": "packed",
    "data.fresh_masks": [],
    "completion.attention_maps": "learned",
    "completion.attention_form": "report",
}

# What the weights at a step depend on. The rest (paths, intervals, timeouts) may change on resume,
# and so may the length of the last phase: it only moves the end. The engine may change too: all of
# them save the same whole state and follow the same trajectory, if not to the last bit.
_TRAJECTORY = {
    "seed": None,
    "data": (
        "short_side_min",
        "short_side_max",
        "horizontal_flip",
        "weight",
        "holes",
        "fresh_masks",
    ),
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


def result_affecting_settings(config: Config) -> dict[str, Any]:
    """Return the fields that decide the weights at a step, flat: `loss.alpha` -> 0.0004.

    Values are plain: a tuple is a list, a dataclass in it a mapping.
    """
    flat: dict[str, Any] = {}
    for section, names in _TRAJECTORY.items():
        value = getattr(config, section)
        if not dataclasses.is_dataclass(value):
            flat[section] = value
            continue
        for name, field in dataclasses.asdict(value).items():  # type: ignore[arg-type]
            if names is None or name in names:
                flat[f"{section}.{name}"] = list(field) if type(field) is tuple else field
    # Their fingerprint covers the content of the sets; where they lie may change.
    flat["data.mixture"] = [one.weight for one in config.data.mixture]
    if not config.data.mixture:
        flat["data.weight"] = 1.0  # alone, a set has every lane whatever its weight
    return flat


def config_digest(config: Config) -> str:
    """Return the SHA-256, in hexadecimal, of what decides the weights.

    It stays what it was when the run was made, whatever fields have been added since.
    """
    fields = {
        name: value
        for name, value in result_affecting_settings(config).items()
        if name not in ADDED_FIELDS or value != ADDED_FIELDS[name]
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def recorded_config(mapping: Mapping[str, Any]) -> Config:
    """Return the configuration that a run recorded, as `config_mapping` gives it.

    A field that did not exist then has the value that was in effect, not today's default. Raises
    ValueError for what cannot be read.
    """
    existing = config_mapping(Config())
    recorded = {key: dict(one) if isinstance(one, Mapping) else one for key, one in mapping.items()}
    for path, value in ADDED_FIELDS.items():
        section, name = path.split(".")
        if name in existing[section] and isinstance(recorded.setdefault(section, {}), dict):
            recorded[section].setdefault(name, value)
    return parse_config(recorded)
