import struct
import subprocess
import sys
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from shards.format.recipe import PackRecipe
from shards.images.conversion import MAX_PIXELS, UnusableImage, convert_image, has_image_content
from tests.shards.pictures import picture

RECIPE = PackRecipe(crop_size=32, short_side=48)


def refused(path, split="train", recipe=RECIPE):
    """The reason."""
    with pytest.raises(UnusableImage) as refusal:
        convert_image(path.read_bytes(), path.name, split, recipe)
    return str(refusal.value)


def saved(tmp_path, image, name):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("split", ["train", "val"])
def test_too_small_an_image_is_refused_with_its_size_and_the_minimum(tmp_path, split):
    reason = refused(saved(tmp_path, picture((100, 31)), "a.png"), split)
    assert reason == "too small: 100x31, the short side must be at least 32"


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp", "tif"])
def test_a_truncated_image_is_refused(tmp_path, suffix):
    path = saved(tmp_path, picture((200, 150)), f"a.{suffix}")
    content = path.read_bytes()
    for share in (0.02, 0.5, 0.95):
        path.write_bytes(content[: int(share * len(content))])
        assert refused(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"<html>not found</html>", "not an image"), (bytes(5000), "not an image")],
)
def test_what_is_no_image_is_refused_with_the_reason(tmp_path, content, reason):
    (tmp_path / "a.jpg").write_bytes(content)
    assert reason in refused(tmp_path / "a.jpg")


def png_that_claims(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + header + checksum + b"\0\0\0\x08IDAT"


@pytest.mark.parametrize("size", [(40_000, 40_000), (MAX_PIXELS // 1000 + 1, 1000)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, size):
    (tmp_path / "bomb.png").write_bytes(png_that_claims(*size))
    assert "too many pixels" in refused(tmp_path / "bomb.png")
    assert str(MAX_PIXELS) in refused(tmp_path / "bomb.png")


def test_a_jpeg_that_claims_a_huge_size_is_refused(tmp_path):
    path = saved(tmp_path, picture(), "a.jpg")
    content = bytearray(path.read_bytes())
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = struct.pack(">HH", 50_000, 60_000)
    path.write_bytes(content)
    assert "too many pixels" in refused(path)


def test_a_limit_that_was_lifted_elsewhere_still_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "bomb.png").write_bytes(png_that_claims(40_000, 40_000))
    assert refused(tmp_path / "bomb.png").startswith("too many pixels: 40000x40000")


def test_nothing_is_written_to_stderr_for_bad_images(tmp_path):
    content = saved(tmp_path, picture((200, 150)), "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[: len(content) // 2])
    (tmp_path / "large.png").write_bytes(png_that_claims(10_000, 12_000))  # Pillow warns of these
    deep = cv2.imencode(".png", np.full((72, 96, 3), 999, np.uint16))[1].tobytes()
    (tmp_path / "deep.png").write_bytes(deep[: len(deep) // 2])
    deep = cv2.imencode(".tif", np.full((72, 96, 3), 999, np.uint16))[1].tobytes()
    (tmp_path / "deep.tif").write_bytes(deep[: len(deep) // 2] + deep[-300:])
    program = (
        "import sys, pathlib\n"
        "from shards.images.conversion import UnusableImage, convert_image\n"
        "from shards.format.recipe import PackRecipe\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        data = pathlib.Path(name).read_bytes()\n"
        "        convert_image(data, name, 'train', PackRecipe(32, 48))\n"
        "    except UnusableImage as error:\n"
        "        print(error)\n"
    )
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    ran = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.splitlines()) == len(paths)
    assert ran.stderr == ""


def test_an_image_that_no_jpeg_can_hold_is_refused(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (66_000, 40)), "long.png")
    assert refused(path) == "too elongated: 66000x40"


def test_webp_holds_less_long_images_than_the_others(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (16_384, 40)), "long.png")
    assert refused(path, recipe=replace(RECIPE, encoding="webp")) == "too elongated: 16384x40"
    stored = convert_image(path.read_bytes(), path.name, "train", replace(RECIPE, encoding="png"))
    assert stored.width == 16_384


def test_floating_point_pixels_are_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.ones((50, 50), np.float32)), "a.tif")
    assert "no known range" in refused(path)


def test_a_bomb_counts_as_an_image_so_that_its_refusal_is_reported():
    assert has_image_content(png_that_claims(40_000, 40_000))
