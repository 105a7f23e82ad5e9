"""Log a run while it trains: one dictionary of numbers, in every place people look.

The console (a progress bar on a terminal, plain lines elsewhere), `metrics.jsonl` and TensorBoard
all show the same values. Only rank 0 has a telemetry.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shards.storage.files import is_local, join_url, local_path, read_bytes, write_bytes

METRICS = "metrics.jsonl"


Submit = Callable[[str, Callable[[], None]], None]  # a file's name, and what writes it


def _at_once(name: str, write: Callable[[], None]) -> None:
    write()


class MetricsFile:
    """`metrics.jsonl` of a run: appended on a local disk, written whole to an object store.

    `submit` may write in another thread, and leave out all but the newest of several writes.
    """

    def __init__(self, folder: str, start_step: int, submit: Submit = _at_once) -> None:
        """Keep the lines before `start_step`: what came after belongs to a run that was lost."""
        self._url = join_url(folder, METRICS)
        self._submit = submit
        self._lock = threading.Lock()
        self._lines = [r for r in read_metrics(folder) if r["step"] <= start_step]
        self._unwritten: list[dict[str, Any]] = []
        self._whole = True  # the next write is of the whole file
        self._write()

    @property
    def records(self) -> list[dict[str, Any]]:
        return list(self._lines)

    def append(self, record: dict[str, Any]) -> None:
        with self._lock:
            first = len(self._lines)  # of the records of this step: they stand at the end
            while first and self._lines[first - 1]["step"] == record["step"]:
                first -= 1
            kept = [r for r in self._lines[first:] if r.keys() != record.keys()]
            # Else a run was started once more, and evaluated the same step again.
            again = len(kept) < len(self._lines) - first
            self._whole |= again
            self._lines[first:] = [*kept, record]
            self._unwritten.append(record)
        if again or is_local(self._url):
            self._submit(METRICS, self._write)

    def flush(self) -> None:
        """Write the file again where it cannot be appended to."""
        if not is_local(self._url):
            self._submit(METRICS, self._write)

    def _write(self) -> None:
        with self._lock:
            whole = self._whole or not is_local(self._url)
            records = list(self._lines) if whole else self._unwritten
            self._unwritten, self._whole = [], False
        text = "".join(json.dumps(record) + "\n" for record in records)
        try:
            if whole:
                write_bytes(self._url, text.encode())
            else:
                with open(local_path(self._url), "a") as file:
                    file.write(text)
        except BaseException:
            self._whole = True  # after an append that broke off, only the whole file is right
            raise


def read_metrics(folder: str) -> list[dict[str, Any]]:
    """Return the records of a run, oldest first; empty if there are none. A torn last line is left
    out.
    """
    try:
        text = read_bytes(join_url(folder, METRICS)).decode()
    except FileNotFoundError:
        return []
    records = []
    for line in text.splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # cut short by a kill in the middle of a write
    return records


class Telemetry:
    """For rank 0 alone. `total_steps` is the end of the schedule."""

    def __init__(
        self, folder: str, *, start_step: int, total_steps: int, tensorboard: bool,
        console: Console | None = None, submit: Submit = _at_once,
    ) -> None:  # fmt: skip
        self.console = console or Console(soft_wrap=True)
        self._metrics = MetricsFile(folder, start_step, submit)
        self._total_steps = total_steps
        self._started = time.monotonic()
        self._start_step = start_step
        self._writer = _open_tensorboard(folder, start_step) if tensorboard else None
        if tensorboard and self._writer is None:
            self.log_message(f"TensorBoard is off: it cannot write to {folder}")
        self._progress: Progress | None = None
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.fields[phase]:>13}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"), TimeRemainingColumn(),
                console=self.console, refresh_per_second=4,
            )  # fmt: skip
            self._task = self._progress.add_task(
                "training", total=total_steps, completed=start_step, phase="", figures=""
            )
            self._progress.start()

    @property
    def records(self) -> list[dict[str, Any]]:
        """Of the whole run, oldest first."""
        return self._metrics.records

    def log_message(self, message: str) -> None:
        self.console.print(message, highlight=False, markup=False)

    def advance(self, step: int) -> None:
        """After every step; touches no device."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    def record(self, step: int, phase: str, values: dict[str, float]) -> None:
        """`step` steps are done; `values` are means since the last record."""
        self._metrics.append({"step": step, "phase": phase, **values})
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        figures = " ".join(f"{_SHORT[n]} {values[n]:.4g}" for n in _SHORT if n in values)
        if self._progress is not None:
            self._progress.update(self._task, completed=step, phase=phase, figures=figures)
        else:
            left = _time_left(self._started, step - self._start_step, self._total_steps - step)
            self.log_message(f"{phase} step {step}/{self._total_steps}: {figures}, left {left}")

    def picture(self, name: str, step: int, image: Image.Image) -> None:
        if self._writer is not None:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def flush(self) -> None:
        self._metrics.flush()
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        self.flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None


_SHORT = {
    "reconstruction": "rec",
    "adversarial": "adv",
    "discriminator": "D",
    "accuracy_real": "real",
    "accuracy_fake": "fake",
    "images_per_second": "img/s",
    "evaluation_hole_psnr_db": "PSNR in the hole",
    "evaluation_hole_ssim": "SSIM in the hole",
}


def _time_left(started: float, done: int, remaining: int) -> str:
    seconds = (time.monotonic() - started) / max(done, 1) * remaining
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def _open_tensorboard(folder: str, start_step: int) -> Any:
    if not is_local(folder):
        return None
    from torch.utils.tensorboard import SummaryWriter  # imports for a second; only if it is used

    return SummaryWriter(str(local_path(folder) / "tensorboard"), purge_step=start_step + 1)
