"""A chaos run from its data to its result."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from pipeline.checkpoints.format import committed_steps, step_name
from pipeline.config.loading import parse_config
from tests.chaos.disturbances import Disturbance, can_lock, draw, strike
from tests.chaos.hosts import Loopback, Namespaces, open_hosts
from tests.chaos.job import Job, running
from tests.chaos.proof import (
    WeightsComparison,
    compare_weights,
    litter,
    sample_faults,
    worlds_of_steps,
)
from tests.shards.pictures import pack_small_set
from tests.small_run import small_mapping, write_preset
from tests.torchrun import run, torchrun_command

_CHECKPOINT_EVERY = 5  # steps
_STEPS_PER_DISTURBANCE = 12
_LONGEST_STANDSTILL_S = 600.0
# Until an agent that has ended is started again, at most: in an elastic job the other one is to
# train alone meanwhile.
_ABSENCE_S, _ELASTIC_ABSENCE_S = 1.0, 90.0


@dataclass(frozen=True)
class Settings:
    minutes: float
    seed: int
    kills: int
    elastic: bool
    hosts: str
    burst_share: float = 0.35


@dataclass
class Strike:
    kind: str
    node: str
    at_step: int
    at_s: float  # since the start
    gap_s: float | None = None  # until the first step that was finished after a restart


@dataclass
class Result:
    settings: Settings
    hosts: str
    steps: int
    undisturbed_s: float = 0.0
    disturbed_s: float = 0.0
    restarts_of_nodes: int = 0
    generations: int = 0
    steps_of_workers: dict[int, int] = field(default_factory=dict)  # number of workers -> steps
    strikes: list[Strike] = field(default_factory=list)
    weights: WeightsComparison | None = None
    faults: list[str] = field(default_factory=list)

    def to_mapping(self) -> dict[str, Any]:
        gaps = self._gaps()
        return {
            **asdict(self),
            "strikes_of_kinds": dict(Counter(strike.kind for strike in self.strikes)),
            "median_gap_s": statistics.median(gaps) if gaps else None,
            "longest_gap_s": max(gaps, default=None),
        }

    def to_table(self) -> Table:
        title = f"{self.steps} steps on two nodes ({self.hosts}), seed {self.settings.seed}"
        table = Table("disturbance", "times", "median gap, s", "longest gap, s", title=title)
        kinds = sorted({strike.kind for strike in self.strikes})
        for kind in [*kinds, ""]:
            times = [strike for strike in self.strikes if kind in ("", strike.kind)]
            gaps = self._gaps(kind)
            middle = f"{statistics.median(gaps):.1f}" if gaps else "-"
            table.add_row(
                kind or "all", str(len(times)), middle, f"{max(gaps):.1f}" if gaps else "-",
                end_section=kind == (kinds or [""])[-1],
            )  # fmt: skip
        different = "not compared"
        if self.weights is not None:
            different = f"{self.weights.different_tensors} of {self.weights.num_tensors}"
            if self.weights.different_tensors:
                different += f", by {self.weights.largest_relative_difference:.3g} at most"
        table.caption = (
            f"undisturbed {self.undisturbed_s:.0f} s, disturbed {self.disturbed_s:.0f} s in "
            f"{self.generations} generations; steps by number of workers: {self.steps_of_workers}; "
            f"tensors that differ: {different}; "
            f"faults: {len(self.faults)}"
        )
        return table

    def _gaps(self, kind: str = "") -> list[float]:
        return [
            strike.gap_s
            for strike in self.strikes
            if kind in ("", strike.kind) and strike.gap_s is not None
        ]


def run_chaos(settings: Settings, folder: Path, console: Console) -> Result:
    """Everything lies in `folder`, which is empty. What is wrong stands in the result's faults."""
    shards = pack_small_set(folder / "data", images=36, images_per_shard=7)
    with open_hosts(settings.hosts) as hosts:
        disturbances = _plan(settings, hosts, folder)
        steps = disturbances[-1].step + 2 * _CHECKPOINT_EVERY
        kind = type(hosts).__name__.lower()
        console.print(f"{len(disturbances)} disturbances of {steps} steps; hosts: {kind}")
        result = Result(settings, kind, steps)
        presets = {
            name: _preset(folder / name, shards, steps) for name in ("undisturbed", "disturbed")
        }
        result.undisturbed_s = _train_undisturbed(presets["undisturbed"], folder)
        console.print(f"undisturbed run: {result.undisturbed_s:.0f} s", highlight=False)
        nodes, absence_s = ("1:2", _ELASTIC_ABSENCE_S) if settings.elastic else ("2", _ABSENCE_S)
        job_ = Job(hosts, nodes, presets["disturbed"], folder, absence_s=absence_s)
        with running(job_) as job:
            _disturb(job, disturbances, folder / "disturbed" / "checkpoints", result, console)
            result.faults += _left_behind(job, folder / "disturbed")
        if left := job.processes():
            result.faults.append(f"processes are left: {left}")
    if left_over := hosts.leftovers():
        result.faults.append(f"network namespaces are left: {left_over}")
    _prove(result, presets["disturbed"], folder)
    return result


