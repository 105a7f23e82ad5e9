import sys

import numpy as np
import pytest
from PIL import Image

from shards.format.manifest import load_manifest
from shards.format.recipe import MaskRecipe, PackRecipe
from shards.packing.pack import pack_images
from shards.sources import sample_photographs
from shards.sources.plan import is_ignored
from shards.sources.sample_photographs import (
    CREDITS_NAME,
    SAMPLE_PHOTOGRAPHS,
    available_photographs,
    cut_tiles,
    read_sample_photograph,
    write_samples,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    write_samples(folder)
    return folder


def files_of(folder, split):
    return sorted((folder / split).rglob("*.png"))


def test_no_photograph_is_in_both_splits(folder):
    names = {
        split: {path.parent.name for path in files_of(folder, split)} for split in ("train", "val")
    }
    assert not names["train"] & names["val"]
    assert names["train"] | names["val"] == {photo.name for photo in available_photographs()}
    assert len(names["val"]) >= 3


def test_the_written_tiles_are_where_their_names_say(folder):
    originals = {photo.name: read_sample_photograph(photo) for photo in available_photographs()}
    splits = {photo.name: photo.split for photo in SAMPLE_PHOTOGRAPHS}
    for split in ("train", "val"):
        for path in files_of(folder, split):
            name, x, y, side = path.stem.rsplit("-", 3)
            left, top, right = int(x), int(y), int(x) + int(side)
            expected = originals[name][top : top + int(side), left:right]
            assert np.array_equal(np.asarray(Image.open(path)), expected)
            assert splits[name] == split


def test_validation_tiles_are_as_many_of_each_photograph_and_spread_over_it():
    noise = np.random.default_rng(0).integers(0, 255, (400, 700, 3), dtype=np.uint8)
    tiles = cut_tiles("val", noise)
    assert len(tiles) == 16
    assert len({tile.x for tile in tiles}) > 8
    assert len({tile.y for tile in tiles}) > 4


def test_a_photograph_without_anything_to_see_gives_no_tiles():
    assert cut_tiles("train", np.full((400, 400, 3), 90, np.uint8)) == []
    assert cut_tiles("val", np.full((400, 400, 3), 90, np.uint8)) == []
    assert cut_tiles("val", np.zeros((100, 400, 3), np.uint8)) == []  # lower than a tile


def test_there_are_enough_tiles_to_train_and_to_validate(folder):
    assert len(files_of(folder, "train")) >= 300
    assert len(files_of(folder, "val")) >= 30


def test_every_photograph_is_credited(folder):
    text = (folder / CREDITS_NAME).read_text()
    for photograph in available_photographs():
        assert photograph.credit in text


def test_the_samples_can_be_packed(folder, tmp_path):
    recipe = PackRecipe(crop_size=64, short_side=64, masks=MaskRecipe(side_min=16, side_max=32))
    manifest = pack_images(folder, str(tmp_path / "set"), recipe)
    assert manifest.num_images("train") == len(files_of(folder, "train"))
    assert manifest.num_images("val") == len(files_of(folder, "val"))
    assert [image.path for image in manifest.refused] == [CREDITS_NAME]
    assert is_ignored(manifest.refused[0])
    assert load_manifest(str(tmp_path / "set")).classes == sorted(
        photo.name for photo in available_photographs()
    )


def test_it_works_without_scikit_learn(tmp_path, monkeypatch):
    find = sample_photographs.importlib.util.find_spec
    monkeypatch.setattr(
        sample_photographs.importlib.util,
        "find_spec",
        lambda name: None if name == "sklearn" else find(name),
    )
    counts = write_samples(tmp_path)
    assert counts["train"] >= 250
    assert not (tmp_path / "train" / "china").exists()
    assert "china" not in (tmp_path / CREDITS_NAME).read_text()


def test_photographs_of_scikit_learn_are_read_from_its_folder(tmp_path, monkeypatch):
    package = tmp_path / "sklearn"
    (package / "datasets" / "images").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    noise = np.random.default_rng(0).integers(0, 255, (427, 640, 3), dtype=np.uint8)
    for name in ("china", "flower"):
        Image.fromarray(noise).save(package / "datasets" / "images" / f"{name}.jpg")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    assert {photo.name for photo in available_photographs()} >= {"china", "flower"}
    assert read_sample_photograph(SAMPLE_PHOTOGRAPHS[-1]).shape == (427, 640, 3)


@pytest.fixture
def one_photograph(monkeypatch):
    """Chelsea alone: what is asked of the folder does not depend on how many there are."""
    monkeypatch.setattr(sample_photographs, "SAMPLE_PHOTOGRAPHS", SAMPLE_PHOTOGRAPHS[1:2])


def test_an_earlier_set_of_samples_is_replaced(tmp_path, one_photograph):
    first = write_samples(tmp_path)
    # Of an earlier release, in which each photograph was in both splits.
    stale = tmp_path / "train" / "coffee" / "coffee-1-1-160.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"from an earlier release")
    assert write_samples(tmp_path) == first
    assert not stale.exists()


@pytest.mark.parametrize(
    "stranger", ["notes.txt", "val/chelsea/mine.png", "train/dog/coffee-0-0-160.png"]
)
def test_files_of_others_are_never_removed(tmp_path, stranger, one_photograph):
    write_samples(tmp_path)
    (tmp_path / stranger).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / stranger).write_text("mine")
    with pytest.raises(ValueError, match=f"holds {stranger}, which is no sample tile"):
        write_samples(tmp_path)
    assert (tmp_path / stranger).read_text() == "mine"


def test_a_file_as_the_destination_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        write_samples(tmp_path / "file")
