"""Write the files of a run in a background thread: metrics, sheets, curves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.checkpoints.retry_policy import RetryPolicy

_LIMIT_BYTES = 64 << 20  # of what waits


@dataclass(frozen=True)
class _Entry:
    name: str
    number: int  # of the first write of this name that has not been made
    write: Callable[[], None]
    size_bytes: int


class FileQueue:
    """Make one write after another, in the order in which their names first came.

    A newer write replaces one of the same name that still waits. Errors are retried and raised as
    in `CheckpointWriter`. When the queue is over its memory limit, the oldest file that nothing
    depends on is left out, with a message.
    """

    def __init__(
        self, log: Callable[[str], None], give_up_after_s: float,
        limit_bytes: int = _LIMIT_BYTES,
    ) -> None:  # fmt: skip
        self._log = log
        self._limit_bytes = limit_bytes
        self._retry_policy = RetryPolicy(give_up_after_s)
        self._changed = threading.Condition()  # guards all that follows
        self._waiting: dict[str, _Entry] = {}
        self._current: _Entry | None = None
        self._number = 0
        self._hurried = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def put(self, name: str, write: Callable[[], None], size_bytes: int = 0) -> None:
        """Queue `write`, which another thread calls, again after an error: it must give the same
        file.

        `size_bytes` is the memory that it holds until then.
        """
        self.raise_pending_error()
        with self._changed:
            before = self._waiting.get(name)
            entry = _Entry(name, self._number, write, size_bytes)
            self._waiting[name] = replace(entry, number=before.number) if before else entry
            self._number += 1
            left_out = self._over_limit()
            self._retry_policy.start()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="run files")
                self._thread.start()
            self._changed.notify_all()
        for gone in left_out:
            self._log(f"{gone} is left out: it was not stored in time")

    def wait(self, timeout_s: float | None = None, name: str = "") -> bool:
        """Wait for all that was put until now, or that of one name; return whether it is stored."""
        with self._changed:
            awaited = [entry.number for entry in self._all() if name in ("", entry.name)]

            def stored() -> bool:
                unwritten = {entry.number for entry in self._all()}
                return self._error is not None or unwritten.isdisjoint(awaited)

            self._hurried = True
            self._changed.notify_all()
            done = self._changed.wait_for(stored, timeout_s)
        self.raise_pending_error()
        return done

    def raise_pending_error(self) -> None:
        """Raises OSError if the files cannot be written any more. Never waits."""
        with self._changed:
            if self._error is None and self._retry_policy.is_over:
                self._error = TimeoutError(
                    f"none was stored for {self._retry_policy.give_up_after_s:g} s, the limit "
                    "of checkpoint.give_up_after_s"
                )
            error = self._error
        if error is not None:
            raise OSError(f"a file of the run could not be written: {error}") from error

    @property
    def failures(self) -> int:
        return self._retry_policy.failures

    @property
    def pending(self) -> int:
        with self._changed:
            return len(self._all())

    def _all(self) -> list[_Entry]:
        current = [self._current] if self._current is not None else []
        return current + list(self._waiting.values())

    def _over_limit(self) -> list[str]:
        """Remove what is over the limit, and return the names."""
        left_out = []
        for name in [name for name, entry in self._waiting.items() if entry.size_bytes]:
            if sum(entry.size_bytes for entry in self._waiting.values()) <= self._limit_bytes:
                break
            del self._waiting[name]
            left_out.append(name)
        return left_out

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                self._current = self._waiting.pop(next(iter(self._waiting)))
            try:
                self._persist(self._current.name)
            except BaseException as error:  # the training thread raises it
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._current = None
                self._retry_policy.stored(more_waits=bool(self._waiting))
                self._changed.notify_all()

    def _persist(self, name: str) -> None:
        while True:
            with self._changed:
                newer = self._waiting.pop(name, None)
                if newer is not None and self._current is not None:
                    self._current = replace(newer, number=self._current.number)
                entry = self._current
            assert entry is not None
            try:
                entry.write()
                return
            except Exception as error:
                pause_s = self._retry_policy.pause_after(error)
                if pause_s is None:
                    raise
                self._log(
                    f"{name} could not be written, next attempt in {pause_s:.0f} s, training goes "
                    f"on: {error}"
                )
            with self._changed:
                self._changed.wait_for(lambda: self._hurried, pause_s)
                self._hurried = False
