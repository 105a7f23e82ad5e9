"""Run a packer's tasks in several processes: each takes whole shards, none waits for another.

A pool of the library would hang when a process is killed, leave its processes behind when this one
is, and run the caller's script once more in each. Here a process that loses its line ends, and one
that ends too early is reported with its cause.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing import connection
from typing import Any, Self

import cv2

from shards.child_process import child_environment
from shards.packing.pack_shard import Advance, ShardTask, pack_shard
from shards.packing.records import ShardRecord

_TERMINATE_S = 2.0


class PackingProcesses:
    """Started at once, to be ready when there is a plan: Python and its libraries take as long to
    start as thousands of images take to be planned. With one worker there are none: the caller's
    process packs.
    """

    def __init__(self, workers: int) -> None:
        self._pool = [_Process() for _ in range(workers)] if workers > 1 else []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._pool:
            process.line.close()
        for process in self._pool:
            process.end()

    def pack(
        self, tasks: Iterable[ShardTask], workers: int, advance: Advance
    ) -> Iterator[ShardRecord]:
        """Yield the records of the tasks in the order in which they are finished, by so many
        workers, at most those that were started.

        Raises what `pack_shard` raises, and RuntimeError if a process dies; finished shards stay.
        """
        if workers == 1:
            for task in tasks:
                yield pack_shard(task, advance)
            return
        remaining = iter(tasks)
        pool = self._pool[:workers]
        busy = [process for process in pool if process.begin(next(remaining, None))]
        while busy:
            ready = connection.wait([process.line for process in busy])
            for process in [process for process in busy if process.line in ready]:
                kind, value = process.receive()
                if kind == "advance":
                    advance(value)
                    continue
                yield value
                if not process.begin(next(remaining, None)):
                    busy.remove(process)


class _Process:
    def __init__(self) -> None:
        self.line, theirs = connection.Pipe()
        with theirs:
            self._process = subprocess.Popen(
                # -P: a folder or file of the caller's must not stand in for a module.
                [sys.executable, "-P", "-m", "shards.packing.processes", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env=child_environment(),
                pass_fds=(theirs.fileno(),),
            )

    def begin(self, task: ShardTask | None) -> bool:
        """Return whether there was anything to begin."""
        if task is None:
            return False
        with suppress(BrokenPipeError):  # the process is dead: receiving reports why
            self.line.send(task)
        return True

    def receive(self) -> tuple[str, Any]:
        try:
            kind, value = self.line.recv()
        except (EOFError, ConnectionResetError):
            code = self._process.wait()
            cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            remedy = "; the system does this when memory runs out" if code == -9 else ""
            raise RuntimeError(
                f"a packing process died ({cause}{remedy}); what is finished stays: run the same "
                "command again, with fewer --workers if memory was short"
            ) from None
        if kind == "error":
            raise value
        return kind, value

    def end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_TERMINATE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _serve(line: connection.Connection) -> None:
    """The life of a process: it ends when the line does, which also comes with its parent's end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends this process
    cv2.setNumThreads(1)  # the processes are the parallelism
    try:
        while True:
            task = line.recv()
            try:
                record = pack_shard(task, lambda images: line.send(("advance", images)))
            except (BrokenPipeError, KeyboardInterrupt):
                raise
            except Exception as error:
                line.send(("error", _picklable_error(error)))
                return
            line.send(("record", record))
    except (EOFError, OSError):
        sys.exit(1)


def _picklable_error(error: Exception) -> Exception:
    """Return an error that can be pickled, with the same message."""
    if isinstance(error, OSError):
        portable = OSError(str(error))
        portable.errno = error.errno
        return portable
    if isinstance(error, ValueError):
        return ValueError(str(error))
    traceback.print_exception(error)
    return RuntimeError(f"a packing process failed: {type(error).__name__}: {error}")


if __name__ == "__main__":
    _serve(connection.Connection(int(sys.argv[1])))
