"""The chaos harness: a minute of it, and that what it proves could fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from pipeline.checkpoints.format import committed_steps, is_intact, step_name
from pipeline.checkpoints.writer import CheckpointWriter
from pipeline.config.schema import Config
from shards.sampling.mixture import Mixture, WeightedSet
from tests.chaos.disturbances import KILLS, can_lock, draw, locked
from tests.chaos.hosts import Namespaces, namespaces_are_possible
from tests.chaos.proof import compare_weights, litter, sample_faults
from tests.chaos.run import Settings, run_chaos
from tests.shards.pictures import pack_small_set
from tests.small_run import small_config
from tests.torchrun import ROOT


@pytest.mark.slow
@pytest.mark.dist
def test_a_run_whose_processes_are_killed_ends_in_the_bits_of_one_left_alone(
    tmp_path: Path,
) -> None:
    settings = Settings(minutes=1.0, seed=7, kills=2, elastic=False, hosts="auto", burst_share=1.0)
    result = run_chaos(settings, tmp_path / "chaos", Console(quiet=True))
    assert result.faults == []
    assert result.weights is not None
    assert result.weights.different_tensors == 0
    assert result.strikes
    assert result.strikes[0].gap_s is not None


def recorded_run(folder: Path, config: Config, steps: int, world: int) -> None:
    """Files of a run that saw what its order says."""
    (folder / "samples").mkdir(parents=True)
    mixture = Mixture((WeightedSet(config.data.shards),), config.train.batch_size)
    order = mixture.order("train", config.seed)
    sizes = [entry.num_images for entry in mixture.manifests[0].splits["train"]]
    share = config.train.batch_size // world
    for rank in range(world):
        lines = []
        for step in range(steps):
            places = [order.locate(step, rank * share + lane).address for lane in range(share)]
            samples = [sum(sizes[: place.shard]) + place.position for place in places]
            lines.append(json.dumps({"step": step, "world_size": world, "samples": samples}))
        (folder / "samples" / f"rank-{rank}.jsonl").write_text("\n".join(lines) + "\n")


def test_a_sample_that_was_lost_or_seen_twice_is_told(tmp_path: Path) -> None:
    config = small_config(pack_small_set(tmp_path, images=36), tmp_path)
    recorded_run(tmp_path, config, steps=6, world=2)
    assert sample_faults(config, tmp_path, 6) == []
    assert sample_faults(config, tmp_path, 7) == ["step 6 is missing"]
    path = tmp_path / "samples" / "rank-1.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[1]["samples"][0] = records[0]["samples"][0]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    first, second = sample_faults(config, tmp_path, 6)
    assert first.startswith("step 1 saw")
    assert second == "epoch 0 has a sample twice"


def test_lines_of_workers_that_are_gone_do_not_count(tmp_path: Path) -> None:
    config = small_config(pack_small_set(tmp_path, images=36), tmp_path)
    recorded_run(tmp_path, config, steps=6, world=2)
    alone = tmp_path / "alone"
    recorded_run(alone, config, steps=6, world=1)
    lines = [
        (folder / "samples" / "rank-0.jsonl").read_text().splitlines()[part]
        for folder, part in ((tmp_path, slice(0, 4)), (alone, slice(4, 6)))
    ]
    text = "\n".join(line for part in lines for line in part) + "\n"
    (tmp_path / "samples" / "rank-0.jsonl").write_text(text)
    assert sample_faults(config, tmp_path, 6) == []


def test_weights_that_differ_in_one_bit_are_told(tmp_path: Path) -> None:
    weights = torch.linspace(0.1, 1.0, 12)
    for name in ("left", "same", "other"):
        if name == "other":
            weights = weights.clone()
            weights.view(torch.int32)[5] ^= 1
        writer = CheckpointWriter(str(tmp_path / name / "checkpoints"), 3, log=print)
        writer.save(4, {"completion": {"weight": weights}}, {})
        writer.close()
    assert compare_weights(tmp_path / "left", tmp_path / "same", 4).different_tensors == 0
    other = compare_weights(tmp_path / "left", tmp_path / "other", 4)
    assert other.different_tensors == 1
    assert 0 < other.largest_relative_difference < 1e-6


def test_a_seed_decides_what_strikes_where_and_when() -> None:
    everything = {"burst_share": 0.3, "can_cut": True, "can_lock": True}
    drawn = draw(3, 50, 10, 600, **everything)
    assert drawn == draw(3, 50, 10, 600, **everything)
    assert drawn != draw(4, 50, 10, 600, **everything)
    assert sum(disturbance.is_kill for disturbance in drawn) == 50
    assert {disturbance.kind for disturbance in drawn} > KILLS.keys()
    limited = draw(3, 50, 10, 600, burst_share=0.3, can_cut=False, can_lock=False)
    kinds = {disturbance.kind for disturbance in limited}
    assert not {"cable cut and mended", "store read-only"} & kinds


def test_unfinished_files_are_found(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / ".rank-0.jsonl.1234.part").write_text("x")
    assert litter(tmp_path) == ["samples/.rank-0.jsonl.1234.part"]


def test_a_locked_store_takes_nothing_until_it_is_unlocked(tmp_path: Path) -> None:
    if not can_lock(tmp_path):
        pytest.skip("this filesystem has no attribute that stops root")
    with locked(tmp_path), pytest.raises(OSError, match=r"not permitted|denied"):
        (tmp_path / "file").write_text("x")
    writer = CheckpointWriter(str(tmp_path), 3, log=print)
    writer.save(4, {"completion": {"weight": torch.ones(3)}}, {})
    writer.close()
    assert committed_steps(str(tmp_path)) == [4]
    assert is_intact(str(tmp_path / step_name(4)))


HELD_BY_A_PROCESS = """
from tests.chaos.hosts import Namespaces
with Namespaces() as hosts:
    print(hosts.prefix("a")[-1], flush=True)
    input()
"""


def test_namespaces_go_also_when_their_process_is_killed() -> None:
    if not namespaces_are_possible():
        pytest.skip("network namespaces need root, Linux and iproute2")
    process = subprocess.Popen(
        [sys.executable, "-c", HELD_BY_A_PROCESS], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        remaining = Namespaces()
        remaining._token = name.split("-")[1]
        assert name in remaining.leftovers()
        process.kill()
        # Its remover holds the other end of this line until it is done.
        assert process.stdout.read() == ""
        assert remaining.leftovers() == []
