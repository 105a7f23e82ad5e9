"""Weak and strong efficiency, and what the exchange costs, of results of several world sizes.

Each is the ratio of the median of one to every round of the other, as the launches share no round.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.harness.all_reduce import bus_bandwidth
from benchmarks.harness.result import Measurement
from benchmarks.scaling.result import Measured
from pipeline.config.schedule import Phase

Key = tuple[Phase, int, bool]  # phase, images of a worker, whether gradients were exchanged


def step_runs(one: Measured) -> dict[Key, list[float]]:
    """Seconds of every measured step, in every round."""
    return {
        (step.phase, step.images, step.averages_gradients): list(step.runs) for step in one.steps
    }


def weak_figures(measured: Sequence[Measured]) -> Iterator[Measurement]:
    """Yield the step of one worker by that of several, each with as many images as the one."""
    for images in weak_sizes(measured):
        for one in measured[1:]:
            for phase in Phase:
                runs = efficiency_runs(measured[0], one, phase, images, images)
                if runs:
                    group = f"weak scaling, {images} images a worker: efficiency"
                    yield Measurement.of_runs(group, _name(phase, one), "ratio", runs)


def strong_figures(measured: Sequence[Measured]) -> Iterator[Measurement]:
    """Yield the step of one worker by that of those who share its batch, times their number."""
    batch_size = measured[0].config.train.batch_size
    for one in measured[1:]:
        for phase in Phase:
            if batch_size % one.topology.workers:
                continue
            share = batch_size // one.topology.workers
            runs = efficiency_runs(measured[0], one, phase, batch_size, share)
            if runs:
                group = f"strong scaling, {batch_size} images in all: efficiency"
                yield Measurement.of_runs(group, _name(phase, one), "ratio", runs)


def efficiency_runs(
    alone: Measured, several: Measured, phase: Phase, images_alone: int, images: int
) -> list[float]:
    """Empty where one of both was not measured."""
    first = {(s.phase, s.images): s.seconds for s in alone.steps if s.averages_gradients}
    runs = step_runs(several).get((phase, images, True))
    alone_s = first.get((phase, images_alone))
    if runs is None or alone_s is None:
        return []
    images_in_all = images * several.topology.workers
    ideal_s = alone_s * images_in_all / images_alone / several.topology.workers
    return [ideal_s / run for run in runs]


def all_reduce_figures(measured: Sequence[Measured]) -> Iterator[Measurement]:
    """Of a step, what it takes longer than without exchange: of the same round each."""
    for one in measured[1:]:
        runs = step_runs(one)
        for (phase, images, averages_gradients), with_s in runs.items():
            without_s = runs.get((phase, images, False))
            if averages_gradients and without_s:
                shares = [1 - b / a for a, b in zip(with_s, without_s, strict=True)]
                name = f"{_name(phase, one)}, {images} images a worker"
                yield Measurement.of_runs(
                    "share of a step that the exchange takes", name, "ratio", shares
                )


def message_figures(measured: Sequence[Measured]) -> Iterator[Measurement]:
    for one in measured[1:]:
        workers = one.topology.workers
        for message in one.messages:
            size = f"{message.num_bytes:,} bytes, {workers} workers"
            yield Measurement.of_runs(
                "all-reduce: time", size, "ms", [1e3 * s for s in message.runs]
            )
        for message in one.messages:
            size = f"{message.num_bytes:,} bytes, {workers} workers"
            rates = [message.num_bytes / s / 1e6 for s in message.runs]
            yield Measurement.of_runs("all-reduce: algorithm bandwidth", size, "MB/s", rates)
            rates = [bus_bandwidth(message.num_bytes, s, workers) / 1e6 for s in message.runs]
            yield Measurement.of_runs("all-reduce: bus bandwidth", size, "MB/s", rates)


def weak_sizes(measured: Sequence[Measured]) -> list[int]:
    """Images of a worker that every world size was measured with."""
    sizes = [{step.images for step in one.steps} for one in measured]
    return sorted(set.intersection(*sizes))


def _name(phase: Phase, one: Measured) -> str:
    return f"{phase.value}, {one.topology.workers} workers"
