"""How long a GPU computes a step: as a result says that was measured on one, or as is assumed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.harness.result import read_result
from benchmarks.scaling.gradient_messages import StepWork
from benchmarks.scaling.model import ComputeTime, fit_compute_time
from benchmarks.scaling.result import NAME, read_measured
from benchmarks.training.measured_steps import (  # fmt: skip
    SYNTHETIC,
    random_batch,
    state_without_data,
    training_step,
)
from pipeline.config.schedule import Phase
from pipeline.config.schema import Config
from pipeline.engines.ddp import Worker

# The H100 SXM's and H200's data sheets: dense bfloat16 without sparsity.
PEAK_FLOP_PER_S = 989e12
# timm's table of training speeds has VGG16-BN, which has as many operations for each activation
# as these networks, at 62 % of an RTX 3090's peak; of an H100 less is expected.
ASSUMED_SHARE = 0.4
MEMORY_BYTES_PER_S = 0.8 * 3.35e12  # four fifths of the H100 SXM's data sheet
_UPDATE_BYTES = 28  # of a parameter: fused Adam reads four float32 of each and writes three
ASSUMED_OPERATOR_S = 7e-6  # from Python to the GPU, each
_FREE = ("view", "aten.t.", "detach", "as_strided", "expand", "slice", "squeeze", "select",
         "split", "permute", "transpose", "alias")  # fmt: skip  # operators that launch nothing

_TRAINING_GROUP = "a step"


@dataclass(frozen=True)
class GpuComputeTime:
    by_phase: Mapping[Phase, ComputeTime]
    is_measured: bool
    description: str  # one sentence: of what it comes


def assumed_compute_time(config: Config, work: Mapping[Phase, StepWork]) -> GpuComputeTime:
    operators = operators_of_phases(config)
    by_phase = {}
    for phase, one in work.items():
        update_s = one.num_bytes / 4 * _UPDATE_BYTES / MEMORY_BYTES_PER_S
        per_image_s = 2 * one.macs / (ASSUMED_SHARE * PEAK_FLOP_PER_S)
        by_phase[phase] = ComputeTime(update_s, per_image_s, operators[phase] * ASSUMED_OPERATOR_S)
    counted = ", ".join(f"{number} in {phase.value}" for phase, number in operators.items())
    description = (
        f"assumed, not measured: the networks' own multiplications at {100 * ASSUMED_SHARE:.0f} % "
        f"of {PEAK_FLOP_PER_S / 1e12:.0f} TFLOP/s (data sheet of the H100 SXM, dense bfloat16); "
        "Adam's update at four fifths of the sheet's 3.35 TB/s; never less than "
        f"{ASSUMED_OPERATOR_S * 1e6:.0f} microseconds for each operator ({counted}, counted)"
    )
    return GpuComputeTime(by_phase, False, description)


def measured_compute_time(path: Path) -> GpuComputeTime:
    """Raises ValueError for a file that holds no steps of one GPU."""
    if not path.is_file():
        raise ValueError(f"--gpu-result {path}: there is no such file")
    result = read_result(path)
    device, workers = (result.parameters.get(name) for name in ("device", "workers"))
    if device in (None, "CPU") or workers != 1:
        raise ValueError(
            f"--gpu-result {path} is of {workers} workers on {device or 'no device'}; give one of "
            "a single GPU"
        )
    if result.name == NAME:
        steps = read_measured(path).steps
        by_phase = {phase: fit_compute_time(phase, steps) for phase in Phase}
        sizes = sorted({one.images for one in steps})
    else:
        batch_size = int(result.parameters.get("batch size", 0))
        steps_s = {
            figure.name: figure.median
            for figure in result.figures
            if figure.group == _TRAINING_GROUP and figure.unit == "s"
        }
        medians = {phase: steps_s.get(f"{phase}, {SYNTHETIC} images") for phase in Phase}
        if not batch_size or None in medians.values():
            raise ValueError(f"--gpu-result {path} has no step of every phase")
        # One batch alone does not tell the time of an image from that of a step.
        by_phase = {
            phase: ComputeTime(0.0, (medians[phase] or 0.0) / batch_size) for phase in Phase
        }
        sizes = [batch_size]
    description = f"measured on one {device}, {', '.join(map(str, sizes))} images a step"
    return GpuComputeTime(by_phase, True, description)


def operators_of_phases(config: Config) -> dict[Phase, int]:
    """Return what a step calls, counted on the narrowest networks of the kind: the width changes
    nothing.

    Only those that launch something.
    """
    narrow = dataclasses.replace(
        config,
        completion=dataclasses.replace(config.completion, width=8),
        discriminator=dataclasses.replace(config.discriminator, width=4, num_features=8),
        train=dataclasses.replace(config.train, batch_size=2, compile=False, cuda_graphs=False),
    )
    worker = Worker(precision=config.train.precision)
    state = state_without_data(narrow, worker)
    step = training_step(narrow, worker, state.completion, state.discriminator)
    batch = random_batch(narrow, worker)
    counts = {}
    for phase in Phase:
        step(phase, batch)  # the optimizers' state is made in the first
        with _Operators() as counting:
            step(phase, batch)
        counts[phase] = counting.number
    return counts


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        self.number += not re.search("|".join(_FREE), str(function))
        return function(*args, **(kwargs or {}))
