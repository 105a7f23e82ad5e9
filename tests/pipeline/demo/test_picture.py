from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from pipeline.demo import picture
from pipeline.demo.picture import pillow_image, read_picture


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def png_of_claimed_size(path: Path, width: int, height: int) -> Path:
    """Its header claims so many pixels; the file itself is tiny."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b""))
    return path


def test_a_picture_within_the_limit_keeps_its_pixels(tmp_path: Path) -> None:
    pixels = data.astronaut()[:70, :90]
    found = read_picture(save(tmp_path / "a.png", pixels), 90)
    assert np.array_equal(found.photograph.pixels, pixels)
    assert not found.is_scaled


def test_a_larger_picture_is_scaled_to_the_limit_and_its_size_remembered(tmp_path: Path) -> None:
    found = read_picture(save(tmp_path / "a.jpg", data.astronaut()[:300, :400]), 100)
    assert found.photograph.size == (75, 100)
    assert found.original_size == (300, 400)
    assert found.is_scaled


def test_a_strip_of_one_row_keeps_its_row(tmp_path: Path) -> None:
    found = read_picture(save(tmp_path / "a.png", data.astronaut()[:1, :500]), 64)
    assert found.photograph.size == (1, 64)


def test_a_photograph_that_lies_on_its_side_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    found = read_picture(save(tmp_path / "a.jpg", data.astronaut()[:60, :200], exif=exif), 100)
    assert found.original_size == (200, 60)
    assert found.photograph.size == (100, 30)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("limit", [40, 100])
def test_grey_and_transparent_pictures_stay_what_they_are(
    mode: str, limit: int, tmp_path: Path
) -> None:
    image = Image.fromarray(data.astronaut()[:80, :80]).convert(mode)
    image.save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png", limit)
    assert pillow_image(found.photograph).mode == mode
    assert found.photograph.size == (min(80, limit), min(80, limit))


def test_colours_under_full_transparency_do_not_bleed_when_scaled(tmp_path: Path) -> None:
    pixels = np.zeros((80, 80, 4), dtype=np.uint8)
    pixels[:, :41] = (200, 0, 0, 255)
    pixels[:, 41:] = (0, 255, 0, 0)
    found = read_picture(save(tmp_path / "a.png", pixels), 20).photograph.pixels
    visible = found[..., 3] > 16
    assert visible[:, 10].all()
    assert found[visible][:, 1].max() < 10


def test_a_profile_of_colours_comes_through(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", data.astronaut()[:80, :80], icc_profile=b"a profile")
    assert pillow_image(read_picture(path, 40).photograph).info["icc_profile"] == b"a profile"


def test_sixteen_bits_are_refused_rather_than_lost(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.full((8, 8), 40_000, dtype=np.uint16))
    with pytest.raises(ValueError, match=r"^a\.png has more than 8 bits per channel"):
        read_picture(path, 64)


@pytest.mark.parametrize("size", [(10_000, 5_001), (40_000, 40_000)])
def test_what_would_be_huge_is_refused_before_it_is_decoded(
    size: tuple[int, int], tmp_path: Path
) -> None:
    path = png_of_claimed_size(tmp_path / "bomb.png", *size)
    with pytest.raises(ValueError, match=r"^bomb\.png would have .*more than 50,000,000"):
        read_picture(path, 64)


@pytest.mark.parametrize(
    "content", [b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_is_no_image_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"^a\.png is no image that can be read"):
        read_picture(tmp_path / "a.png", 64)


def test_a_cut_off_file_is_refused_without_its_folder(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", data.astronaut())
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"^a\.jpg cannot be read") as error:
        read_picture(path, 64)
    assert str(tmp_path) not in str(error.value)


def test_a_file_of_too_many_bytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture, "MAX_FILE_MB", 0)
    with pytest.raises(ValueError, match=r"^a\.png has more than 0 MB"):
        read_picture(save(tmp_path / "a.png", data.astronaut()[:8, :8]), 64)
