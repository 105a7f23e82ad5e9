"""Efficiency on up to 1,024 GPUs, by the model."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.scaling.gpu_step_time import GpuComputeTime
from benchmarks.scaling.gradient_messages import StepWork
from benchmarks.scaling.links import Link, LinkModel, Topology
from benchmarks.scaling.model import ScalingModel
from pipeline.config.schedule import Phase
from pipeline.config.schema import Config

GPUS_OF_A_NODE = 8
GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
TARGET_GPUS, TARGET_EFFICIENCY = 64, 0.9
WHOLE_SCHEDULE = "whole schedule"
GRADIENTS = {"fp32": 1.0, "bf16": 0.5}  # how they are sent -> bytes, beside float32's

# What all-reduces get of a link's rate; and the latency of a message through NCCL's ring, by the
# table that it chooses its algorithms by (src/graph/tuning.cc, hwLat and baseLat, "Simple").
_SHARE_OF_RATE = 0.8
_NVLINK = Link(3.4e-6, _SHARE_OF_RATE * 450e9)
_NETWORK_LATENCY_S = 14e-6
_TCP_LATENCY_S = 50e-6
_CALL_S = 8.4e-6
INFINIBAND, INFINIBAND_SHARED, ETHERNET = (
    "InfiniBand, 400 Gb/s a GPU",
    "InfiniBand, 400 Gb/s a node",
    "Ethernet, 100 Gb/s a node",
)
_BETWEEN_NODES = {
    INFINIBAND: Link(_NETWORK_LATENCY_S, _SHARE_OF_RATE * GPUS_OF_A_NODE * 50e9),
    INFINIBAND_SHARED: Link(_NETWORK_LATENCY_S, _SHARE_OF_RATE * 50e9),
    ETHERNET: Link(_TCP_LATENCY_S, _SHARE_OF_RATE * 12.5e9),
}
FABRICS = {
    name: LinkModel(_NVLINK, link, has_tree=True, call_s=_CALL_S)
    for name, link in _BETWEEN_NODES.items()
}

ASSUMPTIONS = (
    f"{GPUS_OF_A_NODE} GPUs a node, over NVLink of 450 GB/s each way (data sheet of the H100 SXM: "
    "900 GB/s both ways)",
    f"all-reduces get {100 * _SHARE_OF_RATE:.0f} % of the rate of every link (assumed)",
    f"a message takes {_NVLINK.latency_s * 1e6:.1f} microseconds over NVLink, "
    f"{_NETWORK_LATENCY_S * 1e6:.0f} over InfiniBand and an all-reduce "
    f"{_CALL_S * 1e6:.1f} besides (NCCL, src/graph/tuning.cc: hwLat, baseLat), "
    f"{_TCP_LATENCY_S * 1e6:.0f} over Ethernet (assumed)",
    "a ring inside the node; between nodes a ring or a double binary tree, whichever is faster",
    "workers do not wait for the slowest one, for data, checkpoints or evaluations",
    "the reducer's own work, and rounding gradients to bfloat16 and back, take no time",
)


@dataclass(frozen=True)
class Projected:
    fabric: str
    gradients: str
    images: int  # of each GPU
    gpus: int
    phase: str
    step_s: float
    efficiency: float  # all the hiding that the order of the buckets allows
    efficiency_unhidden: float  # none: the exchange begins when the backward has ended


def project_weak(
    config: Config,
    work: Mapping[Phase, StepWork],
    compute_time: GpuComputeTime,
    images: Sequence[int],
) -> list[Projected]:
    """At a constant number of images a GPU."""
    return [
        _project(config, model, name, count, count, gpus, phase)
        for name, model in _models(work, compute_time)
        for count in images
        for gpus in GPUS
        for phase in (*Phase, None)
    ]


def project_strong(
    config: Config, work: Mapping[Phase, StepWork], compute_time: GpuComputeTime
) -> list[Projected]:
    """At the configuration's batch, on the numbers of GPUs that share it on full nodes."""
    batch_size = config.train.batch_size
    return [
        _project(config, model, name, batch_size, batch_size // gpus, gpus, phase)
        for name, model in _models(work, compute_time)
        for gpus in strong_sizes(batch_size)
        for phase in (*Phase, None)
    ]


def strong_sizes(batch_size: int) -> list[int]:
    return [
        gpus
        for gpus in range(1, batch_size + 1)
        if batch_size % gpus == 0 and (gpus < GPUS_OF_A_NODE or gpus % GPUS_OF_A_NODE == 0)
    ]


def _models(
    work: Mapping[Phase, StepWork], compute_time: GpuComputeTime
) -> Iterator[tuple[tuple[str, str], ScalingModel]]:
    for fabric in FABRICS:
        for gradients, scale in GRADIENTS.items():
            model = ScalingModel(work, compute_time.by_phase, FABRICS[fabric], gradient_scale=scale)
            yield (fabric, gradients), model


def _project(
    config: Config, model: ScalingModel, name: tuple[str, str], images_alone: int, images: int,
    gpus: int, phase: Phase | None,
) -> Projected:  # fmt: skip
    """`phase` None: the schedule's steps of all phases together."""
    topology = Topology(gpus, GPUS_OF_A_NODE)
    alone_s = mean_step_s(config, model, images_alone, Topology(1, 1), phase)
    hidden_s = mean_step_s(config, model, images, topology, phase)
    serial_s = mean_step_s(config, replace(model, overlap=0.0), images, topology, phase)
    work_share = images_alone / (images * gpus)  # of the single GPU's step beside all of these
    ideal_s = alone_s / (work_share * gpus)
    return Projected(
        *name, images, gpus, phase.value if phase else WHOLE_SCHEDULE, hidden_s,
        ideal_s / hidden_s, ideal_s / serial_s,
    )  # fmt: skip


def mean_step_s(
    config: Config, model: ScalingModel, images: int, topology: Topology, phase: Phase | None
) -> float:
    """Of one phase, or the mean over the steps of the schedule."""
    if phase is not None:
        return model.step_s(phase, images, topology)
    schedule = config.schedule
    lengths = {
        Phase.COMPLETION: schedule.completion,
        Phase.DISCRIMINATOR: schedule.discriminator,
        Phase.JOINT: schedule.joint,
    }
    total_s = sum(
        length * model.step_s(one, images, topology) for one, length in lengths.items() if length
    )
    return total_s / sum(lengths.values())


def images_for_target(
    config: Config, work: Mapping[Phase, StepWork], compute_time: GpuComputeTime, fabric: str,
    gradients: str, *, overlap: float,
) -> int | None:  # fmt: skip
    """Return the fewest images a GPU at which the whole schedule reaches the target; None: over
    1,024.
    """
    model = ScalingModel(
        work, compute_time.by_phase, FABRICS[fabric], overlap, gradient_scale=GRADIENTS[gradients]
    )
    topology = Topology(TARGET_GPUS, GPUS_OF_A_NODE)

    def reaches(images: int) -> bool:
        alone_s = mean_step_s(config, model, images, Topology(1, 1), None)
        return alone_s / mean_step_s(config, model, images, topology, None) >= TARGET_EFFICIENCY

    counts = range(1, 1025)
    place = bisect.bisect_left(counts, True, key=reaches)  # more images: never less efficient
    return counts[place] if place < len(counts) else None
