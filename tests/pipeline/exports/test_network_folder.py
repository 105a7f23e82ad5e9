from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.checkpoints.writer import CheckpointWriter
from pipeline.config.loading import config_mapping, parse_config
from pipeline.config.schema import CompletionConfig
from pipeline.exports.network_folder import load_completion_network, save_completion_network
from pipeline.networks.glcic import CompletionNetwork

CONFIG = CompletionConfig(width=8)
CPU = torch.device("cpu")


def network(seed: int) -> CompletionNetwork:
    torch.manual_seed(seed)
    module = CompletionNetwork(CONFIG)
    module.set_fill_color((0.1, 0.2, 0.3))
    return module


def write_checkpoint(folder: Path, step: int) -> None:
    writer = CheckpointWriter(str(folder), 9, lambda message: None)
    config = parse_config({"completion": {"width": 8}})
    tensors = {"completion": network(1).state_dict(), "ema": network(2).state_dict()}
    writer.save(step, tensors, {"config": config_mapping(config)})
    writer.close()


def same(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_an_exported_network_comes_back_with_its_fill_colour_and_ready_to_use(
    tmp_path: Path,
) -> None:
    save_completion_network(str(tmp_path), network(1), CONFIG, 7, {"weights": "ema"})
    loaded = load_completion_network(str(tmp_path), "ema", CPU)
    assert same(loaded, network(1))
    assert not loaded.training
    torch.testing.assert_close(loaded.get_buffer("fill_color"), torch.tensor([0.1, 0.2, 0.3]))


def test_a_checkpoint_gives_the_weights_that_are_asked_for(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 3)
    for url in (tmp_path, tmp_path / "step-000000003"):
        assert same(load_completion_network(str(url), "raw", CPU), network(1))
        assert same(load_completion_network(str(url), "ema", CPU), network(2))


def test_a_runs_folder_gives_its_export_or_else_its_newest_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints", 3)
    assert same(load_completion_network(str(tmp_path), "raw", CPU), network(1))
    save_completion_network(str(tmp_path / "network"), network(5), CONFIG, 3, {})
    assert same(load_completion_network(str(tmp_path), "raw", CPU), network(5))


def test_a_folder_without_a_network_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no trained network"):
        load_completion_network(str(tmp_path), "ema", CPU)


def test_an_export_that_was_altered_is_refused(tmp_path: Path) -> None:
    save_completion_network(str(tmp_path), network(1), CONFIG, 7, {})
    weights = tmp_path / "completion.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ValueError, match=r"completion\.safetensors was altered"):
        load_completion_network(str(tmp_path), "ema", CPU)


def test_an_export_replaces_the_one_before(tmp_path: Path) -> None:
    for seed in (1, 2):
        save_completion_network(str(tmp_path), network(seed), CONFIG, seed, {})
    assert same(load_completion_network(str(tmp_path), "ema", CPU), network(2))
