"""How fast the completion network runs, in every way it can be run, and how near to the peak.

    python -m benchmarks.generator                                 # 128 pixels, 8 images, on a CPU
    python -m benchmarks.generator --case 256x96 --case 256x12     # on a GPU

Each setup has a process of its own; all of them run once in every round. The device's peaks are
measured first, and every layer alone. Writes a JSON result and, beside it, a roofline.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.arithmetic import completion_counts
from benchmarks.command import benchmark_parser, circumstances, command_line
from benchmarks.generator_setups import (
    BOTH,
    CPU_SETUPS,
    CUDA_SETUPS,
    FORWARD,
    Case,
    GeneratorMeasurement,
    Setup,
    Speed,
    config_of,
    measurable,
)  # fmt: skip
from benchmarks.layer_times import LayerTime, layer_table, time_layers
from benchmarks.peak import Peak, measured_peak
from benchmarks.report import print_result
from benchmarks.result import Figure, Result, Table, write_result
from benchmarks.roofline import draw_roofline
from benchmarks.rounds import Measured, figures_of, measure_in_rounds
from shards.cores import available_cores

_DEFAULT_CASES = {"cuda": ["256x96", "256x12"], "cpu": ["128x8"]}
_MEMORY = "memory at the peak"
_COLUMNS = ["", "TFLOP/s", "of matrix peak", "of convolution peak"]


def run(options: argparse.Namespace, command: str) -> Result:
    console = Console(stderr=True)
    cases = [_case(text, options) for text in options.case or _DEFAULT_CASES[options.device]]
    chosen = CUDA_SETUPS if options.device == "cuda" else CPU_SETUPS
    names = options.setup or list(chosen)
    if unknown := [name for name in names if name not in chosen]:
        raise ValueError(f"--setup {unknown[0]!r} is none of: {', '.join(chosen)}")
    setups, not_measured = measurable({name: chosen[name] for name in names})
    reasons = "; ".join(f"{name}: {why}" for name, why in not_measured.items())
    if not setups:
        raise ValueError(f"nothing can be measured: {reasons}")
    precisions = dict.fromkeys(s.precision for s in setups.values() if s.precision != "int8")
    precisions = precisions or {"fp32": None}
    console.print("the device's peaks")
    peaks = {
        one: _aside(partial(_peak, cases[0], one, min(1.0, options.seconds))) for one in precisions
    }
    console.print("every layer alone")
    precision = "bf16" if "bf16" in peaks else "fp32"
    times = _aside(partial(time_layers, cases[0], precision))
    figures = [figure for one, peak in peaks.items() for figure in _peak_figures(one, peak)]
    tables = []
    for case in cases:
        own_figures, own_tables = _measure(case, setups, options, peaks, console)
        figures += own_figures
        tables += own_tables
    tables += [layer_table(direction, own, peaks[precision]) for direction, own in times.items()]
    picture = _draw(options.output, times, peaks[precision], cases[0], precision)
    parameters = circumstances(options) | {
        "source": ", ".join(case.label for case in cases),
        "width": options.width,
        "threads of torch": options.threads if options.device == "cpu" else "not used",
        "seconds for each measurement": options.seconds,
        "layers measured": f"{cases[0].label}, {precision}, channels_last",
    }
    if reasons:
        parameters["not measured"] = reasons
    return Result("generator", command, parameters, figures, tables=tables, pictures=[picture])


def _measure(
    case: Case, setups: dict[str, Setup], options: argparse.Namespace, peaks: dict[str, Peak],
    console: Console,
) -> tuple[list[Figure], list[Table]]:  # fmt: skip
    measurements = {
        name: GeneratorMeasurement(setup, case, options.seconds) for name, setup in setups.items()
    }
    measured = measure_in_rounds(
        measurements, options.rounds, lambda message: console.print(f"{case.label}: {message}")
    )
    counts = completion_counts(config_of(case))
    forward = sum(count.forward_flops for count in counts)
    backward = sum(count.backward_flops(inputs=not count.sees_input) for count in counts)
    figures, tables = [], []
    for what, flops in ((FORWARD, forward), (BOTH, forward + backward)):
        rates = {
            name: [speed.images_per_second[what] for speed in speeds]
            for name, speeds in measured.items()
            if what in speeds[0].images_per_second
        }
        if not rates:
            continue  # none of them trains
        first, *others = rates
        pairs = [(other, first) for other in others]
        own = figures_of(f"{what}, {case.label}", "images/s", rates, pairs)
        figures += own
        rows = [
            [
                figure.name,
                *_shares(figure.median * flops / 1e12, peaks.get(setups[figure.name].precision)),
            ]
            for figure in own[: len(rates)]
        ]
        tables.append(Table(f"{what}, {case.label}: shares of the peaks", _COLUMNS, rows))
    return figures + [_memory_figure(case, *each) for each in measured.items()], tables


def _shares(teraflops: float, peak: Peak | None) -> list[str]:
    """Of the peaks in the setup's own precision, where that has been measured."""
    if peak is None:
        return [f"{teraflops:.3g}", "-", "-"]
    return [
        f"{teraflops:.3g}",
        f"{teraflops / peak.matrix_tflops:.0%}",
        f"{teraflops / peak.convolution_tflops:.0%}",
    ]


