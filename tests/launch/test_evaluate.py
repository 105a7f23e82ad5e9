import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from launch import masks
from launch.evaluate import main
from pipeline.config.schema import CompletionConfig
from pipeline.exports.network_folder import save_completion_network
from pipeline.networks.glcic import CompletionNetwork
from tests.pipeline.onnx_networks import write_distance_network, write_feature_network
from tests.shards.pictures import pack_small_set


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of an evaluation of a small network with random weights on a small set."""
    folder = tmp_path_factory.mktemp("evaluate")
    torch.manual_seed(0)
    config = CompletionConfig(width=8)
    checkpoint = str(folder / "network")
    save_completion_network(checkpoint, CompletionNetwork(config), config, step=1, facts={})
    shards_url = pack_small_set(folder, images=30, validation_fraction=0.3)
    options = {
        "--checkpoint": checkpoint,
        "--data.shards": shards_url,
        "--pack.crop-size": "32",
        "--pack.masks.side-min": "8",
        "--pack.masks.side-max": "16",
        "--data.short-side-min": "32",
        "--data.short-side-max": "40",
        "--discriminator.local-size": "16",
        "--train.precision": "fp32",
        "--folder": str(folder / "run"),
    }
    return [word for option in options.items() for word in option]


def test_the_figures_are_shown_and_written_into_the_run_folder(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    content = json.loads(Path(arguments[-1], "evaluation.json").read_text())
    assert content["evaluated"]["checkpoint"] == arguments[1]
    assert content["evaluated"]["recalibration_images"] == 512
    shown = capsys.readouterr().out
    assert f"{content['methods']['Telea']['psnr_db']:.3f}" in shown
    assert "evaluation.json" in shown


def test_a_set_to_judge_on_is_named_beside_the_one_that_was_trained_on(
    arguments: list[str], tmp_path: Path
) -> None:
    judged = pack_small_set(tmp_path, images=9, validation_fraction=1)
    output = str(tmp_path / "evaluation.json")
    assert main([*arguments, "--evaluation.shards", judged, "--output", output]) == 0
    assert json.loads(Path(output).read_text())["num_samples"] == 9
    with pytest.raises(ValueError, match=r"no training images.* by --evaluation\.shards"):
        main([*arguments, "--data.shards", judged])
    alone = ["--data.shards", judged, "--evaluation.recalibration-images", "0"]
    assert main([*arguments, *alone, "--output", output]) == 0


def test_files_are_evaluated_on_with_published_figures_beside(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards_url, folder = arguments[3], tmp_path / "files"
    assert masks.main([shards_url, str(folder), "--limit", "5"]) == 0
    assert f"--masks {folder}/packed" in capsys.readouterr().out
    files = ["--images", f"{folder}/images.csv", "--masks", f"{folder}/packed"]
    networks = [
        *("--features", write_feature_network(tmp_path / "features.onnx")),
        *("--lpips", write_distance_network(tmp_path / "distance.onnx")),
    ]
    markdown = tmp_path / "table.md"
    tables = ["--compare-with", "mmagic-places", "--markdown", str(markdown)]
    quick = ["--evaluation.recalibration-images", "0"]
    assert main([*arguments, *files, *networks, *tables, *quick]) == 0
    content = json.loads(Path(arguments[-1], "evaluation.json").read_text())
    assert content["num_samples"] == 5
    assert content["evaluated"]["files"]["sets"] == ["packed"]
    digest = hashlib.sha256(Path(networks[1]).read_bytes()).hexdigest()
    assert content["evaluated"]["feature_network_sha256"] == digest
    figures = content["methods"]["glcic"]
    assert {"fid", "lpips", "u_ids_percent"} <= set(figures)
    text, shown = markdown.read_text(), capsys.readouterr().out
    for part in (f"{figures['lpips']:.4f}", "23.152", "mmagic GL (published)", "not measured here"):
        assert part in text
    for part in (f"{figures['lpips']:.4f}", "23.152", "not measured here"):
        assert part in shown


def test_published_figures_do_not_stand_beside_a_mean_over_kinds_of_masks(
    arguments: list[str],
) -> None:
    files = ["--images", "list", "--masks", "thin", "mmagic"]
    with pytest.raises(ValueError, match="have one kind of masks"):
        main([*arguments, *files, "--compare-with", "mmagic-places"])


def test_masks_without_images_are_refused(arguments: list[str]) -> None:
    with pytest.raises(ValueError, match="--images and --masks belong together"):
        main([*arguments, "--masks", "somewhere"])


def test_a_checkpoint_that_does_not_exist_is_named(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no trained network"):
        main([*arguments, "--checkpoint", str(tmp_path)])


@pytest.mark.dist
@pytest.mark.slow
def test_three_workers_find_the_same_figures_as_one(arguments: list[str], tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    alone, together = tmp_path / "alone.json", tmp_path / "together.json"
    main([*arguments, "--output", str(alone)])
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node=3", str(root / "launch" / "evaluate.py")),
            *arguments,
            *("--output", str(together)),
        ],
        check=True,
        cwd=tmp_path,
        timeout=300,
    )
    first, second = (json.loads(path.read_text()) for path in (alone, together))
    assert first["num_samples"] == second["num_samples"]
    for method, figures in first["methods"].items():
        assert second["methods"][method] == pytest.approx(figures, rel=1e-3, abs=1e-6), method
