"""What a rank sees when another one ends or hangs, in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

_BACKENDS = ("gloo", "nccl")  # what their errors name: a source file, or the library


@contextmanager
def lost_ranks_named(rank: int) -> Iterator[None]:
    """Turn the errors of a collective operation into a RuntimeError that names the next step."""
    try:
        yield
    except RuntimeError as error:
        if not is_communication_error(error):
            raise
        raise RuntimeError(
            f"rank {rank} has lost the other ranks in a collective operation: {_reason(error)}. "
            "Another rank has ended or hangs: its messages above, or the stacks of its threads, "
            "show why. The same command continues from the newest checkpoint"
        ) from error


def is_communication_error(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(name in text for name in _BACKENDS)


def _reason(error: RuntimeError) -> str:
    """Return the first sentence, without the source location of the library before it."""
    line = (str(error).splitlines() or [""])[0]
    if line.startswith("["):
        line = line.partition("] ")[2] or line
    return line.partition(". ")[0].rstrip(".")
