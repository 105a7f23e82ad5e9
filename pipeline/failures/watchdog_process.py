"""Started beside each rank, as a plain script: ends it when it has been silent for too long.

    python -I -S watchdog_process.py PID

A process of its own, since one that hangs may hold the interpreter's lock, or be stopped. On its
standard input come lines "SECONDS WHAT": PID is to send the next one within so many seconds, else
it hangs in WHAT. Its end closes the input, which ends this one.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress

DUMP_SIGNAL = signal.SIGUSR2  # on which the rank writes the stacks of its threads, and ends
_POLL_S = 0.5
_DUMP_S = 2.0  # granted to a rank for writing its stacks before it is killed


def watch(pid: int, input_fd: int) -> None:
    deadline, doing, allowed_s = float("inf"), "", ""
    buffer = b""
    while os.getppid() == pid:
        before = time.monotonic()
        if select.select([input_fd], [], [], _POLL_S)[0]:
            read = os.read(input_fd, 1 << 16)
            if not read:
                return
            *lines, buffer = (buffer + read).split(b"\n")
            if lines:
                allowed_s, _, doing = lines[-1].decode().partition(" ")
                deadline = time.monotonic() + float(allowed_s)
            continue
        now = time.monotonic()
        # Where this process has not run either, the whole machine stood still: no rank is to blame.
        deadline += max(0.0, now - before - 2 * _POLL_S)
        if now > deadline:
            _end(pid, f"{doing} has not ended within {allowed_s} s")
            return


def _end(pid: int, what: str) -> None:
    rank = os.environ.get("RANK", "0")
    print(
        f"glcic train: rank {rank} hangs: {what}. Here is where each of its threads is; one that "
        "waits in a collective operation waits for another rank, whose own stacks show more",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    with suppress(ProcessLookupError):
        # In this order: a stopped process writes its stacks as soon as it is continued, and ends
        # before it runs anything else. Said to hang, it must not make another step.
        os.kill(pid, DUMP_SIGNAL)
        os.kill(pid, signal.SIGCONT)
        time.sleep(_DUMP_S)
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # meant for the rank, which ends when it is ready
    watch(int(sys.argv[1]), sys.stdin.fileno())
