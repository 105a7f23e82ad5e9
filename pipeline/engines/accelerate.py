"""Hugging Face Accelerate as the engine: it forms the process group and wraps the networks.

What it would do beside that is done here as for every engine: `mixed_precision="no"`, because it
would replace the networks' `forward` by closures, which a copy of a network (for evaluation) shares
with the original, and move fp16's loss scale once per optimizer instead of once per iteration; the
checkpoint, because its own names networks by the order in which they were wrapped.
"""

from __future__ import annotations

import warnings
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.config.schema import OptimizerConfig
from pipeline.distributed.optimizers import build_optimizer
from pipeline.distributed.trainable import TrainableNetwork
from pipeline.engines.ddp import Worker, reducer


class AccelerateWorker(Worker):
    """Under plain torchrun or under `accelerate launch`. Collective: every rank must build it."""

    engine = "accelerate"

    def __init__(self, *, backend: str, timeout: timedelta, **place: Any) -> None:
        super().__init__(**place)
        on_cpu = self.device.type == "cpu"
        threads = torch.get_num_threads()
        self._accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision="no",
            kwargs_handlers=[
                InitProcessGroupKwargs(backend=backend, timeout=timeout),
                DistributedDataParallelKwargs(**reducer(self.bucket_cap_mb)),
            ],
        )
        torch.set_num_threads(threads)  # it sets its own where OMP_NUM_THREADS is not set
        found = (self._accelerator.num_processes, self._accelerator.device.type)
        if found != (self.world_size, self.device.type):
            raise RuntimeError(
                f"Accelerate sees {found[0]} processes on {found[1]}, the launcher's environment "
                f"says {self.world_size} on {self.device.type}; start with torchrun, or with "
                "accelerate launch and one of launch/accelerate/*.yaml (in front of it "
                "CUDA_VISIBLE_DEVICES= keeps GPUs out)"
            )

    def trainable(
        self, name: str, network: nn.Module, optimizer: OptimizerConfig
    ) -> TrainableNetwork:
        """Return the network as this engine trains it. Collective: every rank must call."""
        built = build_optimizer(optimizer, network)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # see data_parallel()
            prepared = self._accelerator.prepare_model(network, device_placement=False)
        if not isinstance(prepared, DistributedDataParallel):
            return TrainableNetwork(self, name, network, built, self.scaler)
        return self._data_parallel_trainable(name, network, built, prepared)
