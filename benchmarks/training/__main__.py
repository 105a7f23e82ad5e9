"""The training step in each phase: its speed, where its time goes, and what switches change.

    python -m benchmarks.training --config places2 [--steps 10] [--rounds 5] [--output URL]
    python -m benchmarks.training --config quickstart --shipped --compare plain
    torchrun --nproc_per_node=8 -m benchmarks.training --config places2 --data.shards SET

The batch of the configuration is shared by all workers. Batches are made up, or read as a run reads
them, in turn. Rank 0 prints the result as one line of JSON, and its tables on standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

# The reducer warns of a flag that it is given on purpose (see pipeline/engines/ddp.py).
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import torch
from rich.console import Console

from benchmarks.generator.operation_counts import phase_flops
from benchmarks.harness.command_line import command_line, exit_status
from benchmarks.harness.result import Measurement, Result
from benchmarks.harness.tables import publish
from benchmarks.training.data import StepData, add_data_options, step_data
from benchmarks.training.figures import (
    arithmetic_figures,
    comparison_figures,
    memory_figures,
    part_figures,
    speed_figures,
)
from benchmarks.training.measured_steps import REAL, SYNTHETIC, MeasuredSteps
from benchmarks.training.rounds import Candidates, Plan, Runs, measure_rounds
from benchmarks.training.schedule_hours import extrapolation
from benchmarks.training.variants import AS_CONFIGURED, StepsInOwnProcess, variants_of
from launch.support.arguments import parse_with_config
from pipeline.config.schedule import Phase
from pipeline.config.schema import Config
from pipeline.config.validation import world_size_errors
from pipeline.distributed.process_group import ProcessGroup
from pipeline.engines.ddp import Worker
from pipeline.engines.start import start_worker
from pipeline.step.training_data import training_data
from pipeline.training.preflight import world_size_from_environment

_WARM_UP = 5  # they allocate, compile and choose, and on CUDA record a graph


def measure(config: Config, worker: Worker, steps: int, rounds: int) -> dict[Phase, list[float]]:
    """Seconds of a step on random images, the mean of `steps`, in each round. Collective: every
    rank must call.
    """
    with closing(MeasuredSteps(config, worker, (SYNTHETIC,))) as measured:
        plan = Plan((SYNTHETIC,), steps, rounds, _WARM_UP, with_parts=False, with_peak=False)
        runs = measure_rounds({AS_CONFIGURED: measured}, plan)
    return {phase: runs.step_s(AS_CONFIGURED, phase, SYNTHETIC) for phase in Phase}


def main(arguments: list[str]) -> int:
    def run() -> None:
        options, config = parse_with_config(_parser(), arguments)
        parse = _further_parser(arguments)
        variants = variants_of(options.compare, config, parse)
        _check(options, [config, *variants.values()])
        _run(options, config, variants, arguments)

    return exit_status("benchmarks.training", run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--steps", type=int, default=10, help="of each kind, in every round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--warm-up", type=int, default=_WARM_UP, help="steps of each phase before the first round"
    )
    add_data_options(parser)
    parser.add_argument(
        "--compare",
        action="append",
        default=[],
        metavar="FIELDS",
        help='a variant measured in the same rounds: "train.compile=true train.tf32=true", or'
        " plain: float32, NCHW, no switch; may be given several times",
    )
    parser.add_argument(
        "--no-parts", action="store_true", help="leave out where a step's time goes"
    )
    parser.add_argument(
        "--peak-tflops",
        type=float,
        default=0.0,
        metavar="X",
        help="of one worker's device; default: what is measured of it",
    )
    parser.add_argument(
        "--hours-of",
        metavar="PRESET",
        help="whose schedule's hours are extrapolated; default: that of --config, if its steps are"
        " what was measured",
    )
    parser.add_argument("--note", default="", help="about the run, for the reader of the result")
    parser.add_argument("--output", metavar="URL", default="", help="also written there, as JSON")
    return parser


def _further_parser(arguments: list[str]) -> Any:
    return lambda overrides: parse_with_config(_parser(), [*arguments, *overrides])[1]


def _check(options: argparse.Namespace, configs: list[Config]) -> None:
    world_size = world_size_from_environment()
    errors = {error: None for one in configs for error in world_size_errors(one, world_size)}
    if errors:
        raise ValueError("; ".join(errors))
    for name in ("steps", "rounds", "warm_up"):
        value = getattr(options, name)
        if value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}: at least 1")
    if options.peak_tflops < 0:
        raise ValueError(f"--peak-tflops is {options.peak_tflops:g}: must not be negative")


def _run(
    options: argparse.Namespace, config: Config, variants: dict[str, Config], arguments: list[str]
) -> None:
    # Alone, each variant has a process of its own, and this one leaves the device to them.
    apart = bool(variants) and world_size_from_environment() == 1
    with ExitStack() as stack:
        ranks: ProcessGroup = ProcessGroup() if apart else start_worker(config)
        stack.callback(ranks.close)
        data = stack.enter_context(step_data(options, config, ranks))
        configs = {
            name: data.in_config(one) for name, one in {AS_CONFIGURED: config, **variants}.items()
        }
        hours = _Hours(options, configs[AS_CONFIGURED], data)
        plan = Plan(
            data.kinds, options.steps, options.rounds, options.warm_up,
            with_parts=not options.no_parts, with_peak=not options.peak_tflops,
        )  # fmt: skip
        load = round(os.getloadavg()[0], 2)
        candidates = stack.enter_context(_candidates(configs, data.kinds, ranks, apart))
        log_message = _log_message if ranks.is_main else lambda message: None
        runs = measure_rounds(candidates, plan, log_message)
        if ranks.is_main:
            parameters = _parameters(configs[AS_CONFIGURED], ranks, data, plan, load)
            if options.note:
                parameters["note"] = options.note
            if ranks.world_size > 1 and not runs.all_reduce_shares:
                parameters["exchange of gradients"] = (
                    "not measured: its steps are compared with those on synthetic images, and the "
                    "engine must be able to leave it out, as ddp and accelerate are"
                )
            if variants:
                parameters["variants"] = "in a process each" if apart else "in the same processes"
            figures = _figures(configs, runs, plan, options, ranks, parameters)
            figures += hours.figures(runs, plan, parameters)
            result = Result("training", command_line("training", arguments), parameters, figures)
            publish(result, options.output)


@contextmanager
def _candidates(
    configs: dict[str, Config], kinds: tuple[str, ...], ranks: ProcessGroup, apart: bool
) -> Iterator[Candidates]:
    """With several workers all variants share their processes, one after another in each round."""
    with ExitStack() as stack:
        candidates: dict[str, MeasuredSteps | StepsInOwnProcess] = {}
        for name, config in configs.items():
            if apart:
                steps: Any = StepsInOwnProcess(config, kinds)
            else:
                worker = ranks if name == AS_CONFIGURED else start_worker(config)
                assert isinstance(worker, Worker)
                steps = MeasuredSteps(config, worker, kinds)
            candidates[name] = stack.enter_context(closing(steps))
        yield candidates


class _Hours:
    """Of the whole schedule, where it can be told; if it was asked for and cannot, ValueError."""

    def __init__(self, options: argparse.Namespace, config: Config, data: StepData) -> None:
        name = options.hours_of or options.config
        self._reason = ""
        try:
            preset = parse_with_config(_parser(), ["--config", name] if name else [])[1]
            own = REAL in data.kinds and data.shards == preset.data.shards
            epoch = training_data(preset).steps_per_epoch("train") if own else 0
            self._extrapolation = extrapolation(config, preset, epoch)
        except ValueError as error:
            if options.hours_of:
                raise ValueError(f"--hours-of {options.hours_of}: {error}") from error
            self._reason = str(error)

    def figures(self, runs: Runs, plan: Plan, parameters: dict[str, Any]) -> list[Measurement]:
        if self._reason:
            parameters["hours of the schedule"] = f"not extrapolated: {self._reason}"
            return []
        kind = REAL if REAL in plan.kinds else SYNTHETIC
        step_s = {phase: runs.step_s(AS_CONFIGURED, phase, kind) for phase in Phase}
        return self._extrapolation.figures(step_s, plan.steps * plan.rounds, f"{kind} images")


def _figures(
    configs: dict[str, Config], runs: Runs, plan: Plan, options: argparse.Namespace,
    ranks: ProcessGroup, parameters: dict[str, Any],
) -> list[Measurement]:  # fmt: skip
    config, kinds = configs[AS_CONFIGURED], plan.kinds
    batch_sizes = {name: one.train.batch_size for name, one in configs.items()}
    figures = speed_figures(runs, kinds, config.train.batch_size)
    try:
        flops = phase_flops(config)
    except ValueError as error:
        parameters["operations"] = f"not counted: {error}"
    else:
        given = options.peak_tflops * ranks.world_size
        figures += arithmetic_figures(runs, kinds, config.train.batch_size, flops, given)
    return [
        *figures,
        *part_figures(runs, kinds),
        *comparison_figures(runs, kinds, batch_sizes),
        *memory_figures(runs, kinds, torch.cuda.is_available()),
    ]


def _parameters(
    config: Config, ranks: ProcessGroup, data: StepData, plan: Plan, load: float
) -> dict[str, Any]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {
        "source": data.label,
        "device": device,
        "workers": ranks.world_size,
        "workers on each machine": ranks.local_world_size,
        "batch size": config.train.batch_size,
        "crop size, pixels": config.crop_size,
        "precision": config.train.precision,
        "engine": config.parallel.engine,
        "steps in a round": plan.steps,
        "rounds": plan.rounds,
        "load average at the start": load,
    }


def _log_message(message: str) -> None:
    Console(stderr=True).print(message, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
