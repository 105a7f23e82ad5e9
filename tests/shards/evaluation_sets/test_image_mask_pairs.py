import csv
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.evaluation_sets.image_mask_pairs import find_pairs
from shards.evaluation_sets.write_pairs import write_fixed_files
from shards.format.recipe import MaskRecipe
from shards.reading.in_order import read_in_order
from tests.shards.pictures import pack_small_set, picture, small_recipe, write_class_folders

RECIPE = replace(small_recipe(), masks=MaskRecipe(side_min=8, side_max=12))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    source = write_class_folders(tmp_path / "source")
    folder = tmp_path / "fixed"
    write_fixed_files(str(source), str(folder), RECIPE, ["packed"], split="train")
    return folder


def test_what_is_written_is_read_again_and_the_same_every_time(files: Path, tmp_path: Path) -> None:
    pairs = find_pairs(str(files / "images.csv"), [str(files / "packed")])
    assert pairs.side == 32
    assert len(pairs.pairs) == 9  # of 12 images 3 are for validation
    with open(files / "images.csv") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        image, mask = pairs.read(number)
        written = (files / row["image"]).read_bytes()
        assert hashlib.sha256(written).hexdigest() == row["sha256"]
        assert np.array_equal(image, np.asarray(Image.open(files / row["image"])))
        assert 64 <= mask.sum() <= 144
        assert row["source"].startswith("class-")
    again = tmp_path / "again"
    write_fixed_files(str(tmp_path / "source"), str(again), RECIPE, ["packed"], split="train")
    assert (again / "images.csv").read_bytes() == (files / "images.csv").read_bytes()
    assert find_pairs(str(again / "images.csv"), [str(again / "packed")]).description() == (
        pairs.description()
    )


