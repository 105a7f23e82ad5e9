"""Pictures made by hand: each is stored as it looks, or refused, and no decoder complains."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, features

from shards.format.manifest import load_manifest
from shards.format.recipe import PackRecipe
from shards.images.conversion import StoredImage, UnusableImage, convert_image
from shards.images.encodings import decode_image
from tests.shards.odd_files import EITHER, RGB, STORED, OddFile, saved
from tests.shards.odd_images import chunk, odd_images, tiff
from tests.shards.pictures import picture

ROOT = Path(__file__).resolve().parents[3]
RECIPE = PackRecipe(crop_size=32, short_side=64)
IMAGES = odd_images()
TURNS = {
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def pixels_of(stored: StoredImage) -> np.ndarray:
    memory = np.empty(stored.width * stored.height * 3, np.uint8)
    return decode_image(stored.data, memory, stored.width, stored.height)


def difference(stored: StoredImage, expected: Image.Image) -> float:
    """Mean, in levels of 255."""
    resized = expected.resize((stored.width, stored.height), Image.Resampling.BICUBIC)
    return float(np.abs(pixels_of(stored) - np.asarray(resized, float)).mean())


def converted(image: OddFile, split: str) -> tuple[StoredImage | None, str]:
    """The image, or why it is refused."""
    try:
        return convert_image(image.data, image.name, split, RECIPE), ""
    except UnusableImage as error:
        return None, str(error)


@pytest.mark.filterwarnings("ignore")  # pytest puts its own filters in the place of conversion's
@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_it_is_stored_as_it_looks_or_refused_in_silence(
    image: OddFile, split: str, capfd: pytest.CaptureFixture[str]
) -> None:
    stored, reason = converted(image, split)
    if stored is None:
        assert image.expected != STORED, reason
        assert re.search(image.reason, reason)
    else:
        assert image.expected in (STORED, EITHER)
        if image.tolerance and split == "train":
            assert difference(stored, RGB) < image.tolerance
    assert capfd.readouterr() == ("", "")


def test_a_pack_of_all_of_them_names_each_that_it_leaves_out(tmp_path: Path) -> None:
    for image in IMAGES:
        path = tmp_path / "source" / "class" / image.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.data)
    command = [sys.executable, "-m", "launch.command", "pack", "source", "set", "--size=32"]
    result = subprocess.run(
        [*command, "--workers=1"], cwd=tmp_path, capture_output=True, timeout=120,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, b"")
    manifest = load_manifest(str(tmp_path / "set"))
    refused = {image.path.removeprefix("class/") for image in manifest.refused}
    assert refused >= {image.name for image in IMAGES if image.expected not in (STORED, EITHER)}
    assert not refused & {image.name for image in IMAGES if image.expected == STORED}
    num_stored = manifest.num_images("train") + manifest.num_images("val")
    assert num_stored + len(refused) == len(IMAGES) == len({image.name for image in IMAGES})


def oriented(kind: str, pixels: np.ndarray, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "tif":
        tag = (0x0112, "H", 1, orientation, True)
        return tiff(pixels, photometric="rgb", extratags=[tag])
    if kind != "png":
        return saved(Image.fromarray(pixels), kind.upper(), exif=exif, quality=95)
    rows = b"".join(b"\0" + row.astype(f">u{row.itemsize}").tobytes() for row in pixels)
    header = struct.pack(
        ">IIBBBBB", pixels.shape[1], pixels.shape[0], 8 * pixels.itemsize, 2, 0, 0, 0
    )
    chunks = chunk(b"IHDR", header) + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    return b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["jpeg", "png", "tif", "webp", "avif", "deep png", "deep tif"])
def test_every_format_is_turned_upright_once(kind: str, orientation: int) -> None:
    if kind == "avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    pixels = picture((96, 64), seed=3)
    upright, turn = Image.fromarray(pixels), TURNS[orientation]
    if turn is not None:
        upright = upright.transpose(turn)
    source = pixels.astype(np.uint16) * 257 if kind.startswith("deep") else pixels
    suffix = kind.removeprefix("deep ")
    stored = convert_image(oriented(suffix, source, orientation), f"a.{suffix}", "train", RECIPE)
    assert stored.original_size == upright.size == (stored.width, stored.height)
    assert difference(stored, upright) < 8
    assert ("rotated as its EXIF says" in stored.conversions) == (orientation > 1)


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_a_tiff_of_which_zero_is_white_is_no_negative(kind: str) -> None:
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    values = (255 - ramp).astype(kind) * (257 if kind == "uint16" else 1)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric="miniswhite")
    stored = convert_image(buffer.getvalue(), "a.tif", "train", RECIPE)
    assert difference(stored, Image.fromarray(ramp).convert("RGB")) < 3
