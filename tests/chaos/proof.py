"""What must hold after a chaos run: the weights, the samples, and nothing left behind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.config.schema import Config
from shards.sampling.mixture import Mixture, WeightedSet
from tests.small_run import final_tensors


@dataclass(frozen=True)
class WeightsComparison:
    different_tensors: int
    num_tensors: int
    largest_relative_difference: float  # of a tensor, by its largest absolute value


def compare_weights(undisturbed: Path, disturbed: Path, step: int) -> WeightsComparison:
    """Of the last checkpoints: networks, optimizers and average."""
    left, right = final_tensors(undisturbed, step), final_tensors(disturbed, step)
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    largest = 0.0
    for name in different:
        scale = max(float(left[name].abs().max()), 1e-30)
        difference = float((left[name].double() - right[name].double()).abs().max())
        largest = max(largest, difference / scale)
    return WeightsComparison(len(different), len(left), largest)


def surviving_samples(folder: Path) -> dict[int, list[int]]:
    """step -> samples in the order of the lanes, on the timeline that the last checkpoint is of.

    Rank 0 begins its record anew at every resume, so its lines are that timeline's. Other ranks
    may be gone since: their later lines are of steps that were lost, unless rank 0 says otherwise.
    """
    lines: dict[tuple[int, int, int], list[int]] = {}
    for path in (folder / "samples").glob("rank-*.jsonl"):
        rank = int(path.stem.removeprefix("rank-"))
        for record in map(json.loads, path.read_text().splitlines()):
            lines[record["step"], record["world_size"], rank] = record["samples"]
    return {
        step: [sample for rank in range(world) for sample in lines.get((step, world, rank), [])]
        for step, world in worlds_of_steps(folder).items()
    }


def worlds_of_steps(folder: Path) -> dict[int, int]:
    """step -> number of workers, on the same timeline."""
    records = (folder / "samples" / "rank-0.jsonl").read_text().splitlines()
    return {record["step"]: record["world_size"] for record in map(json.loads, records)}


def sample_faults(config: Config, folder: Path, total_steps: int) -> list[str]:
    """Where the record of the first steps is not the order's, or an epoch has a sample twice."""
    mixture = Mixture((WeightedSet(config.data.shards),), config.train.batch_size)
    order, lanes = mixture.order("train", config.seed), range(config.train.batch_size)
    manifest = mixture.manifests[0]
    sizes = [n.num_images * manifest.recipe.masks.masks_per_image for n in manifest.splits["train"]]
    firsts = [sum(sizes[:number]) for number in range(len(sizes))]
    seen = {step: s for step, s in surviving_samples(folder).items() if step < total_steps}
    faults = [f"step {step} is missing" for step in range(total_steps) if step not in seen]
    per_epoch = mixture.steps_per_epoch("train")
    epochs: dict[int, list[int]] = {}
    for step, samples in seen.items():
        places = [order.locate(step, lane).address for lane in lanes]
        expected = [firsts[place.shard] + place.position for place in places]
        if samples != expected:
            faults.append(f"step {step} saw {samples}, its order is {expected}")
        epochs.setdefault(step // per_epoch, []).extend(samples)
    for epoch, samples in epochs.items():
        if len(set(samples)) != len(samples):
            faults.append(f"epoch {epoch} has a sample twice")
    return faults


def litter(folder: Path) -> list[str]:
    """Parts of files under a run's folder that were never finished."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.part"))
