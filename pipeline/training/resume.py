"""Find the checkpoint that a run continues from, check that it is the same run, and load it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoints.format import Checkpoint, committed_steps, read_checkpoint, read_newest
from pipeline.config.loading import config_mapping
from pipeline.config.run_identity import config_digest, recorded_config, result_affecting_settings
from pipeline.config.schema import Config
from pipeline.engines.ddp import Worker
from pipeline.training.dilation_choice import (
    choose_dilation_,
    recorded_dilation,
    require_same_dilation,
)
from pipeline.training.run_state import RunState
from shards.sampling.mixture import Mixture


def state_facts(
    config: Config, data: Mixture, worker: Worker, step: int, dilation: str
) -> dict[str, Any]:
    """Return what `state.json` holds beside the step. `dilation`: the method of dilated layers."""
    return {
        "config": config_mapping(config),
        "config_digest": config_digest(config),
        "data_fingerprint": data.fingerprint,
        "seed": config.seed,
        "num_images": step * config.train.batch_size,
        "world_size": worker.world_size,
        "dilation": dilation,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def resume_(
    state: RunState, config: Config, data: Mixture, worker: Worker, log: Callable[[str], None]
) -> int:
    """Load what `config.resume` asks for into `state`; return the steps already made.

    Collective: every rank must call. Raises ValueError where there is nothing intact to resume, or
    something that another configuration or other data made.
    """
    found = worker.on_main(lambda: _find(config, data, log))
    recorded = worker.broadcast_value(recorded_dilation(found.facts) if found else None)
    choose_dilation_(state.completion.network, config, worker, recorded, log)
    step, tensors = broadcast_checkpoint(found, worker)
    if step is None:
        return 0
    state.load_(tensors)
    return step


def broadcast_checkpoint(
    found: Checkpoint | None, worker: Worker
) -> tuple[int | None, dict[str, dict[str, Tensor]]]:
    """Return what rank 0 has found, on every rank: its step, or None, and its tensors.

    Collective: every rank must call.
    """
    step = worker.broadcast_value(found.step if found else None)
    if step is None:
        return None, {}
    assert isinstance(step, int)
    stems = worker.broadcast_value(sorted(found.tensors) if found else None)
    assert isinstance(stems, list)
    return step, {
        stem: worker.broadcast_tensors(found.tensors[stem] if found else None) for stem in stems
    }


def _find(config: Config, data: Mixture, log: Callable[[str], None]) -> Checkpoint | None:
    found = _select_checkpoint(config, log)
    if found is not None:
        _require_same_run(found, config, data)
    return found


def _select_checkpoint(config: Config, log: Callable[[str], None]) -> Checkpoint | None:
    url = config.checkpoint_url
    if config.resume == "never":
        steps = committed_steps(url)
        if steps:
            raise ValueError(
                f"{url} already holds a run at step {steps[-1]}; continue it with --resume auto or "
                "start under another --name"
            )
        return None
    # Also before a checkpoint that is named: a run that began there goes on with its own.
    found = read_newest(url, warn=log)
    if found is not None or config.resume == "auto":
        return found
    return read_checkpoint(config.resume)


def _require_same_run(found: Checkpoint, config: Config, data: Mixture) -> None:
    """A checkpoint continues exactly, or not at all."""
    facts = found.facts
    # Not by the digest: what differs is to be named.
    before = result_affecting_settings(recorded_config(facts["config"]))
    now = result_affecting_settings(config)
    changed = [
        f"{key} was {before.get(key)!r}, is {value!r}"
        for key, value in now.items()
        if before.get(key) != value
    ]
    if changed:
        raise ValueError(
            f"the run at step {found.step} was made with another configuration: "
            f"{'; '.join(changed)}. Restore these values, or start under another --name"
        )
    require_same_dilation(found.step, facts, config.train.dilation)
    if facts["data_fingerprint"] != data.fingerprint:
        fields = "--data.shards and --data.mixture" if len(data.sets) > 1 else "--data.shards"
        raise ValueError(
            f"the run at step {found.step} was trained on another packed set (fingerprint "
            f"{facts['data_fingerprint'][:12]}, {' with '.join(one.shards for one in data.sets)} "
            f"has {data.fingerprint[:12]}). Point {fields} at it, or use another --name"
        )
