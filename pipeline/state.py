"""The state of a run: two networks, their optimizers and the average. The rest is computed."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.average import AveragedNetwork
from pipeline.checkpoint import Checkpoint, committed_steps, read_checkpoint, read_newest
from pipeline.config import Config, config_mapping
from pipeline.dilation_choice import recorded_dilation, require_same_dilation, settle_dilation_
from pipeline.freezing import freeze_
from pipeline.identity import config_digest, recorded_config, trajectory_mapping
from pipeline.networks.dam import with_fresh_attention
from pipeline.networks.dilation import NATIVE
from pipeline.networks.registry import build_completion, build_discriminator
from pipeline.workers import Player, Worker
from pipeline.workers.switches import with_switches
from shards.mixture import Mixture

_GRAY = (0.5, 0.5, 0.5)
_SCALER = "loss_scale"  # of fp16, in the file of the optimizers


class RunState:
    """Builds the networks with weights that depend on the seed alone, equal on every rank.

    Collective: every rank must build it.
    """

    def __init__(self, config: Config, worker: Worker, data: Mixture) -> None:
        torch.manual_seed(config.seed)
        completion = build_completion(config)
        discriminator = build_discriminator(config)
        completion.set_fill_color(
            data.mean_color if config.completion.hole_fill == "mean" else _GRAY
        )
        layout = torch.channels_last if config.train.channels_last else torch.contiguous_format
        for name, network in (("completion", completion), ("discriminator", discriminator)):
            freeze_(network, name, config.train.freeze)
            network.to(device=worker.device, memory_format=layout)  # type: ignore[call-overload]
            with_switches(network, config)
        self.completion = worker.player("completion", completion, config.completion_optimizer)
        self.discriminator = worker.player(
            "discriminator", discriminator, config.discriminator_optimizer
        )
        self._worker = worker
        self.average = (
            # Weights that were handed over are worth averaging from the first step on.
            AveragedNetwork(completion, config.train.ema_decay, warm_up=not config.start.checkpoint)
            if config.train.ema_decay
            else None
        )

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """By file of the checkpoint; mostly the live ones, not copies.

        Collective: every rank must call.
        """
        networks = {
            "completion": self.completion.network,
            "discriminator": self.discriminator.network,
        }
        tensors = {name: dict(network.state_dict()) for name, network in networks.items()}
        if self.average is not None:
            tensors["ema"] = dict(self.average.network.state_dict())
        tensors["optimizers"] = {
            f"{name}.{key}": tensor
            for name, player in self._players().items()
            for key, tensor in player.optimizer_tensors().items()
        }
        for key, tensor in self._worker.scaler_tensors().items():
            tensors["optimizers"][f"{_SCALER}.{key}"] = tensor
        return tensors

    def load_(self, tensors: dict[str, dict[str, Tensor]]) -> None:
        """Raises ValueError where the tensors do not fit the networks."""
        missing = {"completion", "discriminator", "optimizers"} - tensors.keys()
        if self.average is not None:
            missing |= {"ema"} - tensors.keys()
        if missing:
            raise ValueError(f"the checkpoint lacks {', '.join(sorted(missing))}")
        _load(self.completion.network, tensors["completion"], "completion")
        _load(self.discriminator.network, tensors["discriminator"], "discriminator")
        if self.average is not None:
            _load(self.average.network, tensors["ema"], "ema")
        self._load_optimizers(tensors["optimizers"])

    def _load_optimizers(self, tensors: dict[str, Tensor]) -> None:
        for name, player in self._players().items():
            player.load_optimizer_tensors(_under(name, tensors))
        self._worker.load_scaler_tensors(_under(_SCALER, tensors))

    def take_over_(
        self, tensors: dict[str, dict[str, Tensor]], average: dict[str, Tensor] | None
    ) -> None:
        """Of another run, what `tensors` holds by file of its checkpoint; the rest stays fresh.

        The average goes on where the optimizers do and there is one; else it starts from the
        network. A network with DAM blocks takes over one without them. Raises ValueError where the
        tensors do not fit. Collective: every rank must call.
        """
        completion = with_fresh_attention(self.completion.network, tensors["completion"])
        _load(self.completion.network, completion, "completion")
        if "discriminator" in tensors:
            _load(self.discriminator.network, tensors["discriminator"], "discriminator")
        if self.average is not None:
            goes_on = "optimizers" in tensors and average is not None
            source = average if goes_on and average is not None else completion
            _load(self.average.network, source, "ema")
        if "optimizers" in tensors:
            self._load_optimizers(tensors["optimizers"])

    def weights(self, kind: str) -> nn.Module:
        """The completion network to be looked at: "ema" or "raw"."""
        if kind == "ema" and self.average is not None:
            return self.average.network
        return self.completion.network

    @property
    def dilation(self) -> str:
        """How the dilated layers of the completion network are computed."""
        return str(getattr(self.completion.network, "dilation", NATIVE))

    def _players(self) -> dict[str, Player]:
        return {"completion": self.completion, "discriminator": self.discriminator}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin with `prefix` and a dot, without it."""
    start = f"{prefix}."
    return {
        key.removeprefix(start): tensor for key, tensor in tensors.items() if key.startswith(start)
    }


def _load(network: nn.Module, tensors: dict[str, Tensor], name: str) -> None:
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"the checkpoint's {name} network does not fit: {error}") from error


def state_facts(
    config: Config, data: Mixture, worker: Worker, step: int, dilation: str
) -> dict[str, Any]:
    """What `state.json` says beside the step. `dilation`: how dilated layers are computed."""
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
    state: RunState, config: Config, data: Mixture, worker: Worker, say: Callable[[str], None]
) -> int:
    """Loads what `config.resume` asks for into `state`; returns the steps already made.

    Collective: every rank must call. Raises ValueError where there is nothing intact to resume, or
    something that another configuration or other data made.
    """
    found = worker.on_main(lambda: _find(config, data, say))
    recorded = worker.broadcast_value(recorded_dilation(found.facts) if found else None)
    settle_dilation_(state.completion.network, config, worker, recorded, say)
    step, tensors = broadcast_checkpoint(found, worker)
    if step is None:
        return 0
    state.load_(tensors)
    return step


def broadcast_checkpoint(
    found: Checkpoint | None, worker: Worker
) -> tuple[int | None, dict[str, dict[str, Tensor]]]:
    """What rank 0 has found, on every rank: its step, or None, and its tensors.

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


def _find(config: Config, data: Mixture, say: Callable[[str], None]) -> Checkpoint | None:
    found = _chosen(config, say)
    if found is not None:
        _require_same_run(found, config, data)
    return found


def _chosen(config: Config, say: Callable[[str], None]) -> Checkpoint | None:
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
    found = read_newest(url, warn=say)
    if found is not None or config.resume == "auto":
        return found
    return read_checkpoint(config.resume)


def _require_same_run(found: Checkpoint, config: Config, data: Mixture) -> None:
    """A checkpoint continues exactly, or not at all."""
    facts = found.facts
    # Not by the digest: what differs is to be named.
    before = trajectory_mapping(recorded_config(facts["config"]))
    now = trajectory_mapping(config)
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
