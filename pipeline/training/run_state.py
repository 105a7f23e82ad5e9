"""The state of a run: two networks, their optimizers and the average. The rest is computed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.config.schema import Config
from pipeline.device.options import apply_options
from pipeline.distributed.trainable import TrainableNetwork
from pipeline.engines.ddp import Worker
from pipeline.networks.dam import with_new_attention
from pipeline.networks.kernels.space_to_batch import NATIVE
from pipeline.networks.registry import build_completion, build_discriminator
from pipeline.training.averaged_weights import AveragedNetwork
from pipeline.training.freezing import freeze_
from shards.sampling.mixture import Mixture

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
            apply_options(network, config)
        self.completion = worker.trainable("completion", completion, config.completion_optimizer)
        self.discriminator = worker.trainable(
            "discriminator", discriminator, config.discriminator_optimizer
        )
        self._worker = worker
        self.average = (
            # Weights of a warm start are worth averaging from the first step on.
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
            for name, trainable in self._trainables().items()
            for key, tensor in trainable.optimizer_tensors().items()
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
        for name, trainable in self._trainables().items():
            trainable.load_optimizer_tensors(_with_prefix(name, tensors))
        self._worker.load_scaler_tensors(_with_prefix(_SCALER, tensors))

    def load_from_(
        self, tensors: dict[str, dict[str, Tensor]], average: dict[str, Tensor] | None
    ) -> None:
        """Load the tensors of another run, by file of its checkpoint; the rest stays as
        initialised.

        The average goes on where the optimizers do and there is one; else it starts from the
        network. A network with DAM blocks may load one without them. Raises ValueError where the
        tensors do not fit. Collective: every rank must call.
        """
        completion = with_new_attention(self.completion.network, tensors["completion"])
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
        """Return the completion network to evaluate: "ema" or "raw"."""
        if kind == "ema" and self.average is not None:
            return self.average.network
        return self.completion.network

    @property
    def dilation(self) -> str:
        """How the dilated layers of the completion network are computed."""
        return str(getattr(self.completion.network, "dilation", NATIVE))

    def _trainables(self) -> dict[str, TrainableNetwork]:
        return {"completion": self.completion, "discriminator": self.discriminator}


def _with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix` and a dot, named without it."""
    start = f"{prefix}."
    return {
        key.removeprefix(start): tensor for key, tensor in tensors.items() if key.startswith(start)
    }


def _load(network: nn.Module, tensors: dict[str, Tensor], name: str) -> None:
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"the checkpoint's {name} network does not fit: {error}") from error
