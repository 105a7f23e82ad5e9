"""The three phases of training as a pure function of the step (paper, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pipeline.config.schema import ScheduleConfig


class Phase(StrEnum):
    COMPLETION = "completion"  # the completion network alone, by its reconstruction loss
    DISCRIMINATOR = "discriminator"  # the discriminators alone, the completion network frozen
    JOINT = "joint"  # both, the discriminators first


@dataclass(frozen=True)
class Schedule:
    """Lengths of the phases in steps. Step 0 is the first; `total` steps are made in all."""

    completion: int
    discriminator: int
    joint: int

    @property
    def total(self) -> int:
        return self.completion + self.discriminator + self.joint

    def phase(self, step: int) -> Phase:
        """The phase of the step with this number. Past the end it stays the last one."""
        step = min(step, self.total - 1)
        if step < self.completion:
            return Phase.COMPLETION
        if step < self.completion + self.discriminator:
            return Phase.DISCRIMINATOR
        return Phase.JOINT

    def completion_updates(self, step: int) -> int:
        """How often the completion network has been updated before this step."""
        in_joint = max(0, step - self.completion - self.discriminator)
        return min(step, self.completion) + in_joint


def resolve_schedule(config: ScheduleConfig, steps_per_epoch: int) -> Schedule:
    """Phases in steps; an epoch is `steps_per_epoch` whole batches of the packed set."""
    scale = steps_per_epoch if config.unit == "epochs" else 1
    return Schedule(config.completion * scale, config.discriminator * scale, config.joint * scale)
