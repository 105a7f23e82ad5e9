"""Starts real torchrun jobs on the loopback, and ends every process of them whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]


def torchrun_command(workers: int, *arguments: str) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, f"--nproc_per_node={workers}", *arguments]


def train_command(workers: int, preset: Path, *overrides: str) -> list[str]:
    return torchrun_command(workers, "launch/train.py", "--config", str(preset), *overrides)


@contextmanager
def job(command: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a session of its own, from the repository's root, its output in `log`."""
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )  # fmt: skip
    try:
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for every process of the job: the launcher, its workers and their readers."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pid in _session(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _session(leader: int) -> list[int]:
    """torchrun starts each worker in a session of its own; their parent chain leads to it."""
    parents = {}
    for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else []:
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    family = {leader}
    while True:
        more = {pid for pid, parent in parents.items() if parent in family} - family
        if not more:
            return sorted(family - {leader})
        family |= more


def run(command: list[str], log: Path, timeout_s: float = 300, **environment: str) -> int:
    """Runs a job to its end; returns its exit status. AssertionError if it does not end in time."""
    with job(command, log, **environment) as process:
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end after {timeout_s} s:\n{log.read_text()}") from None


def wait_for(
    condition: Callable[[], bool],
    process: subprocess.Popen[bytes],
    log: Path,
    timeout_s: float = 120,
) -> None:
    """Returns once `condition` holds. AssertionError if the job ends or time runs out before."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, f"the job ended with {process.poll()}:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"not within {timeout_s} s:\n{log.read_text()}"
        time.sleep(0.05)
