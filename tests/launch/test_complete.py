import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from launch.command import EXIT_DATA
from launch.complete import main
from pipeline.config.schema import CompletionConfig
from pipeline.exports.network_folder import save_completion_network
from pipeline.networks.glcic import CompletionNetwork


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    config = CompletionConfig(width=8)
    folder = str(tmp_path_factory.mktemp("network"))
    save_completion_network(folder, CompletionNetwork(config), config, step=1, facts={})
    return folder


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    return save_photograph(tmp_path / "photograph.jpg")


def save_photograph(path: Path, width: int = 90, height: int = 70) -> Path:
    Image.fromarray(data.astronaut()[:height, :width]).save(path)
    return path


def save_mask(path: Path, width: int = 90, height: int = 70) -> Path:
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[20:50, 30:70] = 255
    Image.fromarray(mask).save(path)
    return path


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize(
    "options", [[], ["--blend"], ["--longest-side", "48"], ["--precision", "bf16"]]
)
def test_known_pixels_of_the_result_are_those_of_the_photograph(
    checkpoint: str, photograph: Path, tmp_path: Path, options: list[str]
) -> None:
    output = tmp_path / "result.png"
    arguments = [str(photograph), "--hole", "30,20,40,30", "--checkpoint", checkpoint]
    assert main([*arguments, "--output", str(output), *options]) == 0
    before, after = pixels(photograph), pixels(output)
    changed = (before != after).any(axis=2)
    assert after.shape == before.shape
    assert changed[20:50, 30:70].mean() > 0.9
    changed[20:50, 30:70] = False
    assert not changed.any()


def test_a_mask_and_rectangles_of_the_same_shape_give_the_same(
    checkpoint: str, photograph: Path, tmp_path: Path
) -> None:
    mask = save_mask(tmp_path / "mask.png")
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    shared = [str(photograph), "--checkpoint", checkpoint]
    main([*shared, "--mask", str(mask), "--output", str(first)])
    main([*shared, "--hole", "30,20,20,30", "--hole", "50,20,20,30", "--output", str(second)])
    assert np.array_equal(pixels(first), pixels(second))


def test_without_an_output_the_result_lies_beside_the_photograph(
    checkpoint: str, photograph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(photograph), "--hole", "3,2,40,30", "--checkpoint", checkpoint])
    result = photograph.with_name("photograph-completed.png")
    assert result.is_file()
    assert capsys.readouterr().out.strip() == str(result)


def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two photographs, their masks, and where results go."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    for folder in (images, masks):
        folder.mkdir()
    for name, width in (("a", 90), ("b", 101)):
        save_photograph(images / f"{name}.jpg", width)
        save_mask(masks / f"{name}.png", width)
    return images, masks, tmp_path / "results"


def test_a_folder_of_photographs_takes_a_folder_of_masks(checkpoint: str, tmp_path: Path) -> None:
    images, masks, results = folders(tmp_path)
    arguments = [str(images), "--mask", str(masks), "--checkpoint", checkpoint]
    assert main([*arguments, "--output", str(results)]) == 0
    assert sorted(path.name for path in results.iterdir()) == ["a.png", "b.png"]
    assert pixels(results / "b.png").shape == (70, 101, 3)


def test_an_image_that_cannot_be_used_is_named_and_the_others_are_completed(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, masks, results = folders(tmp_path)
    (images / "a.jpg").write_bytes(b"no image")
    arguments = [str(images), "--mask", str(masks), "--checkpoint", checkpoint]
    assert main([*arguments, "--output", str(results)]) == EXIT_DATA
    assert [path.name for path in results.iterdir()] == ["b.png"]
    errors = capsys.readouterr().err
    assert "a.jpg cannot be read as an image" in errors
    assert "1 of 2 images were skipped" in errors


def test_a_mask_of_another_size_is_refused_with_both_sizes(
    checkpoint: str, photograph: Path, tmp_path: Path
) -> None:
    mask = save_mask(tmp_path / "mask.png", 70, 90)
    with pytest.raises(ValueError, match="the mask is 70x90 pixels, the image 90x70"):
        main([str(photograph), "--mask", str(mask), "--checkpoint", checkpoint])


def test_a_photograph_without_a_mask_in_the_folder_is_refused_before_any_work(
    checkpoint: str, tmp_path: Path
) -> None:
    images, masks, results = folders(tmp_path)
    (masks / "b.png").unlink()
    with pytest.raises(ValueError, match=r"b\.jpg has no mask: .* holds no b\.\*"):
        main([str(images), "--mask", str(masks), "--checkpoint", checkpoint])
    assert not results.exists()


def test_results_that_would_overwrite_something_are_refused(
    checkpoint: str, tmp_path: Path
) -> None:
    images, _, results = folders(tmp_path)
    shared = ["--hole", "3,2,40,30", "--checkpoint", checkpoint, "--output"]
    with pytest.raises(ValueError, match="one file, but there are 2 images"):
        main([str(images), *shared, str(tmp_path / "result.png")])
    with pytest.raises(ValueError, match=r"end the name with \.png"):
        main([str(images / "a.jpg"), *shared, str(tmp_path / "result.jpg")])
    save_photograph(images / "a.png")
    with pytest.raises(ValueError, match=r"a\.jpg and .*a\.png would both be written to .*a\.png"):
        main([str(images), *shared, str(results)])
    with pytest.raises(ValueError, match=r"a\.png would be overwritten"):
        main([str(images / "a.png"), *shared, str(images)])
    assert not results.exists()


def test_a_hole_outside_of_the_photograph_is_refused(checkpoint: str, photograph: Path) -> None:
    with pytest.raises(ValueError, match=r"80,20,40,30 .* does not lie in the image of 90x70"):
        main([str(photograph), "--hole", "80,20,40,30", "--checkpoint", checkpoint])


def test_a_missing_network_is_one_line_and_a_status(photograph: Path, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "launch" / "complete.py"
    result = subprocess.run(
        [sys.executable, script, photograph, "--hole", "3,2,40,30", "--checkpoint", tmp_path],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 66
    assert len(result.stderr.strip().splitlines()) == 1
    assert "holds no trained network" in result.stderr
