"""What happens to a job of two nodes in a chaos run: drawn from a seed, then done to it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.checkpoints.format import committed_steps, is_intact, step_name
from tests.chaos.hosts import NODES, Namespaces
from tests.chaos.job import Job, Role

# kind -> share among those that kill, in which a process gets SIGKILL
KILLS = {
    "worker killed": 14,
    "node killed": 10,
    "agent killed alone": 8,
    "reader killed": 6,
    "checkpoint bit flipped, worker killed": 6,
    "checkpoint cut, worker killed": 6,
}
# kind -> number for every ten kills; those that need minutes to be noticed are few
OTHERS = {
    "node terminated": 1.0,
    "store read-only": 0.4,
    "cable cut and mended": 0.4,
    "worker stopped": 0.2,
}


@dataclass(frozen=True)
class Disturbance:
    kind: str
    node: str
    step: int  # struck when the run has come so far for the first time, or
    soon_s: float  # so many seconds after the one before, if above 0
    lasts_s: float  # of those that end by themselves

    @property
    def is_kill(self) -> bool:
        return self.kind in KILLS


def draw(
    seed: int,
    kills: int,
    first_step: int,
    last_step: int,
    *,
    burst_share: float,
    can_cut: bool,
    can_lock: bool,
) -> list[Disturbance]:
    """In the order in which they strike. `kills` of them kill; the others come on top.

    `burst_share` of them strike seconds after the one before, most likely while the job recovers.
    """
    generator = random.Random(seed)
    kinds = generator.choices(list(KILLS), list(KILLS.values()), k=kills)
    for kind, per_ten in OTHERS.items():
        possible = {"store read-only": can_lock, "cable cut and mended": can_cut}.get(kind, True)
        kinds += [kind] * (round(per_ten * kills / 10) if possible else 0)
    generator.shuffle(kinds)
    steps = sorted(generator.randint(first_step, last_step) for _ in kinds)
    return [
        Disturbance(
            kind=kind,
            node=generator.choice(NODES),
            step=step,
            soon_s=generator.uniform(1, 10) if generator.random() < burst_share else 0.0,
            lasts_s=generator.uniform(5, 20),
        )
        for kind, step in zip(kinds, steps, strict=True)
    ]


def strike(disturbance: Disturbance, job: Job, checkpoints: Path, seed: int) -> bool:
    """Does it, once there is something to do it to; returns when it is over.

    False if the job ended before.
    """
    kind, node = disturbance.kind, disturbance.node
    if kind.startswith("checkpoint"):
        generator = random.Random(seed)
        job.wait_for(
            lambda: job.is_done() or _damage(checkpoints, cut="cut" in kind, generator=generator)
        )
        kind = "worker killed"
    if kind == "worker killed":
        return _kill_one(job, "worker", node)
    if kind == "reader killed":
        return _kill_one(job, "reader", node)
    if kind == "agent killed alone":
        return _kill_one(job, "agent", node)
    if kind == "node killed":
        job.kill_node(node)
    elif kind == "worker stopped":
        job.wait_for(lambda: job.is_done() or bool(job.processes("worker", node)))
        job.signal(signal.SIGSTOP, *job.processes("worker", node)[:1])
    elif kind == "node terminated":
        job.terminate(node)
    elif kind == "cable cut and mended":
        assert isinstance(job.hosts, Namespaces)
        job.hosts.cut()
        _pass_time(job, disturbance.lasts_s)
        job.hosts.mend()
    elif kind == "store read-only":
        with locked(checkpoints):
            _pass_time(job, disturbance.lasts_s)
    else:
        raise AssertionError(kind)
    return True


def _kill_one(job: Job, role: Role, node: str) -> bool:
    job.wait_for(lambda: job.is_done() or bool(job.processes(role, node)))
    pids = job.processes(role, node)
    job.signal(signal.SIGKILL, *pids[:1])
    return bool(pids)


def _pass_time(job: Job, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not job.is_done():
        job.start_again()
        time.sleep(0.1)


def _damage(checkpoints: Path, *, cut: bool, generator: random.Random) -> bool:
    """To a file of the newest checkpoint, if an intact one is left besides it."""
    steps = committed_steps(str(checkpoints))
    if len(steps) < 2 or not is_intact(str(checkpoints / step_name(steps[-2]))):
        return False
    with suppress(OSError):  # it is removed at this moment, since newer ones have come
        files = sorted((checkpoints / step_name(steps[-1])).iterdir())
        victim = generator.choice(files)
        data = bytearray(victim.read_bytes())
        place = generator.randrange(len(data))
        if cut:
            del data[place:]
        else:
            data[place] ^= 1 << generator.randrange(8)
        victim.write_bytes(data)
        return True
    return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nothing can be made, changed or removed directly in the folder meanwhile, not by root."""
    if os.geteuid() == 0:
        subprocess.run(["chattr", "+i", str(folder)], check=True, capture_output=True)
    else:
        folder.chmod(0o500)
    try:
        yield
    finally:
        if os.geteuid() == 0:
            subprocess.run(["chattr", "-i", str(folder)], check=True, capture_output=True)
        else:
            folder.chmod(0o700)


def can_lock(folder: Path) -> bool:
    """Root is stopped by an attribute alone, which not every filesystem has."""
    try:
        with locked(folder):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