def _plan(settings: Settings, hosts: Namespaces | Loopback, folder: Path) -> list[Disturbance]:
    probe = folder / "probe"
    probe.mkdir()
    first = 3 * _CHECKPOINT_EVERY
    return draw(
        settings.seed, settings.kills, first, first + _STEPS_PER_DISTURBANCE * settings.kills,
        burst_share=settings.burst_share, can_cut=hosts.can_cut, can_lock=can_lock(probe),
    )  # fmt: skip


def _preset(folder: Path, shards: str, steps: int) -> Path:
    third = steps // 3
    mapping = small_mapping(
        shards, folder,
        schedule={"completion": third, "discriminator": third, "joint": steps - 2 * third},
        checkpoint={"every_steps": _CHECKPOINT_EVERY, "keep": 4},
        log={"every_steps": 1, "record_samples": True},
        train={"timeout_s": 30, "micro_batch_size": 6},
    )  # fmt: skip
    return write_preset(folder.with_suffix(".yaml"), mapping)


def _train_undisturbed(preset: Path, folder: Path) -> float:
    begin = time.monotonic()
    log = folder / "undisturbed.log"
    command = torchrun_command(2, "launch/train.py", "--config", str(preset))
    assert run(command, log, timeout_s=_LONGEST_STANDSTILL_S) == 0, log.read_text()
    return time.monotonic() - begin


def _disturb(
    job: Job, disturbances: list[Disturbance], checkpoints: Path, result: Result, console: Console
) -> None:
    begin = last = time.monotonic()
    moments: list[float] = []
    for number, disturbance in enumerate(disturbances):
        _wait_for_turn(job, disturbance, last, first=number == 0)
        last = time.monotonic()
        if job.is_done() or last - begin > 60 * result.settings.minutes:
            break
        strike_ = Strike(disturbance.kind, disturbance.node, job.reached, last - begin)
        if not strike(disturbance, job, checkpoints, seed=result.settings.seed + number):
            continue
        result.strikes.append(strike_)
        moments.append(last)
        console.print(
            f"{last - begin:6.1f} s, step {job.reached}: {disturbance.kind} on {disturbance.node}",
            highlight=False,
        )
    _wait(job, job.is_done)
    for strike_, moment in zip(result.strikes, moments, strict=True):
        after = job.first_step_after(moment)
        strike_.gap_s = after.time - moment if after is not None else None
    result.disturbed_s = time.monotonic() - begin
    result.restarts_of_nodes = sum(job.starts.values()) - len(job.starts)
    result.generations = job.generation
    _wait(job, lambda: not job.processes("agent"))


def _wait_for_turn(job: Job, disturbance: Disturbance, last: float, *, first: bool) -> None:
    if disturbance.soon_s and not first:
        _wait(job, lambda: job.is_done() or time.monotonic() > last + disturbance.soon_s)
    else:
        _wait(job, lambda: job.is_done() or job.reached >= disturbance.step)


def _wait(job: Job, condition: Callable[[], bool]) -> None:
    job.wait_for(condition, _LONGEST_STANDSTILL_S)


def _left_behind(job: Job, folder: Path) -> list[str]:
    """Once the job has ended by itself, before anything is swept."""
    faults = []
    if pids := job.processes():
        faults.append(f"processes are left of a job that has ended: {pids}")
    if parts := litter(folder):
        faults.append(f"unfinished files are left: {', '.join(parts)}")
    shared = [path.name for path in Path("/dev/shm").glob("*glcic*")]
    if shared:
        faults.append(f"shared memory is left: {shared}")
    ours = [path.name for path in job.temporary.glob("*glcic*")]
    if ours:
        faults.append(f"temporary files are left: {ours}")
    return faults


def _prove(result: Result, preset: Path, folder: Path) -> None:
    config = parse_config(yaml.safe_load(preset.read_text()))
    disturbed = folder / "disturbed"
    steps = committed_steps(str(disturbed / "checkpoints"))
    if result.steps not in steps:
        result.faults.append(f"{step_name(result.steps)} is not there, but {steps}")
        return
    result.weights = compare_weights(folder / "undisturbed", disturbed, result.steps)
    # Sums of another number of workers are rounded otherwise: that distance is reported alone.
    if result.weights.different_tensors and not result.settings.elastic:
        result.faults.append(
            f"{result.weights.different_tensors} of {result.weights.num_tensors} tensors differ "
            f"from the undisturbed run's, by {result.weights.largest_relative_difference:.3g}"
        )
    result.steps_of_workers = dict(Counter(worlds_of_steps(disturbed).values()))
    result.faults += sample_faults(config, disturbed, result.steps)
