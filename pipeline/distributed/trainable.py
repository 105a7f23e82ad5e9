"""A network in training: its optimizer, and how its gradients are averaged over the ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pipeline.distributed.batch_norm_statistics import RunningStatistics
from pipeline.distributed.optimizers import load_optimizer_tensors, optimizer_tensors, step_unless_
from pipeline.distributed.process_group import ProcessGroup

T = TypeVar("T")


class TrainableNetwork:
    """A network, its optimizer and its gradient averaging; this class trains on one rank alone.

    A step is `micro_batches`, in each a call of the network and `backward_`, and then `update_`.
    """

    def __init__(
        self, group: ProcessGroup, name: str, network: nn.Module, optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.network = network
        self.optimizer = optimizer
        self._group = group
        self._scaler = scaler  # of fp16, shared by all networks of a worker
        self._statistics = RunningStatistics(network, group)
        self._share = 1.0  # of a micro-batch in the batch

    def __call__(self, *inputs: Any) -> Any:
        """Run a forward whose backward reaches the network's parameters."""
        return self.network(*inputs)

    def frozen(self, *inputs: Any) -> Any:
        """Run a forward that leaves the network as it is: no gradient reaches its parameters, and
        the running statistics of its batch norm do not move (the batch's own are used).
        """
        state = {name: parameter.detach() for name, parameter in self.network.named_parameters()}
        state |= {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        return torch.func.functional_call(self.network, state, inputs)

    def micro_batches(self, parts: Sequence[T]) -> Iterator[T]:
        """Yield the equal parts of a batch; gradients are added up, and averaged over the ranks in
        the last. Batch norm treats each part as it would another rank's batch.
        """
        self._share = 1 / len(parts)
        self._statistics.begin()
        for number, part in enumerate(parts):
            self._average_gradients(number == len(parts) - 1)
            yield part
            self._statistics.end_micro_batch()

    def backward_(self, loss: Tensor) -> None:
        """Add the gradients of a micro-batch's mean loss.

        A loss that is not finite makes all gradients NaN, on every rank, so that all of them skip
        the update.
        """
        guard = torch.where(loss.detach().isfinite(), 1.0, torch.nan)
        loss = loss * (guard * self._share)
        self._backward_(self._scaler.scale(loss) if self._scaler else loss)

    def update_(self) -> dict[str, Tensor]:
        """Make one step of the optimizer, or skip it where a gradient is not finite: then
        parameters, optimizer and running statistics stay as they were. The device is not waited
        for.

        Returns the norm of the gradient and whether the update was skipped (1.0). Collective:
        every rank must call.
        """
        norm, skipped = self._update_()
        self._statistics.end(skipped)
        return {
            f"{self.name}_gradient_norm": norm.detach(),
            f"{self.name}_skipped": skipped,
        }

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Return `<parameter>.<state>` -> tensor, whole on rank 0. Collective: every rank must
        call.
        """
        return optimizer_tensors(self.optimizer, self.network)

    def load_optimizer_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the state. Raises ValueError for tensors that belong nowhere. Collective: every rank
        must call.
        """
        load_optimizer_tensors(self.optimizer, self.network, tensors)

    def _average_gradients(self, averaging: bool) -> None:
        """Set whether the next backward ends with the average over the ranks."""

    def _backward_(self, loss: Tensor) -> None:
        loss.backward()

    def _update_(self) -> tuple[Tensor, Tensor]:
        """Return the gradient's norm, and 1.0 where the step was skipped since it is not finite."""
        if self._scaler:
            self._scaler.unscale_(self.optimizer)
        norm = self._gradient_norm()
        skipped = (~norm.isfinite()).float()
        self._step_(skipped)
        return norm, skipped

    def _gradient_norm(self) -> Tensor:
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def _step_(self, skipped: Tensor) -> None:
        if self._scaler:
            self._scaler.step(self.optimizer)
        else:
            step_unless_(self.optimizer, skipped)
        self.optimizer.zero_grad(set_to_none=True)
