"""The model, fitted to some of what was measured and compared with the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.harness.result import Measurement
from benchmarks.scaling.gradient_messages import work_of_phases
from benchmarks.scaling.links import Message
from benchmarks.scaling.model import ScalingModel, StepTime, fit_model
from benchmarks.scaling.result import Measured


@dataclass(frozen=True)
class Prediction:
    name: str
    workers: int
    kind: str  # "steps", "steps without exchange", "all-reduces"
    measured_s: float
    predicted_s: float
    fitted: bool  # whether the model has seen the point

    @property
    def error(self) -> float:
        """Relative; above 0 where the model takes too long."""
        return self.predicted_s / self.measured_s - 1


@dataclass(frozen=True)
class Check:
    model: ScalingModel
    predictions: tuple[Prediction, ...]

    def held_out(self) -> list[Prediction]:
        return [one for one in self.predictions if not one.fitted]


def check_model(measured: Sequence[Measured]) -> Check:
    """Fitted: of one worker, of the most on one node and of the fewest on several, steps with the
    fewest and the most images and every second message. Held out: everything else.
    """
    worlds = fitted_worlds(measured)
    steps = [step for one in measured for step in one.steps]
    messages = [message for one in measured for message in one.messages]
    fit_steps = [
        step for step in steps if step.topology.workers in worlds and _is_edge(step, steps)
    ]
    fit_messages = [
        message
        for one in measured
        if one.topology.workers in worlds
        for message in sorted(one.messages, key=lambda message: message.num_bytes)[::2]
    ]
    config = measured[0].config
    scale = 0.5 if config.parallel.compress_gradients else 1.0
    model = fit_model(work_of_phases(config), fit_steps, fit_messages, scale)
    return Check(
        model,
        (
            *(_predict_step(model, step, step in fit_steps) for step in steps),
            *(_predict_message(model, one, one in fit_messages) for one in messages),
        ),
    )


def fitted_worlds(measured: Sequence[Measured]) -> set[int]:
    single = [one.topology.workers for one in measured if one.topology.nodes == 1]
    several = [one.topology.workers for one in measured if one.topology.nodes > 1]
    return {1, max(single), *([min(several)] if several else [])}


def _is_edge(step: StepTime, steps: Sequence[StepTime]) -> bool:
    images = [other.images for other in steps if other.topology == step.topology]
    return step.images in (min(images), max(images))


def _predict_step(model: ScalingModel, step: StepTime, fitted: bool) -> Prediction:
    predicted_s = model.step_s(
        step.phase, step.images, step.topology, averages_gradients=step.averages_gradients
    )
    kind = "steps" if step.averages_gradients else "steps without exchange"
    name = f"{step.phase.value}, {step.images} images a worker"
    workers = step.topology.workers
    return Prediction(name, workers, kind, step.seconds, predicted_s, fitted)


def _predict_message(model: ScalingModel, message: Message, fitted: bool) -> Prediction:
    predicted_s = model.link_model.all_reduce_s(message.num_bytes, message.topology)
    name, workers = f"{message.num_bytes:,} bytes", message.topology.workers
    return Prediction(name, workers, "all-reduces", message.seconds, predicted_s, fitted)


def error_figures(check: Check) -> Iterator[Measurement]:
    """Of the points that the model has not seen; a "round" is a point."""
    held_out = check.held_out()
    for workers, kind in dict.fromkeys((one.workers, one.kind) for one in held_out):
        errors = [
            100 * abs(one.error) for one in held_out if (one.workers, one.kind) == (workers, kind)
        ]
        noun = "worker" if workers == 1 else "workers"
        group = "the model's error where it was not fitted, a round for each point"
        yield Measurement.of_runs(group, f"{kind} of {workers} {noun}", "%", errors)
