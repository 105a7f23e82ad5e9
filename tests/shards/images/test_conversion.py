import struct
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps
from skimage import data

from shards.format.recipe import PackRecipe
from shards.images.conversion import (
    UnusableImage,
    convert_image,
    has_image_content,
    has_image_extension,
)
from shards.images.encodings import decode_image
from tests.shards.pictures import picture

RECIPE = PackRecipe(crop_size=32, short_side=48)


def convert(path, split="train", recipe=RECIPE):
    image = convert_image(path.read_bytes(), path.name, split, recipe)
    memory = np.empty(image.height * image.width * 3, np.uint8)
    return image, decode_image(image.data, memory, image.width, image.height)


def saved(tmp_path, image, name, **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(tmp_path / name, **options)
    return tmp_path / name


def distance(pixels, expected):
    """Mean difference, in levels of 255."""
    return np.abs(pixels.astype(float) - expected.astype(float)).mean()


def reference(pixels, width, height):
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


def psnr(pixels, expected):
    return 10 * np.log10(255**2 / ((pixels.astype(float) - expected) ** 2).mean())


@pytest.mark.parametrize(
    ("size", "stored"),
    [((96, 72), (64, 48)), ((72, 96), (48, 64)), ((50, 40), (50, 40)), ((32, 32), (32, 32))],
)
def test_training_images_keep_their_aspect_and_are_never_enlarged(tmp_path, size, stored):
    image, _ = convert(saved(tmp_path, picture(size), "a.png"))
    assert (image.width, image.height) == stored
    assert image.original_size == size


def test_validation_images_are_the_centre_square_at_the_crop_size(tmp_path):
    pixels = picture((128, 64))
    pixels[:, :32] = pixels[:, 96:] = 0  # outside the centre square
    image, stored = convert(saved(tmp_path, pixels, "a.png"), split="val")
    assert (image.width, image.height) == (32, 32)
    assert distance(stored, reference(pixels[:, 32:96], 32, 32)) < 6
    assert stored[:, :2].mean() > 20


@pytest.mark.parametrize("size", [(48, 61), (100, 96), (333, 500), (1201, 800)])
def test_jpegs_are_scaled_without_loss_of_sharpness(tmp_path, size):
    path = saved(tmp_path, picture(size), "a.jpg", quality=95)
    image, stored = convert(path)
    full = np.asarray(Image.open(path))
    expected = reference(full, image.width, image.height)
    assert psnr(stored, expected) > 30
    assert min(image.width, image.height) == 48


def test_greyscale_becomes_three_equal_channels(tmp_path):
    grey = picture()[..., 0]
    for name in ("a.jpg", "a.png"):
        image, stored = convert(saved(tmp_path, grey, name))
        assert image.conversions == ("greyscale to RGB",)
        assert np.ptp(stored.astype(int), axis=2).max() <= 2
        assert distance(stored[..., 0], reference(grey, 64, 48)) < 3


def test_a_palette_becomes_rgb(tmp_path):
    pixels = picture()
    image, stored = convert(saved(tmp_path, Image.fromarray(pixels).quantize(256), "a.png"))
    assert image.conversions == ("palette to RGB",)
    assert distance(stored, reference(pixels, 64, 48)) < 8


def test_cmyk_becomes_rgb(tmp_path):
    pixels = picture()
    cmyk = Image.fromarray(pixels).convert("CMYK")
    image, stored = convert(saved(tmp_path, cmyk, "a.jpg", quality=95))
    assert image.conversions == ("CMYK to RGB",)
    assert distance(stored, reference(pixels, 64, 48)) < 8


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, suffix):
    pixels = picture()
    deep = pixels.astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / f"color.{suffix}"), deep[..., ::-1])
    cv2.imwrite(str(tmp_path / f"grey.{suffix}"), deep[..., 1])
    color, stored = convert(tmp_path / f"color.{suffix}")
    assert color.conversions == ("16-bit to 8-bit",)
    assert distance(stored, reference(pixels, 64, 48)) < 4
    grey, stored = convert(tmp_path / f"grey.{suffix}")
    assert grey.conversions == ("16-bit to 8-bit", "greyscale to RGB")
    assert distance(stored[..., 2], reference(pixels[..., 1], 64, 48)) < 4


@pytest.mark.parametrize(("kind", "largest"), [("P5", 1023), ("P6", 1023), ("P6", 65_535)])
def test_a_ppm_is_scaled_from_the_largest_value_that_it_names(tmp_path, kind, largest):
    pixels = picture()[..., :1] if kind == "P5" else picture()
    deep = (pixels.astype(float) / 255 * largest).round().astype(">u2")
    header = f"{kind}\n96 72\n{largest}\n".encode()
    (tmp_path / "a.ppm").write_bytes(header + deep.tobytes())
    image, stored = convert(tmp_path / "a.ppm")
    assert "16-bit to 8-bit" in image.conversions
    assert distance(stored, reference(pixels, 64, 48).reshape(48, 64, -1)) < 4


