"""A run so small that all three phases pass in seconds; for every test that trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from pipeline.checkpoints.format import read_checkpoint, step_name
from pipeline.config.loading import parse_config
from pipeline.config.schema import Config


def small_mapping(shards: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """Sections in `changes` are merged into the small run's own."""
    mapping: dict[str, Any] = {
        "name": "small",
        "folder": str(folder),
        "data": {"shards": shards, "short_side_min": 32, "short_side_max": 44},
        "pack": {"crop_size": 32, "short_side": 48, "masks": {"side_min": 8, "side_max": 16}},
        "completion": {"width": 8},
        "discriminator": {"width": 4, "local_size": 16, "num_features": 8},
        "schedule": {"completion": 4, "discriminator": 3, "joint": 5},
        "train": {"batch_size": 12, "precision": "fp32", "ema_decay": 0.9, "threads": 1},
        "checkpoint": {"every_steps": 1, "keep": 100, "skip_late": False},
        "log": {"every_steps": 2, "sheet_every_steps": 0, "sheet_images": 2, "tensorboard": False},
        "evaluation": {"recalibration_images": 16, "limit": 4},
    }
    for section, values in changes.items():
        if isinstance(values, dict):
            mapping[section] = {**mapping.get(section, {}), **values}
        else:
            mapping[section] = values
    return mapping


def small_config(shards: str, folder: Path, **changes: Any) -> Config:
    return parse_config(small_mapping(shards, folder, **changes))


def write_preset(path: Path, mapping: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(mapping))
    return path


def final_tensors(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint of a run, by file and name."""
    found = read_checkpoint(str(folder / "checkpoints" / step_name(step)))
    return {f"{s}/{n}": t for s, group in found.tensors.items() for n, t in group.items()}


def assert_identical(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different, f"{len(different)} of {len(left)} tensors differ: {different[:4]}"
