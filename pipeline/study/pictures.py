"""The pictures of a study: sheets of the same samples by several arms, and curves."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipeline.evaluation.evaluate import evaluated_samples, sample_tensors
from pipeline.exports.network_folder import load_completion_network
from pipeline.networks.base import completed_by
from pipeline.reporting.image_grid import tile_grid
from pipeline.reporting.sample_sheets import blended_images, membranes
from pipeline.step.holes import composite
from pipeline.step.losses import error_map
from pipeline.study.definition import Study, StudyFigure, StudyRun
from pipeline.study.results import Results, curve
from shards.format.manifest import load_manifest
from shards.reading.in_order import read_in_order

_MAP_SCALE = 2.0  # of errors beside maps, as the maps are trained


def comparison_sheet(study: Study, figure: StudyFigure, runs: list[StudyRun]) -> Image.Image:
    """Validation samples, one row each: the input, what each of `runs` makes of it, the original.

    A network with maps is followed by its finest map and the error that this is to show. A figure
    with baselines also has each completion blended, and the membrane.
    """
    shards = runs[0].config.validation_shards
    samples = evaluated_samples(load_manifest(shards).num_samples("val"), study.sheet_images)
    batch = next(iter(read_in_order(shards, "val", samples, batch_size=len(samples))))
    images, masks = sample_tensors(batch, torch.device("cpu"))
    columns: list[tuple[str, Tensor]] = []
    for number, run in enumerate(runs):
        network = load_completion_network(run.config.run_folder, "raw", torch.device("cpu"))
        if not number:
            fill = network.fill_color.view(1, 3, 1, 1)  # type: ignore[operator]
            columns.append(("input", torch.where(masks > 0.5, fill, images)))
        with torch.inference_mode():
            raw, maps = completed_by(network, images, masks)
        label = _in_lines(study.arms[run.arm].label)
        completed = composite(raw, images, masks)
        if figure.sheet in ("raw", "both"):
            columns.append((f"{label}\nraw output", raw))
        if figure.sheet in ("completion", "both"):
            columns.append((f"{label}\ncompletion", completed))
        if figure.baselines:
            columns.append((f"{label}\nblended", blended_images(completed, masks)))
        if maps:
            columns.append(("its map", maps[-1]))
            columns.append(("its error", error_map(completed, images, _MAP_SCALE)))
    if figure.baselines:
        columns.append(("membrane", membranes(images, masks)))
    columns.append(("original", images))
    return tile_grid(columns, smallest_px=112)


def _in_lines(label: str) -> str:
    """Broken where there is a comma: columns are narrow."""
    return label.replace(", ", ",\n")


def _accuracy(record: dict[str, Any]) -> float | None:
    if "accuracy_real" not in record:
        return None
    return float(record["accuracy_real"] + record["accuracy_fake"]) / 2


def _reader(name: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda record: record.get(name)


# title -> what it shows of a record, and whether on a logarithmic scale
_PANELS: dict[str, tuple[Callable[[dict[str, Any]], float | None], bool]] = {
    "MSE in the hole (validation)": (_reader("evaluation_hole_mse"), True),
    "MSE of known pixels in the raw output (validation)": (
        _reader("evaluation_known_mse_of_raw"),
        True,
    ),
    "Accuracy of the discriminators (training)": (_accuracy, False),
}


def comparison_curves(study: Study, figure: StudyFigure, results: Results) -> bytes:
    """A PNG: means over the seeds as lines, from the lowest to the highest as bands."""
    from matplotlib.figure import Figure  # half a second to import: only when a picture is drawn

    drawing = Figure(figsize=(9, 2.5 * len(_PANELS)), layout="constrained")
    axes = drawing.subplots(len(_PANELS), 1, squeeze=False, sharex=True)[:, 0]
    for axis, (title, (read, logarithmic)) in zip(axes, _PANELS.items(), strict=True):
        for number, arm in enumerate(figure.arms):
            steps, spreads = curve(results, arm, read)
            if not steps:
                continue
            color = f"C{number}"
            label = study.arms[arm].label
            axis.plot(steps, [s.mean for s in spreads], color=color, label=label, linewidth=1.4)
            axis.fill_between(
                steps, [s.lowest for s in spreads], [s.highest for s in spreads],
                color=color, alpha=0.18, linewidth=0,
            )  # fmt: skip
        if logarithmic:
            axis.set_yscale("log")
        axis.set_title(title, fontsize=10, loc="left")
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    drawing.legend(handles, labels, fontsize=8, loc="outside upper center", ncols=4)
    axes[-1].set_xlabel("step")
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=80)
    return buffer.getvalue()


def as_jpeg(picture: Image.Image, quality: int = 85) -> bytes:
    """Pages stay small enough to keep with the source."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()
