"""For torchrun, on two workers: every engine beside the default one, in one process group.

    torchrun --nproc_per_node=2 tests/pipeline/engines/engines_job.py SHARDS FOLDER

Writes FOLDER/engines.json. FOLDER/alone may hold the checkpoints of a run by one worker.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import torch

from pipeline.config.schedule import Phase
from pipeline.engines.ddp import Worker
from pipeline.engines.start import start_worker
from pipeline.step.training_step import TrainingBatch
from tests.pipeline.engines.engine_trials import (
    CELLS,
    ENGINES,
    FURTHER,
    STEPS_PER_PHASE,
    TOTAL_STEPS,
    Cell,
    Trial,
    copy_checkpoint,
    figures_deviation,
    read_batches,
    state_deviation,
    trial_config,
)
from tests.small_run import final_tensors

PHASES = [phase.value for phase in Phase]
# Saved by the first, continued by the second, in the middle of the discriminator's phase.
CHANGES = [
    ("deepspeed-1-fp32", "accelerate-fp32"), ("deepspeed-2-fp32", "ddp-fp32"),
    ("accelerate-fp32", "deepspeed-0-fp32"), ("alone", "deepspeed-1-fp32"),
]  # fmt: skip
LAST_BIT = 2e-7  # about the relative distance between two neighbouring float32 numbers


class Job:
    def __init__(self, shards: str, folder: Path) -> None:
        self.shards, self.folder = shards, folder
        base = trial_config(shards, folder / "batches", ENGINES[0])
        self.worker: Worker = start_worker(base)
        self.batches = read_batches(base, self.worker)
        self.cells = {cell.name: cell for cell in CELLS}
        self.figures: dict[str, list[dict[str, float]]] = {}

    def trial(self, cell: Cell, folder: str) -> Trial:
        return Trial(trial_config(self.shards, self.folder / folder, cell), self.batches)

    def whole(self, cell: Cell) -> None:
        self.figures[cell.name] = self.trial(cell, cell.name).train()

    def sensitivity(self) -> list[float]:
        """By phase, how far the default engine gets from itself when its images are off by their
        last bit: what rounding alone may do to a run.
        """
        cell = ENGINES[0]
        trial = self.trial(cell, "last-bit")
        trial.batches = [
            dataclasses.replace(batch, images=batch.images * (1 + LAST_BIT))
            for batch in self.batches
        ]
        self.figures["last-bit"] = trial.train()
        return self.whole_deviations("last-bit", cell.name)

    def whole_deviations(self, name: str, reference: str) -> list[float]:
        """Of losses and gradient norms, by phase."""
        each = [
            figures_deviation(mine, its)
            for mine, its in zip(self.figures[name], self.figures[reference], strict=True)
        ]
        return [max(each[n : n + STEPS_PER_PHASE]) for n in range(0, TOTAL_STEPS, STEPS_PER_PHASE)]

    def rows(self, cells: list[Cell], reference: str) -> list[dict[str, Any]]:
        """By cell and phase, how far one step leads from where it leads the run `reference`, from
        whose checkpoints it starts.
        """
        rows = []
        for cell in cells:
            wholes = [None] * len(PHASES)
            if cell.name in self.figures:
                wholes = self.whole_deviations(cell.name, reference)
            for number, phase in enumerate(PHASES):
                step = number * STEPS_PER_PHASE + 1
                row = self.one_step(cell, reference, step) | {"phase": phase}
                rows.append(row | {"whole_figures": wholes[number]})
        return rows

    def one_step(self, cell: Cell, reference: str, step: int) -> dict[str, Any]:
        name = f"{cell.name}-as-{reference}-at-{step}"
        if step:
            trial = self.trial_from(reference, step, cell, name)
        else:
            trial = self.trial(cell, name)
        (figures,) = trial.train(step + 1)
        row: dict[str, Any] = {**dataclasses.asdict(cell), "workers": self.worker.world_size}
        row["figures"] = figures_deviation(figures, self.figures[reference][step])
        if self.worker.is_main:
            config = trial_config(self.shards, self.folder, cell)
            folders = self.folder / name, self.folder / reference
            row["state"] = state_deviation(*folders, step + 1, config)
        return row

    def resumes(self) -> dict[str, list[str]]:
        """By cell and phase, the tensors that differ in a run resumed after the phase's first step
        from those of the whole one.
        """
        different = {}
        for cell in CELLS:
            for number, phase in enumerate(PHASES):
                step = number * STEPS_PER_PHASE + 1
                name = f"{cell.name}-from-{step}"
                self.trial_from(cell.name, step, cell, name).train()
                if self.worker.is_main:
                    whole = final_tensors(self.folder / cell.name, TOTAL_STEPS)
                    resumed = final_tensors(self.folder / name, TOTAL_STEPS)
                    assert whole.keys() == resumed.keys()
                    different[f"{cell.name} {phase}"] = [
                        key for key in whole if not torch.equal(whole[key], resumed[key])
                    ]
        return different

    def trial_from(self, source: str, step: int, cell: Cell, folder: str) -> Trial:
        if self.worker.is_main:
            copy_checkpoint(self.folder / source, step, self.folder / folder)
        self.worker.barrier()
        trial = self.trial(cell, folder)
        assert trial.step == step
        return trial

    def changes(self) -> list[dict[str, Any]]:
        rows = []
        for source, target in CHANGES:
            cell, name, step = self.cells[target], f"{source}-then-{target}", 3
            self.trial_from(source, step, cell, name).train(step + 1)
            if self.worker.is_main:
                config = trial_config(self.shards, self.folder, cell)
                folders = self.folder / name, self.folder / ENGINES[0].name
                state = state_deviation(*folders, step + 1, config)
                rows.append({"saved_by": source, "continued_by": target, "state": state})
        return rows

    def skips(self) -> dict[str, Any]:
        """By cell: of each phase, a step in which one rank's images are not finite."""
        found = {}
        for cell in ENGINES:
            trial = self.trial(cell, f"{cell.name}-skips")
            for number, phase in enumerate(Phase):
                trial.advance(phase, self.batches[number])
            steps = []
            for phase in Phase:
                before = trial.tensors()
                figures = trial.advance(phase, self.poisoned(self.batches[3]))
                after = trial.tensors()
                changed = [k for k in before if not torch.equal(before[k], after[k])]
                flags = {name: v for name, v in figures.items() if name.endswith("_skipped")}
                steps.append({"phase": phase.value, "skipped": flags, "changed": changed})
            goes_on = trial.advance(Phase.JOINT, self.batches[4])
            found[cell.name] = {"steps": steps, "afterwards": goes_on}
        return found

    def poisoned(self, batch: TrainingBatch) -> TrainingBatch:
        """Of the last rank alone: the others must leave the update out as well."""
        if self.worker.rank < self.worker.world_size - 1:
            return batch
        return dataclasses.replace(batch, images=batch.images * torch.nan)


def main(shards: str, folder: Path) -> None:
    job = Job(shards, folder)
    for cell in CELLS:
        job.whole(cell)
    results: dict[str, Any] = {"cells": [], "further": {}}
    for precision in dict.fromkeys(cell.precision for cell in CELLS):
        cells = [cell for cell in CELLS if cell.precision == precision]
        results["cells"] += job.rows(cells, cells[0].name)
    for settings, (reference, *cells) in FURTHER.items():
        job.whole(reference)
        results["further"][settings] = job.rows(cells, reference.name)
        if settings == "Adam":
            results["first_step"] = [job.one_step(cell, reference.name, 0) for cell in cells]
    results["sensitivity"] = job.sensitivity()
    results["different_after_resume"] = job.resumes()
    results["changes"] = job.changes()
    results["skips"] = job.skips()
    results["versions"] = {"Python": platform.python_version()} | {
        name: version(name) for name in ("torch", "accelerate", "deepspeed")
    }
    if job.worker.is_main:
        (folder / "engines.json").write_text(json.dumps(results, indent=1))
    job.worker.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