def _memory_figure(case: Case, name: str, speeds: list[Speed]) -> Figure:
    megabytes = [speed.peak_bytes / 1e6 for speed in speeds]
    return Figure.of_runs(f"{_MEMORY}, {case.label}", name, "MB", megabytes)


def _peak_figures(precision: str, peak: Peak) -> list[Figure]:
    return [
        Figure.of_runs("peaks of the device", f"{precision}, {what}", unit, [value])
        for what, unit, value in (
            ("matrix product", "TFLOP/s", peak.matrix_tflops),
            ("convolution", "TFLOP/s", peak.convolution_tflops),
            ("copy in memory", "GB/s", peak.memory_gb_per_s),
        )
    ]


def _peak(case: Case, precision: str, seconds: float) -> Peak:
    if case.device == "cpu":
        torch.set_num_threads(case.threads)
    return measured_peak(torch.device(case.device), precision, seconds)


def _aside(call: Callable[[], Measured]) -> Measured:
    """In a process of its own, which leaves neither threads nor memory behind."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(call).result()


def _draw(
    output: Path, times: dict[str, list[LayerTime]], peak: Peak, case: Case, precision: str
) -> str:
    picture = output.with_name(f"{output.stem}-roofline.png")
    title = f"Layers of the completion network, {case.label}, {precision}"
    draw_roofline(picture, times, peak, title)
    return picture.name


def _case(text: str, options: argparse.Namespace) -> Case:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    size, batch = map(int, match.groups()) if match else (0, 0)
    if batch < 1 or size < 4 or size % 4:
        raise ValueError(f"--case {text!r} is not SIZExBATCH, such as 256x96, SIZE a multiple of 4")
    return Case(size, batch, options.width, options.threads, options.device)


def main(arguments: list[str]) -> int:
    parser = benchmark_parser("generator", __doc__)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device)
    parser.add_argument(
        "--case",
        action="append",
        metavar="SIZExBATCH",
        help="may be repeated; the first one's layers are listed",
    )
    parser.add_argument("--setup", action="append", help="only this one, by name; may be repeated")
    parser.add_argument("--seconds", type=float, default=1.0, help="at least, for a measurement")
    parser.add_argument("--width", type=int, default=64, help="of the network")
    parser.add_argument("--threads", type=int, default=available_cores(), help="on a CPU")
    options = parser.parse_args(arguments)
    try:
        if options.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: torch finds no GPU here")
        result = run(options, command_line("generator", arguments))
        print_result(result)
        write_result(options.output, result)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"benchmarks.generator: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
