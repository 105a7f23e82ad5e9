"""The torchrun agent above a worker: dying with it, and telling it that restarts are useless."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from launch.command import EXIT_DATA, EXIT_NO_INPUT, EXIT_USAGE

NODES = "GLCIC_NODES"  # the range of nodes, MIN:MAX, that `glcic elastic` passes to its workers
AGENT = "GLCIC_AGENT"  # and the process that torchrun becomes

_PR_SET_PDEATHSIG = 1  # prctl(2)
_NO_RETRY_MENDS = (EXIT_USAGE, EXIT_DATA, EXIT_NO_INPUT)


def has_agent() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_elastic() -> bool:
    """Return whether `glcic elastic` started this worker for a number of nodes that may change."""
    fewest, _, most = os.environ.get(NODES, "").partition(":")
    return bool(most) and fewest != most


def die_with_agent() -> None:
    """From now on the kernel kills this process when its torchrun agent ends, however that ends.

    A worker whose agent was killed alone would train on, and write checkpoints beside the workers
    of the agent that replaces it. SIGKILL: what the peers do without this worker is the same as
    when its machine is lost. Linux only; elsewhere nothing happens.
    """
    if not has_agent() or sys.platform != "linux":
        return
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.environ.get(AGENT, str(os.getppid())) != str(os.getppid()):  # it had ended already
        os.kill(os.getpid(), signal.SIGKILL)


def stop_agent_after(status: int) -> int:
    """`status`, after it has ended the agent of an elastic job if no restart can mend it.

    torchrun starts a failed worker again whatever its exit status was. A machine with a wrong
    configuration or without the data leaves the job instead, and the others go on.
    """
    if NODES in os.environ and has_agent() and status in _NO_RETRY_MENDS:
        print("a restart cannot mend this: this node leaves the job", file=sys.stderr, flush=True)
        os.kill(os.getppid(), signal.SIGTERM)
    return status
