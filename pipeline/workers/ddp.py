"""The data-parallel worker: one process per GPU (or CPU share), started by torchrun or alone."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.config import Config
from pipeline.faults import FaultElsewhere
from shards.cores import available_cores

T = TypeVar("T")


def start_worker(config: Config) -> Worker:
    """Joins the process group that torchrun describes in the environment, if there is one.

    Collective: every rank must call.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        num_devices = torch.cuda.device_count()
        if local_world_size > num_devices:
            raise ValueError(
                f"{local_world_size} workers were started on this machine, which has {num_devices} "
                f"GPUs; start --nproc_per_node={num_devices}"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        # Some of cuDNN's gradients add in an order that changes from run to run; a resumed run
        # could not be held against the one that was interrupted.
        torch.backends.cudnn.deterministic = True
    else:
        device = torch.device("cpu")
        torch.set_num_threads(config.train.threads or _cores_per_rank(local_world_size))
    if world_size > 1:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            timeout=timedelta(seconds=config.train.timeout_s),
        )
    return Worker(
        rank=int(os.environ.get("RANK", "0")),
        world_size=world_size,
        local_rank=local_rank,
        local_world_size=local_world_size,
        device=device,
        precision=config.train.precision,
    )


class Worker:
    """One rank: where it stands, and everything it does together with the others."""

    def __init__(
        self,
        *,
        rank: int = 0,
        world_size: int = 1,
        local_rank: int = 0,
        local_world_size: int = 1,
        device: torch.device | None = None,
        precision: str = "fp32",
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.local_rank = local_rank
        self.local_world_size = local_world_size
        self.device = device or torch.device("cpu")
        self.precision = precision
        self._raised = torch.zeros(1)
        self._raising: dist.Work | None = None

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and speaks for the run."""
        return self.rank == 0

    @property
    def cores_per_rank(self) -> int:
        """The cores that this process may run on, shared among the ranks of this machine."""
        return _cores_per_rank(self.local_world_size)

    def autocast(self) -> torch.autocast:
        """bf16 where it is asked for; parameters stay fp32 and no loss scaling is needed."""
        enabled = self.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def parallel(self, network: nn.Module) -> nn.Module:
        """The network whose backward averages gradients over the ranks.

        Collective: every rank must call.
        """
        if self.world_size == 1:
            return network
        with warnings.catch_warnings():
            # torch 2.13 renames broadcast_buffers; the releases before it know no other name.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(
                network,
                device_ids=[self.local_rank] if self.device.type == "cuda" else None,
                # Two forwards before one backward must not rewrite buffers in between; they are
                # averaged by average_statistics_ instead, once a step.
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                # Not for unused parameters, there are none: with this flag the reducer keeps its
                # first bucket layout. Otherwise it lays the buckets anew after the first backward,
                # which changes the order in which three or more ranks are summed, and the first
                # step of a resumed run would differ from that of one never interrupted.
                find_unused_parameters=True,
            )

    def average_statistics_(self, network: nn.Module) -> None:
        """Averages the running statistics of batch norm over the ranks, so that the state of a run
        is the same on all of them at every step. Collective: every rank must call.
        """
        if self.world_size == 1:
            return
        statistics = running_statistics(network)
        if not statistics:
            return
        vector = torch.cat([tensor.flatten() for tensor in statistics])
        dist.all_reduce(vector)
        vector /= self.world_size
        for tensor, mean in zip(
            statistics, vector.split([tensor.numel() for tensor in statistics]), strict=True
        ):
            tensor.copy_(mean.view_as(tensor))

    def all_reduce_sum_(self, tensor: Tensor) -> Tensor:
        """Collective: every rank must call."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def raised_anywhere(self, flag: bool) -> bool:
        """Whether any rank raised its flag at the previous call: all ranks get the same answer.

        The exchange runs on the CPU while the next step computes, so it costs no waiting.
        Collective: every rank must call.
        """
        if self.world_size == 1:
            return flag
        answer = False
        if self._raising is not None:
            self._raising.wait()
            answer = bool(self._raised.item())
        self._raised = torch.tensor([float(flag)])
        self._raising = dist.all_reduce(self._raised, op=dist.ReduceOp.MAX, async_op=True)
        return answer

    def broadcast_tensors(self, tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Rank 0's tensors on every rank, on the CPU. Collective: every rank must call."""
        if self.world_size == 1:
            assert tensors is not None
            return dict(tensors)
        shapes = [[(name, value.shape, value.dtype) for name, value in (tensors or {}).items()]]
        dist.broadcast_object_list(shapes, src=0)
        received = {}
        for name, shape, dtype in shapes[0]:
            tensor = tensors[name].contiguous() if tensors else torch.empty(shape, dtype=dtype)
            dist.broadcast(tensor, src=0)
            received[name] = tensor
        return received

    def broadcast_value(self, value: object) -> object:
        """Rank 0's plain value on every rank. Collective: every rank must call."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def on_main(self, call: Callable[[], T]) -> T | None:
        """What `call` returns, on rank 0, which alone makes it; None elsewhere.

        If it raises, every rank does: the others FaultElsewhere, instead of waiting for rank 0.
        Collective: every rank must call.
        """
        result, error = None, None
        if self.is_main:
            try:
                result = call()
            except Exception as raised:
                error = raised
        if self.broadcast_value(str(error) if error else None) is not None and not self.is_main:
            raise FaultElsewhere("rank 0 has failed")
        if error is not None:
            raise error
        return result

    def barrier(self) -> None:
        """Collective: every rank must call."""
        if self.world_size > 1:
            dist.barrier()

    def close(self) -> None:
        if self._raising is not None:
            self._raising.wait()
            self._raising = None
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def _cores_per_rank(local_world_size: int) -> int:
    return max(1, available_cores() // local_world_size)


def running_statistics(network: nn.Module) -> list[Tensor]:
    """Running means and variances of all batch-norm layers, in order."""
    return [
        buffer
        for name, buffer in network.named_buffers()
        if name.endswith(("running_mean", "running_var"))
    ]
