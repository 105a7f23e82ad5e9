"""The processes of a launch, which measure at once, and communicate.

Outside torchrun there is one. Under it each worker measures what a worker of a training would have:
its own GPU, its share of its node's cores, its share of the data.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from benchmarks.harness.result import Table
from pipeline.errors import ReportedElsewhere
from shards.cores import available_cores

T = TypeVar("T")

_LONGEST = timedelta(hours=1)  # that one worker may take longer than the others
_OF_THE_LAUNCH = (
    "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
    "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
_COLUMNS = ["worker", "node", "{unit}", "of the median worker", "lowest", "highest"]


@dataclass(frozen=True)
class Workers:
    """Where this process stands among them."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def cores(self) -> int:
        """This worker's share of its node's."""
        return max(1, available_cores() // self.local_world_size)

    def log_message(self, message: str) -> None:
        """Once, however many workers do. Not collective."""
        if self.is_main:
            print(message, file=sys.stderr, flush=True)

    def gathered(self, value: T) -> list[T]:
        """Every worker's, by rank. Collective: every rank must call."""
        if self.world_size == 1:
            return [value]
        import torch.distributed as dist

        values: list[T] = [value] * self.world_size
        try:
            dist.all_gather_object(values, value)
        except RuntimeError as error:
            hours = _LONGEST.total_seconds() / 3600
            raise RuntimeError(
                f"another worker has ended, or has not answered for {hours:g} h; its own message "
                "says why"
            ) from error
        return values

    def each(self, call: Callable[[], T]) -> list[T]:
        """Return what `call` returns on every worker, by rank. All begin it at the same time, and
        none goes on before all are done.

        If it raises on one, every worker raises: the others ReportedElsewhere. Collective.
        Every rank must call.
        """
        if self.world_size == 1:
            return [call()]
        value, error = None, None
        self.barrier()
        try:
            value = call()
        except Exception as raised:
            error = raised
        outcomes = self.gathered((error is None, value))
        if error is not None:
            raise error
        if failed := [rank for rank, (succeeded, _) in enumerate(outcomes) if not succeeded]:
            raise ReportedElsewhere(f"worker {failed[0]} has failed")
        return [found for _, found in outcomes]  # type: ignore[misc]

    def on_main(self, call: Callable[[], T]) -> T | None:
        """Return what `call` returns on rank 0, which alone makes it. Collective: every rank must
        call.
        """
        return self.each(lambda: call() if self.is_main else None)[0]

    def once_a_node(self, call: Callable[[], T]) -> T:
        """Return what the first worker of this node has made of it. Collective: every rank must
        call.
        """
        made = self.each(lambda: call() if self.local_rank == 0 else None)
        return made[self.rank - self.local_rank]  # type: ignore[return-value]

    def barrier(self) -> None:
        """Collective: every rank must call."""
        self.gathered(None)

    def parameters(self) -> dict[str, int]:
        """For the result; none of a worker alone."""
        if self.world_size == 1:
            return {}
        return {"workers": self.world_size, "workers of a node": self.local_world_size}

    def table(self, title: str, unit: str, rounds: Sequence[Sequence[float]]) -> list[Table]:
        """Of values by round and rank: each worker's median, and how it compares with the median
        worker of the same rounds. A slow one, which all would wait for, is found here. None of a
        worker alone.
        """
        if self.world_size == 1:
            return []
        rows = []
        for rank in range(self.world_size):
            own = [values[rank] for values in rounds]
            ratios = [values[rank] / (statistics.median(values) or 1) for values in rounds]
            median = statistics.median(own)
            rows.append([
                str(rank), str(rank // self.local_world_size),
                f"{median:,.0f}" if median >= 1000 else f"{median:.3g}",
                *(f"{of(ratios):.3f}" for of in (statistics.median, min, max)),
            ])  # fmt: skip
        return [Table(title, [column.format(unit=unit) for column in _COLUMNS], rows)]


ALONE = Workers()


@contextmanager
def launched_workers() -> Iterator[Workers]:
    """Those that torchrun describes in the environment, or this process alone.

    The description is taken out of the environment: libraries in the processes that a worker starts
    would read it and wait for the others, or read another share of the data. Collective: every rank
    must call.
    """
    workers = Workers(
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
    )
    if workers.world_size > 1:
        import torch.distributed as dist
        import torch.distributed.nn  # noqa: F401 - before any group: see pipeline/engines/start.py

        dist.init_process_group("gloo", timeout=_LONGEST)
    for name in _OF_THE_LAUNCH:
        os.environ.pop(name, None)
    try:
        yield workers
    finally:
        if workers.world_size > 1:
            dist.destroy_process_group()
