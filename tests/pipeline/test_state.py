from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from pipeline.checkpoint import CheckpointWriter
from pipeline.config import Config
from pipeline.state import RunState, resume_, state_facts
from pipeline.workers import Worker
from shards.manifest import Manifest, load_manifest
from tests.shards.pictures import pack_small_set
from tests.small_run import small_config


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pack_small_set(tmp_path_factory.mktemp("set"))


@pytest.fixture
def manifest(shards: str) -> Manifest:
    return load_manifest(shards)


@pytest.fixture
def config(shards: str, tmp_path: Path) -> Config:
    return small_config(shards, tmp_path / "run")


def save(state: RunState, config: Config, manifest: Manifest, step: int) -> None:
    writer = CheckpointWriter(config.checkpoint_url, 9, lambda message: None)
    writer.save(step, state.tensors(), state_facts(config, manifest, Worker(), step))
    writer.close()


def first_weight(state: RunState) -> torch.Tensor:
    return next(state.completion.network.parameters())


def test_the_first_weights_depend_on_the_seed_alone(config: Config, manifest: Manifest) -> None:
    torch.manual_seed(99)
    one = RunState(config, Worker(), manifest)
    torch.manual_seed(7)
    same = RunState(config, Worker(), manifest)
    other = RunState(dataclasses.replace(config, seed=1), Worker(), manifest)
    assert torch.equal(first_weight(one), first_weight(same))
    assert not torch.equal(first_weight(one), first_weight(other))


def test_the_hole_is_filled_with_the_sets_mean_or_with_gray(
    config: Config, manifest: Manifest
) -> None:
    fill = RunState(config, Worker(), manifest).completion.network.get_buffer("fill_color")
    torch.testing.assert_close(fill, torch.tensor(manifest.mean_color))
    gray = dataclasses.replace(
        config, completion=dataclasses.replace(config.completion, hole_fill="gray")
    )
    fill = RunState(gray, Worker(), manifest).completion.network.get_buffer("fill_color")
    assert fill.tolist() == [0.5, 0.5, 0.5]


def test_a_state_holds_everything_that_its_tensors_say(config: Config, manifest: Manifest) -> None:
    state = RunState(config, Worker(), manifest)
    assert set(state.tensors()) == {"completion", "discriminator", "ema", "optimizers"}
    other = RunState(dataclasses.replace(config, seed=1), Worker(), manifest)
    other.load_(state.tensors())
    for stem, group in state.tensors().items():
        for name, tensor in group.items():
            assert torch.equal(tensor, other.tensors()[stem][name]), f"{stem}/{name}"


def test_a_named_checkpoint_starts_a_run_but_does_not_start_it_twice(
    config: Config, manifest: Manifest, tmp_path: Path
) -> None:
    def resumed_step(run: Config) -> int:
        return resume_(RunState(run, Worker(), manifest), run, manifest, Worker(), print)

    save(RunState(config, Worker(), manifest), config, manifest, step=5)
    start = f"{config.checkpoint_url}/step-000000005"
    moved = dataclasses.replace(config, folder=str(tmp_path / "moved"), resume=start)
    assert resumed_step(moved) == 5
    save(RunState(moved, Worker(), manifest), moved, manifest, step=8)
    assert resumed_step(moved) == 8


def test_without_a_checkpoint_a_run_starts_at_step_zero(config: Config, manifest: Manifest) -> None:
    state = RunState(config, Worker(), manifest)
    assert resume_(state, config, manifest, Worker(), print) == 0
    never = dataclasses.replace(config, resume="never")
    assert resume_(state, never, manifest, Worker(), print) == 0


def test_networks_of_another_shape_are_refused(config: Config, manifest: Manifest) -> None:
    state = RunState(config, Worker(), manifest)
    wider = dataclasses.replace(config, completion=dataclasses.replace(config.completion, width=16))
    with pytest.raises(ValueError, match="completion network does not fit"):
        RunState(wider, Worker(), manifest).load_(state.tensors())
