"""Each layer of the completion network alone: how long it takes, and what bounds it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.generator.operation_counts import LayerCount, completion_counts
from benchmarks.generator.setups import Case, config_of
from benchmarks.harness.device_peak import Peak, synchronize
from benchmarks.harness.result import Table
from pipeline.config.schema import CompletionConfig
from pipeline.device.host_memory import keep_freed_memory
from pipeline.engines.ddp import AUTOCAST_TYPES
from pipeline.networks.glcic import CompletionNetwork, ConvolutionBlock

_WARM_UP, _REPEATS = 2, 5
COLUMNS = [
    "layer", "shape", "GFLOP", "ms", "share", "norm, ReLU, ms", "GFLOP/s", "bound by", "of bound"
]  # fmt: skip


@dataclass(frozen=True)
class LayerTime:
    """In one direction, for the whole batch; medians."""

    count: LayerCount
    flops: int
    moved_bytes: int  # at least: each operand once
    seconds: float  # the convolution
    activation_seconds: float  # batch norm and ReLU; 0 for the last layer, which has neither

    @property
    def intensity(self) -> float:
        """Operations for each byte that has to be moved."""
        return self.flops / self.moved_bytes

    def bound_seconds(self, peak: Peak) -> dict[str, float]:
        return {
            "arithmetic": self.flops / (peak.convolution_tflops * 1e12),
            "memory": self.moved_bytes / (peak.memory_gb_per_s * 1e9),
        }


def time_layers(case: Case, precision: str) -> dict[str, list[LayerTime]]:
    """By direction, "forward" and "backward"; in the layout that training has, memory kept."""
    device = torch.device(case.device)
    if device.type == "cpu":
        torch.set_num_threads(case.threads)
        keep_freed_memory()
    dtype = AUTOCAST_TYPES.get(precision, torch.float32)
    network = CompletionNetwork(CompletionConfig(width=case.width)).to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    config = config_of(case)
    times: dict[str, list[LayerTime]] = {"forward": [], "backward": []}
    for count in completion_counts(config, network):
        block = network.get_submodule(count.name.removesuffix(".conv"))
        measured = _time_layer(block, count, case, dtype)
        element_bytes = dtype.itemsize
        forward_bytes = count.bytes_moved(case.batch_size, element_bytes)
        # Backward the output's gradient and the input are read and the input's gradient is written,
        # and so are two forms of the weights.
        for direction, flops, moved in (
            ("forward", count.forward_flops, forward_bytes),
            ("backward", count.backward_flops(inputs=not count.sees_input), 2 * forward_bytes),
        ):
            seconds, activation_seconds = measured[direction]
            times[direction].append(
                LayerTime(count, flops * case.batch_size, moved, seconds, activation_seconds)
            )
    return times


def _time_layer(
    block: nn.Module, count: LayerCount, case: Case, dtype: torch.dtype
) -> dict[str, tuple[float, float]]:
    """By direction: seconds of the convolution, and of what follows it."""
    device = torch.device(case.device)
    conv = cast(nn.Module, block.conv).to(dtype)
    given = _random(case, count.input_shape, dtype).requires_grad_(not count.sees_input)
    convolve = block.convolve if isinstance(block, ConvolutionBlock) else conv
    output = convolve(given)
    slope = _random(case, count.output_shape, dtype)
    wanted = [*conv.parameters()] + ([] if count.sees_input else [given])
    forward_s = _median_seconds(lambda: convolve(given), device)
    backward_s = _median_seconds(
        lambda: torch.autograd.grad(output, wanted, slope, retain_graph=True), device
    )
    if not isinstance(block, ConvolutionBlock):
        return {"forward": (forward_s, 0.0), "backward": (backward_s, 0.0)}
    norm = block.norm
    features = output.detach().requires_grad_()

    def activate() -> Tensor:
        return torch.relu_(norm(features))

    active = activate()
    activate_s = _median_seconds(activate, device)
    back_s = _median_seconds(
        lambda: torch.autograd.grad(
            active, [features, *norm.parameters()], slope, retain_graph=True
        ),
        device,
    )
    return {"forward": (forward_s, activate_s), "backward": (backward_s, back_s)}


def _random(case: Case, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    values = torch.randn(case.batch_size, *shape, device=case.device).to(dtype)
    return values.to(memory_format=torch.channels_last)


def _median_seconds(call: Callable[[], Any], device: torch.device) -> float:
    taken = []
    for _ in range(_WARM_UP + _REPEATS):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[_WARM_UP:])


def layer_table(direction: str, times: list[LayerTime], peak: Peak) -> Table:
    """Return one row a layer: its bound is the longer of what its operations and its bytes take at
    the measured peaks of convolutions and memory.
    """
    whole = sum(layer.seconds + layer.activation_seconds for layer in times)
    rows = []
    for layer in times:
        bounds = layer.bound_seconds(peak)
        bound = max(bounds, key=bounds.__getitem__)
        rows.append([
            layer.count.name.removesuffix(".conv"),
            _shape(layer.count),
            f"{layer.flops / 1e9:.3g}",
            f"{1e3 * layer.seconds:.3g}",
            f"{layer.seconds / whole:.1%}",
            f"{1e3 * layer.activation_seconds:.3g}",
            f"{layer.flops / layer.seconds / 1e9:,.0f}",
            bound,
            f"{bounds[bound] / layer.seconds:.0%}",
        ])  # fmt: skip
    activations = sum(layer.activation_seconds for layer in times)
    flops = sum(layer.flops for layer in times)
    rows.append([
        "all", "", f"{flops / 1e9:.3g}", f"{1e3 * whole:.3g}", "100%", f"{1e3 * activations:.3g}",
        "", "", "",
    ])  # fmt: skip
    return Table(f"layers, {direction}", COLUMNS, rows)


def _shape(count: LayerCount) -> str:
    (into, side, _), (out, after, _) = count.input_shape, count.output_shape
    return f"{into} x {side}² to {out} x {after}²"
