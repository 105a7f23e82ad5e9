"""The plots of a joined result: what was measured, where the model errs, what it projects."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.scaling.efficiency import efficiency_runs, weak_sizes
from benchmarks.scaling.model_check import Check
from benchmarks.scaling.projected_preset import Projection
from benchmarks.scaling.projection import (
    FABRICS,
    TARGET_EFFICIENCY,
    TARGET_GPUS,
    WHOLE_SCHEDULE,
    Projected,
)
from benchmarks.scaling.result import Measured
from pipeline.config.schedule import Phase

_PHASE_COLORS = {"completion": "#3572a5", "discriminator": "#d9822b", "joint": "#3f9142"}
_MUTED = "#555555"


def draw_all(
    measured: Sequence[Measured], check: Check, projection: Projection
) -> dict[str, bytes]:
    """PNGs by file name."""
    return {
        "efficiency.png": draw_efficiency(measured),
        "all-reduce.png": draw_all_reduce(measured, check),
        "model.png": draw_model(check),
        "projection.png": draw_projection(projection),
    }


def draw_efficiency(measured: Sequence[Measured]) -> bytes:
    batch_size = measured[0].config.train.batch_size
    sizes = weak_sizes(measured)
    images = sizes[-1] if sizes else 0
    panels: dict[str, Callable[[Measured], tuple[int, int]]] = {
        f"Weak scaling, {images} images a worker": lambda one: (images, images),
        f"Strong scaling, {batch_size} images in all": lambda one: (
            batch_size,
            batch_size // one.topology.workers if batch_size % one.topology.workers == 0 else 0,
        ),
    }
    figure, axes = _figure(1, 2, 3.4)
    for axis, (title, share) in zip(axes, panels.items(), strict=True):
        for phase in Phase:
            points = [
                (one.topology.workers, efficiency_runs(measured[0], one, phase, *share(one)))
                for one in measured
            ]
            _with_spread(axis, [point for point in points if point[1]], phase.value)
        axis.axhline(1, color=_MUTED, linewidth=0.8)
        _worker_axis(axis, [one.topology.workers for one in measured], "workers")
        axis.set_ylabel("efficiency, measured")
        axis.set_ylim(0, 1.15)
        _finish(axis, title)
    return _png(figure)


def draw_all_reduce(measured: Sequence[Measured], check: Check) -> bytes:
    figure, axes = _figure(1, 2, 3.4)
    for one in measured[1:]:
        workers = one.topology.workers
        sizes = [message.num_bytes for message in one.messages]
        predicted = [check.model.link_model.all_reduce_s(size, one.topology) for size in sizes]
        times = [message.seconds for message in one.messages]
        for axis, values, model in (
            (axes[0], [1e3 * t for t in times], [1e3 * t for t in predicted]),
            (axes[1], _bus(sizes, times, workers), _bus(sizes, predicted, workers)),
        ):
            (line,) = axis.plot(sizes, values, "o", markersize=4, label=f"{workers} workers")
            axis.plot(sizes, model, color=line.get_color(), linewidth=1.2, label="model")
    for axis, title, unit in (
        (axes[0], "All-reduce: time", "ms"),
        (axes[1], "All-reduce: bus bandwidth", "MB/s"),
    ):
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xlabel("bytes")
        axis.set_ylabel(unit)
        ticks = [2**power for power in (10, 15, 20, 25)]
        axis.set_xticks(ticks, ["1 KiB", "32 KiB", "1 MiB", "32 MiB"])
        _finish(axis, title, legend=len(measured) > 1)
    return _png(figure)


def _bus(sizes: Sequence[int], times: Sequence[float], workers: int) -> list[float]:
    factor = 2 * (workers - 1) / workers / 1e6
    return [factor * size / time for size, time in zip(sizes, times, strict=True)]


def draw_model(check: Check) -> bytes:
    """Each point's error beside its measured time; what the model has seen is hollow."""
    from matplotlib.ticker import NullFormatter

    figure, axes = _figure(1, 2, 3.4)
    for axis, title, messages in (
        (axes[0], "The model's error: steps", False),
        (axes[1], "The model's error: all-reduces", True),
    ):
        points = [p for p in check.predictions if (p.kind == "all-reduces") is messages]
        for workers in sorted({point.workers for point in points}):
            color = f"C{workers.bit_length() - 1}"
            for fitted in (True, False):
                own = [p for p in points if p.workers == workers and p.fitted is fitted]
                axis.plot(
                    [1e3 * p.measured_s for p in own], [100 * p.error for p in own], "o",
                    color=color, markersize=5, markerfacecolor="none" if fitted else color,
                    label=f"{workers} {'worker' if workers == 1 else 'workers'}, "
                    + ("fitted" if fitted else "not fitted"),
                )  # fmt: skip
        axis.axhline(0, color=_MUTED, linewidth=0.8)
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("measured, ms")
        axis.set_ylabel("model above measured, %")
        _finish(axis, title, legend=bool(points))
    return _png(figure)


