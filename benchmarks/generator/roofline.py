"""Layers under the roofs that memory and arithmetic are."""

from __future__ import annotations

import io
from typing import Any

from benchmarks.generator.layer_times import LayerTime
from benchmarks.harness.device_peak import Peak

_COLORS = {"forward": "#1f77b4", "backward": "#d95f02"}
_NAMED = 4  # layers of each direction that are named: those farthest below their roof


def draw_roofline(times: dict[str, list[LayerTime]], peak: Peak, title: str) -> bytes:
    """A PNG: each convolution at its operations per byte and the rate that it reached."""
    from matplotlib.figure import Figure  # half a second to import

    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.subplots()
    layers = [layer for direction in times.values() for layer in direction]
    ridge = peak.convolution_tflops / (peak.memory_gb_per_s / 1e3)
    left = min(ridge / 4, *(layer.intensity / 2 for layer in layers))
    right = max(layer.intensity for layer in layers) * 2
    bandwidth = peak.memory_gb_per_s / 1e3  # TFLOP/s at one operation a byte
    for roof, name, style in (
        (peak.convolution_tflops, "convolution", "-"),
        (peak.matrix_tflops, "matrix product", "--"),
    ):
        ridge = roof / bandwidth
        axis.plot(
            [left, ridge, right], [left * bandwidth, roof, roof], style, color="#555555",
            label=f"{name}: {roof:.3g} TFLOP/s", linewidth=1.2,
        )  # fmt: skip
    axis.plot([], [], " ", label=f"memory: {peak.memory_gb_per_s:.0f} GB/s")
    for direction, own in times.items():
        axis.scatter(
            [layer.intensity for layer in own], [_rate(layer) for layer in own], s=36,
            color=_COLORS[direction], label=direction, alpha=0.8, zorder=3,
        )  # fmt: skip
        _name(axis, own, peak, _COLORS[direction])
    axis.set(xscale="log", yscale="log", xlim=(left, right), title=title)
    axis.set_xlabel("operations per byte, each operand moved once")
    axis.set_ylabel("TFLOP/s")
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize=8, loc="lower right")
    png = io.BytesIO()
    figure.savefig(png, dpi=110)
    return png.getvalue()


def _name(axis: Any, layers: list[LayerTime], peak: Peak, color: str) -> None:
    def of_the_bound(layer: LayerTime) -> float:
        return max(layer.bound_seconds(peak).values()) / layer.seconds

    for layer in sorted(layers, key=of_the_bound)[:_NAMED]:
        axis.annotate(
            layer.count.name.removesuffix(".conv"), (layer.intensity, _rate(layer)),
            xytext=(5, -9), textcoords="offset points", fontsize=7, color=color,
        )  # fmt: skip


def _rate(layer: LayerTime) -> float:
    return layer.flops / layer.seconds / 1e12
