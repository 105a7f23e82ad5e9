"""Results of several world sizes as one: efficiency, the model's fit and errors, the projection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.harness.result import Measurement, Result, write_result
from benchmarks.scaling.efficiency import (
    all_reduce_figures,
    message_figures,
    strong_figures,
    weak_figures,
)
from benchmarks.scaling.model_check import Check, check_model, error_figures
from benchmarks.scaling.projected_preset import JoinOptions, Projection, project
from benchmarks.scaling.projection import (
    ASSUMPTIONS,
    TARGET_GPUS,
    WHOLE_SCHEDULE,
    Projected,
)
from benchmarks.scaling.result import Measured, read_measured, require_joinable


def launch_all(workers: Sequence[int], arguments: list[str], output: Path) -> list[Path]:
    """Return one world size after another, each by a torchrun of its own; return their results.

    Every worker has one thread, at every world size: else the largest would be compared with one
    worker that has all cores. Raises RuntimeError for a launch that fails.
    """
    results = []
    for size in workers:
        path = results_folder(output) / f"workers-{size}.json"
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc_per_node={size}", "--module", "benchmarks.cluster", *arguments,
            "--train.threads=1", f"--output={path}",
        ]  # fmt: skip
        with tempfile.TemporaryFile("w+") as printed:  # the result, which the file has as well
            status = subprocess.run(
                command, stdout=printed, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
            ).returncode
        if status:
            raise RuntimeError(f"the launch of {size} workers has failed, see above")
        results.append(path)
    return results


def results_folder(output: Path) -> Path:
    """Of plots and of what belongs to the joined result besides."""
    return output.with_suffix("")


def join(paths: Sequence[Path], options: JoinOptions) -> Result:
    """Write the result, and beside it a page and a folder with plots and the whole projection.

    Raises ValueError for results that cannot be joined.
    """
    measured = sorted(map(read_measured, paths), key=lambda one: one.topology.workers)
    require_joinable(measured)
    check = check_model(measured)
    projection = project(options)
    figures = [
        *weak_figures(measured),
        *strong_figures(measured),
        *all_reduce_figures(measured),
        *message_figures(measured),
        *error_figures(check),
        *_headline(projection),
    ]
    parameters = _parameters(measured, projection, options)
    result = Result(
        measured[0].result.name, options.command, parameters, figures,
        hardware=measured[0].result.hardware, versions=measured[0].result.versions,
    )  # fmt: skip
    _write(result, measured, check, projection, options)
    return result


def _headline(projection: Projection) -> list[Measurement]:
    kind = "measured on a GPU" if projection.compute_time.is_measured else "assumed"
    found = []
    for one in projection.weak:
        if one.gpus == TARGET_GPUS and one.phase == WHOLE_SCHEDULE:
            name = f"{one.images} images a GPU, {one.fabric}, gradients in {one.gradients}"
            runs = [one.efficiency_unhidden, one.efficiency]
            group = (
                f"projected, computing {kind}: weak-scaling efficiency of {projection.preset} on "
                f"{TARGET_GPUS} GPUs, without and with all possible hiding"
            )
            found.append(Measurement.of_runs(group, name, "ratio", runs))
    return found


def _parameters(
    measured: Sequence[Measured], projection: Projection, options: JoinOptions
) -> dict[str, Any]:
    first = measured[0].result.parameters
    shared = {
        name: value
        for name, value in first.items()
        if all(one.result.parameters.get(name) == value for one in measured)
    }
    shared.pop("note", None)
    shared["configuration"] = " ".join(shared["configuration"])
    own = {
        "workers": [one.topology.workers for one in measured],
        "load average at the start of each": [
            one.result.parameters.get("load average at the start") for one in measured
        ],
        "what is projected": projection.preset,
        "computing of the projected GPUs": projection.compute_time.description,
        "other assumptions of the projection": "; ".join(ASSUMPTIONS),
    }
    return {**({"note": options.note} if options.note else {}), **shared, **own}


def _write(
    result: Result,
    measured: Sequence[Measured],
    check: Check,
    projection: Projection,
    options: JoinOptions,
) -> None:
    # Half a second to import: only when pictures are drawn.
    from benchmarks.cluster.page import page
    from benchmarks.cluster.plots import draw_all

    folder = results_folder(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    write_result(options.output, result)
    for name, content in draw_all(measured, check, projection).items():
        (folder / name).write_bytes(content)
    _write_json(folder / "projection.json", [*projection.weak, *projection.strong])
    text = page(result, measured, check, projection, folder.name)
    options.output.with_suffix(".md").write_text(text, encoding="utf-8")


def _write_json(path: Path, rows: Iterable[Projected]) -> None:
    lines = ",\n".join(json.dumps(asdict(row)) for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
