"""Real runs in the five situations that alerts are for, and a pack, one after another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.monitoring.ports import free_port
from tests.shards.pictures import pack_small_set, write_class_folders
from tests.small_run import small_mapping, write_preset
from tests.torchrun import job, wait_for

_LARGE = (1400, 1050)  # pixels, that a reader takes long to decode
_TRAIN = "launch/train.py"


@dataclass
class Situation:
    """A run under its own name, and the alerts that it is to set off."""

    name: str
    alerts: set[str]
    changes: dict[str, Any] = field(default_factory=dict)
    script: str = _TRAIN
    disturb: Callable[[int], None] = lambda process_id: None
    port: int = field(default_factory=free_port)


def stop_reader(process_id: int) -> None:
    """As a file system that does not answer any more would."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if (
                parent == process_id
                and b"shards.reader_process" in (entry / "cmdline").read_bytes()
            ):
                os.kill(int(entry.name), signal.SIGSTOP)


def situations() -> list[Situation]:
    return [
        Situation("healthy", set()),
        Situation("stalled", {"GlcicTrainingStalled"}, disturb=stop_reader),
        Situation(
            "not-a-number",
            {"GlcicLossNonFinite"},
            {
                "completion_optimizer": {"learning_rate": 1e30},
                "train": {"skip_limit": 1_000_000},
                "schedule": {"completion": 20_000, "discriminator": 0, "joint": 0},
            },
        ),
        Situation("starved", {"GlcicDataStarved"}, {"data": {"decode_threads": 1}}),
        Situation(
            "stale",
            {"GlcicCheckpointStale", "GlcicCheckpointFailing"},
            script="tests/monitoring/failing_store_run.py",
        ),
    ]


def pack_sets(folder: Path, port: int) -> tuple[str, str]:
    """A set that is quickly read and one that is not; the latter packed by the command, exported.

    Both have crops of 32 pixels.
    """
    quick = pack_small_set(folder, images=120, images_per_shard=10)
    source = write_class_folders(folder / "large", classes=3, images_per_class=20, size=_LARGE)
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
    situation: Situation, shards: tuple[str, str], folder: Path, seconds: float,
    has_begun: Callable[[], object],
) -> None:  # fmt: skip
    """Returns when the run has lasted so long after its first steps, and is ended."""
    quick, slow = shards
    is_starved = situation.name == "starved"
    data = {
        "shards": slow if is_starved else quick,
        "short_side_min": 1024 if is_starved else 32,
        "short_side_max": 1024 if is_starved else 44,
        **situation.changes.get("data", {}),
    }
    pack = {
        "crop_size": 32, "short_side": 1024 if is_starved else 48,
        "masks": {"side_min": 8, "side_max": 16},
    }  # fmt: skip
    changes = {
        "name": situation.name,
        "schedule": {"completion": 300, "discriminator": 200, "joint": 19_500},
        "checkpoint": {"every_steps": 50, "keep": 2, "skip_late": True},
        "evaluation": {"every_steps": 400, "limit": 8, "recalibration_images": 16},
        "log": {"every_steps": 10, "sheet_every_steps": 0},
        "telemetry": {"port": situation.port, "address": "127.0.0.1"},
        **situation.changes,
        "data": data,
        "pack": pack,
    }
    mapping = small_mapping(data["shards"], folder / situation.name, **changes)
    preset = write_preset(folder / f"{situation.name}.yaml", mapping)
    log = folder / f"{situation.name}.log"
    command = [sys.executable, situation.script, "--config", str(preset)]
    with job(command, log) as process:
        wait_for(lambda: bool(has_begun()), process, log)
        _wait(process, log, seconds / 3)
        situation.disturb(process.pid)
        _wait(process, log, seconds * 2 / 3)
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):  # one that hangs is killed
            process.wait(5)


def _wait(process: subprocess.Popen[bytes], log: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
