from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from pipeline.inference.photograph import read_mask, read_photograph, rectangle_mask

HOLE = (slice(10, 20), slice(5, 30))


def save(path: Path, mode: str, **options: object) -> Path:
    colours = data.astronaut()[:64, :48]
    alpha = np.tile(np.arange(48, dtype=np.uint8) * 4, (64, 1))
    Image.fromarray(np.dstack([colours, alpha])).convert(mode).save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_the_mode_and_the_known_pixels_survive(tmp_path: Path, mode: str) -> None:
    photograph = read_photograph(save(tmp_path / "image.png", mode))
    mask = np.zeros((64, 48), dtype=bool)
    mask[HOLE] = True
    completed = photograph.with_hole(np.full((64, 48, 3), (200, 100, 50), np.uint8), mask)
    completed.save(tmp_path / "completed.png")
    before, after = Image.open(tmp_path / "image.png"), Image.open(tmp_path / "completed.png")
    assert after.mode == mode
    assert np.array_equal(np.asarray(after)[~mask], np.asarray(before)[~mask])
    expected = {"L": 124, "LA": (124, 255), "RGB": (200, 100, 50), "RGBA": (200, 100, 50, 255)}
    assert (np.asarray(after)[mask] == expected[mode]).all()


@pytest.mark.parametrize(("mode", "shown"), [("P", "RGB"), ("1", "L"), ("CMYK", "RGB")])
def test_other_modes_are_converted(tmp_path: Path, mode: str, shown: str) -> None:
    path = save(tmp_path / "image.tiff", mode)
    photograph = read_photograph(path)
    expected = np.asarray(Image.open(path).convert(shown))
    assert np.array_equal(photograph.pixels, expected.reshape(64, 48, -1))
    assert photograph.rgb().shape == (64, 48, 3)


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to display
    path = save(tmp_path / "image.png", "RGB", exif=exif)
    photograph = read_photograph(path)
    assert photograph.size == (48, 64)
    assert np.array_equal(photograph.pixels, np.rot90(data.astronaut()[:64, :48], -1))


def test_the_colour_profile_is_kept(tmp_path: Path) -> None:
    path = save(tmp_path / "image.png", "RGB", icc_profile=b"profile")
    read_photograph(path).save(tmp_path / "again.png")
    assert Image.open(tmp_path / "again.png").info["icc_profile"] == b"profile"


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_deep_images_are_refused_rather_than_cut_to_8_bits(
    tmp_path: Path, channels: int, suffix: str
) -> None:
    path = tmp_path / f"deep.{suffix}"
    cv2.imwrite(str(path), np.full((8, 8, channels), 40_000, dtype=np.uint16))
    for read in (read_photograph, read_mask):
        with pytest.raises(ValueError, match=rf"deep\.{suffix} has more than 8 bits"):
            read(path)


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((8, 8), dtype=np.float32)).save(tmp_path / "deep.tiff")
    with pytest.raises(ValueError, match=r"deep\.tiff has more than 8 bits"):
        read_photograph(tmp_path / "deep.tiff")


@pytest.mark.parametrize("suffix", ["png", "tiff", "bmp", "ppm"])
def test_images_of_8_bits_are_read_as_they_are(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"image.{suffix}", "RGB")
    assert np.array_equal(read_photograph(path).pixels, data.astronaut()[:64, :48])


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_file_that_is_no_image_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.png cannot be read"):
        read_photograph(path)


def test_a_truncated_photograph_is_refused_by_name(tmp_path: Path) -> None:
    path = save(tmp_path / "image.jpg", "RGB")
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ValueError, match=r"image\.jpg cannot be read"):
        read_photograph(path)


def test_a_missing_file_stays_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_photograph(tmp_path / "none.png")


def test_a_mask_is_a_hole_from_128_on(tmp_path: Path) -> None:
    levels = np.array([[0, 1, 127, 128, 255]], dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[False, False, False, True, True]]


def test_rectangles_are_united() -> None:
    mask = rectangle_mask([(1, 2, 3, 4), (2, 3, 5, 1)], (10, 12))
    expected = np.zeros((10, 12), dtype=bool)
    expected[2:6, 1:4] = True
    expected[3:4, 2:7] = True
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize("hole", [(-1, 0, 4, 4), (10, 0, 4, 4), (0, 0, 0, 4), (0, 8, 4, 4)])
def test_a_rectangle_outside_of_the_image_is_refused(hole: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"does not lie in the image of 12x10 pixels"):
        rectangle_mask([hole], (10, 12))
