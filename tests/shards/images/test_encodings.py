import io
import resource
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from shards.format.recipe import PackRecipe
from shards.images.encodings import MAX_SIDE, decode_image, encode_image, image_size
from tests.shards.pictures import picture

LOSSLESS = ("png", "webp", "raw")
EVERY = ("jpeg", *LOSSLESS)


def encoded(encoding, pixels=None, **settings):
    pixels = picture((61, 43)) if pixels is None else pixels
    return encode_image(pixels, PackRecipe(encoding=encoding, **settings))


def decoded(data, width=61, height=43, memory=None):
    memory = np.empty(width * height * 3, np.uint8) if memory is None else memory
    return decode_image(data, memory, width, height)


def error(pixels, expected):
    return np.abs(pixels.astype(int) - expected).mean()


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("encoding", LOSSLESS)
def test_a_lossless_encoding_gives_back_every_pixel(encoding):
    assert np.array_equal(decoded(encoded(encoding)), picture((61, 43)))


def test_jpeg_keeps_more_the_higher_its_quality_and_the_finer_its_colours():
    coarse, default = encoded("jpeg", jpeg_quality=60), encoded("jpeg")
    fine = encoded("jpeg", jpeg_subsampling="444")
    assert len(coarse) < len(default) < len(fine)
    errors = [error(decoded(data), picture((61, 43))) for data in (coarse, default, fine)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] < 4


@pytest.mark.parametrize("encoding", EVERY)
def test_the_result_is_a_view_of_the_memory_given(encoding):
    memory = np.empty(20_000, np.uint8)
    pixels = decoded(memoryview(encoded(encoding)), memory=memory)
    assert np.shares_memory(pixels, memory)
    assert pixels.shape == (43, 61, 3)
    assert np.array_equal(pixels.ravel(), memory[: 61 * 43 * 3])


@pytest.mark.parametrize("encoding", EVERY)
def test_a_part_of_a_larger_picture_is_encoded_like_a_copy_of_it(encoding):
    part = picture((80, 60))[5:48, 7:68]
    assert encoded(encoding, part) == encoded(encoding, part.copy())


@pytest.mark.parametrize(("encoding", "kind"), [("jpeg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
def test_other_programs_read_what_is_stored(encoding, kind):
    with Image.open(io.BytesIO(encoded(encoding))) as image:
        assert (image.format, image.mode, image.size) == (kind, "RGB", (61, 43))
        assert error(np.asarray(image), picture((61, 43))) < 4


@pytest.mark.parametrize("size", [(1, 1), (61, 43), (12_345, 2)])
def test_raw_pixels_are_the_very_file_that_numpy_writes(size):
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    assert encoded("raw", pixels) == buffer.getvalue()
    assert image_size(buffer.getvalue()) == size


@pytest.mark.parametrize("encoding", EVERY)
def test_another_size_than_said_is_refused_with_both(encoding):
    for width, height in ((62, 43), (61, 42), (43, 61), (10, 10)):
        with pytest.raises(ValueError, match=f"it has 61 x 43 pixels, not {width} x {height}"):
            decoded(encoded(encoding), width, height)


@pytest.mark.parametrize("encoding", EVERY)
def test_truncated_data_are_refused(encoding):
    data = encoded(encoding)
    for length in (0, 1, 5, 11, 20, 29, 100, len(data) // 2, len(data) - 13, len(data) - 1):
        with pytest.raises(ValueError, match=r"\w"):
            decoded(data[:length])


@pytest.mark.parametrize("encoding", EVERY)
def test_the_longest_side_is_one_that_can_be_read_back(encoding):
    pixels = np.full((1, MAX_SIDE[encoding], 3), 77, np.uint8)
    assert error(decoded(encoded(encoding, pixels), MAX_SIDE[encoding], 1), pixels) < 2


def test_grey_jpegs_become_rgb():
    grey = picture((61, 43))[..., 0]
    pixels = decoded(saved(Image.fromarray(grey), "JPEG", quality=95))
    assert error(pixels, grey[..., None]) < 2


def test_cmyk_is_refused():
    with pytest.raises(ValueError, match="CMYK"):
        decoded(saved(Image.fromarray(picture((61, 43))).convert("CMYK"), "JPEG"))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "I;16"])
def test_other_kinds_of_png_become_rgb(mode):
    image = (
        Image.new(mode, (61, 43)) if mode == "I;16" else Image.new("RGB", (61, 43)).convert(mode)
    )
    assert (decoded(saved(image, "PNG")) == 0).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_orientation_is_not_applied_a_second_time(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = picture((61, 43))
    data = saved(Image.fromarray(pixels), kind, exif=exif, quality=95)
    assert error(decoded(data), pixels) < 6


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("extended", [True, False])
def test_every_kind_of_webp_is_read(lossless, extended):
    options = {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"} if extended else {}
    pixels = picture((61, 43))
    data = saved(Image.fromarray(pixels), "WEBP", lossless=lossless, quality=95, **options)
    assert (data[12:16] == b"VP8X") == extended
    assert error(decoded(data), pixels) < 6


def test_a_header_that_promises_a_huge_image_takes_no_memory():
    png = bytearray(encoded("png"))
    png[16:24] = struct.pack(">II", 60_000, 60_000)
    webp = bytearray(
        saved(Image.new("RGB", (61, 43)), "WEBP", exif=b"Exif\0\0II*\0", lossless=True)
    )
    webp[24:30] = b"\xff\xff\0" * 2
    jpeg = bytearray(encoded("jpeg"))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = struct.pack(">HH", 60_000, 60_000)
    raw = encoded("raw").replace(b"(43, 61, 3), }    ", b"(60000, 60000, 3), }"[:18])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in (png, webp, jpeg, raw):
        with pytest.raises(ValueError, match=r"pixels, not 61 x 43|not a \.npy"):
            decoded(bytes(data))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"'|u1'", b"'<u2'"),
        (b"False", b"True "),
        (b"\x01\x00", b"\x02\x00"),
        (b", 3)", b", 4)"),
        (b"}", b"+"),
    ],
)
def test_an_array_of_another_kind_is_refused(old, new):
    with pytest.raises(ValueError, match=r"not a \.npy"):
        decoded(encoded("raw").replace(old, new, 1))


def test_an_array_with_bytes_behind_it_is_refused():
    with pytest.raises(ValueError, match="it has 7998 bytes, not 7997"):
        decoded(encoded("raw") + b"\0")


@pytest.mark.parametrize("data", [b"", b"GIF89a" + bytes(300), bytes(300), b"RIFF\0\0\0\0WAVEfmt "])
def test_what_is_no_stored_image_is_refused(data):
    with pytest.raises(ValueError, match="neither JPEG, PNG, WebP"):
        decoded(data)


def test_damaged_pixels_of_a_png_are_noticed():
    data = bytearray(encoded("png"))
    data[len(data) // 2] ^= 4
    with pytest.raises(ValueError, match="damaged"):
        decoded(bytes(data))


def test_pngs_hold_what_opencv_would_write_at_its_own_settings():
    data = cv2.imencode(".png", picture((61, 43)))[1].tobytes()
    assert np.array_equal(decoded(data), picture((61, 43))[..., ::-1])
