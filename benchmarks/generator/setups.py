"""The ways in which the completion network is run, and how fast each is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from benchmarks.generator.openvino_network import OpenVinoNetwork
from benchmarks.harness.device_peak import begin_peak_memory, peak_memory_bytes, synchronize
from pipeline.config.schema import CompletionConfig, Config
from pipeline.device.compilation import compile_
from pipeline.device.host_memory import keep_freed_memory
from pipeline.engines.ddp import AUTOCAST_TYPES
from pipeline.networks.folding import folded
from pipeline.networks.glcic import CompletionNetwork
from pipeline.networks.kernels.space_to_batch import NATIVE, SPACE_TO_BATCH
from pipeline.networks.kernels.winograd import DIRECT, WINOGRAD
from shards.format.recipe import PackRecipe

FORWARD, BOTH = "forward", "forward and backward"
OPENVINO = "openvino"
_WARM_UP = 3  # calls that are not measured: they allocate, compile and choose


@dataclass(frozen=True)
class Setup:
    """How the network runs; all fields at their defaults: as anyone would write it first."""

    precision: str = "fp32"  # or "bf16"; with OpenVINO also "int8"
    channels_last: bool = False
    # or "compile", "graph" (a CUDA graph); for inference alone "folded", "openvino"
    execution: str = "eager"
    dilation: str = NATIVE
    convolution: str = DIRECT
    keeps_memory: bool = False  # of a CPU: `keep_freed_memory`

    @property
    def trains(self) -> bool:
        return self.execution not in ("folded", OPENVINO)


PLAIN = Setup()
TUNED = Setup("bf16", channels_last=True, keeps_memory=True)  # what training does by default

CPU_SETUPS = {
    "plain: eager, fp32, NCHW": PLAIN,
    "fp32, channels_last": Setup(channels_last=True),
    "bf16, NCHW": Setup("bf16"),
    "bf16, channels_last": Setup("bf16", channels_last=True),
    "default: bf16, channels_last, memory kept": TUNED,
    "default, compiled": replace(TUNED, execution="compile"),
    "default, space to batch": replace(TUNED, dilation=SPACE_TO_BATCH),
    "default, Winograd": replace(TUNED, convolution=WINOGRAD),
    "default, batch norm folded": replace(TUNED, execution="folded"),
    "default, batch norm folded, Winograd": replace(
        TUNED, execution="folded", convolution=WINOGRAD
    ),
    "bf16, OpenVINO": Setup("bf16", execution=OPENVINO),
    "8 bits, OpenVINO": Setup("int8", execution=OPENVINO),
}
CUDA_SETUPS = {
    "plain: eager, fp32, NCHW": PLAIN,
    "fp32, channels_last": Setup(channels_last=True),
    "bf16, NCHW": Setup("bf16"),
    "bf16, channels_last": Setup("bf16", channels_last=True),
    "bf16, channels_last, compiled": Setup("bf16", True, "compile"),
    "bf16, channels_last, CUDA graph": Setup("bf16", True, "graph"),
    "bf16, channels_last, space to batch": Setup("bf16", True, dilation=SPACE_TO_BATCH),
    "bf16, channels_last, space to batch, compiled": Setup("bf16", True, "compile", SPACE_TO_BATCH),
    "bf16, channels_last, batch norm folded": Setup("bf16", True, "folded"),
}


@dataclass(frozen=True)
class Case:
    size: int  # pixels, square
    batch_size: int
    width: int  # of the network; the paper's is 64
    threads: int  # of torch on a CPU
    device: str

    @property
    def label(self) -> str:
        return f"{self.size} pixels, batch {self.batch_size}"


def config_of(case: Case) -> Config:
    return Config(
        pack=PackRecipe(crop_size=case.size), completion=CompletionConfig(width=case.width)
    )


@dataclass(frozen=True)
class Speed:
    """Images per second, by FORWARD and BOTH, and what it took in memory."""

    images_per_second: dict[str, float]
    peak_bytes: int  # CUDA: allocated; CPU: resident memory of the process, torch included


@dataclass(frozen=True)
class GeneratorMeasurement:
    """Called in a process of its own: settings of a process do not leak to other setups."""

    setup: Setup
    case: Case
    seconds: float

    def __call__(self) -> Speed:
        device = torch.device(self.case.device)
        if self not in _RUNNERS:
            _RUNNERS[self] = _runners(self.setup, self.case, device)
        begin_peak_memory(device)
        rates = {
            what: self.case.batch_size / _seconds(run, device, self.seconds)
            for what, run in _RUNNERS[self].items()
        }
        return Speed(rates, peak_memory_bytes(device))


_RUNNERS: dict[GeneratorMeasurement, dict[str, Callable[[], object]]] = {}  # of this process


def _runners(setup: Setup, case: Case, device: torch.device) -> dict[str, Callable[[], object]]:
    if device.type == "cpu":
        torch.set_num_threads(case.threads)
        if setup.keeps_memory:
            keep_freed_memory()
    else:
        torch.backends.cudnn.benchmark = True
    network = _network(setup, case, device)
    pixels = torch.rand(case.batch_size, 3, case.size, case.size, device=device)
    mask = torch.zeros(case.batch_size, 1, case.size, case.size, device=device)
    mask[..., : case.size // 3, : case.size // 3] = 1
    if setup.execution == OPENVINO:
        network = OpenVinoNetwork(cast(CompletionNetwork, network), setup.precision, pixels, mask)
    half = AUTOCAST_TYPES.get(setup.precision)
    autocast = torch.autocast(device.type, half, enabled=half is not None)

    def forward() -> Tensor:
        network.eval()
        with torch.no_grad(), autocast:
            return network(pixels, mask)

    def forward_and_backward() -> None:
        network.train()
        with autocast:
            output = network(pixels, mask)
        (output - pixels).square().mean().backward()
        for parameter in network.parameters():
            parameter.grad = None

    runs: dict[str, Callable[[], object]] = {FORWARD: forward}
    if setup.trains:
        runs[BOTH] = forward_and_backward
    if setup.execution == "graph":
        runs = {what: _record_graph(run) for what, run in runs.items()}
    for run in runs.values():
        for _ in range(_WARM_UP):
            run()
    return runs


def _network(setup: Setup, case: Case, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    network = CompletionNetwork(CompletionConfig(width=case.width)).to(device)
    network.dilation = setup.dilation
    if setup.execution == "folded":
        network = cast(CompletionNetwork, folded(network, setup.precision))
    network.set_convolution(setup.convolution)
    if not setup.trains:
        return network
    if setup.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if setup.execution == "compile":
        compile_(network)
    return network


def _record_graph(run: Callable[[], object]) -> Callable[[], object]:
    """Return one launch of all that `run` does on a GPU."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _seconds(run: Callable[[], object], device: torch.device, at_least_s: float) -> float:
    """Of one call: the mean of those that fill the time."""
    calls, taken = 0, 0.0
    synchronize(device)
    start = time.perf_counter()
    while taken < at_least_s:
        for _ in range(max(1, calls)):  # in doubling numbers, so that a GPU is rarely waited for
            run()
        calls = 2 * calls or 1
        synchronize(device)
        taken = time.perf_counter() - start
    return taken / calls
