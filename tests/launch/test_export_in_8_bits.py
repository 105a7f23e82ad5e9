"""`glcic export --precision int8`, and what `complete` and `evaluate` do with the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from skimage import data

from launch import complete, evaluate
from launch.export import main
from pipeline.exports import int8_error
from pipeline.exports.network_folder import save_completion_network
from pipeline.exports.onnx import export
from pipeline.exports.onnx.export import onnx_file
from tests.launch.test_export import write_run
from tests.pipeline.exports.test_network_folder import CONFIG, network

IN_8_BITS = ["--format", "onnx", "--precision", "int8"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_run(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def folder(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a network whose outputs differ from pixel to pixel, and the same in 8 bits."""
    folder = tmp_path_factory.mktemp("networks")
    made = network(1)
    with torch.no_grad():
        made.decoder["17"].conv.weight.mul_(8)
    save_completion_network(str(folder / "exported"), made, CONFIG, 7, {})
    arguments = [str(folder / "exported"), str(folder / "network.onnx"), *IN_8_BITS]
    with pytest.raises(ValueError, match="name a packed set to calibrate on with --shards"):
        main(arguments)
    assert main([*arguments, "--shards", str(run_folder / "set")]) == 0
    return folder


def test_a_run_is_calibrated_on_its_training_samples_and_compared_on_others(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    output = tmp_path / "network.onnx"
    arguments = [str(run_folder), str(output), *IN_8_BITS, "--calibration-images", "12"]
    made: list[Any] = []

    def made_once(*arguments: Any) -> Any:
        made.extend(() if made else onnx_file(*arguments))
        return made

    monkeypatch.setattr(export, "onnx_file", made_once)  # it takes seconds
    with monkeypatch.context() as patched:
        patched.setattr(int8_error, "LOWEST_PSNR_DB", 200.0)
        with pytest.raises(RuntimeError, match=r"200 dB are asked for, so nothing was written"):
            main([*arguments, "--composite"])
        assert not output.exists()
    assert main([*arguments, "--composite"]) == 0
    (entry,) = onnx.load(str(output)).metadata_props
    description = json.loads(entry.value)
    assert (description["step"], description["weights"]) == (3, "ema")
    assert description["precision"] == "int8"
    assert description["calibration"]["images"] == 12
    assert description["calibration"]["data_fingerprint"] == description["data_fingerprint"]
    captured = capsys.readouterr()
    assert "calibrated on 12 images, compared on 9 validation samples: " in captured.out
    assert captured.err == ""
    with pytest.raises(ValueError, match="export it without --composite"):
        complete.main(["x.png", "--hole", "1,1,2,2", "--checkpoint", str(output)])


def test_a_photograph_is_completed_in_8_bits_as_it_is_in_float(
    folder: Path, tmp_path: Path
) -> None:
    before = data.astronaut()[60:131, 180:275]
    Image.fromarray(before).save(tmp_path / "photograph.png")
    results = []
    for checkpoint in ("network.onnx", "exported"):
        output = tmp_path / f"{checkpoint}.png"
        arguments = [str(tmp_path / "photograph.png"), "--hole", "30,20,40,30"]
        named = ["--checkpoint", str(folder / checkpoint), "--output", str(output)]
        assert complete.main([*arguments, *named]) == 0
        results.append(np.asarray(Image.open(output)))
    hole = np.zeros(before.shape[:2], bool)
    hole[20:50, 30:70] = True
    for after in results:
        assert np.array_equal(after[~hole], before[~hole])
        assert (after != before)[hole].mean() > 0.9
    in_8_bits, in_float = (after[hole].astype(int) for after in results)
    assert 0 < np.abs(in_8_bits - in_float).mean() < 0.1 * in_float.std()


def test_a_file_is_evaluated_as_the_network_that_it_was_made_of(
    folder: Path, run_folder: Path, tmp_path: Path
) -> None:
    options = {
        "--data.shards": str(run_folder / "set"), "--folder": str(tmp_path),
        "--pack.crop-size": "32", "--pack.masks.side-min": "8", "--pack.masks.side-max": "16",
        "--data.short-side-min": "32", "--data.short-side-max": "40",
        "--discriminator.local-size": "16", "--evaluation.limit": "4",
    }  # fmt: skip
    arguments = [word for option in options.items() for word in option]
    found = []
    for checkpoint in ("network.onnx", "exported"):
        name = ["--checkpoint", str(folder / checkpoint)]
        as_it_is = [] if checkpoint == "network.onnx" else ["--evaluation.recalibration-images=0"]
        assert evaluate.main([*arguments, *name, *as_it_is]) == 0
        found.append(json.loads((tmp_path / "evaluation.json").read_text()))
    figures = [one["methods"]["glcic"] for one in found]
    assert figures[0]["hole_psnr_db"] == pytest.approx(figures[1]["hole_psnr_db"], abs=0.3)
    assert figures[0] != figures[1]
    facts = found[0]["evaluated"]
    assert (facts["precision"], facts["recalibration_images"]) == ("int8", 0)


def test_a_precision_that_the_file_does_not_have_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"--precision bf16: .*network\.onnx is computed in"):
        complete.main(
            [
                *("x.png", "--hole", "1,1,2,2", "--precision", "bf16"),
                *("--checkpoint", str(folder / "network.onnx")),
            ]
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int8"], "int8 belongs to --format onnx"),
        (["--precision", "int8", "--format", "torch-export"], "int8 belongs to --format onnx"),
        (["--format", "onnx", "--calibration-images", "9"], "belongs to --precision int8"),
        ([*IN_8_BITS, "--calibration-images", "0"], "--calibration-images is 0: at least 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    run_folder: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    suffix = {"onnx": ".onnx", "torch-export": ".pt2"}
    name = "network" + next((end for word, end in suffix.items() if word in arguments), "")
    with pytest.raises(ValueError, match=message):
        main([str(run_folder), str(tmp_path / name), *arguments])
