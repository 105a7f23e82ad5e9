"""Write checkpoints in a background thread: training waits for memory, never for storage.

At most two copies of a run's state exist in host memory: the one being written and the newest one
after it, which replaces any that the storage was too slow for.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoints.format import STATE, commit, retire, step_name
from pipeline.checkpoints.retry_policy import RetryPolicy
from pipeline.checkpoints.tensor_file import TensorFile, layout_of
from shards.storage.files import join_url, remove_tree, write_bytes

GIVE_UP_AFTER_S = 3600.0
_TURN_S = 1.0  # of a wait, between two checks of the clock


class HostCopy:
    """The files of a checkpoint in host memory, which is allocated once and used again."""

    def __init__(self) -> None:
        self.step = -1
        self.taken_at = 0.0  # by the monotonic clock
        self._tensor_files: dict[str, TensorFile] = {}
        self._facts: dict[str, Any] = {}
        self._copied: torch.cuda.Event | None = None

    def fill_(
        self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]
    ) -> None:
        """Copy the tensors, on a GPU asynchronously; they may change right after."""
        self.step, self._facts = step, {"step": step, **facts}
        self.taken_at = time.monotonic()
        self._tensor_files = {
            stem: self._tensor_file(stem, group) for stem, group in tensors.items()
        }
        for stem, group in tensors.items():
            self._tensor_files[stem].copy_(group)
        self._copied = None
        if _is_on_gpu(tensors):
            self._copied = torch.cuda.Event()
            self._copied.record()

    def files(self) -> dict[str, bytes | memoryview]:
        """Return name -> content, once the copy is complete."""
        if self._copied is not None:
            self._copied.synchronize()
        files: dict[str, bytes | memoryview] = {
            f"{stem}.safetensors": file.data for stem, file in self._tensor_files.items()
        }
        files[STATE] = (json.dumps(self._facts, indent=1) + "\n").encode()
        return files

    def _tensor_file(self, stem: str, group: Mapping[str, Tensor]) -> TensorFile:
        layout = layout_of(group)
        file = self._tensor_files.get(stem)
        if file is None or file.layout != layout:  # an optimizer's state grows with its first step
            file = TensorFile(layout, pinned=_is_on_gpu({stem: group}))
        return file


class CheckpointWriter:
    """Write and commit the checkpoints of a run, on rank 0 alone.

    Transient errors are retried. Permanent errors, or no success for `give_up_after_s`, raise
    OSError on the next call of any method. Unless `skip_late`, a save waits until the one before it
    is committed, and none is ever left out. `before` is called in the writer's thread ahead of each
    attempt: it returns once what must come first is stored. `committed` is called there for each
    checkpoint with its step, the seconds since its copy was taken and its bytes.
    """

    def __init__(
        self, url: str, keep: int, log: Callable[[str], None], *,
        give_up_after_s: float = GIVE_UP_AFTER_S, skip_late: bool = True,
        before: Callable[[], None] = lambda: None,
        committed: Callable[[int, float, int], None] = lambda step, seconds, size_bytes: None,
    ) -> None:  # fmt: skip
        self.url = url
        self._keep = keep
        self._log = log
        self._skip_late = skip_late
        self._before = before
        self._committed = committed
        self._retry_policy = RetryPolicy(give_up_after_s)
        self._changed = threading.Condition()  # guards all that follows
        self._copies = (HostCopy(), HostCopy())
        self._writing: HostCopy | None = None
        self._pending: HostCopy | None = None
        self._superseded = 0
        self._committed_at = time.monotonic()
        self._newest = -1
        self._error: BaseException | None = None
        self._last_failure: BaseException | None = None  # of the checkpoint that is being written
        self._hurried = False  # somebody waits: the pause between two attempts ends
        self._thread: threading.Thread | None = None

    def probe(self) -> None:
        """Raises OSError now, rather than hours later, if nothing can be written to the URL."""
        probe_url = join_url(self.url, ".writable")
        try:
            write_bytes(probe_url, b"probe\n")
            remove_tree(probe_url)
        except Exception as error:
            raise OSError(f"checkpoints cannot be written to {self.url}: {error}") from error

    def save(
        self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]
    ) -> None:
        """Copy everything and return; the tensors may change right after."""
        while not self._skip_late and not self.wait(_TURN_S):
            pass
        self.raise_pending_error()
        with self._changed:
            # The writer cannot take it while it is written over.
            replaced, self._pending = self._pending, None
            copy = replaced or next(c for c in self._copies if c is not self._writing)
        if replaced is not None:
            self._log_superseded(replaced.step, step)
        copy.fill_(step, tensors, facts)
        with self._changed:
            self._pending = copy
            self._retry_policy.start()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="checkpoints")
                self._thread.start()
            self._changed.notify_all()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait at most `timeout_s` for all saves; return whether they are committed."""
        with self._changed:
            self._hurried = True
            self._changed.notify_all()
            done = self._changed.wait_for(self._is_written, timeout_s)
        self.raise_pending_error()
        return done

    close = wait

    def raise_pending_error(self) -> None:
        """Raises OSError if no checkpoint can be written any more. Never waits."""
        with self._changed:
            if self._error is None and self._retry_policy.is_over:
                self._error = self._last_failure or TimeoutError("the storage does not answer")
            error = self._error
        if error is None:
            return
        message = f"a checkpoint could not be written to {self.url}: {error}"
        if self._retry_policy.is_over:
            limit = self._retry_policy.give_up_after_s
            message += f"; none was for {limit:g} s, the limit of checkpoint.give_up_after_s"
        if self._newest >= 0:
            message += f". The newest that was committed is {step_name(self._newest)}"
        raise OSError(message) from error

    @property
    def waits_at_most_s(self) -> float:
        """Seconds until the next checkpoint is stored or given up, at most."""
        return max(0.0, self._retry_policy.give_up_after_s - self._retry_policy.waited_s)

    def metrics(self) -> dict[str, float]:
        """Return the metrics; `checkpoint_pending` counts the copies in memory."""
        with self._changed:
            return {
                "checkpoint_age_s": time.monotonic() - self._committed_at,
                "checkpoint_pending": sum(c is not None for c in (self._writing, self._pending)),
                "checkpoint_failures": self._retry_policy.failures,
                "checkpoints_superseded": self._superseded,
            }

    def _is_written(self) -> bool:
        return self._error is not None or (self._pending is None and self._writing is None)

    def _log_superseded(self, step: int, newer: int) -> None:
        with self._changed:
            self._superseded += 1
        self._log(
            f"checkpoint {step_name(step)} was not stored in time and is dropped for "
            f"{step_name(newer)}"
        )

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending is not None)
                self._writing, self._pending = self._pending, None
                copy = self._writing
            assert copy is not None
            try:
                self._persist(copy)
            except BaseException as error:  # the training thread raises it
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return

    def _persist(self, copy: HostCopy) -> None:
        """Retry until it, or a newer one in its place, is committed. Raises permanent errors."""
        while True:
            try:
                self._before()
                files = copy.files()
                is_new = commit(self.url, copy.step, files)
                break
            except Exception as error:
                with self._changed:
                    self._last_failure = error
                pause_s = self._retry_policy.pause_after(error)
                if pause_s is None:
                    raise
                self._log(
                    f"checkpoint {step_name(copy.step)} could not be stored, next attempt in "
                    f"{pause_s:.0f} s, training goes on: {error}"
                )
            copy = self._newest_after(pause_s, copy)
        with self._changed:
            self._newest = copy.step
            self._last_failure = None
            self._committed_at = time.monotonic()
            self._retry_policy.stored(more_waits=True)
        size_bytes = sum(memoryview(data).nbytes for data in files.values())
        self._committed(copy.step, time.monotonic() - copy.taken_at, size_bytes)
        name = step_name(copy.step)
        self._log(f"checkpoint {name} {'committed' if is_new else 'is there already'}")
        try:
            retire(self.url, copy.step, self._keep)
        except OSError as error:  # no reason to end a run; the next checkpoint tries again
            self._log(f"older checkpoints were not removed: {error}")
        with self._changed:
            self._writing = None
            self._retry_policy.stored(more_waits=self._pending is not None)
            self._changed.notify_all()

    def _newest_after(self, pause_s: float, copy: HostCopy) -> HostCopy:
        """Return, after a pause, the copy that waits behind `copy`, or else `copy` itself."""
        with self._changed:
            self._changed.wait_for(lambda: self._hurried, pause_s)
            self._hurried = False
            newer, self._pending = self._pending, None
            if newer is None:
                return copy
            self._writing = newer
        self._log_superseded(copy.step, newer.step)
        return newer


def _is_on_gpu(tensors: Mapping[str, Mapping[str, Tensor]]) -> bool:
    return any(tensor.is_cuda for group in tensors.values() for tensor in group.values())
