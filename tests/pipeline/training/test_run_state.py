from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from pipeline.checkpoints.writer import CheckpointWriter
from pipeline.config.schema import Config
from pipeline.engines.ddp import Worker
from pipeline.training.resume import resume_, state_facts
from pipeline.training.run_state import RunState
from shards.sampling.mixture import Mixture, WeightedSet
from tests.shards.pictures import pack_small_set
from tests.small_run import small_config


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pack_small_set(tmp_path_factory.mktemp("set"))


@pytest.fixture
def data(shards: str) -> Mixture:
    return Mixture([WeightedSet(shards)], batch_size=12)


@pytest.fixture
def config(shards: str, tmp_path: Path) -> Config:
    return small_config(shards, tmp_path / "run")


def save(state: RunState, config: Config, data: Mixture, step: int) -> None:
    writer = CheckpointWriter(config.checkpoint_url, 9, lambda message: None)
    writer.save(step, state.tensors(), state_facts(config, data, Worker(), step, state.dilation))
    writer.close()


def first_weight(state: RunState) -> torch.Tensor:
    return next(state.completion.network.parameters())


def test_the_first_weights_depend_on_the_seed_alone(config: Config, data: Mixture) -> None:
    torch.manual_seed(99)
    one = RunState(config, Worker(), data)
    torch.manual_seed(7)
    same = RunState(config, Worker(), data)
    other = RunState(dataclasses.replace(config, seed=1), Worker(), data)
    assert torch.equal(first_weight(one), first_weight(same))
    assert not torch.equal(first_weight(one), first_weight(other))


def test_the_hole_is_filled_with_the_sets_mean_or_with_gray(config: Config, data: Mixture) -> None:
    fill = RunState(config, Worker(), data).completion.network.get_buffer("fill_color")
    torch.testing.assert_close(fill, torch.tensor(data.mean_color))
    gray = dataclasses.replace(
        config, completion=dataclasses.replace(config.completion, hole_fill="gray")
    )
    fill = RunState(gray, Worker(), data).completion.network.get_buffer("fill_color")
    assert fill.tolist() == [0.5, 0.5, 0.5]


def test_a_state_holds_everything_that_its_tensors_say(config: Config, data: Mixture) -> None:
    state = RunState(config, Worker(), data)
    assert set(state.tensors()) == {"completion", "discriminator", "ema", "optimizers"}
    other = RunState(dataclasses.replace(config, seed=1), Worker(), data)
    other.load_(state.tensors())
    for stem, group in state.tensors().items():
        for name, tensor in group.items():
            assert torch.equal(tensor, other.tensors()[stem][name]), f"{stem}/{name}"


def test_a_named_checkpoint_starts_a_run_but_does_not_start_it_twice(
    config: Config, data: Mixture, tmp_path: Path
) -> None:
    def resumed_step(run: Config) -> int:
        return resume_(RunState(run, Worker(), data), run, data, Worker(), print)

    save(RunState(config, Worker(), data), config, data, step=5)
    start = f"{config.checkpoint_url}/step-000000005"
    moved = dataclasses.replace(config, folder=str(tmp_path / "moved"), resume=start)
    assert resumed_step(moved) == 5
    save(RunState(moved, Worker(), data), moved, data, step=8)
    assert resumed_step(moved) == 8


def test_without_a_checkpoint_a_run_starts_at_step_zero(config: Config, data: Mixture) -> None:
    state = RunState(config, Worker(), data)
    assert resume_(state, config, data, Worker(), print) == 0
    never = dataclasses.replace(config, resume="never")
    assert resume_(state, never, data, Worker(), print) == 0


def test_networks_of_another_shape_are_refused(config: Config, data: Mixture) -> None:
    state = RunState(config, Worker(), data)
    wider = dataclasses.replace(config, completion=dataclasses.replace(config.completion, width=16))
    with pytest.raises(ValueError, match="completion network does not fit"):
        RunState(wider, Worker(), data).load_(state.tensors())


def test_another_set_is_refused_and_one_that_was_moved_is_not(
    config: Config, data: Mixture, shards: str, tmp_path: Path
) -> None:
    save(RunState(config, Worker(), data), config, data, step=5)
    moved = Mixture([WeightedSet(str(shutil.copytree(shards, tmp_path / "moved")))], 12)
    assert resume_(RunState(config, Worker(), moved), config, moved, Worker(), print) == 5
    url = pack_small_set(tmp_path, seed=1, name="other")
    other = Mixture([WeightedSet(url)], 12)
    with pytest.raises(
        ValueError, match=rf"another packed set .*{url} has .*Point --data\.shards "
    ):
        resume_(RunState(config, Worker(), other), config, other, Worker(), print)
    mixed = Mixture([WeightedSet(shards), WeightedSet(url)], 12)
    with pytest.raises(ValueError, match=r"set with .*other has .*--data\.shards and --data\.mixt"):
        resume_(RunState(config, Worker(), mixed), config, mixed, Worker(), print)
