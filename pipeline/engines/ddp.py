"""The default engine: torch's DistributedDataParallel, one reducer for each network."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.config.schema import OptimizerConfig, ParallelConfig
from pipeline.distributed.optimizers import build_optimizer
from pipeline.distributed.process_group import Ranks
from pipeline.distributed.trainable import Player
from pipeline.engines.gradient_compression import compress_gradients_

AUTOCAST_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

_REDUCER: dict[str, Any] = {
    # Two forwards before one backward must not rewrite buffers in between; they are averaged by
    # RunningStatistics instead, once a step.
    "broadcast_buffers": False,
    "gradient_as_bucket_view": True,
    # Not for unused parameters, there are none: with this flag the reducer keeps its first bucket
    # layout. Otherwise it lays the buckets anew after the first backward, which changes the order
    # in which three or more ranks are summed, and the first step of a resumed run would differ from
    # that of one never interrupted.
    "find_unused_parameters": True,
}
BUCKET_CAP_MB = (
    ParallelConfig.bucket_cap_mb
)  # DistributedDataParallel's own, which goes with a lower limit for the first bucket
_WHOLE_NETWORK_MB = 1 << 20


def reducer(bucket_cap_mb: int) -> dict[str, Any]:
    """Arguments of DistributedDataParallel."""
    if bucket_cap_mb == BUCKET_CAP_MB:
        return _REDUCER
    return {**_REDUCER, "bucket_cap_mb": bucket_cap_mb or _WHOLE_NETWORK_MB}


class Worker(Ranks):
    """One rank that trains networks. Engines other than this one are subclasses."""

    engine = "ddp"

    def __init__(
        self,
        *,
        rank: int = 0,
        world_size: int = 1,
        local_rank: int = 0,
        local_world_size: int = 1,
        device: torch.device | None = None,
        precision: str = "fp32",
        compress_gradients: bool = False,
        cuda_graphs: bool = False,
        bucket_cap_mb: int = BUCKET_CAP_MB,
    ) -> None:
        super().__init__(
            rank=rank,
            world_size=world_size,
            local_rank=local_rank,
            local_world_size=local_world_size,
            device=device,
        )
        self.precision = precision
        self.compress_gradients = compress_gradients
        self.cuda_graphs = cuda_graphs
        self.bucket_cap_mb = bucket_cap_mb
        self.scaler = torch.amp.GradScaler(self.device.type) if precision == "fp16" else None

    def autocast(self) -> torch.autocast:
        """Half precision where it is asked for; parameters stay float32 in every precision."""
        return torch.autocast(
            self.device.type,
            dtype=AUTOCAST_TYPES.get(self.precision, torch.bfloat16),
            enabled=self.precision in AUTOCAST_TYPES,
        )

    def player(self, name: str, network: nn.Module, optimizer: OptimizerConfig) -> Player:
        """The network as this engine trains it. Collective: every rank must call."""
        built = build_optimizer(optimizer, network, capturable=self.cuda_graphs)
        if self.world_size == 1:
            return Player(self, name, network, built, self.scaler)
        parallel = data_parallel(network, self, self.bucket_cap_mb)
        return self._data_parallel_player(name, network, built, parallel)

    def _data_parallel_player(
        self, name: str, network: nn.Module, optimizer: torch.optim.Optimizer,
        parallel: DistributedDataParallel,
    ) -> Player:  # fmt: skip
        if self.compress_gradients:
            compress_gradients_(parallel)
        return DataParallelPlayer(self, name, network, optimizer, self.scaler, parallel)

    def end_step_(self) -> None:
        """Once an iteration, after the updates of all players: moves the loss scale of fp16."""
        if self.scaler is not None:
            self.scaler.update()

    def scaler_tensors(self) -> dict[str, Tensor]:
        """The state of fp16's loss scale; empty in other precisions."""
        state = self.scaler.state_dict() if self.scaler is not None else {}
        return {name: torch.tensor(state[name]) for name in _SCALER_STATE if name in state}

    def load_scaler_tensors(self, tensors: dict[str, Tensor]) -> None:
        if self.scaler is not None and tensors:
            state = self.scaler.state_dict()
            self.scaler.load_state_dict(state | {name: t.item() for name, t in tensors.items()})


_SCALER_STATE = ("scale", "_growth_tracker")


class DataParallelPlayer(Player):
    """Averages gradients while the backward still runs."""

    def __init__(
        self, ranks: Ranks, name: str, network: nn.Module, optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None, parallel: DistributedDataParallel,
    ) -> None:  # fmt: skip
        super().__init__(ranks, name, network, optimizer, scaler)
        self._parallel = parallel  # around `network`
        self._exchanging = True

    def __call__(self, *inputs: Any) -> Any:
        return self._parallel(*inputs)

    @contextmanager
    def without_exchange(self) -> Iterator[None]:
        """Every rank updates by its own gradients, so that the networks drift apart: to measure
        what the exchange costs.
        """
        self._exchanging = False
        try:
            yield
        finally:
            self._exchanging = True

    def _average_gradients(self, averaging: bool) -> None:
        # What its no_sync() sets.
        self._parallel.require_backward_grad_sync = averaging and self._exchanging


def data_parallel(
    network: nn.Module, ranks: Ranks, bucket_cap_mb: int = BUCKET_CAP_MB
) -> DistributedDataParallel:
    """Collective: every rank must call."""
    with warnings.catch_warnings():
        # torch 2.13 renames broadcast_buffers; the releases before it know no other name.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(
            network,
            device_ids=[ranks.local_rank] if ranks.device.type == "cuda" else None,
            **reducer(bucket_cap_mb),
        )