def test_deep_colour_planes_are_refused_rather_than_scrambled(tmp_path):
    planes = np.zeros((3, 72, 96), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    with pytest.raises(UnusableImage, match="more than 8 bits in separate colour planes"):
        convert(tmp_path / "a.tif")


def test_a_bitmap_of_sixteen_bits_a_pixel_has_less_than_eight_a_channel(tmp_path):
    fields = struct.pack("<IiiHHIIiiIIIII", 40, 64, 48, 1, 16, 3, 0, 0, 0, 0, 0, 63488, 2016, 31)
    pixels = np.full((48, 64), 63488, "<u2").tobytes()
    header = b"BM" + struct.pack("<IHHI", 66 + len(pixels), 0, 0, 66)
    (tmp_path / "a.bmp").write_bytes(header + fields + pixels)
    image, stored = convert(tmp_path / "a.bmp")
    assert image.conversions == ()
    assert distance(stored, np.full((48, 64, 3), (255, 0, 0))) < 4


def test_transparency_is_laid_over_white(tmp_path):
    pixels = picture((64, 48))
    alpha = np.full((48, 64, 1), 255, np.uint8)
    alpha[:, :32] = 0
    pixels[:, :32] = 0  # invisible black, as editors leave it
    image, stored = convert(saved(tmp_path, np.concatenate([pixels, alpha], 2), "a.png"))
    assert image.conversions == ("transparency laid over white",)
    assert stored[:, :28].min() > 240


def test_an_opaque_alpha_channel_is_dropped(tmp_path):
    pixels = picture((64, 48))
    opaque = np.concatenate([pixels, np.full((48, 64, 1), 255, np.uint8)], 2)
    image, stored = convert(saved(tmp_path, opaque, "a.png"))
    assert image.conversions == ("opaque alpha dropped",)
    assert distance(stored, pixels) < 4


def test_a_transparent_palette_colour_is_laid_over_white(tmp_path):
    pixels = np.zeros((48, 64), np.uint8)
    pixels[:, 32:] = 1
    image = Image.fromarray(pixels, mode="P")
    image.putpalette([0, 0, 0, 200, 0, 0])
    _, stored = convert(saved(tmp_path, image, "a.png", transparency=0))
    assert stored[:, :28].min() > 240


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_images_are_turned_upright_as_their_exif_says(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, picture(), f"a.{suffix}", exif=exif)
    with Image.open(path) as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened))
    image, stored = convert(path)
    assert image.original_size == upright.shape[1::-1]
    assert distance(stored, reference(upright, image.width, image.height)) < 4
    assert ("rotated as its EXIF says" in image.conversions) == (orientation > 1)


def test_the_content_decides_not_the_name(tmp_path):
    path = saved(tmp_path, picture(), "a.png").rename(tmp_path / "a.jpg")
    image, stored = convert(path)
    assert image.conversions == ("named otherwise than its content",)
    assert distance(stored, reference(picture(), 64, 48)) < 4


def test_the_extensions_jpeg_and_jpg_are_the_same(tmp_path):
    assert convert(saved(tmp_path, picture(), "a.JPEG"))[0].conversions == ()


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_several_frames_the_first_is_taken(tmp_path, suffix):
    frames = [Image.fromarray(picture(seed=seed)) for seed in range(3)]
    path = saved(
        tmp_path, frames[0], f"a.{suffix}", save_all=True, append_images=frames[1:], duration=100
    )
    image, stored = convert(path)
    assert "first of several frames" in image.conversions
    assert distance(stored, reference(picture(seed=0), 64, 48)) < 12


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_colour_sum_is_of_the_stored_pixels(tmp_path, split):
    path = saved(tmp_path, picture(), "a.png")
    image, stored = convert(path, split, replace(RECIPE, encoding="raw"))
    assert image.color_sum.tolist() == stored.sum(axis=(0, 1)).tolist()


@pytest.mark.parametrize("encoding", ["png", "webp", "raw"])
def test_without_loss_what_has_its_size_already_is_stored_as_it_is(tmp_path, encoding):
    path = saved(tmp_path, picture((50, 48)), "a.png")
    _, stored = convert(path, recipe=replace(RECIPE, encoding=encoding))
    assert np.array_equal(stored, picture((50, 48)))


@pytest.mark.parametrize("encoding", ["jpeg", "png", "webp", "raw"])
def test_the_encoding_changes_neither_the_size_nor_what_is_counted(tmp_path, encoding):
    path = saved(tmp_path, picture()[..., 0], "a.jpg")
    image, stored = convert(path, recipe=replace(RECIPE, encoding=encoding))
    plain, expected = convert(path)
    assert image.conversions == plain.conversions == ("greyscale to RGB",)
    assert (image.width, image.height) == (plain.width, plain.height)
    assert distance(stored, expected) < 3


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("scale", [1.02, 1.465, 2.3, 3.3, 5, 7])
def test_photographs_come_out_as_from_pillows_bicubic(tmp_path, split, scale):
    size = round(300 / scale) // 4 * 4
    recipe = PackRecipe(crop_size=size, short_side=size, encoding="raw")
    path = saved(tmp_path, data.chelsea()[:, :444], "cat.jpg", quality=95)
    image, stored = convert(path, split, recipe)
    with Image.open(path) as opened:
        width, height = opened.size
        left = (width - height) // 2 if split == "val" else 0
        box = (left, 0, left + height if split == "val" else width, height)
        expected = opened.resize((image.width, image.height), Image.Resampling.BICUBIC, box=box)
    assert min(image.width, image.height) == size
    assert psnr(stored, np.asarray(expected)) > 38


def test_extensions_are_known_before_any_image_was_opened():
    asked = (
        "from shards.images.conversion import has_image_extension as known; print(known('a.jpg'))"
    )
    answer = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True)
    assert answer.stdout == "True\n", answer.stderr


def test_an_extension_of_an_image_is_known_in_either_case():
    for name in ("a.jpg", "folder.d/B.JPEG", "c.PNG", "d.webp", "e.tif"):
        assert has_image_extension(name)
    for name in ("a.txt", "jpg", "folder.jpg/readme", "photo.jpg.part", ""):
        assert not has_image_extension(name)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp", "tif"])
def test_content_is_recognised_whatever_its_name(tmp_path, suffix):
    assert has_image_content(saved(tmp_path, picture(), f"a.{suffix}").read_bytes())


@pytest.mark.parametrize("content", [b"", b"text", bytes(1000), b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_other_content_is_no_image(content):
    assert not has_image_content(content)
