"""Hours of a preset's whole schedule, extrapolated from measured steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.harness.result import Measurement
from pipeline.config.run_identity import result_affecting_settings
from pipeline.config.schedule import Phase, Schedule, resolve_schedule
from pipeline.config.schema import Config

# What a step's work depends on, beside the batch; how it is computed may differ.
_WORK = ("completion.", "discriminator.", "loss.")
_KINDS = ("completion_optimizer.kind", "discriminator_optimizer.kind")


@dataclass(frozen=True)
class Extrapolation:
    preset: Config
    schedule: Schedule
    measured_batch_size: int

    def figures(
        self, step_s: Mapping[Phase, Sequence[float]], num_steps: int, images: str
    ) -> list[Measurement]:
        """`step_s` holds the seconds of a step by round; `num_steps` is of each phase, in all."""
        name, batch_size = self.preset.name, self.preset.train.batch_size
        group = f"hours of {name}'s schedule, extrapolated from {num_steps} steps on {images}"
        if self.measured_batch_size != batch_size:
            group += (
                f", by images: batches of {self.measured_batch_size} were measured, {name} has "
                f"{batch_size}"
            )
        scale = batch_size / self.measured_batch_size / 3600
        hours = {
            phase: [self._steps(phase) * scale * one for one in runs]
            for phase, runs in step_s.items()
        }
        figures = [
            Measurement.of_runs(group, f"{phase}, {self._steps(phase):,} steps", "hours", runs)
            for phase, runs in hours.items()
        ]
        totals = [sum(one) for one in zip(*hours.values(), strict=True)]
        label = f"all phases, {self.schedule.total:,} steps"
        return [*figures, Measurement.of_runs(group, label, "hours", totals)]

    def _steps(self, phase: Phase) -> int:
        return int(getattr(self.schedule, phase.value))


def extrapolation(measured: Config, preset: Config, steps_per_epoch: int) -> Extrapolation:
    """`steps_per_epoch` of the preset's own set; 0: it is not known.

    Raises ValueError where other work was measured than the preset's steps make, in which case
    nothing can be said of its schedule.
    """
    differences = _differences(measured, preset)
    if differences:
        raise ValueError(f"other work was measured than {preset.name}'s: {'; '.join(differences)}")
    if preset.schedule.unit == "epochs" and not steps_per_epoch:
        raise ValueError(f"{preset.name}'s schedule is in epochs of a set that is not read here")
    schedule = resolve_schedule(preset.schedule, steps_per_epoch)
    return Extrapolation(preset, schedule, measured.train.batch_size)


def _differences(measured: Config, preset: Config) -> list[str]:
    here, there = _work(measured), _work(preset)
    return [
        f"{name} is {value!r}, not {there[name]!r}"
        for name, value in here.items()
        if value != there[name]
    ]


def _work(config: Config) -> dict[str, object]:
    fields = result_affecting_settings(config)
    work = {name: v for name, v in fields.items() if name.startswith(_WORK) or name in _KINDS}
    return {"pack.crop_size": config.crop_size, **work}
