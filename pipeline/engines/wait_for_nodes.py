"""What workers do whose number cannot share the batch: wait together until it changes."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist

_ALL_REDUCE_EVERY_S = 1.0


def wait_for_nodes(timeout_s: int) -> NoReturn:
    """Wait for a change of membership, without using up a restart of the launcher.

    A node that joins makes torchrun end these workers and start them again. One that is lost is
    noticed here, by an exchange every second, and raised as RuntimeError: torchrun itself would
    not see it. Collective: every rank must call.
    """
    dist.init_process_group("gloo", timeout=timedelta(seconds=timeout_s))
    try:
        while True:
            dist.all_reduce(torch.zeros(1))
            time.sleep(_ALL_REDUCE_EVERY_S)
    except RuntimeError as error:
        raise RuntimeError("a worker was lost while the job waited for further nodes") from error
