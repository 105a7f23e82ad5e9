"""What loading and the object store have to deliver for GPUs that never wait."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.result import RESULTS_FOLDER, Result, read_result
from benchmarks.scaling.gpu_step_time import GpuComputeTime
from benchmarks.scaling.gradient_messages import StepWork
from benchmarks.scaling.links import Topology
from benchmarks.scaling.model import ScalingModel
from benchmarks.scaling.projection import (
    FABRICS,
    GPUS_OF_A_NODE,
    INFINIBAND,
    WHOLE_SCHEDULE,
    mean_step_s,
)
from pipeline.config.schedule import Phase
from pipeline.config.schema import Config


@dataclass(frozen=True)
class Loading:
    """What was measured of loading, by the result of `benchmarks.loader`."""

    images_per_core_s: float
    image_bytes: float  # mean, encoded
    description: str


@dataclass(frozen=True)
class Demand:
    phase: str
    images_per_s: float  # of a node
    cores: float  # of a node, that decode, cut and resize
    megabytes_per_s: float  # of a node, from the object store while its shards are not cached yet


def read_loading(path: Path = RESULTS_FOLDER / "loader.json") -> Loading | None:
    """None where it has not been measured."""
    if not path.is_file():
        return None
    result = read_result(path)
    found = [
        figure.median
        for figure in result.figures
        if figure.group.startswith("random scale") and figure.name == "ShardReader, 1 thread"
    ]
    packed = result.parameters.get("images packed")
    if not found or not isinstance(packed, dict):
        return None
    workers = result.parameters.get("workers", 1)  # figures are of all of them
    return Loading(found[0] / workers, _mean_bytes(result), _loading_description(result))


def _mean_bytes(result: Result) -> float:
    packed = sum(result.parameters["images packed"].values())
    return float(result.parameters["bytes of all shards"]) / packed


def _loading_description(result: Result) -> str:
    return (
        f"measured on one core of an {result.hardware.cpu} by benchmarks.loader "
        f"({result.parameters['source']}, random scale); bytes: the mean of those shards"
    )


def demand(
    config: Config, work: Mapping[Phase, StepWork], compute_time: GpuComputeTime, loading: Loading,
    images: int, gpus: int = GPUS_OF_A_NODE,
) -> list[Demand]:  # fmt: skip
    """Of a node's GPUs, on one node, where nothing slows them."""
    model = ScalingModel(work, compute_time.by_phase, FABRICS[INFINIBAND])
    found = []
    for phase in (*Phase, None):
        step_s = mean_step_s(config, model, images, Topology(gpus, GPUS_OF_A_NODE), phase)
        rate = images * gpus / step_s
        found.append(
            Demand(
                phase.value if phase else WHOLE_SCHEDULE,
                rate,
                rate / loading.images_per_core_s,
                rate * loading.image_bytes / 1e6,
            )
        )
    return found
