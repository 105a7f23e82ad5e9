"""Communicate between the ranks of a run: every collective but that of gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.device.options import cores_per_rank
from pipeline.errors import ReportedElsewhere

T = TypeVar("T")


class ProcessGroup:
    """One rank: its place among the others, and its collective operations with them."""

    def __init__(
        self,
        *,
        rank: int = 0,
        world_size: int = 1,
        local_rank: int = 0,
        local_world_size: int = 1,
        device: torch.device | None = None,
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.local_rank = local_rank
        self.local_world_size = local_world_size
        self.device = device or torch.device("cpu")
        self._raised = torch.zeros(1)
        self._raising: dist.Work | None = None

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the files and messages of the run."""
        return self.rank == 0

    @property
    def cores_per_rank(self) -> int:
        """The cores that this process may run on, shared among the ranks of this machine."""
        return cores_per_rank(self.local_world_size)

    def all_reduce_sum_(self, tensor: Tensor) -> Tensor:
        """Collective: every rank must call."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return the flat tensors of all ranks, equally long, end to end. Collective: every rank
        must call.
        """
        if self.world_size == 1:
            return tensor
        gathered = tensor.new_empty(self.world_size * tensor.numel())
        dist.all_gather(list(gathered.split(tensor.numel())), tensor.contiguous())
        return gathered

    def raised_anywhere(self, flag: bool) -> bool:
        """Return whether any rank raised its flag at the previous call, the same on all ranks.

        The all-reduce runs on the CPU while the next step computes, so it costs no waiting.
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
        """Return rank 0's tensors on every rank, on the CPU. Collective: every rank must call."""
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
        """Return rank 0's plain value on every rank. Collective: every rank must call."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def on_main(self, call: Callable[[], T]) -> T | None:
        """Return what `call` returns on rank 0, which alone calls it; None elsewhere.

        If it raises, every rank does: the others ReportedElsewhere, instead of waiting for rank 0.
        Collective: every rank must call.
        """
        result, error = None, None
        if self.is_main:
            try:
                result = call()
            except Exception as raised:
                error = raised
        if self.broadcast_value(str(error) if error else None) is not None and not self.is_main:
            raise ReportedElsewhere("rank 0 has failed")
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
