"""What must hold before a run starts, checked whole before any process group exists."""

from __future__ import annotations

import os

from pipeline.config import Config, world_size_faults
from pipeline.schedule import resolve_schedule
from shards.dataset import ShardSet
from shards.manifest import Manifest, load_manifest


def check_run(config: Config, world_size: int) -> Manifest:
    """The manifest of the set that the run will read.

    Raises ValueError with every fault of the configuration against the set and the number of
    workers; FileNotFoundError or ValueError for a set that is missing or damaged.
    """
    faults = world_size_faults(config, world_size)
    manifest = load_manifest(config.data.shards)
    faults += set_faults(config, manifest)
    if faults:
        raise ValueError("the run cannot start:\n  " + "\n  ".join(faults))
    for split in ("train", "val"):
        ShardSet(config.data.shards, split, cache=config.data.cache).close()
    return manifest


def set_faults(config: Config, manifest: Manifest) -> list[str]:
    """Where the configuration and the packed set do not go together."""
    faults = []
    packed, asked = manifest.recipe.crop_size, config.crop_size
    if packed != asked:
        faults.append(
            f"pack.crop_size is {asked}, but {config.data.shards} was packed for crops of {packed} "
            f"pixels; set --pack.crop_size {packed} or pack anew"
        )
    stored = manifest.recipe.short_side
    if config.data.short_side_max > stored:
        faults.append(
            f"data.short_side_max is {config.data.short_side_max}, but {config.data.shards} stores "
            f"images with a short side of at most {stored} pixels, which would be enlarged; set "
            f"--data.short_side_max {stored} or pack anew"
        )
    if manifest.num_samples("val") == 0:
        faults.append(
            f"{config.data.shards} has no validation images, by which a run is looked at; pack it "
            "with pack.validation_fraction above 0"
        )
    num_samples = manifest.num_samples("train")
    if num_samples < config.train.batch_size:
        faults.append(
            f"train.batch_size is {config.train.batch_size}, but {config.data.shards} has only "
            f"{num_samples} training samples; at most {num_samples}"
        )
    elif resolve_schedule(config.schedule, num_samples // config.train.batch_size).total == 0:
        faults.append("schedule has no step")
    return faults


def world_size_from_environment() -> int:
    """Of the group that torchrun is about to form; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))
