"""Write the files of a run on rank 0: its folder, its metrics and its checkpoints.

All but the first files are written in background threads (`FileQueue`, `CheckpointWriter`): storage
that is slow, fails or hangs does not hold up training.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import yaml
from rich.console import Console

from pipeline.checkpoints.file_queue import FileQueue
from pipeline.checkpoints.writer import CheckpointWriter
from pipeline.config.loading import config_mapping
from pipeline.config.schedule import Schedule
from pipeline.config.schema import Config
from pipeline.reporting.metrics_log import METRICS, Telemetry
from shards.storage.files import join_url, remove_unfinished, storage_counters, write_bytes

_METRICS_WAIT_S = 60.0  # of a checkpoint's attempt, for the metrics before it


class RunFiles:
    """Raises OSError at once where the run's folder or its checkpoints cannot be written."""

    def __init__(
        self, config: Config, schedule: Schedule, start: int, console: Console,
        committed: Callable[[int, float, int], None] = lambda step, seconds, size_bytes: None,
    ) -> None:  # fmt: skip
        self.folder = config.run_folder
        give_up_after_s = config.checkpoint.give_up_after_s
        self.queue = FileQueue(self._log_message, give_up_after_s)
        remove_unfinished(self.folder)  # of generations that were killed; this one is yet to write
        self.checkpoints = CheckpointWriter(
            config.checkpoint_url, config.checkpoint.keep, self._log_message,
            give_up_after_s=give_up_after_s, skip_late=config.checkpoint.skip_late,
            before=self._store_metrics, committed=committed,
        )  # fmt: skip
        self.checkpoints.probe()
        resolved = yaml.safe_dump(config_mapping(config), sort_keys=False).encode()
        write_bytes(join_url(self.folder, "config.yaml"), resolved)
        self.telemetry = Telemetry(
            self.folder, start_step=start, total_steps=schedule.total,
            tensorboard=config.log.tensorboard, console=console, submit=self.queue.put,
        )  # fmt: skip
        if start:
            self._log_message(f"resuming at step {start} of {schedule.total}")

    def write(self, name: str, data: bytes, *, needed: bool = True) -> None:
        """Write a file of the run's folder in the background; `name` may hold folders.

        One that is not `needed` may be left out where the storage does not keep up.
        """
        url = join_url(self.folder, name)
        size_bytes = 0 if needed else len(data)
        self.queue.put(name, lambda: write_bytes(url, data), size_bytes)

    def run_in_background(self, name: str, write: Callable[[], None]) -> None:
        self.queue.put(name, write)

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the storage. Raises OSError where nothing can be written any more.

        Counters are of this process, since it started.
        """
        self.queue.raise_pending_error()
        self.checkpoints.raise_pending_error()
        return {
            **self.checkpoints.metrics(),
            "run_files_pending": self.queue.pending,
            "run_file_failures": self.queue.failures,
            "storage_retries": storage_counters.retries,
        }

    def wait_until_written(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s` until all files are stored; return whether they are.

        Raises OSError where nothing has been stored for `checkpoint.give_up_after_s`.
        """
        started = time.monotonic()
        files = self.queue.wait(timeout_s)
        left_s = max(0.0, timeout_s - (time.monotonic() - started))
        return self.checkpoints.wait(left_s) and files

    def log_wait(self) -> None:
        limit_s = self.checkpoints.waits_at_most_s
        self._log_message(f"waiting until the storage has the last files, at most {limit_s:.0f} s")

    def close(self, timeout_s: float) -> None:
        """Close all writers, even if one fails; wait up to `timeout_s` for pending files."""
        with ExitStack() as closing:  # in the reverse of this order
            closing.callback(self.wait_until_written, timeout_s)
            closing.callback(self.telemetry.close)

    def _store_metrics(self) -> None:
        """A checkpoint must not outlive the metrics before it."""
        if not self.queue.wait(_METRICS_WAIT_S, METRICS):
            raise TimeoutError("the metrics before it are not stored yet")

    def _log_message(self, message: str) -> None:
        self.telemetry.log_message(message)
