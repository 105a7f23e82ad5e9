"""The runs of a study as processes of their own, some side by side; what has ended stays ended."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from pipeline.config.loading import config_mapping
from pipeline.config.run_identity import recorded_config, result_affecting_settings
from pipeline.config.schema import Config
from pipeline.study.definition import StudyRun
from pipeline.study.results import is_finished

_POLL_S = 0.2
_GRACE_S = 60.0  # for the runs to save, where the study is stopped
_TRAIN = Path(__file__).resolve().parents[1] / "train.py"


@dataclass
class _Process:
    run: StudyRun
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    started: float


Report = Callable[[StudyRun, float, int], None]  # a run, its seconds, its exit status


def train_runs(
    runs: list[StudyRun], folder: Path, *, parallel_runs: int, workers: int, report: Report
) -> list[StudyRun]:
    """Train what has not ended yet; return the runs that failed.

    A signal is passed on, so that every run saves and the same call goes on from there. Raises
    ValueError for a run that was made with other settings.
    """
    waiting = [run for run in runs if not has_ended(run)]
    running: list[_Process] = []
    failed: list[StudyRun] = []
    with _ended_with_this(running):
        while waiting or running:
            while waiting and len(running) < parallel_runs:
                running.append(_start(waiting.pop(0), folder, workers))
            time.sleep(_POLL_S)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                one.log.close()
                if one.process.returncode or not is_finished(one.run):
                    failed.append(one.run)
                report(one.run, time.monotonic() - one.started, one.process.returncode)
    return failed


def log_path(run: StudyRun, folder: Path) -> Path:
    return folder / "logs" / f"{run.name}.log"


def has_ended(run: StudyRun) -> bool:
    """Raise ValueError for a run that ended under other settings than the study's."""
    if not is_finished(run):
        return False
    before = _decisive(_read_config(Path(run.config.run_folder) / "config.yaml"))
    now = _decisive(run.config)
    changed = [name for name, value in now.items() if before.get(name) != value]
    if changed:
        raise ValueError(
            f"{run.config.run_folder} was made with another {', '.join(changed)}; give the study "
            "another --folder, or remove that run"
        )
    return True


def _decisive(config: Config) -> dict[str, Any]:
    """Return what the weights of a run that has ended depend on: its length too."""
    return result_affecting_settings(config) | {
        f"schedule.{name}": value for name, value in dataclasses.asdict(config.schedule).items()
    }


def _read_config(path: Path) -> Config:
    return recorded_config(yaml.safe_load(path.read_text()))


def _start(run: StudyRun, folder: Path, workers: int) -> _Process:
    config_file = folder / "configs" / f"{run.name}.yaml"
    config_file.parent.mkdir(parents=True, exist_ok=True)
    config_file.write_text(yaml.safe_dump(config_mapping(run.config), sort_keys=False))
    log = log_path(run, folder)
    log.parent.mkdir(parents=True, exist_ok=True)
    launcher = [sys.executable]
    if workers > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={workers}"]
    opened = log.open("ab")
    process = subprocess.Popen(
        [*launcher, str(_TRAIN), "--config", str(config_file)],
        stdout=opened, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        # Runs side by side share the cores; threads that wait by spinning would take them.
        env={"OMP_NUM_THREADS": "1", **os.environ},
        start_new_session=True,  # a signal to this process's group is passed on once, below
    )  # fmt: skip
    return _Process(run, process, opened, time.monotonic())


@contextlib.contextmanager
def _ended_with_this(running: list[_Process]) -> Iterator[None]:
    """SIGTERM is taken like Ctrl-C; whatever ends this call, the runs are ended too."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        for one in running:
            with contextlib.suppress(ProcessLookupError):
                one.process.terminate()
        deadline = time.monotonic() + _GRACE_S
        for one in running:
            try:
                one.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(one.process.pid, signal.SIGKILL)
            one.log.close()
