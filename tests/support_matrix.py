"""Writes docs/support-matrix.md from what the engines' tests find when they run.

`python -m tests.support_matrix` runs them, with two workers on this machine. `--results FILE` takes
the `engines.json` that a run of theirs has left.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.pipeline.engines.engine_results import (
    TOLERANCE,
    engine_results,
    step_agrees,
    whole_agrees,
)
from tests.pipeline.engines.engine_trials import CELLS, TOTAL_STEPS
from tests.torchrun import ROOT

OUTPUT = ROOT / "docs" / "support-matrix.md"
_PHASES = ("completion", "discriminator", "joint")
_NOT_RUN = "not yet run"
_COLUMNS = (
    "engine", "device", "precision", "workers", "phase", "one step: figures", "one step: state",
    "whole run: figures", "saved and resumed",
)  # fmt: skip


def table(columns: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell_rows(results: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for row in results["cells"]:
        cell = f"{_name(row)}-{row['precision']}"
        different = results["different_after_resume"][f"{cell} {row['phase']}"]
        sensitivity = results["sensitivity"][_PHASES.index(row["phase"])]
        agrees = step_agrees(row)
        yield (
            _name(row), "CPU", row["precision"], str(row["workers"]), row["phase"],
            _verdict(agrees, row["figures"]), _verdict(agrees, row["state"]),
            _verdict(whole_agrees(row, sensitivity), row["whole_figures"]),
            f"FAILED: {len(different)} tensors" if different else "passed, to the bit",
        )  # fmt: skip


def cuda_rows() -> Iterator[tuple[str, ...]]:
    """One for each engine and precision: none of them has been run on a GPU."""
    for cell in CELLS:
        engine = _name({"engine": cell.engine, "zero_stage": cell.zero_stage})
        yield (engine, "CUDA", cell.precision, "any", "all", *[_NOT_RUN] * 4)


def further_rows(results: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for settings, rows in results["further"].items():
        for row in rows:
            agrees = step_agrees(row)
            yield (
                settings, _name(row), row["phase"],
                _verdict(agrees, row["figures"]), _verdict(agrees, row["state"]),
            )  # fmt: skip


def change_rows(results: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for row in results["changes"]:
        saved = "one worker" if row["saved_by"] == "alone" else row["saved_by"]
        verdict = _verdict(row["state"] <= TOLERANCE, row["state"])
        yield (saved, row["continued_by"], verdict)


def skip_rows(results: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for cell, found in results["skips"].items():
        for step in found["steps"]:
            left_out = set(step["skipped"].values()) == {1.0} and not step["changed"]
            yield (cell, step["phase"], "passed" if left_out else f"FAILED: {step}")


def _name(row: dict[str, Any]) -> str:
    stage = f"-{row['zero_stage']}" if row["engine"] == "deepspeed" else ""
    return f"{row['engine']}{stage}"


def _verdict(passed: bool, deviation: float) -> str:
    return f"{'passed' if passed else 'FAILED'}, {deviation:.1e}"


def document(results: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    last_bit = ", ".join(
        f"{value:.1e} ({phase})"
        for phase, value in zip(_PHASES, results["sensitivity"], strict=True)
    )
    return f"""# What was tested

Written by `python -m tests.support_matrix` from the results of the engines' tests; nothing in it is
entered by hand. Run with {versions}.

Numbers are the largest relative deviations from `ddp` on two workers. *One step*: from the same
checkpoint, a step of that phase; *figures* are losses and gradient norms, *state* is every tensor
of the checkpoint, relative to its largest value (but for biases that batch norm takes away again:
their gradients are rounding noise); passed is what stays within {TOLERANCE:.0e}.
*Whole run*: {TOTAL_STEPS} steps through all phases; passed is what stays within the deviation of
`ddp` from itself when its images are off by the last bit: {last_bit}.
*Saved and resumed*: from a checkpoint inside that phase, every tensor at the end against the run
that was not interrupted.

{table(_COLUMNS, cell_rows(results))}

Without a GPU these have not been run:

{table(_COLUMNS, cuda_rows())}

## Further settings

fp32, two workers, one step of each phase from the checkpoint of `ddp` under the same settings. With
`channels_last`, stages 1 and 2 compute with weights in rows (see [engines](engines.md)), so their
rounding is another; passed is wider there.

{table(("settings", "engine", "phase", "figures", "state"), further_rows(results))}

## A run that changes its engine

The state after the next step against that of `ddp`.

{table(("saved by", "continued by", "state"), change_rows(results))}

## Updates that are not finite

The images of one rank are not finite: every rank leaves the update out; parameters, optimizer and
running statistics stay as they were, to the bit.

{table(("run", "phase", "left out"), skip_rows(results))}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, metavar="FILE", help="engines.json of a run")
    options = parser.parse_args()
    if options.results:
        results = json.loads(options.results.read_text())
    else:
        with tempfile.TemporaryDirectory() as folder:
            results = engine_results(Path(folder))
    OUTPUT.write_text(document(results))
    print(f"written to {OUTPUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
