"""Pictures put together byte by byte: what no library writes, and what only some of them read."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from tests.shards.odd_files import (
    EITHER,
    PIXELS,
    REFUSED,
    RGB,
    SIZE,
    STORED,
    OddFile,
    saved,
    with_segment,
)

WIDTH, HEIGHT = SIZE
DEEP = PIXELS.astype(np.uint16) * 257
GREY = np.asarray(RGB.convert("L"))


def jpegs() -> Iterator[OddFile]:
    jpeg = saved(RGB, "JPEG", quality=95)
    frame = jpeg.find(b"\xff\xc0")
    tiff = b"Exif\0\0II*\0"
    yield OddFile("no-end.jpg", jpeg[:-2], REFUSED, reason="Premature end")
    yield OddFile("two-starts.jpg", jpeg[:2] + jpeg, REFUSED, reason="damaged")
    yield OddFile("fill-bytes.jpg", jpeg[:2] + b"\xff" * 20 + jpeg[2:], STORED, 8)
    small = b"Exif\0\0" + saved(RGB.resize((16, 16)), "JPEG")
    yield OddFile("thumbnail-inside.jpg", with_segment(jpeg, small), STORED, 8)
    for name, exif in {
        "offset": tiff + b"\xff" * 4,
        "circle": tiff + b"\x08\0\0\0\0\0\x08\0\0\0",
        "text-as-orientation": tiff + b"\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0",
    }.items():
        yield OddFile(f"exif-{name}.jpg", with_segment(jpeg, exif), STORED, 8)
    yield OddFile("segment-too-long.jpg", jpeg[:2] + b"\xff\xe1\xff\xff" + jpeg[2:], REFUSED)
    profile = b"\xff\xe2\x00\x20ICC_PROFILE\0\x05\x01" + bytes(16)
    yield OddFile("profile-cut.jpg", jpeg[:2] + profile + jpeg[2:], REFUSED, reason="ICC")
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0"
    yield OddFile("adobe.jpg", jpeg[:2] + adobe + b"\x01" + jpeg[2:], STORED, 8)
    four = saved(RGB.convert("CMYK"), "JPEG", quality=95)
    place = four.find(b"Adobe") + 11
    yield OddFile("ycck.jpg", four[:place] + b"\x02" + four[place + 1 :], STORED)
    yield OddFile("extended.jpg", jpeg[: frame + 1] + b"\xc1" + jpeg[frame + 2 :], STORED, 8)
    # Progressive, lossless, hierarchical, arithmetic: their marker over data of another kind.
    for marker in (0xC2, 0xC3, 0xC5, 0xC9, 0xCA, 0xCB):
        data = jpeg[: frame + 1] + bytes([marker]) + jpeg[frame + 2 :]
        yield OddFile(f"marker-{marker:x}.jpg", data, REFUSED, reason="damaged")
    yield OddFile("12-bit.jpg", jpeg[: frame + 4] + b"\x0c" + jpeg[frame + 5 :], REFUSED)


def chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def png(
    pixels: np.ndarray, color: int, depth: int = 8, extra: bytes = b"", width: int = WIDTH
) -> bytes:
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2" if depth > 8 else "u1"))
    return png_of(rows, color, depth, extra, width)


def png_of(
    rows: bytes, color: int, depth: int = 8, extra: bytes = b"", width: int = WIDTH, passes: int = 0
) -> bytes:
    header = struct.pack(">IIBBBBB", width, HEIGHT, depth, color, 0, 0, passes)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def interlaced() -> bytes:
    rows = b""
    for x, y, dx, dy in (
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):  # fmt: skip
        rows += b"".join(b"\0" + row.tobytes() for row in PIXELS[y::dy, x::dx])
    return png_of(rows, 2, passes=1)


def pngs() -> Iterator[OddFile]:
    plain = png(PIXELS.reshape(HEIGHT, -1), 2)
    deep = png(DEEP.reshape(HEIGHT, -1), 2, 16)
    opaque = np.concatenate([DEEP, np.full((HEIGHT, WIDTH, 1), 65_535)], axis=-1)
    yield OddFile("interlaced.png", interlaced(), STORED, 7)
    yield OddFile("16-bit.png", deep, STORED, 7)
    yield OddFile("16-bit-opaque.png", png(opaque.reshape(HEIGHT, -1), 6, 16), STORED, 7)
    yield OddFile("16-bit-grey.png", png(DEEP[..., 0], 0, 16), STORED)
    both = np.stack([DEEP[..., 0], DEEP[..., 1]], axis=-1)
    yield OddFile("16-bit-grey-alpha.png", png(both.reshape(HEIGHT, -1), 4, 16), STORED)
    for depth in (1, 2, 4):
        rows = np.arange(HEIGHT)[:, None] * np.ones(WIDTH * depth // 8, int) % 256
        yield OddFile(f"grey-{depth}.png", png(rows, 0, depth), STORED)
    for name, whole in (("plain", plain), ("deep", deep)):
        yield OddFile(f"no-end-{name}.png", whole[:-12], STORED, 7)
        for kind, extra in {
            "profile": chunk(b"iCCP", b"x\0\0junk"),
            "gamma": chunk(b"gAMA", bytes(4)) + chunk(b"sRGB", b"\x09"),
            "exif": chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
            "time": chunk(b"tIME", b"\xff" * 7),
        }.items():
            data = whole[:33] + extra + whole[33:]
            yield OddFile(f"bad-{kind}-{name}.png", data, STORED, 7)
        for place in (30, -17):  # the checksums of the header and of the pixels
            data = bytearray(whole)
            data[place] ^= 1
            yield OddFile(f"checksum-{place}-{name}.png", bytes(data), REFUSED)
    rows = zlib.decompress(plain[41:-16])
    yield OddFile("too-few-rows.png", png_of(rows[:3000], 2), REFUSED, reason="truncated")
    yield OddFile("too-many-rows.png", png_of(rows + bytes(5000), 2), STORED, 7)
    yield OddFile("wider-header.png", png_of(rows, 2, width=2 * WIDTH), REFUSED)
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(20_000_000), 9))
    yield OddFile("text-bomb.png", plain[:33] + text + plain[33:], REFUSED, reason="too large")
    yield OddFile("no-palette.png", png(GREY, 3), REFUSED)
    yield OddFile("short-palette.png", png(GREY, 3, extra=chunk(b"PLTE", bytes(30))), EITHER)


def bitmap(bits: int, data: bytes, compression: int = 0, height: int = HEIGHT) -> bytes:
    palette = bytes(np.repeat(np.arange(256, dtype=np.uint8), 4)) if bits == 8 else b""
    start = 54 + len(palette)
    return (
        b"BM"
        + struct.pack("<IHHI", start + len(data), 0, 0, start)
        + struct.pack(
            "<IiiHHIIiiII", 40, WIDTH, height, 1, bits, compression, len(data), 0, 0,
            len(palette) // 4, 0,
        )
        + palette
        + data
    )  # fmt: skip


def bitmaps() -> Iterator[OddFile]:
    runs = b"".join(
        b"".join(bytes([1, value]) for value in row) + b"\0\0" for row in GREY[::-1].tolist()
    )
    packed = bitmap(8, runs + b"\0\1", 1)
    yield OddFile("run-lengths.bmp", packed, STORED)
    yield OddFile("run-lengths-cut.bmp", packed[:2000], REFUSED, reason="not enough")
    yield OddFile("16-bit.bmp", bitmap(16, bytes(range(256)) * (HEIGHT * WIDTH // 128)), STORED)
    filled = np.concatenate([PIXELS[::-1, :, ::-1], np.zeros((HEIGHT, WIDTH, 1), "u1")], axis=-1)
    yield OddFile("32-bit.bmp", bitmap(32, filled.tobytes()), STORED, 7)
    yield OddFile(
        "from-the-top.bmp", bitmap(24, PIXELS[..., ::-1].tobytes(), 0, -HEIGHT), STORED, 7
    )
    yield OddFile("claims-much.bmp", bitmap(24, b"", 0, 2**30), REFUSED, reason="too many pixels")


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def tiffs() -> Iterator[OddFile]:
    rgb = {"photometric": "rgb"}
    planes = {**rgb, "planarconfig": "separate"}
    yield OddFile("planes.tif", tiff(np.moveaxis(PIXELS, 2, 0).copy(), **planes), STORED, 7)
    deep_planes = tiff(np.moveaxis(DEEP, 2, 0).copy(), **planes)
    yield OddFile("deep-planes.tif", deep_planes, REFUSED, reason="separate colour planes")
    for name, pixels in (("plain", PIXELS), ("deep", DEEP)):
        for order in "<>":
            data = tiff(pixels, byteorder=order, **rgb)
            yield OddFile(f"{name}-{'big' if order == '>' else 'little'}.tif", data, STORED, 7)
        yield OddFile(f"{name}-tiles.tif", tiff(pixels, tile=(16, 16), **rgb), STORED, 7)
    yield OddFile("64-bit-offsets.tif", tiff(PIXELS, bigtiff=True, **rgb), STORED, 7)
    five = np.dstack([PIXELS, PIXELS[..., :2]])
    yield OddFile("five-channels.tif", tiff(five, **rgb), STORED, 7)
    volume = tiff(np.stack([GREY] * 5), photometric="minisblack")
    yield OddFile("volume.tif", volume, STORED)
    for kind in ("float32", "float64", "int16", "int32", "uint32", "complex64"):
        yield OddFile(f"{kind}.tif", tiff(GREY.astype(kind)), REFUSED)
    whole = tiff(PIXELS, **rgb)
    (start,) = struct.unpack("<I", whole[4:8])
    (count,) = struct.unpack("<H", whole[start : start + 2])
    follows = start + 2 + 12 * count
    circle = whole[:follows] + struct.pack("<I", start) + whole[follows + 4 :]
    yield OddFile("pages-in-a-circle.tif", circle, STORED, 7)
    for number in range(count):
        for part in (4, 8):  # how many values a tag has; the value, or where it lies
            place = start + 2 + 12 * number + part
            data = whole[:place] + b"\xff\xff\xff\x7f" + whole[place + 4 :]
            yield OddFile(f"tag-{number}-{part}.tif", data, EITHER)


def others() -> Iterator[OddFile]:
    header = b"P6 %d %d " % SIZE
    for maximum in (100, 1000):
        values = (PIXELS.astype(np.uint32) * maximum + 127) // 255
        data = values.astype("u1" if maximum < 256 else ">u2").tobytes()
        yield OddFile(f"maximum-{maximum}.ppm", header + b"%d\n" % maximum + data, STORED, 7)
    for maximum in (0, 70_000):
        data = header + b"%d\n" % maximum + PIXELS.tobytes() * 2
        yield OddFile(f"maximum-{maximum}.ppm", data, REFUSED, reason="maxval")
    digits = b" ".join(b"%d" % value for value in PIXELS.ravel().tolist())
    yield OddFile("digits.ppm", b"P3 %d %d 255\n" % SIZE + digits, STORED, 7)
    yield OddFile("digits-too-large.ppm", b"P3 %d %d 100\n" % SIZE + digits, REFUSED)
    yield OddFile(
        "deep.pgm", b"P5 %d %d 65535\n" % SIZE + DEEP[..., 0].astype(">u2").tobytes(), STORED
    )
    yield OddFile("cut.ppm", header + b"255\n" + PIXELS.tobytes()[:-100], REFUSED)
    yield OddFile("cut-deep.ppm", header + b"65535\n" + DEEP.tobytes()[:-100], REFUSED)
    yield OddFile("negative.ppm", b"P6 -72 64 255\n" + PIXELS.tobytes(), REFUSED)
    jp2 = saved(RGB, "JPEG2000")
    yield OddFile("cut.jp2", jp2[: len(jp2) // 2], REFUSED)
    yield OddFile("codestream.j2k", saved(RGB, "JPEG2000", no_jp2=True), STORED, 7)
    yield OddFile("deep-grey.jp2", saved(Image.fromarray(DEEP[..., 0]), "JPEG2000"), STORED)
    gif = saved(RGB.convert("P"), "GIF")
    large = gif[:6] + struct.pack("<HH", 65_535, 65_535) + gif[10:]
    yield OddFile("canvas-claims-much.gif", large, REFUSED, reason="too many pixels")
    yield OddFile("no-end.gif", gif[:-1], STORED, 40)
    webp = saved(RGB, "WEBP", lossless=True)
    yield OddFile("trailing.webp", webp + b"junk", STORED, 7)
    yield OddFile("length-too-large.webp", webp[:4] + b"\xff\xff\xff\x7f" + webp[8:], REFUSED)
    for kind in ("ICO", "TGA", "PCX"):
        yield OddFile(f"other.{kind.lower()}", saved(RGB, kind), REFUSED, reason="not an image")


def odd_images() -> list[OddFile]:
    makers: tuple[Callable[[], Iterator[OddFile]], ...] = (jpegs, pngs, bitmaps, tiffs, others)
    return [image for maker in makers for image in maker()]
