"""`glcic export` of runs and of exported networks, in each format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.export import main
from pipeline.checkpoints.writer import CheckpointWriter
from pipeline.config.loading import config_mapping
from pipeline.exports.network_folder import load_completion_network, save_completion_network
from pipeline.exports.onnx.runtimes import OnnxSession
from pipeline.exports.tracing import comparison
from pipeline.exports.tracing.traced import sample_inputs
from tests.pipeline.exports.test_network_folder import CONFIG, network, same
from tests.shards.pictures import pack_small_set
from tests.small_run import small_config

CPU = torch.device("cpu")


@pytest.fixture
def exported(tmp_path: Path) -> str:
    facts = {"source": {"layout": "authors"}, "licence": "Terms of the release."}
    save_completion_network(str(tmp_path / "exported"), network(1), CONFIG, 7, facts)
    return str(tmp_path / "exported")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_run(tmp_path_factory.mktemp("run"))


def write_run(folder: Path) -> str:
    """A run's folder with a checkpoint in it, as far as an export reads it."""
    shards = pack_small_set(folder, images=36, images_per_shard=7)
    writer = CheckpointWriter(str(folder / "checkpoints"), 9, lambda message: None)
    tensors = {"completion": network(1).state_dict(), "ema": network(2).state_dict()}
    writer.save(3, tensors, {"config": config_mapping(small_config(shards, folder))})
    writer.close()
    return str(folder)


def test_a_runs_network_is_exported_as_safetensors_with_statistics_estimated_anew(
    run_folder: str, tmp_path: Path
) -> None:
    assert main([run_folder, str(tmp_path / "out")]) == 0
    loaded = load_completion_network(str(tmp_path / "out"), "ema", CPU).state_dict()
    for name, value in network(2).state_dict().items():
        is_statistic = "running" in name or "num_batches" in name
        assert torch.equal(loaded[name], value) != is_statistic, name
    description = json.loads((tmp_path / "out" / "network.json").read_text())
    assert (description["step"], description["weights"]) == (3, "ema")


def test_an_exported_network_is_copied_as_it_is_with_what_is_known_of_it(
    exported: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([exported, str(tmp_path / "out")]) == 0
    assert same(load_completion_network(str(tmp_path / "out"), "ema", CPU), network(1))
    written = [(tmp_path / name / "network.json").read_text() for name in ("exported", "out")]
    assert written[0] == written[1]
    assert "Terms of the release." in capsys.readouterr().out


def test_an_onnx_file_of_a_run_is_one_file_and_gives_what_its_exported_network_does(
    run_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "onnx" / "network.onnx"
    assert main([run_folder, str(output), "--format", "onnx", "--composite"]) == 0
    assert "compared with the network: largest difference" in capsys.readouterr().out
    assert [path.name for path in output.parent.iterdir()] == ["network.onnx"]
    assert main([run_folder, str(tmp_path / "out")]) == 0
    image, mask = sample_inputs(1, 24, 32)
    raw = load_completion_network(str(tmp_path / "out"), "ema", CPU)(image, mask)
    given = OnnxSession(output.read_bytes())(image, mask)[0]
    torch.testing.assert_close(given, torch.where(mask > 0.5, raw, image), rtol=0, atol=1e-5)


def test_a_file_that_does_not_agree_is_not_written(
    exported: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "TOLERANCE", -1.0)
    output = tmp_path / "network.pt2"
    with pytest.raises(RuntimeError, match="nothing was written"):
        main([exported, str(output), "--format", "torch-export"])
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out", "--format", "onnx"], r"ends in \.onnx"),
        (["out.onnx", "--format", "torch-export"], r"ends in \.pt2"),
        (["out.onnx"], "choose --format onnx"),
        (["out", "--composite"], "--composite belongs to"),
        (["out", "--shards", "elsewhere"], "--shards changes nothing"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    exported: str, tmp_path: Path, arguments: list[str], message: str, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        main([exported, *arguments])


def test_a_checkpoint_is_not_overwritten_by_an_export(run_folder: str, exported: str) -> None:
    checkpoint = Path(run_folder) / "checkpoints" / "step-000000003"
    before = sorted(path.name for path in checkpoint.iterdir())
    with pytest.raises(ValueError, match="is a checkpoint"):
        main([exported, str(checkpoint)])
    assert sorted(path.name for path in checkpoint.iterdir()) == before