def draw_projection(projection: Projection) -> bytes:
    """Whole schedule, a row for each number of images a GPU; a band from no hiding to all."""
    rows = list(projection.images)
    figure, axes = _figure(len(rows), 2, 3.2)
    for row, images in enumerate(rows):
        for column, gradients in enumerate(("fp32", "bf16")):
            axis = axes[2 * row + column]
            for number, fabric in enumerate(FABRICS):
                _band(axis, projection.weak, fabric, gradients, images, f"C{number}")
            axis.axhline(TARGET_EFFICIENCY, color=_MUTED, linewidth=0.8, linestyle="--")
            axis.axvline(TARGET_GPUS, color=_MUTED, linewidth=0.8, linestyle=":")
            gpus = sorted({one.gpus for one in projection.weak})
            _worker_axis(axis, gpus, "GPUs")
            axis.set_ylim(0, 1.05)
            axis.set_ylabel("weak efficiency, projected")
            _finish(axis, f"{images} images a GPU, gradients in {gradients}", legend=False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    kind = "measured" if projection.compute_time.is_measured else "assumed, not measured"
    figure.suptitle(
        f"{projection.preset}, whole schedule; the GPU's computing is {kind}; "
        "bands: from no hiding to all that is possible",
        fontsize=9, color=_MUTED,
    )  # fmt: skip
    return _png(figure)


def _band(
    axis: Any, rows: Sequence[Projected], fabric: str, gradients: str, images: int, color: str
) -> None:
    own = [
        row
        for row in rows
        if (row.fabric, row.gradients, row.images, row.phase)
        == (fabric, gradients, images, WHOLE_SCHEDULE)
    ]
    gpus = [row.gpus for row in own]
    low, high = [row.efficiency_unhidden for row in own], [row.efficiency for row in own]
    axis.fill_between(gpus, low, high, color=color, alpha=0.2, linewidth=0)
    axis.plot(gpus, high, color=color, linewidth=1.4, label=fabric)


def _with_spread(axis: Any, points: Sequence[tuple[int, list[float]]], phase: str) -> None:
    workers = [count for count, _ in points]
    middle = [sorted(runs)[len(runs) // 2] for _, runs in points]
    below = [value - min(runs) for value, (_, runs) in zip(middle, points, strict=True)]
    above = [max(runs) - value for value, (_, runs) in zip(middle, points, strict=True)]
    axis.errorbar(
        workers, middle, yerr=[below, above], marker="o", markersize=4, capsize=3,
        linewidth=1.4, color=_PHASE_COLORS[phase], label=phase,
    )  # fmt: skip


def _worker_axis(axis: Any, counts: Sequence[int], name: str) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(list(counts), [f"{count:,}" for count in counts], fontsize=8)
    axis.set_xlabel(name)


def _figure(rows: int, columns: int, height: float) -> tuple[Any, list[Any]]:
    from matplotlib.figure import (
        Figure,  # half a second to import: only when a picture is drawn
    )

    figure = Figure(figsize=(9, height * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _finish(axis: Any, title: str, *, legend: bool = True) -> None:
    axis.set_title(title, fontsize=10, loc="left")
    axis.grid(alpha=0.3)
    if legend:
        axis.legend(fontsize=8, loc="best")


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
