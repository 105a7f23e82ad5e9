"""A model of the time of a step: computing, and what of the exchange of gradients is not hidden.

    computing      fixed + images * per_image, fitted for each phase; both grow by factors where
                   others compute on the same node, which all phases share
    exchange       the buckets of an update are sent one after another, each when it is ready and
                   the one before has gone; what is left when the backward ends is waited for
    statistics     one message of batch norm's statistics after each update, never hidden

`overlap` says how much of the hiding comes about: 1 what the order of the buckets allows, 0 none,
as where sending waits for the processor that computes, below 0 where it slows the computing down as
well. Waiting for the slowest of many workers is not in the model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import nnls

from benchmarks.scaling.gradient_messages import GradientAllReduce, StepWork
from benchmarks.scaling.links import Link, LinkModel, Message, Topology, fit_link_model
from pipeline.config.schedule import Phase


@dataclass(frozen=True)
class StepTime:
    """A measured step."""

    topology: Topology
    phase: Phase
    images: int  # of each worker
    averages_gradients: bool  # whether gradients were averaged over the workers
    seconds: float  # the median
    runs: tuple[float, ...] = ()  # in every round


@dataclass(frozen=True)
class ComputeTime:
    fixed_s: float
    per_image_s: float
    least_s: float = 0.0  # however few images: to launch the kernels on a GPU

    def seconds(self, images: float, crowding: Crowding | None = None) -> float:
        factors = crowding or Crowding()
        varying_s = self.per_image_s * images * factors.per_image
        return max(self.least_s, self.fixed_s * factors.fixed + varying_s)


@dataclass(frozen=True)
class Crowding:
    """How many times as long computing takes beside others of its node."""

    fixed: float = 1.0
    per_image: float = 1.0


@dataclass(frozen=True)
class ScalingModel:
    work: Mapping[Phase, StepWork]
    compute_time: Mapping[Phase, ComputeTime]
    link_model: LinkModel
    overlap: float = 1.0
    crowding: Mapping[int, Crowding] = field(default_factory=dict)  # by workers of a node
    gradient_scale: float = 1.0  # 0.5: gradients are sent as bfloat16

    def step_s(
        self, phase: Phase, images: float, topology: Topology, *, averages_gradients: bool = True
    ) -> float:
        compute_s = self.compute_s(phase, images, topology)
        total = compute_s
        for all_reduce in self.work[phase].all_reduces:
            total += self.link_model.all_reduce_s(all_reduce.network.statistics_bytes, topology)
            if averages_gradients and topology.workers > 1:
                hidden, serial = self.all_reduce_wait_s(all_reduce, compute_s, topology)
                total += self.overlap * hidden + (1 - self.overlap) * serial
        return total

    def all_reduce_wait_s(
        self, all_reduce: GradientAllReduce, compute_s: float, topology: Topology
    ) -> tuple[float, float]:
        """Seconds that are waited for: with all the hiding that is possible, and with none."""
        window_s = all_reduce.window * compute_s
        sent_s, serial_s = 0.0, 0.0
        for bucket in all_reduce.network.buckets:
            message_s = self.link_model.all_reduce_s(
                bucket.num_bytes * self.gradient_scale, topology
            )
            sent_s = max(sent_s, bucket.ready * window_s) + message_s
            serial_s += message_s
        return max(0.0, sent_s - window_s), serial_s

    def compute_s(self, phase: Phase, images: float, topology: Topology) -> float:
        return self.compute_time[phase].seconds(images, self._crowding(topology.within))

    def _crowding(self, within: int) -> Crowding:
        """Between the numbers of workers that were fitted, in proportion."""
        known = {1: Crowding(), **self.crowding}
        counts = sorted(known)
        fixed = np.interp(within, counts, [known[count].fixed for count in counts])
        per_image = np.interp(within, counts, [known[count].per_image for count in counts])
        return Crowding(float(fixed), float(per_image))


def fit_model(
    work: Mapping[Phase, StepWork],
    steps: Sequence[StepTime],
    messages: Sequence[Message],
    gradient_scale: float = 1.0,
) -> ScalingModel:
    """By least squares of the relative errors, of the measured points that are given here alone.

    Raises ValueError where a phase lacks steps of a single worker, of two batches at least.
    """
    compute_time = {phase: fit_compute_time(phase, steps) for phase in work}
    link_model = fit_link_model(messages) if messages else LinkModel(Link(0.0, math.inf))
    model = ScalingModel(work, compute_time, link_model, gradient_scale=gradient_scale)
    model = dataclasses.replace(model, crowding=_fit_crowding(model, steps))
    return dataclasses.replace(model, overlap=_fit_overlap(model, steps))


def fit_compute_time(phase: Phase, steps: Sequence[StepTime]) -> ComputeTime:
    alone = [one for one in steps if one.phase is phase and one.topology.workers == 1]
    if len({one.images for one in alone}) < 2:
        raise ValueError(
            f"{phase.value}: steps of one worker with two batches at least are needed to tell the "
            "time of an image from that of a step"
        )
    rows = np.array([[1 / one.seconds, one.images / one.seconds] for one in alone])
    (fixed_s, per_image_s), _ = nnls(rows, np.ones(len(rows)))
    return ComputeTime(float(fixed_s), float(per_image_s))


def _fit_crowding(model: ScalingModel, steps: Sequence[StepTime]) -> dict[int, Crowding]:
    """From steps without exchange, whose only other part is the message of statistics."""
    rows: dict[int, list[tuple[float, float, float]]] = {}
    for one in steps:
        if one.topology.within == 1 or one.averages_gradients:
            continue
        compute_time = model.compute_time[one.phase]
        alone_s = compute_time.seconds(one.images)
        rest_s = (
            model.step_s(one.phase, one.images, one.topology, averages_gradients=False) - alone_s
        )
        parts = compute_time.fixed_s, compute_time.per_image_s * one.images, one.seconds - rest_s
        found = rows.setdefault(one.topology.within, [])
        found.append(tuple(part / one.seconds for part in parts))  # type: ignore[arg-type]
    return {within: _crowding_of(np.array(found)) for within, found in rows.items()}


def _crowding_of(rows: np.ndarray) -> Crowding:
    (fixed, per_image), _ = nnls(rows[:, :2], rows[:, 2])
    return Crowding(float(fixed), float(per_image))


def _fit_overlap(model: ScalingModel, steps: Sequence[StepTime]) -> float:
    """Return the share of the possible hiding that explains the steps with exchange best."""
    above, below = 0.0, 0.0
    for one in steps:
        if one.topology.workers == 1 or not one.averages_gradients:
            continue
        without_s = model.step_s(one.phase, one.images, one.topology, averages_gradients=False)
        compute_s = model.compute_s(one.phase, one.images, one.topology)
        pairs = [
            model.all_reduce_wait_s(all_reduce, compute_s, one.topology)
            for all_reduce in model.work[one.phase].all_reduces
        ]
        hidden_s, serial_s = (sum(pair[side] for pair in pairs) for side in (0, 1))
        saved = (serial_s - hidden_s) / one.seconds
        above += saved * (serial_s - (one.seconds - without_s)) / one.seconds
        below += saved**2
    return min(1.0, above / below) if below else 1.0
