"""The devices of the workers: which is whose, what runs on it, and what it does at most."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple
from functools import partial
from multiprocessing import get_context

import torch

from benchmarks.generator.openvino_network import missing_package
from benchmarks.generator.setups import OPENVINO, Case, Setup
from benchmarks.harness.device_peak import Peak, measured_peak
from benchmarks.harness.launched_workers import Workers
from benchmarks.harness.result import Table
from benchmarks.harness.rounds import Measured
from pipeline.device.compilation import require_compiler
from pipeline.networks.kernels.winograd import WINOGRAD


def require_gpus(workers: Workers) -> None:
    found = torch.cuda.device_count()
    if not found:
        raise ValueError("--device cuda: torch finds no GPU here")
    if workers.local_world_size > found:
        raise ValueError(
            f"{workers.local_world_size} workers were started on this machine, which has {found} "
            f"GPUs; start --nproc_per_node={found}"
        )


def leave_own_gpu_to_children(workers: Workers) -> None:
    """Processes that are started from now on see this worker's GPU alone, and call it `cuda`."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    own = visible[workers.local_rank] if visible[0] else str(workers.local_rank)
    os.environ["CUDA_VISIBLE_DEVICES"] = own


def lacking_setups(setups: Mapping[str, Setup], device: str) -> dict[str, str]:
    """Return those that would fail on this machine, each with the reason: a lean image has no
    compiler.
    """
    reasons = {name: _lacks(setup, device) for name, setup in setups.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def _lacks(setup: Setup, device: str) -> str:
    if setup.execution == OPENVINO and (package := missing_package()):
        return f"{package} is not installed"
    if setup.execution == "compile" or setup.convolution == WINOGRAD:
        try:
            require_compiler(torch.device(device), "this setup", "")
        except RuntimeError as error:
            return str(error).partition(";")[0]
    return ""


def measured_peaks(
    case: Case, precisions: Iterable[str], seconds: float, workers: Workers
) -> dict[str, list[Peak]]:
    """By precision and rank, of all devices at once. Collective: every rank must call."""
    return {
        one: workers.each(partial(in_subprocess, partial(_peak, case, one, seconds)))
        for one in precisions
    }


def median_peak(peaks: list[Peak]) -> Peak:
    """Of each kind that of the median worker."""
    return Peak(*(statistics.median(values) for values in zip(*map(astuple, peaks), strict=True)))


def peak_table(precision: str, peaks: list[Peak], workers: Workers) -> list[Table]:
    found = []
    for what, unit, values in (
        ("convolution", "TFLOP/s", [peak.convolution_tflops for peak in peaks]),
        ("copy in memory", "GB/s", [peak.memory_gb_per_s for peak in peaks]),
    ):
        found += workers.table(f"workers: peaks of the device, {precision}, {what}", unit, [values])
    return found


def _peak(case: Case, precision: str, seconds: float) -> Peak:
    if case.device == "cpu":
        torch.set_num_threads(case.threads)
    return measured_peak(torch.device(case.device), precision, seconds)


def in_subprocess(call: Callable[[], Measured]) -> Measured:
    """In a process of its own, which leaves neither threads nor memory behind."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(call).result()
