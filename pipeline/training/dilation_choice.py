"""How the dilated layers of a run are computed: as configured, as before, or by what is faster.

The ways differ in rounding alone, yet a resumed run has to end in the same bits. So the choice is a
fact of the run: each checkpoint records it, and what has once been chosen stays.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config.schema import Config
from pipeline.device.compilation import compiled
from pipeline.engines.ddp import Worker
from pipeline.networks.glcic import CompletionNetwork
from pipeline.networks.kernels.space_to_batch import NATIVE, SPACE_TO_BATCH, by_space_to_batch
from pipeline.networks.unwrapped_copy import unwrapped_copy
from shards.sampling.order import lanes_of

AUTO = "auto"
_WARM_UP_ROUNDS = 2
_ROUNDS = 5
_DOWNSAMPLING = 4  # of the crop's side, up to the dilated layers

Seconds = dict[str, float]


def recorded_dilation(facts: Mapping[str, Any]) -> str:
    """Return what a checkpoint records; older ones record nothing and used one way alone."""
    return str(facts.get("dilation", NATIVE))


def require_same_dilation(step: int, facts: Mapping[str, Any], asked: str) -> None:
    """Raises ValueError where a run would go on with other roundings than it began."""
    recorded = recorded_dilation(facts)
    if asked not in (AUTO, recorded):
        raise ValueError(
            f"the run at step {step} computes its dilated layers by {recorded}, but train.dilation "
            f"is {asked!r}, which rounds differently. Set it to {recorded} or auto, or start under "
            "another --name"
        )


def choose_dilation_(
    network: nn.Module, config: Config, worker: Worker, recorded: object,
    log: Callable[[str], None],
) -> None:  # fmt: skip
    """Set it for the whole run; `recorded` is that of the checkpoint it goes on from, or None.

    Collective: every rank must call.
    """
    asked = config.train.dilation
    if not isinstance(network, CompletionNetwork):
        return  # it has no dilated layers
    if recorded is not None:
        network.dilation = str(recorded)
        if asked == AUTO:
            log(f"dilated layers: {recorded}, as this run began")
    elif asked != AUTO:
        network.dilation = asked
    else:
        seconds = worker.on_main(lambda: time_dilation(network, config, worker))
        chosen = worker.broadcast_value(min(seconds, key=seconds.__getitem__) if seconds else None)
        network.dilation = str(chosen)
        if seconds:
            times = ", ".join(f"{name} {1000 * value:.3g} ms" for name, value in seconds.items())
            log(f"dilated layers: {chosen}, the faster one forward and backward ({times})")


def time_dilation(network: CompletionNetwork, config: Config, worker: Worker) -> Seconds:
    """Medians of a forward and backward of the dilated layers alone, each way, as this worker will
    train: its device, share of the batch, precision, memory format, compiled or not.
    """
    blocks = unwrapped_copy(network).dilated_layers()

    def native(features: Tensor) -> Tensor:
        for block in blocks:
            features = block(features)
        return features

    def space_to_batch(features: Tensor) -> Tensor:
        return by_space_to_batch(blocks, features)

    ways: dict[str, Callable[[Tensor], Tensor]] = {NATIVE: native, SPACE_TO_BATCH: space_to_batch}
    if config.train.compile:
        ways = {name: compiled(way) for name, way in ways.items()}
    features = _features(blocks[0].conv.in_channels, config, worker)  # type: ignore[arg-type]
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_WARM_UP_ROUNDS + _ROUNDS):
        for name, way in ways.items():
            taken[name].append(_seconds(way, features, worker))
    return {name: statistics.median(times[_WARM_UP_ROUNDS:]) for name, times in taken.items()}


def _features(channels: int, config: Config, worker: Worker) -> Tensor:
    """Of the shape that reaches the first dilated layer; drawn apart from the run's own numbers."""
    train = config.train
    share = len(lanes_of(train.batch_size, worker.rank, worker.world_size))
    side = config.crop_size // _DOWNSAMPLING
    features = torch.rand(
        train.micro_batch_size or share, channels, side, side,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    layout = torch.channels_last if train.channels_last else torch.contiguous_format
    return features.to(worker.device).to(memory_format=layout).requires_grad_()


def _seconds(way: Callable[[Tensor], Tensor], features: Tensor, worker: Worker) -> float:
    _wait(worker.device)
    start = time.perf_counter()
    with worker.autocast():
        output = way(features)
    output.backward(torch.ones_like(output))
    _wait(worker.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
