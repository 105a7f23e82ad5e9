"""What one launch has measured, as a result, and read from several results to be joined."""

from __future__ import annotations

import re
import statistics
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.harness.all_reduce import bus_bandwidth
from benchmarks.harness.result import Measurement, Result, read_result
from benchmarks.scaling.links import Message, Topology
from benchmarks.scaling.model import StepTime
from benchmarks.training.step_times import Case
from launch.support.arguments import leaves, parse_with_config
from pipeline.config.loading import config_mapping
from pipeline.config.schedule import Phase
from pipeline.config.schema import Config
from pipeline.engines.ddp import Worker

NAME = "cluster"
_EXCHANGING, _ALONE = "a step, gradients exchanged", "a step, gradients not exchanged"
_MESSAGE, _BUS = "an all-reduce", "an all-reduce, bus bandwidth"
_STEP_NAME = re.compile(r"(\w+), (\d+) images a worker")
_MESSAGE_NAME = re.compile(r"([\d,]+) bytes")

# Sections and fields that change the time of no step; some hold paths of the machine.
_NO_MATTER = (
    "name", "folder", "seed", "resume", "data.shards", "data.cache", "data.mixture", "start",
    "parallel.deepspeed_config", "checkpoint", "log", "telemetry", "evaluation", "train.threads",
)  # fmt: skip
_CONFIGURATION, _WORKERS, _PER_NODE = "configuration", "workers", "workers on each machine"


@dataclass(frozen=True)
class Measured:
    """A result, as far as the model takes it."""

    result: Result
    origin: str  # name of its file
    config: Config
    topology: Topology
    steps: tuple[StepTime, ...]
    messages: tuple[Message, ...]

    @property
    def device(self) -> str:
        return str(self.result.parameters["device"])


def result_of_launch(
    config: Config,
    worker: Worker,
    steps: Mapping[Case, Sequence[float]],
    messages: Mapping[int, Sequence[float]],
    command: str,
    parameters: Mapping[str, Any],
) -> Result:
    figures = [
        Measurement.of_runs(
            _EXCHANGING if case.averages_gradients else _ALONE,
            f"{case.phase.value}, {case.images} images a worker",
            "ms",
            [1e3 * run for run in runs],
        )
        for averages_gradients in (True, False)
        for case, runs in steps.items()
        if case.averages_gradients is averages_gradients
    ]
    for size, runs in messages.items():
        figures.append(
            Measurement.of_runs(_MESSAGE, f"{size:,} bytes", "ms", [1e3 * s for s in runs])
        )
    for size, runs in messages.items():
        rates = [bus_bandwidth(size, one, worker.world_size) / 1e6 for one in runs]
        figures.append(Measurement.of_runs(_BUS, f"{size:,} bytes", "MB/s", rates))
    on_gpu = worker.device.type == "cuda"
    description = {
        "source": "random images",
        "device": torch.cuda.get_device_name(worker.device) if on_gpu else "CPU",
        "backend": "nccl" if on_gpu else "gloo",
        "threads of a worker": None if on_gpu else torch.get_num_threads(),
        _WORKERS: worker.world_size,
        _PER_NODE: worker.local_world_size,
        _CONFIGURATION: changed_fields(config),
        **parameters,
    }
    return Result(NAME, command, description, figures)


def changed_fields(config: Config) -> list[str]:
    """Fields that are not as the defaults have them: options that give the same steps again."""
    defaults = dict(leaves(config_mapping(Config())))
    return [
        f"{path}={_text(value)}"
        for path, value in leaves(config_mapping(config))
        if value != defaults[path] and not path.startswith(_NO_MATTER)
    ]


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return yaml.safe_dump(list(value), default_flow_style=True, width=10**6).strip()
    return str(value)


def read_measured(path: Path) -> Measured:
    """Raises ValueError, naming the file, for what is no result of one launch."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    result = read_result(path)
    fields = result.parameters.get(_CONFIGURATION)
    if result.name != NAME or not isinstance(fields, list):  # of a joined result it is a text
        raise ValueError(
            f"{path} is a result of benchmarks.{result.name}, but not of one launch of "
            "benchmarks.cluster; join what `benchmarks.cluster --output FILE` has written"
        )
    try:
        _, config = parse_with_config(ArgumentParser(), [f"--{field}" for field in fields])
    except ValueError as error:
        raise ValueError(f"{path} is of another release, measure again: {error}") from error
    topology = Topology(result.parameters[_WORKERS], result.parameters[_PER_NODE])
    steps, messages = [], []
    for figure in result.figures:
        runs = tuple(run / 1e3 for run in figure.runs)
        median_s = statistics.median(runs)
        if match := _STEP_NAME.fullmatch(figure.name):
            phase, images = Phase(match[1]), int(match[2])
            averages_gradients = figure.group == _EXCHANGING
            steps.append(StepTime(topology, phase, images, averages_gradients, median_s, runs))
        elif figure.group == _MESSAGE and (match := _MESSAGE_NAME.fullmatch(figure.name)):
            messages.append(Message(topology, int(match[1].replace(",", "")), median_s, runs))
    return Measured(result, path.name, config, topology, tuple(steps), tuple(messages))


def require_joinable(measured: Sequence[Measured]) -> None:
    """Raises ValueError that names what differs, or what is missing."""
    first = measured[0]
    for other in measured[1:]:
        for (name, ours), (_, theirs) in zip(_same_of(first), _same_of(other), strict=True):
            if ours != theirs:
                raise ValueError(
                    f"{first.origin} and {other.origin} cannot be joined: {name} is {ours} in one "
                    f"and {theirs} in the other; measure all world sizes alike"
                )
        _require_same_configuration(first, other)
    sizes = [one.topology.workers for one in measured]
    doubled = sorted({size for size in sizes if sizes.count(size) > 1})
    if doubled:
        raise ValueError(f"two results are of {doubled[0]} workers; join one of each world size")
    if 1 not in sizes:
        raise ValueError(
            f"no result is of 1 worker, only of {', '.join(map(str, sorted(sizes)))}: efficiency "
            "is counted from one; measure it with --nproc_per_node=1"
        )


def _same_of(one: Measured) -> list[tuple[str, Any]]:
    """Return what has to be equal on both."""
    names = ("device", "backend", "threads of a worker")
    return [
        *((name, one.result.parameters.get(name)) for name in names),
        ("the processor", one.result.hardware.cpu),
        ("torch", one.result.versions.get("torch")),
    ]


def _require_same_configuration(first: Measured, other: Measured) -> None:
    ours, theirs = (dict(leaves(config_mapping(one.config))) for one in (first, other))
    for path, value in ours.items():
        if value != theirs[path]:
            raise ValueError(
                f"{first.origin} and {other.origin} cannot be joined: {path} is {value} in one and "
                f"{theirs[path]} in the other; measure all world sizes alike"
            )
