"""How fast the completion network runs, in every way it can be run, and how near to the peak.

    python -m benchmarks.generator                                 # 128 pixels, 8 images, on a CPU
    python -m benchmarks.generator --case 256x96 --case 256x12     # on a GPU
    torchrun --nproc_per_node=8 -m benchmarks.generator --config places2 --output URL

Each setup has a process of its own; all of them run once in every round. The device's peaks are
measured first, and every layer alone. Writes a JSON result and, beside it, a roofline. Under
torchrun every worker measures its own device, all of them the same at the same time: figures are
those of the median worker, and a table holds each worker against it.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import replace
from functools import partial

import torch

from benchmarks.generator.layer_times import LayerTime, layer_table, time_layers
from benchmarks.generator.operation_counts import completion_counts
from benchmarks.generator.roofline import draw_roofline
from benchmarks.generator.setups import (  # fmt: skip
    BOTH,
    CPU_SETUPS,
    CUDA_SETUPS,
    FORWARD,
    TUNED,
    Case,
    GeneratorMeasurement,
    Setup,
    Speed,
    config_of,
)
from benchmarks.generator.worker_devices import (
    in_subprocess,
    lacking_setups,
    leave_own_gpu_to_children,
    measured_peaks,
    median_peak,
    peak_table,
    require_gpus,
)
from benchmarks.harness.command_line import (
    batch_of_worker,
    benchmark_parser,
    chosen,
    environment,
    is_configured,
    run_benchmark,
)
from benchmarks.harness.device_peak import Peak
from benchmarks.harness.launched_workers import Workers
from benchmarks.harness.result import Measurement, Result, Table
from benchmarks.harness.rounds import figures_of, measure_in_rounds, of_median_worker
from pipeline.config.schema import CompletionConfig, Config
from shards.storage.files import write_bytes

_DEFAULT_CASES = {"cuda": ["256x96", "256x12"], "cpu": ["128x8"]}
_MEMORY = "memory at the peak"
_DEFAULTS = (TUNED, replace(TUNED, keeps_memory=False))  # what training does, on a CPU and a GPU
_COLUMNS = ["", "TFLOP/s", "of matrix peak", "of convolution peak"]


def run(options: argparse.Namespace, config: Config, workers: Workers, command: str) -> Result:
    if options.device == "cuda":
        require_gpus(workers)
        if workers.world_size > 1:
            leave_own_gpu_to_children(workers)
    _require_measurable(config.completion)
    configured = is_configured(options, config)
    cases = [
        _case(text, options, config, workers) for text in _case_texts(options, config, workers)
    ]
    setups, lacking = _measurable_setups(options, workers)
    parameters = environment(options, workers)
    precisions = dict.fromkeys(s.precision for s in setups.values() if s.precision != "int8")
    precisions = precisions or {"fp32": None}
    workers.log_message("the device's peaks")
    seconds = min(1.0, options.seconds)
    every_peak = measured_peaks(cases[0], precisions, seconds, workers)
    peaks = {one: median_peak(every) for one, every in every_peak.items()}
    workers.log_message("every layer alone")
    precision = "bf16" if "bf16" in peaks else "fp32"
    times = workers.each(partial(in_subprocess, partial(time_layers, cases[0], precision)))[0]
    figures = [figure for one, peak in peaks.items() for figure in _peak_figures(one, peak)]
    tables = peak_table(precision, every_peak[precision], workers)
    for case in cases:
        own_figures, own_tables = _measure(case, setups, options, peaks, workers)
        figures += own_figures
        tables += own_tables
    tables += [layer_table(direction, own, peaks[precision]) for direction, own in times.items()]
    draw = partial(_draw, options.output, times, peaks[precision], cases[0], precision)
    picture = workers.on_main(draw) or ""
    parameters |= {
        "source": ", ".join(case.label for case in cases),
        "width": cases[0].width,
        "threads of torch": cases[0].threads if options.device == "cpu" else "not used",
        "seconds for each measurement": options.seconds,
        "layers measured": f"{cases[0].label}, {precision}, channels_last",
    }
    if configured:
        parameters["configuration"] = config.name
    if lacking:
        parameters["setups not measured"] = lacking
    return Result("generator", command, parameters, figures, tables=tables, pictures=[picture])


def _measurable_setups(
    options: argparse.Namespace, workers: Workers
) -> tuple[dict[str, Setup], dict[str, str]]:
    """Return what every worker can run of what was asked for, and why some cannot the rest."""
    known = CUDA_SETUPS if options.device == "cuda" else CPU_SETUPS
    setups = chosen("--setup", options.setup, known)
    lacking: dict[str, str] = {}
    for own in workers.gathered(lacking_setups(setups, options.device)):
        lacking |= own
    for name, reason in lacking.items():
        workers.log_message(f"{name}: not measured: {reason}")
    setups = {name: setup for name, setup in setups.items() if name not in lacking}
    if not setups:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in lacking.items())
        raise ValueError(f"nothing can be measured: {reasons}")
    return setups, lacking


def _measure(
    case: Case, setups: dict[str, Setup], options: argparse.Namespace, peaks: dict[str, Peak],
    workers: Workers,
) -> tuple[list[Measurement], list[Table]]:  # fmt: skip
    measurements = {
        name: GeneratorMeasurement(setup, case, options.seconds) for name, setup in setups.items()
    }
    measured = measure_in_rounds(
        measurements, options.rounds,
        lambda message: workers.log_message(f"{case.label}: {message}"), workers,
    )  # fmt: skip
    counts = completion_counts(config_of(case))
    forward = sum(count.forward_flops for count in counts)
    backward = sum(count.backward_flops(inputs=not count.sees_input) for count in counts)
    figures, tables = [], []
    for what, flops in ((FORWARD, forward), (BOTH, forward + backward)):
        of_workers = {
            name: [[speed.images_per_second[what] for speed in speeds] for speeds in rounds]
            for name, rounds in measured.items()
            if what in rounds[0][0].images_per_second
        }
        if not of_workers:
            continue
        rates = of_median_worker(of_workers)
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
        name = next((name for name in rates if setups[name] in _DEFAULTS), first)
        title = f"workers: {what}, {case.label}, {name}"
        tables += workers.table(title, "images/s", of_workers[name])
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


def _memory_figure(case: Case, name: str, rounds: list[list[Speed]]) -> Measurement:
    """Of the worker that took most."""
    megabytes = [max(speed.peak_bytes for speed in speeds) / 1e6 for speeds in rounds]
    return Measurement.of_runs(f"{_MEMORY}, {case.label}", name, "MB", megabytes)


def _peak_figures(precision: str, peak: Peak) -> list[Measurement]:
    return [
        Measurement.of_runs("peaks of the device", f"{precision}, {what}", unit, [value])
        for what, unit, value in (
            ("matrix product", "TFLOP/s", peak.matrix_tflops),
            ("convolution", "TFLOP/s", peak.convolution_tflops),
            ("copy in memory", "GB/s", peak.memory_gb_per_s),
        )
    ]


def _draw(
    output: str, times: dict[str, list[LayerTime]], peak: Peak, case: Case, precision: str
) -> str:
    """Beside the result; returns the picture's name there."""
    folder, slash, name = output.rpartition("/")
    picture = f"{name.removesuffix('.json')}-roofline.png"
    title = f"Layers of the completion network, {case.label}, {precision}"
    write_bytes(f"{folder}{slash}{picture}", draw_roofline(times, peak, title))
    return picture


