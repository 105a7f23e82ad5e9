"""A joined result as a page: measured, modelled, projected, and what each of them cannot tell."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence

from benchmarks.harness.result import Measurement, Result
from benchmarks.scaling.loading_demand import Loading
from benchmarks.scaling.model_check import Check, Prediction, fitted_worlds
from benchmarks.scaling.projected_preset import Projection
from benchmarks.scaling.projection import (
    ASSUMPTIONS,
    FABRICS,
    GPUS,
    GPUS_OF_A_NODE,
    GRADIENTS,
    INFINIBAND,
    TARGET_EFFICIENCY,
    TARGET_GPUS,
    WHOLE_SCHEDULE,
    Projected,
    images_for_target,
)
from benchmarks.scaling.result import Measured
from pipeline.config.schedule import Phase

_TARGET = f"{100 * TARGET_EFFICIENCY:.0f} %"
_COLUMNS = (8, 16, 32, 64, 128, 256, 512, 1024)


def page(
    result: Result, measured: Sequence[Measured], check: Check, projection: Projection, folder: str
) -> str:
    sections = [
        _head(result, projection),
        _measured_section(result, measured, folder),
        _model_section(measured, check, folder),
        _projection_section(projection, folder),
        _demand_section(projection),
        _assumptions_section(projection),
    ]
    return "\n".join("\n".join(section) for section in sections)


def _head(result: Result, projection: Projection) -> Iterator[str]:
    yield "# How training scales\n"
    yield f"Written by `{result.command}`; do not edit.\n"
    yield "- **Measured** here: steps and all-reduces of the next section, and nothing else."
    if projection.compute_time.is_measured:
        yield "- The projection computes as **measured** on one GPU; its links are **assumed**."
    else:
        yield "- The projection is **assumed, not measured**: no step of it ran on a GPU."
    yield f"\n{_verdict(projection)}\n"


def _verdict(projection: Projection) -> str:
    """Return whether the target is reached, and what would have to change where it is not."""
    lines = [
        f"**{TARGET_GPUS} GPUs over {INFINIBAND}**, weak scaling of the whole schedule of "
        f"`{projection.preset}`, gradients in fp32; from no exchange hidden behind the backward to "
        "all that can be:"
    ]
    for images in projection.images:
        row = _row(projection.weak, INFINIBAND, "fp32", images, TARGET_GPUS, WHOLE_SCHEDULE)
        reached = row.efficiency_unhidden >= TARGET_EFFICIENCY
        partly = row.efficiency >= TARGET_EFFICIENCY
        verdict = "reaches" if reached else "reaches, if enough is hidden," if partly else "misses"
        lines.append(f"\n- {images} images a GPU: {_range(row)}; it {verdict} {_TARGET}")
    lines += [
        f"\n\n{_TARGET} on {TARGET_GPUS} GPUs takes, in images a GPU (all hiding / "
        "none):\n\n| link between nodes | fp32 | bf16 |\n|---|---:|---:|"
    ]
    for fabric in FABRICS:
        cells = []
        for gradients in GRADIENTS:
            needed = [
                images_for_target(
                    projection.config,
                    projection.work,
                    projection.compute_time,
                    fabric,
                    gradients,
                    overlap=share,
                )
                for share in (1.0, 0.0)
            ]
            cells.append(" / ".join(str(count or "more than 1,024") for count in needed))
        lines.append(f"\n| {fabric} | {' | '.join(cells)} |")
    lines.append(
        "\n\nWith fewer, what is missing has to come from gradients in bf16, a faster link between "
        "nodes, or more images a GPU in micro-batches: the exchange comes once a batch."
    )
    return "".join(lines)


def _measured_section(result: Result, measured: Sequence[Measured], folder: str) -> Iterator[str]:
    first, hardware = measured[0], result.hardware
    loads = ", ".join(map(str, result.parameters["load average at the start of each"]))
    sizes = ", ".join(str(one.topology.workers) for one in measured)
    yield "## Measured\n"
    yield (
        f"World sizes {sizes}; {first.device}, {hardware.cpu}, {hardware.cores} cores, "
        f"{first.result.parameters['backend']}; load at the start of each launch: {loads}. "
        f"Configuration: `{' '.join(first.result.parameters['configuration'])}`.\n"
    )
    if note := result.parameters.get("note"):
        yield f"Note: {note}.\n"
    if first.device == "CPU":
        yield (
            "Workers on one machine share its memory, caches and clock, and gloo's sums run on the "
            "cores that compute. So the crowding and the hiding found here say nothing of "
            "GPUs; what can be carried over is the form of the model, and that its parts add up.\n"
        )
    yield f"![efficiency]({folder}/efficiency.png)\n"
    for prefix in ("weak scaling", "strong scaling", "share of a step"):
        for group in dict.fromkeys(f.group for f in result.figures if f.group.startswith(prefix)):
            yield from _figure_table(group, [f for f in result.figures if f.group == group])
    yield f"![all-reduce]({folder}/all-reduce.png)\n"


def _figure_table(group: str, figures: Sequence[Measurement]) -> Iterator[str]:
    yield f"| {group} | median | lowest | highest |"
    yield "|---|---:|---:|---:|"
    for one in figures:
        yield f"| {one.name} | {one.median:.2f} | {one.minimum:.2f} | {one.maximum:.2f} |"
    yield ""


def _model_section(measured: Sequence[Measured], check: Check, folder: str) -> Iterator[str]:
    model = check.model
    worlds = ", ".join(map(str, sorted(fitted_worlds(measured))))
    yield "## The model and its error\n"
    yield (
        f"Fitted to steps of {worlds} workers with the fewest and the most images, and to every "
        "second message. Where it was not fitted:\n"
    )
    yield "| | points | median error | largest |"
    yield "|---|---:|---:|---:|"
    held_out = check.held_out()
    for name, points in _kinds(check):
        errors = [100 * abs(point.error) for point in points]
        middle = statistics.median(errors)
        yield f"| {name} | {len(errors)} | {middle:.1f} % | {max(errors):.1f} % |"
    if not held_out:
        yield "| no point was left to hold it against | 0 | | |"
    yield f"\n![the model's error]({folder}/model.png)\n"
    yield "| fitted | |"
    yield "|---|---|"
    for phase, compute_time in model.compute_time.items():
        yield (
            f"| computing, {phase.value} | {1e3 * compute_time.fixed_s:.2f} ms a step, "
            f"{1e3 * compute_time.per_image_s:.2f} ms an image |"
        )
    for within, factor in sorted(model.crowding.items()):
        yield (
            f"| crowding, {within} workers a node | fixed part {factor.fixed:.2f} times as long, "
            f"images {factor.per_image:.2f} times |"
        )
    if any(one.messages for one in measured):
        for name, link in (
            ("inside a node", model.link_model.inside),
            ("between", model.link_model.between),
        ):
            if link is not None and math.isfinite(link.bytes_per_s):
                yield (
                    f"| link, {name} | {1e6 * link.latency_s:.0f} microseconds a message, "
                    f"{link.bytes_per_s / 1e6:,.0f} MB/s |"
                )
        yield f"| exchange | {_hiding(model.overlap)} |"
    yield "\n| point | workers | measured, ms | model, ms | error | |"
    yield "|---|---:|---:|---:|---:|---|"
    for point in check.predictions:
        yield (
            f"| {point.name}{', no all_reduce' if point.kind.endswith('all_reduce') else ''} | "
            f"{point.workers} | {1e3 * point.measured_s:.2f} | {1e3 * point.predicted_s:.2f} | "
            f"{100 * point.error:+.1f} % | {'fitted' if point.fitted else ''} |"
        )
    yield ""


def _hiding(overlap: float) -> str:
    if overlap >= 0:
        return f"{100 * overlap:.0f} % of what the buckets allow is hidden"
    return (
        f"nothing is hidden: it takes {1 - overlap:.1f} times what the buckets would allow to hide"
    )


def _kinds(check: Check) -> Iterator[tuple[str, list[Prediction]]]:
    held_out = check.held_out()
    for workers, kind in dict.fromkeys((one.workers, one.kind) for one in held_out):
        points = [one for one in held_out if (one.workers, one.kind) == (workers, kind)]
        yield f"{kind} of {workers} {'worker' if workers == 1 else 'workers'}", points
    if held_out:
        yield "all of them", held_out


def _projection_section(projection: Projection, folder: str) -> Iterator[str]:
    yield f"## Projected: {projection.preset}\n"
    yield (
        "Efficiency in per cent, from no exchange hidden to all that the order of the buckets "
        f"allows. The GPU's computing: {projection.compute_time.description}.\n"
    )
    yield f"![projection]({folder}/projection.png)\n"
    counts = [gpus for gpus in _COLUMNS if gpus in GPUS]
    for images in projection.images:
        for gradients in GRADIENTS:
            title = f"weak, {images} images a GPU, {gradients}"
            yield from _pivot(projection.weak, title, gradients, counts, images)
    batch_size = projection.config.train.batch_size
    strong = sorted({row.gpus for row in projection.strong if row.gpus > 1})
    for gradients in GRADIENTS:
        title = f"strong, {batch_size} images in all, {gradients}"
        yield from _pivot(projection.strong, title, gradients, strong, None)


def _pivot(
    rows: Sequence[Projected], title: str, gradients: str, counts: Sequence[int], images: int | None
) -> Iterator[str]:
    yield f"| {title} | phase | " + " | ".join(f"{gpus:,} GPUs" for gpus in counts) + " |"
    yield "|---|---|" + "---:|" * len(counts)
    for fabric in FABRICS:
        for phase in (*(phase.value for phase in Phase), WHOLE_SCHEDULE):
            cells = [_range(_row(rows, fabric, gradients, images, n, phase)) for n in counts]
            yield f"| {fabric} | {phase} | " + " | ".join(cells) + " |"
    yield ""


def _row(
    rows: Iterable[Projected],
    fabric: str,
    gradients: str,
    images: int | None,
    gpus: int,
    phase: str,
) -> Projected:
    return next(
        row
        for row in rows
        if (row.fabric, row.gradients, row.gpus, row.phase) == (fabric, gradients, gpus, phase)
        and images in (None, row.images)
    )


def _range(row: Projected) -> str:
    low, high = round(100 * row.efficiency_unhidden), round(100 * row.efficiency)
    return f"{low} %" if low == high else f"{low} to {high} %"


def _demand_section(projection: Projection) -> Iterator[str]:
    yield f"## What loading and storage have to deliver, a node of {GPUS_OF_A_NODE} GPUs\n"
    if projection.loading is None:
        yield "Not computed: benchmarks/results/loader.json is not there.\n"
        return
    yield _loading_text(projection.loading)
    yield "| images a GPU | phase | images/s | cores | MB/s from the store, until it is cached |"
    yield "|---:|---|---:|---:|---:|"
    for images, rows in projection.demands.items():
        for row in rows:
            yield (
                f"| {images} | {row.phase} | {row.images_per_s:,.0f} | {row.cores:.1f} | "
                f"{row.megabytes_per_s:,.0f} |"
            )
    yield "\nFor N nodes the store has to deliver N times as much, less what the exchange costs.\n"


def _loading_text(loading: Loading) -> str:
    return (
        f"{loading.images_per_core_s:,.0f} images/s a core, {loading.image_bytes / 1e3:.1f} kB an "
        f"image: {loading.description}. Other cores and photographs differ.\n"
    )


def _assumptions_section(projection: Projection) -> Iterator[str]:
    yield "## Assumptions of the projection\n"
    for assumption in (projection.compute_time.description, *ASSUMPTIONS):
        yield f"- {assumption}"
    yield ""
