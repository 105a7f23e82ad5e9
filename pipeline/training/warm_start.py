"""Start a run from the weights of another one: with another schedule, loss, set or preset.

A checkpoint continues a run exactly or not at all (`resume.resume_`); a warm start begins a new
run, at step 0 of its own schedule, from the networks of another, with or without what its
optimizers remember. So phases can be run under different presets, one after another.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import safetensors.torch
from torch import Tensor

from pipeline.checkpoints.format import (
    STATE,
    Checkpoint,
    committed_steps,
    read_checkpoint,
    read_commitment,
    read_file,
)
from pipeline.config.run_identity import recorded_config
from pipeline.config.schema import CompletionConfig, Config
from pipeline.engines.ddp import Worker
from pipeline.exports.network_folder import DESCRIPTION, EXPORT_FOLDER, WEIGHTS, find_checkpoint
from pipeline.training.resume import broadcast_checkpoint
from pipeline.training.run_state import RunState
from shards.storage.files import exists, join_url

# The files of the checkpoint that each value of start.take loads.
_FILES = {
    "completion": ("completion",),
    "networks": ("completion", "discriminator"),
    "all": ("completion", "discriminator", "optimizers"),
}


def warm_start_errors(config: Config) -> list[str]:
    """Return why the run cannot start from `start.checkpoint`: one sentence per error.

    None where the run has checkpoints of its own, with which it goes on. Raises FileNotFoundError
    and ValueError for a checkpoint that is missing or damaged.
    """
    if not config.start.checkpoint or committed_steps(config.checkpoint_url):
        return []
    url, description = _read_description(config.start.checkpoint)
    if "config" not in description:
        if config.start.take == "completion":
            # What an older export does not name has the default that it was made with.
            theirs = recorded_config({"completion": description["completion"]})
            return _completion_errors(url, dataclasses.asdict(theirs.completion), config)
        return [
            f"start.take is {config.start.take!r}, but {url} holds a completion network alone; set "
            "--start.take completion"
        ]
    theirs = recorded_config(description["config"])
    errors = _completion_errors(url, dataclasses.asdict(theirs.completion), config)
    if config.start.take != "completion":
        discriminators = _difference_errors(
            url,
            {"discriminator": dataclasses.asdict(theirs.discriminator)},
            dataclasses.asdict(config),
        )
        if theirs.crop_size != config.crop_size:
            discriminators.append(
                f"{url} was trained on crops of {theirs.crop_size} pixels, this run's have "
                f"{config.crop_size}"
            )
        errors += [
            f"{error}. The discriminators do not fit: set --start.take completion"
            for error in discriminators
        ]
    if config.start.take == "all":
        if config.completion.kind == "dam" and theirs.completion.kind == "glcic":
            errors.append(
                f"start.take is 'all', but in {url} the optimizers have no state for the DAM "
                "blocks; set --start.take networks"
            )
        errors += [
            f"{name}.kind is {mine!r}, but {url} was made with {kind!r}, whose state it cannot "
            "use; set --start.take networks"
            for name in ("completion_optimizer", "discriminator_optimizer")
            if (mine := getattr(config, name).kind) != (kind := getattr(theirs, name).kind)
        ]
    return errors


def warm_start_(
    state: RunState, config: Config, worker: Worker, log: Callable[[str], None]
) -> None:
    """Load what `config.start` names into a new state. Collective: every rank must call."""
    found = worker.on_main(lambda: _read_warm_start(config))
    _, tensors = broadcast_checkpoint(found, worker)
    parts = _FILES[config.start.take]
    state.load_from_({stem: tensors[stem] for stem in parts}, average=tensors.get("ema"))
    if found is not None:
        log(
            f"starting from {config.start.checkpoint} (step {found.step} of its run): "
            f"{', '.join(parts)}"
        )


def _read_warm_start(config: Config) -> Checkpoint:
    """Read the tensors of `start.checkpoint`."""
    url, description = _read_description(config.start.checkpoint)
    if "config" in description:
        return read_checkpoint(url)
    data = read_file(url, WEIGHTS, read_commitment(url))
    tensors: dict[str, Tensor] = safetensors.torch.load(data)
    return Checkpoint(description["step"], {"completion": tensors}, description)


def _read_description(url: str) -> tuple[str, dict[str, Any]]:
    """Return the exact URL, and the description of the checkpoint or exported network there."""
    exported = url
    if not exists(join_url(url, DESCRIPTION)):
        try:
            # A run's folder holds an exported network too; what is to go on is its checkpoint.
            found = find_checkpoint(url)
            return found, json.loads(read_file(found, STATE, read_commitment(found)))
        except FileNotFoundError:
            exported = join_url(url, EXPORT_FOLDER)
            if not exists(join_url(exported, DESCRIPTION)):
                raise
    return exported, json.loads(read_file(exported, DESCRIPTION, read_commitment(exported)))


def _completion_errors(url: str, theirs: dict[str, Any], config: Config) -> list[str]:
    """Return the differences; a network with DAM blocks may start from one without."""
    if theirs["kind"] == "glcic" and config.completion.kind == "dam":
        theirs = {name: v for name, v in theirs.items() if name not in _OF_DAM}
    return _difference_errors(url, {"completion": theirs}, dataclasses.asdict(config))


def _difference_errors(url: str, theirs: dict[str, Any], mine: dict[str, Any]) -> list[str]:
    """Return the fields that decide which tensors a network has, where they differ."""
    return [
        f"{section}.{name} is {mine[section][name]!r}, but {url} was made with {value!r}"
        for section, fields in theirs.items()
        for name, value in fields.items()
        if name in _SHAPING[section] and mine[section][name] != value
    ]


_OF_DAM = ("kind", "attention_kernel", "attention_skip", "attention_maps", "attention_form")
_SHAPING = {
    # The colour of the hole is a tensor of the network, and comes along with it.
    "completion": tuple(
        entry.name for entry in dataclasses.fields(CompletionConfig) if entry.name != "hole_fill"
    ),
    "discriminator": ("width", "local_size", "num_features"),
}
