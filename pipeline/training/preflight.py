"""What must hold before a run starts, checked whole before any process group exists."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from pipeline.config.engine_validation import launcher_errors, require_package
from pipeline.config.schedule import resolve_schedule
from pipeline.config.schema import Config
from pipeline.config.telemetry_validation import local_telemetry_errors
from pipeline.config.validation import world_size_errors
from pipeline.engines.deepspeed_settings import deepspeed_file_errors
from pipeline.step.training_data import training_data
from shards.format.manifest import MANIFEST_NAME, RECORDS, Manifest, load_manifest
from shards.indexing.external_set import index_external_shards
from shards.reading.packed_set import ShardSet
from shards.sampling.mixture import Mixture
from shards.storage.files import exists, join_url, list_names

_INDEXING_S = 6 * 3600.0  # what the other ranks grant the first one
_POLL_S = 2.0


def check_run(config: Config, world_size: int) -> Mixture:
    """Return what the run will read, as the manifests describe it.

    Raises ValueError with every error of the configuration against the sets and the number of
    workers; FileNotFoundError or ValueError for a set that is missing or damaged; RuntimeError
    where the engine's package is not installed.
    """
    require_package(config.parallel.engine)
    errors = world_size_errors(config, world_size)
    errors += launcher_errors(config, os.environ) + deepspeed_file_errors(config)
    errors += local_telemetry_errors(config.telemetry)
    mixture = training_data(config)
    for one, manifest in zip(mixture.sets, mixture.manifests, strict=True):
        errors += set_errors(config, one.shards, manifest)
    errors += _amount_errors(config, mixture)
    if config.start.checkpoint or config.train.freeze:
        # Only then: torch, which they need, takes seconds to import.
        from pipeline.training.freezing import freezing_errors
        from pipeline.training.warm_start import warm_start_errors

        errors += freezing_errors(config) + warm_start_errors(config)
    if errors:
        raise ValueError("the run cannot start:\n  " + "\n  ".join(errors))
    if config.data.damaged == "stop":
        for one, manifest in zip(mixture.sets, mixture.manifests, strict=True):
            ShardSet(one.shards, "train", config.data.cache, manifest=manifest).close()
    ShardSet(config.validation_shards, "val", config.data.cache).close()
    return mixture


def index_external_sets(config: Config, log: Callable[[str], None] = print) -> None:
    """Make a set of each folder of shards that others have packed, on its first use.

    Rank 0 does it, by `config.pack`; the other ranks wait for the manifest. No process group is
    needed. Raises what `index_external_shards` raises, and RuntimeError where rank 0 does not end.
    """
    for url in (config.data.shards, *(one.shards for one in config.data.mixture)):
        names = list_names(url)
        if MANIFEST_NAME in names or not any(name.endswith(".tar") for name in names):
            continue
        if RECORDS in names:
            raise ValueError(
                f"{url} holds a pack that was not finished; run its `glcic pack` again, or "
                f"`glcic pack --merge {url}` if it was packed in slices"
            )
        if os.environ.get("RANK", "0") == "0":
            log(f"{url} has no {MANIFEST_NAME}: indexing the shards that others have packed")
            index_external_shards(url, config.pack)
        else:
            _wait_for_manifest(url, log)


def _wait_for_manifest(url: str, log: Callable[[str], None]) -> None:
    deadline = time.monotonic() + _INDEXING_S
    if os.environ.get("LOCAL_RANK") == "0":  # a folder that rank 0 does not share never gets one
        log(f"{url} has no {MANIFEST_NAME}: waiting for rank 0 to index the shards there")
    while not exists(join_url(url, MANIFEST_NAME)):
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"rank 0 has not indexed {url} in {_INDEXING_S:g} s; run `glcic index {url}` first"
            )
        time.sleep(_POLL_S)


def set_errors(config: Config, shards: str, manifest: Manifest) -> list[str]:
    """Where the configuration and a packed set do not go together."""
    errors = []
    packed, asked = manifest.recipe.crop_size, config.crop_size
    if packed != asked:
        errors.append(
            f"pack.crop_size is {asked}, but {shards} was packed for crops of {packed} "
            f"pixels; set --pack.crop_size {packed} or pack again"
        )
    stored = manifest.recipe.short_side
    if config.data.short_side_max > stored:
        errors.append(
            f"data.short_side_max is {config.data.short_side_max}, but {shards} stores "
            f"images with a short side of at most {stored} pixels, which would be enlarged; set "
            f"--data.short_side_max {stored} or pack again"
        )
    return errors


def _amount_errors(config: Config, mixture: Mixture) -> list[str]:
    errors = []
    if config.evaluation.shards:
        errors += _validation_errors(config, load_manifest(config.evaluation.shards))
    elif mixture.num_samples("val") == 0:
        remedy = (
            "pack it with pack.validation_fraction above 0"
            if mixture.manifests[0].plan_sha256
            else "name one of its shards val-*.tar, remove its manifest.json and index it again"
        )
        errors.append(
            f"{config.data.shards} has no validation images, on which a run is evaluated; {remedy}"
        )
    for number, (one, manifest) in enumerate(zip(mixture.sets, mixture.manifests, strict=True)):
        lanes, num_samples = mixture.lanes.count(number), manifest.num_samples("train")
        if num_samples == 0:
            errors.append(
                f"{one.shards} has no training images, it is a set to judge on; train on another "
                f"and name this one by --evaluation.shards {one.shards}"
            )
            continue
        if num_samples < lanes:
            remedy = f"; at most {num_samples}"
            if len(mixture.sets) > 1:
                remedy = f" for {lanes} of them in every batch; lower its weight or the batch size"
            errors.append(
                f"train.batch_size is {config.train.batch_size}, but {one.shards} has only "
                f"{num_samples} training samples{remedy}"
            )
    if not errors and not resolve_schedule(config.schedule, mixture.steps_per_epoch("train")).total:
        errors.append("schedule has no step")
    return errors


def _validation_errors(config: Config, manifest: Manifest) -> list[str]:
    url, packed = config.evaluation.shards, manifest.recipe.crop_size
    errors = []
    if packed != config.crop_size:
        errors.append(
            f"evaluation.shards is {url}, whose images have {packed} pixels, but pack.crop_size is "
            f"{config.crop_size}; pack it with --pack.crop_size {config.crop_size}"
        )
    if manifest.num_samples("val") == 0:
        errors.append(
            f"evaluation.shards is {url}, which has no validation images; pack it with a "
            "pack.validation_fraction above 0"
        )
    return errors


def world_size_from_environment() -> int:
    """Of the group that torchrun is about to form; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))
