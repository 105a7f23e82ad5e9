"""A set to judge on: every image is for validation, none for training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shards.format.manifest import load_manifest
from shards.indexing.external_set import index_external_shards
from shards.inspection.preview import read_samples
from shards.inspection.verify import verify_set
from shards.packing.merge import merge_slices
from shards.packing.pack import pack_images, pack_slice
from shards.packing.repack import repack_damaged
from shards.reading.packed_set import ShardSet
from tests.shards.external_shards import write_shards
from tests.shards.pictures import pack_small_set, small_recipe, write_class_folders


@pytest.fixture
def url(tmp_path: Path) -> str:
    return pack_small_set(tmp_path, images=12, validation_fraction=1.0)


def test_every_image_is_for_validation_and_the_set_is_sound(url: str) -> None:
    manifest = load_manifest(url)
    assert (manifest.num_images("train"), manifest.num_images("val")) == (0, 12)
    assert list(verify_set(url)) == []


def test_its_mean_colour_is_that_of_the_images_it_has(url: str) -> None:
    shard_set = ShardSet(url, "val")
    crops = [sample.crop for sample in read_samples(shard_set, 12)]
    shard_set.close()
    mean = load_manifest(url).mean_color
    np.testing.assert_allclose(mean, np.mean(crops, axis=(0, 1, 2)) / 255, atol=0.01)


def test_the_mean_colour_of_other_sets_is_that_of_training_alone(tmp_path: Path) -> None:
    source = write_class_folders(tmp_path / "source", 1, 2, (48, 48))
    recipes = [small_recipe(validation_fraction=fraction) for fraction in (0, 0.5, 1)]
    trained, both, judged = (
        pack_images(source, str(tmp_path / f"set-{number}"), recipe, workers=1).mean_color
        for number, recipe in enumerate(recipes)
    )
    assert both not in (trained, judged)


def test_it_is_packed_in_slices_and_mended_like_any_other(tmp_path: Path) -> None:
    source = write_class_folders(tmp_path / "source", 2, 6, (48, 48))
    recipe = small_recipe(validation_fraction=1)
    whole, sliced = str(tmp_path / "whole"), str(tmp_path / "sliced")
    pack_images(source, whole, recipe, workers=1)
    for number in range(2):
        pack_slice(source, sliced, recipe, number, 2, workers=1)
    merge_slices(sliced)
    assert load_manifest(sliced).fingerprint == load_manifest(whole).fingerprint

    shard = Path(whole) / "val-000000.tar"
    before = shard.read_bytes()
    shard.write_bytes(before[:-700])
    assert repack_damaged(str(source), whole, log=lambda line: None).names == ["val-000000.tar"]
    assert shard.read_bytes() == before


def test_shards_that_others_packed_are_all_for_validation_too(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set")
    manifest = index_external_shards(str(folder), small_recipe(validation_fraction=1))
    assert manifest.num_images("train") == 0
    assert manifest.num_images("val") > 0


def test_a_source_whose_folders_name_the_splits_decides_by_them(tmp_path: Path) -> None:
    for split, seed in (("train", 0), ("val", 1)):
        write_class_folders(tmp_path / "source" / split, 1, 3, (48, 48), seed)
    recipe = small_recipe(validation_fraction=1)
    manifest = pack_images(str(tmp_path / "source"), str(tmp_path / "set"), recipe, workers=1)
    assert (manifest.num_images("train"), manifest.num_images("val")) == (3, 3)
