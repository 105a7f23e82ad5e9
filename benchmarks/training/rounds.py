"""Rounds of training steps: in each, every kind of step of every variant once, phase by phase."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.harness.device_peak import Peak
from benchmarks.training.measured_steps import SYNTHETIC, Block, MeasuredSteps
from benchmarks.training.step_parts import Parts
from benchmarks.training.variants import AS_CONFIGURED, StepsInOwnProcess
from pipeline.config.schedule import Phase

Candidates = Mapping[str, MeasuredSteps | StepsInOwnProcess]  # the first is "as configured"


@dataclass(frozen=True)
class Plan:
    kinds: tuple[str, ...]  # of batches
    steps: int  # of each kind and phase, in a round
    rounds: int
    warm_up: int  # steps of each phase before the first round
    with_parts: bool = True
    with_peak: bool = True


@dataclass
class Runs:
    """A value per round in every list."""

    blocks: dict[tuple[str, Phase, str], list[Block]] = field(default_factory=dict)
    parts: dict[Phase, list[Parts]] = field(default_factory=dict)
    all_reduce_shares: dict[Phase, list[float]] = field(default_factory=dict)
    peaks: list[Peak] = field(default_factory=list)

    def step_s(self, candidate: str, phase: Phase, kind: str) -> list[float]:
        return [block.step_s for block in self.blocks[candidate, phase, kind]]


def measure_rounds(
    candidates: Candidates, plan: Plan, progress: Callable[[str], None] = lambda message: None
) -> Runs:
    """Collective: every rank must call."""
    for name, candidate in candidates.items():
        progress(f"warming up: {name}")
        candidate.warm_up(plan.warm_up)
    runs = Runs()
    for number in range(plan.rounds):
        progress(f"round {number + 1} of {plan.rounds}")
        # The order turns round every time, so that none always follows the same neighbour.
        turn = 1 if number % 2 == 0 else -1
        for phase in Phase:
            for take in (_take_speed, _look_into)[::turn]:
                take(candidates, phase, plan, runs, turn)
        if plan.with_peak:
            runs.peaks.append(candidates[AS_CONFIGURED].peak())
    return runs


def _take_speed(candidates: Candidates, phase: Phase, plan: Plan, runs: Runs, turn: int) -> None:
    for name in list(candidates)[::turn]:
        for kind in plan.kinds[::turn]:
            block = candidates[name].block(phase, kind, plan.steps)
            runs.blocks.setdefault((name, phase, kind), []).append(block)


def _look_into(candidates: Candidates, phase: Phase, plan: Plan, runs: Runs, turn: int) -> None:
    """What is compared with steps on synthetic batches."""
    if not plan.with_parts or SYNTHETIC not in plan.kinds:
        return
    steps = candidates[AS_CONFIGURED]
    runs.parts.setdefault(phase, []).append(steps.parts(phase, plan.steps))
    if isinstance(steps, MeasuredSteps) and steps.can_skip_all_reduce:
        share = steps.all_reduce_share(phase, plan.steps)
        runs.all_reduce_shares.setdefault(phase, []).append(share)
