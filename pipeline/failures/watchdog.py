"""End a rank that hangs, and report where: a hung rank would make all others wait for it."""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
from contextlib import suppress
from types import TracebackType
from typing import Self

from pipeline.failures import watchdog_process
from pipeline.failures.watchdog_process import DUMP_SIGNAL

_STANDARD_ERROR = 2  # the descriptor: sys.stderr may be something else


class Watchdog:
    """While it is entered: between two calls of `expect`, no more time passes than was granted.

    Else the stacks of all threads are written to standard error and this process is killed.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._line = b""

    def __enter__(self) -> Self:
        # Chained to what the signal does by itself, it ends the process: nothing goes on after it.
        faulthandler.register(DUMP_SIGNAL, file=_STANDARD_ERROR, all_threads=True, chain=True)
        command = [sys.executable, "-I", "-S", watchdog_process.__file__, str(os.getpid())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        process, self._process = self._process, None
        if process is not None:
            with suppress(BrokenPipeError):
                process.communicate()  # the end of its input ends it
        faulthandler.unregister(DUMP_SIGNAL)

    def expect(self, what: str, within_s: float) -> None:
        """`what`, such as "step 12 (joint)", begins, and the next call comes within the time."""
        self._line = f"{within_s:g} {what}\n".encode()
        self.still_alive()

    def still_alive(self) -> None:
        """What is going on goes on, and has all of its time again."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(self._process.stdin.fileno(), self._line)
