"""Real runs in the five situations that alerts are for, and a pack, one after another."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch import train
from launch.command import run
from pipeline.checkpoints import writer
from pipeline.engines import start
from pipeline.training import trainer
from tests.pipeline.monitoring.ports import free_port
from tests.shards.pictures import pack_small_set, write_class_folders
from tests.small_run import small_mapping, write_preset
from tests.torchrun import job

_LARGE = (1200, 1024)  # pixels, that a reader takes long to decode
_BEGIN_S = 300.0
_IMPORTED = trainer, start  # here once, since each run is a fork of this process
_FORK = multiprocessing.get_context("fork")


@dataclass
class Situation:
    """A run under its own name, and the alerts that it is to set off."""

    name: str
    alerts: set[str]
    minutes: float  # as the rules count them
    changes: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None  # in the process of the run
    disturb: Callable[[int], None] = lambda process_id: None  # five minutes after the first steps
    port: int = field(default_factory=free_port)


def fail_after_the_first_checkpoint() -> None:
    """The store answers with an input/output error, which may pass."""
    commit = writer.commit
    committed: list[int] = []

    def commit_or_fail(url: str, step: int, files: Any) -> bool:
        if committed:
            raise OSError(errno.EIO, "as if the disk were failing")
        committed.append(step)
        return commit(url, step, files)

    writer.commit = commit_or_fail


def stop_reader(process_id: int) -> None:
    """As a file system that does not answer any more would."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
            if parent == process_id and b"shards.reading.reader_process" in command:
                os.kill(int(entry.name), signal.SIGSTOP)


def situations() -> list[Situation]:
    return [
        Situation("healthy", set(), minutes=20),
        Situation("stalled", {"GlcicTrainingStalled"}, minutes=27, disturb=stop_reader),
        Situation(
            "not-a-number",
            {"GlcicLossNonFinite"},
            minutes=12,
            changes={
                "completion_optimizer": {"learning_rate": 1e30},
                "train": {"skip_limit": 1_000_000},
                "schedule": {"completion": 20_000, "discriminator": 0, "joint": 0},
            },
        ),
        Situation("starved", {"GlcicDataStarved"}, minutes=24),
        Situation(
            "stale",
            {"GlcicCheckpointStale", "GlcicCheckpointFailing"},
            minutes=20,
            prepare=fail_after_the_first_checkpoint,
        ),
    ]


def pack_sets(folder: Path, port: int) -> tuple[str, str]:
    """A set that is quickly read and one that is not; the latter packed by the command, exported.

    Both have crops of 32 pixels.
    """
    quick = pack_small_set(folder, images=120, images_per_shard=10)
    source = write_class_folders(folder / "large", classes=3, images_per_class=7, size=_LARGE)
    command = [
        sys.executable, "launch/pack.py", str(source), str(folder / "photographs"),
        "--pack.crop_size", "32", "--pack.short_side", "1024", "--pack.images_per_shard", "4",
        "--pack.masks.side_min", "8", "--pack.masks.side_max", "16",
        "--telemetry.port", str(port), "--telemetry.address", "127.0.0.1", "--workers", "1",
    ]  # fmt: skip
    with job(command, folder / "pack.log") as process:
        assert process.wait(300) == 0, (folder / "pack.log").read_text()
    return quick, str(folder / "photographs")


def live_through(
    situation: Situation, shards: tuple[str, str], folder: Path, faster: float,
    has_begun: Callable[[], object],
) -> None:  # fmt: skip
    """Returns when the run has lasted its time after its first steps, and is ended."""
    preset = write_preset(
        folder / f"{situation.name}.yaml", _mapping(situation, shards, folder / situation.name)
    )
    log = folder / f"{situation.name}.log"
    process = _FORK.Process(target=_train, args=(preset, log, situation.prepare))
    process.start()
    try:
        assert process.pid is not None
        _wait(process, log, lambda: bool(has_begun()), _BEGIN_S)
        begun = time.monotonic()
        _wait(process, log, lambda: time.monotonic() > begun + 5 * 60 / faster, _BEGIN_S)
        situation.disturb(process.pid)
        lasts_s = situation.minutes * 60 / faster
        _wait(process, log, lambda: time.monotonic() > begun + lasts_s, lasts_s + 1)
        process.terminate()
        process.join(10)
    finally:
        process.kill()  # one that hangs
        process.join()


def _train(preset: Path, log: Path, prepare: Callable[[], None]) -> None:
    with open(log, "ab") as output:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(output.fileno(), stream.fileno())
    prepare()
    sys.exit(run("train", train.main, ["--config", str(preset)]))


def _mapping(situation: Situation, shards: tuple[str, str], folder: Path) -> dict[str, Any]:
    is_starved = situation.name == "starved"
    side = 1024 if is_starved else 48
    changes: dict[str, Any] = {
        "name": situation.name,
        "data": {
            "short_side_min": side if is_starved else 32, "short_side_max": side,
            "decode_threads": 1,
        },
        "pack": {"crop_size": 32, "short_side": side, "masks": {"side_min": 8, "side_max": 16}},
        "schedule": {"completion": 200, "discriminator": 100, "joint": 19_700},
        "checkpoint": {"every_steps": 20, "keep": 2, "skip_late": True},
        "evaluation": {"every_steps": 300, "limit": 8, "recalibration_images": 16},
        "log": {"every_steps": 10},
        "telemetry": {"port": situation.port, "address": "127.0.0.1"},
    }  # fmt: skip
    return small_mapping(shards[is_starved], folder, **{**changes, **situation.changes})


def _wait(
    process: multiprocessing.process.BaseProcess, log: Path, condition: Callable[[], bool],
    timeout_s: float,
) -> None:  # fmt: skip
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.is_alive(), log.read_text()
        assert time.monotonic() < deadline, f"not within {timeout_s} s:\n{log.read_text()}"
        time.sleep(0.2)
