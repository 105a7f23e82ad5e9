"""Project the throughput of a preset to more GPUs than were measured."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.scaling.gpu_step_time import (
    GpuComputeTime,
    assumed_compute_time,
    measured_compute_time,
)
from benchmarks.scaling.gradient_messages import StepWork, work_of_phases
from benchmarks.scaling.loading_demand import Demand, Loading, demand, read_loading
from benchmarks.scaling.projection import Projected, project_strong, project_weak
from launch.support.arguments import parse_with_config
from pipeline.config.schedule import Phase
from pipeline.config.schema import Config


@dataclass(frozen=True)
class JoinOptions:
    output: Path
    command: str
    project: str  # preset that is projected
    gpu_result: Path | None = None
    note: str = ""


@dataclass(frozen=True)
class Projection:
    preset: str
    config: Config
    work: Mapping[Phase, StepWork]
    compute_time: GpuComputeTime
    images: tuple[int, ...]  # of a GPU, in weak scaling
    weak: list[Projected]
    strong: list[Projected]
    loading: Loading | None
    demands: dict[int, list[Demand]]  # by images of a GPU


def project(options: JoinOptions) -> Projection:
    _, config = parse_with_config(ArgumentParser(), ["--config", options.project])
    work = work_of_phases(config)
    compute_time = (
        measured_compute_time(options.gpu_result)
        if options.gpu_result
        else assumed_compute_time(config, work)
    )
    batch_size = config.train.batch_size
    images = tuple(sorted({max(1, batch_size // 8), batch_size}))
    loading = read_loading()
    return Projection(
        options.project,
        config,
        work,
        compute_time,
        images,
        project_weak(config, work, compute_time, images),
        project_strong(config, work, compute_time),
        loading,
        {n: demand(config, work, compute_time, loading, n) for n in images} if loading else {},
    )