def test_another_seed_draws_other_masks(files: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    recipe = replace(RECIPE, seed=1)
    write_fixed_files(str(tmp_path / "source"), str(other), recipe, ["packed"], split="train")
    first = [(files / f"packed/{n:06d}.png").read_bytes() for n in range(9)]
    assert first != [(other / f"packed/{n:06d}.png").read_bytes() for n in range(9)]


def test_a_packed_set_gives_its_validation_samples_with_their_own_masks(tmp_path: Path) -> None:
    shards_url = pack_small_set(tmp_path, masks_per_image=2, holes_per_mask=2)
    folder = tmp_path / "fixed"
    written = write_fixed_files(shards_url, str(folder), RECIPE, ["packed"])
    pairs = find_pairs(str(folder / "images.csv"), [f"own={folder}/packed"])
    assert {pair.set_name for pair in pairs.pairs} == {"own"}
    assert written.num_images == len(pairs.pairs) == 12
    batch = next(read_in_order(shards_url, "val", range(12), 12))
    for number in range(12):
        image, mask = pairs.read(number)
        assert np.array_equal(image, batch.images[number])
        expected = np.zeros((32, 32), dtype=bool)
        for x, y, width, height in batch.completion_holes[number]:
            expected[y : y + height, x : x + width] = True
        assert np.array_equal(mask, expected)


def test_images_that_cannot_be_used_are_told_and_left_out(tmp_path: Path) -> None:
    source = write_class_folders(tmp_path / "source", classes=1)
    Image.fromarray(picture((20, 20))).save(source / "class-0" / "small.png")
    recipe = replace(RECIPE, validation_fraction=0.0)
    folder = str(tmp_path / "fixed")
    written = write_fixed_files(str(source), folder, recipe, ["packed"], split="train")
    assert written.num_images == 4
    assert [image.path for image in written.refused] == ["class-0/small.png"]


def test_the_images_of_both_splits_can_be_written_of_a_source_alone(tmp_path: Path) -> None:
    shards_url = pack_small_set(tmp_path)
    source, folder = str(tmp_path / "set-source"), str(tmp_path / "fixed")
    assert write_fixed_files(source, folder, RECIPE, ["packed"], split="all").num_images == 24
    with pytest.raises(ValueError, match="only the split val is stored at the size of the crop"):
        write_fixed_files(shards_url, str(tmp_path / "none"), RECIPE, ["packed"], split="all")


def test_unknown_sets_and_sizes_and_full_folders_are_refused(files: Path, tmp_path: Path) -> None:
    source, new = str(tmp_path / "source"), str(tmp_path / "new")
    with pytest.raises(ValueError, match="no recipe of masks named 'fat'; there are packed, thin"):
        write_fixed_files(source, new, RECIPE, ["fat"])
    with pytest.raises(ValueError, match="made for 256 pixels, but the images have 32"):
        write_fixed_files(source, new, RECIPE, ["thin"])
    with pytest.raises(ValueError, match="is not empty"):
        write_fixed_files(source, str(files), RECIPE, ["packed"])


def test_everything_that_is_wrong_is_told_at_once_by_name(files: Path) -> None:
    (files / "images" / "000001.png").unlink()
    (files / "packed" / "000002.png").unlink()
    Image.new("L", (32, 32)).save(files / "packed" / "stray.png")
    with pytest.raises(ValueError, match="cannot be evaluated on") as caught:
        find_pairs(str(files / "images.csv"), [str(files / "packed"), "none=nowhere"])
    message = str(caught.value)
    for part in ("images/000001.png", "000002", "stray.png", "nowhere holds no mask"):
        assert part in message


def test_masks_of_another_size_are_named(files: Path) -> None:
    Image.new("L", (16, 32)).save(files / "packed" / "000003.png")
    (files / "packed" / "000004.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="not of 32 x 32") as caught:
        find_pairs(str(files / "images.csv"), [str(files / "packed")])
    assert "000003.png (16 x 32)" in str(caught.value)
    assert "000004.png (0 x 0)" in str(caught.value)


@pytest.mark.parametrize("name", ["images/000000.png", "packed/000000.png"])
def test_a_file_that_was_changed_is_refused_when_it_is_read(files: Path, name: str) -> None:
    with Image.open(files / name) as image:
        changed = image.transpose(Image.Transpose.ROTATE_90)
    changed.save(files / name)
    pairs = find_pairs(str(files / "images.csv"), [str(files / "packed")])
    with pytest.raises(ValueError, match="its SHA-256 differs"):
        pairs.read(0)


def square() -> np.ndarray:
    mask = np.zeros((32, 32), dtype=bool)
    mask[4:20, 8:16] = True
    return mask


@pytest.mark.parametrize("suffix", ["_mask", "_mask000"])
def test_masks_beside_their_images_are_found_by_their_suffix(tmp_path: Path, suffix: str) -> None:
    for name in ("cat_crop000", "dog"):
        Image.fromarray(picture((48, 40))).save(tmp_path / f"{name}.png")
        Image.fromarray(square()).save(tmp_path / f"{name}{suffix}.png")
    pairs = find_pairs(str(tmp_path), [f"lama={tmp_path}"])
    assert [pair.set_name for pair in pairs.pairs] == ["lama", "lama"]
    image, mask = pairs.read(1)
    assert image.shape == (32, 32, 3)  # the centre square, scaled to the mask
    assert np.array_equal(mask, square())


def test_masks_of_other_names_are_matched_by_order_and_may_be_black(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "black").mkdir(exist_ok=True)
        Image.fromarray(picture((32, 32))).save(tmp_path / f"images/picture{number}.png")
        Image.fromarray(~square()).save(tmp_path / f"black/{number:06d}.png")
    images, masks = str(tmp_path / "images"), [str(tmp_path / "black")]
    with pytest.raises(ValueError, match=r"masks of .* are missing"):
        find_pairs(images, masks)
    pairs = find_pairs(images, masks, inverted=True, by_order=True)
    assert np.array_equal(pairs.read(0)[1], square())
    (tmp_path / "black" / "000001.png").unlink()
    with pytest.raises(ValueError, match="holds 1 masks, for 2 images"):
        find_pairs(images, masks, by_order=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name\ncat.png\n", "has no column named image"),
        ("image\n", "names no image$"),
        ("image,sha256\n,0\n", "names no image in some rows"),
    ],
)
def test_a_list_without_images_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "images.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        find_pairs(str(tmp_path / "images.csv"), [str(tmp_path)])


def test_a_mask_without_a_hole_is_refused(tmp_path: Path) -> None:
    Image.fromarray(picture((32, 32))).save(tmp_path / "cat.png")
    (tmp_path / "masks").mkdir()
    Image.new("L", (32, 32)).save(tmp_path / "masks" / "cat.png")
    (tmp_path / "list.txt").write_text("cat.png\n")
    pairs = find_pairs(str(tmp_path / "list.txt"), [str(tmp_path / "masks")])
    with pytest.raises(ValueError, match=r"has no hole: .*--masks-inverted"):
        pairs.read(0)
