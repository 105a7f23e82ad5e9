"""More than two hundred kinds of odd and damaged files, as people's folders hold them."""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from tests.shards.pictures import picture

STORED, REFUSED, EITHER = "stored", "refused", "either"
SIZE = (72, 64)
PIXELS = picture(SIZE, seed=5)
RGB = Image.fromarray(PIXELS)


@dataclass(frozen=True)
class OddFile:
    """A file to pack. `either`: damage that a decoder may or may not notice."""

    name: str
    data: bytes
    expected: str
    tolerance: float = 0.0  # mean difference to the picture, in levels; 0: not compared
    reason: str = ""  # a pattern in that of the refusal


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.copy().save(buffer, kind, **options)  # Pillow remembers the options of the last time
    return buffer.getvalue()


def whole_files() -> Iterator[OddFile]:
    """Formats and variants that are stored."""
    grey, palette = RGB.convert("L"), RGB.convert("P", palette=Image.Palette.ADAPTIVE)
    alpha = RGB.convert("RGBA")
    half = alpha.copy()
    half.putalpha(128)
    for quality in (30, 75, 100):
        yield OddFile(f"quality-{quality}.jpg", saved(RGB, "JPEG", quality=quality), STORED, 14)
    for sampling in (0, 1, 2):
        for progressive in (False, True):
            data = saved(RGB, "JPEG", quality=95, subsampling=sampling, progressive=progressive)
            yield OddFile(f"sampling-{sampling}-{progressive}.jpg", data, STORED, 8)
    sampled = {"411": 0x411111, "440": 0x121111, "422": 0x211111}
    for name, factor in sampled.items():
        options = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
        data = cv2.imencode(".jpg", PIXELS[..., ::-1], options)[1].tobytes()
        yield OddFile(f"sampling-{name}.jpg", data, STORED, 10)
    restarts = [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
    data = cv2.imencode(".jpg", PIXELS[..., ::-1], restarts)[1].tobytes()
    yield OddFile("restart-markers.jpg", data, STORED, 8)
    yield OddFile("grey.jpg", saved(grey, "JPEG"), STORED)
    yield OddFile("cmyk.jpg", saved(RGB.convert("CMYK"), "JPEG", quality=95), STORED, 12)
    yield OddFile("keep-rgb.jpg", saved(RGB, "JPEG", quality=95, keep_rgb=True), STORED, 8)
    yield OddFile("icc.jpg", saved(RGB, "JPEG", icc_profile=b"no profile" * 9), STORED, 14)
    yield OddFile("comment.jpg", saved(RGB, "JPEG", comment=b"\x00\xff" * 400), STORED, 14)
    for orientation in range(12):
        exif = Image.Exif()
        exif[0x0112] = orientation
        tolerance = 14 if orientation in (0, 1, 9, 10, 11) else 0
        data = saved(RGB, "JPEG", exif=exif)
        yield OddFile(f"orientation-{orientation}.jpg", data, STORED, tolerance)
    jpeg = saved(RGB, "JPEG", quality=95)
    yield OddFile("garbage-exif.jpg", with_segment(jpeg, b"Exif\0\0" + b"\x93" * 40), STORED, 8)
    yield OddFile("trailing-garbage.jpg", jpeg + b"\x00garbage\xff\xd9" * 50, STORED, 8)
    yield OddFile("two-pictures.jpg", jpeg + saved(grey, "JPEG"), STORED, 8)
    yield OddFile("many.mpo", saved(RGB, "MPO", save_all=True, append_images=[grey]), STORED, 14)
    modes = {"1": 0, "L": 0, "LA": 0, "P": 40, "RGB": 7, "RGBA": 7, "I;16": 0}
    for mode, tolerance in modes.items():
        image = palette if mode == "P" else sixteen_bit() if "I" in mode else RGB.convert(mode)
        yield OddFile(f"mode-{mode.replace(';', '-')}.png", saved(image, "PNG"), STORED, tolerance)
    for bits in (1, 2, 4):
        yield OddFile(f"palette-{bits}.png", saved(palette.quantize(2**bits), "PNG"), STORED)
    clear = saved(palette.quantize(16), "PNG", transparency=0)
    yield OddFile("palette-transparent.png", clear, STORED)
    yield OddFile("half-transparent.png", saved(half, "PNG"), STORED)
    yield OddFile(
        "deep.png", cv2.imencode(".png", PIXELS.astype(np.uint16) * 257)[1].tobytes(), STORED
    )
    for level in (0, 9):
        yield OddFile(f"level-{level}.png", saved(RGB, "PNG", compress_level=level), STORED, 7)
    animated = saved(RGB, "PNG", save_all=True, append_images=[grey.convert("RGB")])
    yield OddFile("animated.png", animated, STORED, 7)
    for kind, options in {
        "gif": {}, "bmp": {}, "tiff": {}, "ppm": {}, "webp": {"quality": 95}, "jp2": {},
    }.items():  # fmt: skip
        name = {"jp2": "JPEG2000", "gif": "GIF"}.get(kind, kind.upper())
        tolerance = 40 if kind == "gif" else 10
        yield OddFile(f"plain.{kind}", saved(RGB, name, **options), STORED, tolerance)
    yield OddFile("lossless.webp", saved(RGB, "WEBP", lossless=True), STORED, 7)
    yield OddFile("alpha.webp", saved(half, "WEBP"), STORED)
    yield OddFile("animated.webp", saved(RGB, "WEBP", save_all=True, append_images=[RGB]), STORED)
    yield OddFile("animated.gif", saved(palette, "GIF", save_all=True, append_images=[RGB]), STORED)
    yield OddFile("transparent.gif", saved(palette, "GIF", transparency=3), STORED)
    for mode in ("1", "L", "P", "RGBA"):
        yield OddFile(f"mode-{mode}.bmp", saved(RGB.convert(mode), "BMP"), STORED)
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        data = saved(RGB, "TIFF", compression=compression)
        yield OddFile(f"{compression}.tiff", data, STORED, 14)
    for mode in ("1", "L", "P", "RGBA", "CMYK"):
        yield OddFile(f"mode-{mode}.tiff", saved(RGB.convert(mode), "TIFF"), STORED)
    yield OddFile("deep.tiff", saved(sixteen_bit(), "TIFF"), STORED)
    pages = saved(RGB, "TIFF", save_all=True, append_images=[RGB.copy()], compression="raw")
    yield OddFile("pages.tiff", pages, STORED, 10)
    yield OddFile("float.tiff", saved(grey.convert("F"), "TIFF"), REFUSED, reason="no known range")
    header = f"P6 {SIZE[0]} {SIZE[1]} ".encode()
    yield OddFile(
        "text-header.ppm",
        header.replace(b" ", b"\n# why\n") + b"255\n" + PIXELS.tobytes(),
        STORED,
        7,
    )
    deep = (PIXELS.astype(">u2") * 4).tobytes()
    yield OddFile("maximum-1023.ppm", header + b"1023\n" + deep, STORED)
    yield OddFile("grey.pgm", saved(grey, "PPM"), STORED)
    yield OddFile("bits.pbm", saved(RGB.convert("1"), "PPM"), STORED)


def sixteen_bit() -> Image.Image:
    grey = cv2.cvtColor(PIXELS, cv2.COLOR_RGB2GRAY).astype(np.uint16) * 257
    return Image.fromarray(grey)


def with_segment(jpeg: bytes, content: bytes) -> bytes:
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


def named_files() -> Iterator[OddFile]:
    """Fine pictures under names of all kinds."""
    jpeg, png = saved(RGB, "JPEG", quality=95), saved(RGB, "PNG")
    names = [
        "with spaces in it.jpg", "quote's \"both\".jpg", "new\nline.jpg", "tab\there.jpg",
        "-rf.jpg", "--help.jpg", "ümläut.jpg", "日本語.jpg", "emoji-\U0001f431.jpg",
        "dots.a.b.c.jpg",
        "n" * 240 + ".jpg", "UPPER.JPG", "Mixed.JpEg", "semi;colon.jpg", "$(echo).jpg", "star*.jpg",
        "percent%20.jpg", "back\\slash.jpg", "hash#1.jpg", "question?.jpg", "[brackets].jpg",
        "bytes-\udcff\udcfe.jpg", "a=b&c.jpg", "colon:.jpg", "~tilde.jpg", "no-extension",
        "ends.jpg.part", "ends.jpg.bak", "wrong.txt", "0", "café.jpg", "right‮left.jpg",
        "really-a.png", "really-a.gif", "really-a.tiff", "really-a.webp",
    ]  # fmt: skip
    for name in names:
        yield OddFile(f"name/{name}", jpeg, STORED, 8)
    yield OddFile("name/really-a-png.jpg", png, STORED, 7)


def sized_files() -> Iterator[OddFile]:
    for width, height in ((1, 1), (1, 500), (500, 1), (31, 31), (31, 400), (400, 31), (5000, 16)):
        image = Image.fromarray(picture((width, height)) if min(width, height) > 1 else
                                np.zeros((height, width, 3), np.uint8))  # fmt: skip
        for kind, options in (("jpg", {}), ("png", {})):
            data = saved(image, {"jpg": "JPEG", "png": "PNG"}[kind], **options)
            name = f"size-{width}x{height}.{kind}"
            yield OddFile(name, data, REFUSED, reason="too small")
    for width, height in ((32, 32), (33, 32), (32, 47), (1000, 32), (49, 1001), (97, 131)):
        for kind in ("JPEG", "PNG"):
            data = saved(Image.fromarray(picture((width, height))), kind)
            yield OddFile(f"size-{width}x{height}.{kind.lower()}", data, STORED)


def hostile_files() -> Iterator[OddFile]:
    """What is no picture, or claims to be more of one than can be."""
    jpeg, png = saved(RGB, "JPEG"), saved(RGB, "PNG")
    yield OddFile("empty.jpg", b"", REFUSED, reason="empty")
    yield OddFile("empty.png", b"", REFUSED, reason="empty")
    for number, data in enumerate(
        (
            b"\xff",
            b"\xff\xd8",
            b"\xff\xd8\xff",
            b"\x89PNG",
            b"RIFF",
            b"GIF89a",
            b"BM",
            b"II*\0",
            b"P6",
        )
    ):
        yield OddFile(f"beginning-{number}.jpg", data, REFUSED)
    for suffix in ("jpg", "png", "gif", "webp", "tiff", "bmp"):
        yield OddFile(f"html.{suffix}", b"<!DOCTYPE html><html>404</html>", REFUSED)
        yield OddFile(f"zeros.{suffix}", bytes(5000), REFUSED)
        noise = np.random.default_rng(len(suffix)).bytes(4000)
        yield OddFile(f"noise.{suffix}", noise, REFUSED)
    start = jpeg.find(b"\xff\xc0")
    for width, height in ((65500, 65500), (65535, 40), (0, 64)):
        changed = bytearray(jpeg)
        changed[start + 5 : start + 9] = struct.pack(">HH", height, width)
        yield OddFile(f"claims-{width}x{height}.jpg", bytes(changed), REFUSED)
    for width, height in ((60000, 60000), (2**31 - 1, 1), (0, 0)):
        header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        head = png[:8] + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
        yield OddFile(f"claims-{width}x{height}.png", head + png[33:], REFUSED)
    bomb = zlib.compress(bytes(200_000_000), 9)
    chunk = b"IDAT" + bomb
    header = png[:33]
    data = header + struct.pack(">I", len(bomb)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    yield OddFile("bomb.png", data + png[-12:], EITHER)
    yield OddFile("leading-garbage.jpg", b"garbage" + jpeg, REFUSED)
    yield OddFile("script.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", REFUSED)
    yield OddFile("page.pdf", b"%PDF-1.4 nothing", REFUSED)
    yield OddFile("vector.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 72 72\n", REFUSED)
    yield OddFile("raw.npy", b"\x93NUMPY\x01\x00", REFUSED)
    yield OddFile("notes.txt", b"not a picture", REFUSED, reason="not an image")
    yield OddFile(".hidden.jpg", jpeg, REFUSED, reason="hidden")
    yield OddFile("Thumbs.db", b"\xd0\xcf\x11\xe0" * 300, REFUSED)
    yield OddFile("archive.zip", b"PK\x03\x04" + bytes(100), REFUSED)


def damaged_files() -> Iterator[OddFile]:
    """Each format cut at several places, and with a bit flipped at several."""
    formats = {
        "jpg": saved(RGB, "JPEG", quality=95), "png": saved(RGB, "PNG"), "gif": saved(RGB, "GIF"),
        "bmp": saved(RGB, "BMP"), "tiff": saved(RGB, "TIFF"), "webp": saved(RGB, "WEBP"),
    }  # fmt: skip
    for suffix, data in formats.items():
        for percent in (1, 10, 50, 90, 99):
            kept = data[: max(1, len(data) * percent // 100)]
            expected = REFUSED if percent <= 50 else EITHER
            yield OddFile(f"cut-{percent}.{suffix}", kept, expected)
        for place in (0, 9, len(data) // 3, len(data) // 2, len(data) - 30):
            flipped = bytearray(data)
            flipped[place] ^= 0x40
            yield OddFile(f"flip-{place}.{suffix}", bytes(flipped), EITHER)


def odd_files() -> list[OddFile]:
    makers: tuple[Callable[[], Iterator[OddFile]], ...] = (
        whole_files, named_files, sized_files, hostile_files, damaged_files,
    )  # fmt: skip
    return [file for maker in makers for file in maker()]


def write_odd_files(folder: Path, files: list[OddFile]) -> int:
    """Writes them, and what is no file of bytes beside them: links, a pipe, a socket. Returns how
    many of those should be stored."""
    for file in files:
        path = folder / "class" / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.data)
    place = folder / "special"
    place.mkdir()
    (place / "fine.jpg").write_bytes(saved(RGB, "JPEG"))
    (place / "link.jpg").symlink_to(place / "fine.jpg")
    (place / "broken.jpg").symlink_to(place / "nowhere.jpg")
    (place / "itself.jpg").symlink_to(place / "itself.jpg")
    (place / "round").symlink_to(place, target_is_directory=True)
    (place / "folder.jpg").mkdir()
    (place / "folder.jpg" / "inside.jpg").write_bytes(saved(RGB, "JPEG"))
    os.mkfifo(place / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(place)  # the names of sockets are short
        server.bind("socket.jpg")
        os.chdir(here)
    return 3


__all__ = ["OddFile", "odd_files", "write_odd_files"]
