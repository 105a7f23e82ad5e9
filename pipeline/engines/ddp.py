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
from pipeline.distributed.process_group import ProcessGroup
from pipeline.distributed.trainable import TrainableNetwork
from pipeline.engines.gradient_compression import compress_gradients_

AUTOCAST_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

_REDUCER: dict[str, Any] = {
    # Two forwards before one backward must not rewrite buffers in between; they are averaged by
    # RunningStatistics instead, once a step.
    "broadcast_buffers": False,
    "gradient_as_bucket_view": True,
    # Not for unused parameters, there are none: with this flag the reducer keeps its first bucket
    # layout. Otherwise it lays the buckets out again after the first backward, which changes the
    # order in which three or more ranks are summed, and the first step of a resumed run would
    # differ from that of one never interrupted.
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


class Worker(ProcessGroup):
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

    def trainable(
        self, name: str, network: nn.Module, optimizer: OptimizerConfig
    ) -> TrainableNetwork:
        """Return the network as this engine trains it. Collective: every rank must call."""
        built = build_optimizer(optimizer, network, capturable=self.cuda_graphs)
        if self.world_size == 1:
            return TrainableNetwork(self, name, network, built, self.scaler)
        parallel = data_parallel(network, self, self.bucket_cap_mb)
        return self._data_parallel_trainable(name, network, built, parallel)

    def _data_parallel_trainable(
        self, name: str, network: nn.Module, optimizer: torch.optim.Optimizer,
        parallel: DistributedDataParallel,
    ) -> TrainableNetwork:  # fmt: skip
        if self.compress_gradients:
            compress_gradients_(parallel)
        return DataParallelNetwork(self, name, network, optimizer, self.scaler, parallel)

    def end_step_(self) -> None:
        """Update the loss scale of fp16, once an iteration, after the updates of all networks."""
        if self.scaler is not None:
            self.scaler.update()

    def scaler_tensors(self) -> dict[str, Tensor]:
        """Return the state of fp16's loss scale; empty in other precisions."""
        state = self.scaler.state_dict() if self.scaler is not None else {}
        return {name: torch.tensor(state[name]) for name in _SCALER_STATE if name in state}

    def load_scaler_tensors(self, tensors: dict[str, Tensor]) -> None:
        if self.scaler is not None and tensors:
            state = self.scaler.state_dict()
            self.scaler.load_state_dict(state | {name: t.item() for name, t in tensors.items()})


_SCALER_STATE = ("scale", "_growth_tracker")


class DataParallelNetwork(TrainableNetwork):
    """Averages gradients while the backward still runs."""

    def __init__(
        self, group: ProcessGroup, name: str, network: nn.Module, optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None, parallel: DistributedDataParallel,
    ) -> None:  # fmt: skip
        super().__init__(group, name, network, optimizer, scaler)
        self._parallel = parallel  # around `network`
        self._averages_gradients = True

    def __call__(self, *inputs: Any) -> Any:
        return self._parallel(*inputs)

    @contextmanager
    def without_all_reduce(self) -> Iterator[None]:
        """Leave gradients unaveraged, so that the networks drift apart: to measure what the
        all-reduce costs.
        """
        self._averages_gradients = False
        try:
            yield
        finally:
            self._averages_gradients = True

    def _average_gradients(self, averaging: bool) -> None:
        # What its no_sync() sets.
        self._parallel.require_backward_grad_sync = averaging and self._averages_gradients


def data_parallel(
    network: nn.Module, group: ProcessGroup, bucket_cap_mb: int = BUCKET_CAP_MB
) -> DistributedDataParallel:
    """Collective: every rank must call."""
    with warnings.catch_warnings():
        # torch 2.13 renames broadcast_buffers; the releases before it know no other name.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(
            network,
            device_ids=[group.local_rank] if group.device.type == "cuda" else None,
            **reducer(bucket_cap_mb),
        )