def _case_texts(options: argparse.Namespace, config: Config, workers: Workers) -> list[str]:
    if options.case:
        return list(options.case)
    if is_configured(options, config):
        return [f"{config.crop_size}x{batch_of_worker(config, workers)}"]
    return _DEFAULT_CASES[options.device]


def _case(text: str, options: argparse.Namespace, config: Config, workers: Workers) -> Case:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    size, batch = map(int, match.groups()) if match else (0, 0)
    if batch < 1 or size < 4 or size % 4:
        raise ValueError(f"--case {text!r} is not SIZExBATCH, such as 256x96, SIZE a multiple of 4")
    width = options.width or config.completion.width
    threads = options.threads or config.train.threads or workers.cores
    return Case(size, batch, width, threads, options.device)


def _require_measurable(config: CompletionConfig) -> None:
    """The setups are ways of running the paper's network, at any width."""
    for name in ("kind", "block_order"):
        asked, measured = getattr(config, name), getattr(CompletionConfig(), name)
        if asked != measured:
            raise ValueError(
                f"completion.{name} is {asked}: the ways of running a network that are compared "
                f"are of {measured}; measure this one's steps by benchmarks.training"
            )


def main(arguments: list[str]) -> int:
    parser = benchmark_parser("generator", __doc__)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device)
    parser.add_argument(
        "--case",
        action="append",
        metavar="SIZExBATCH",
        help="of each worker; may be repeated, and the first one's layers are listed; default: the "
        "configuration's crop and share of its batch, if any of it is given",
    )
    parser.add_argument("--setup", action="append", help="only this one, by name; may be repeated")
    parser.add_argument("--seconds", type=float, default=1.0, help="at least, for a measurement")
    parser.add_argument(
        "--width", type=int, help="of the network; default: that of the configuration"
    )
    parser.add_argument(
        "--threads", type=int, help="on a CPU; default: a worker's share of the cores"
    )
    return run_benchmark("generator", parser, arguments, run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
