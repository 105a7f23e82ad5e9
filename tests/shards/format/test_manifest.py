import json
from dataclasses import replace

import pytest

from shards.format.manifest import (
    MANIFEST_NAME,
    Manifest,
    RefusedImage,
    ShardEntry,
    load_manifest,
    save_manifest,
)
from shards.format.recipe import MaskRecipe, PackRecipe


def manifest():
    return Manifest(
        recipe=PackRecipe(masks=MaskRecipe(masks_per_image=3)),
        classes=["cat", "dög"],
        mean_color=(0.1, 0.25, 1 / 3),
        splits={
            "train": [
                ShardEntry("train-000000.tar", 5, 10240, "aa", "bb"),
                ShardEntry("train-000001.tar", 2, 10240, "cc", "dd"),
            ],
            "val": [],
        },
        converted={"greyscale to RGB": 2},
        refused=[RefusedImage("cat/broken\udcff.jpg", "damaged")],
    )


def test_a_manifest_survives_the_round_trip(tmp_path):
    save_manifest(str(tmp_path), manifest())
    loaded = load_manifest(str(tmp_path))
    assert loaded == manifest()
    assert loaded.fingerprint == manifest().fingerprint


def test_samples_are_image_and_mask_pairs():
    assert manifest().num_images("train") == 7
    assert manifest().num_samples("train") == 21
    assert manifest().num_samples("val") == 0


def test_the_fingerprint_changes_with_any_shard():
    other = replace(
        manifest(), splits={"train": [ShardEntry("train-000000.tar", 5, 10240, "ab", "bb")]}
    )
    assert other.fingerprint != manifest().fingerprint


def test_a_missing_set_says_how_to_pack_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="glcic pack"):
        load_manifest(str(tmp_path / "nowhere"))


def test_an_altered_manifest_is_refused(tmp_path):
    save_manifest(str(tmp_path), manifest())
    path = tmp_path / MANIFEST_NAME
    path.write_text(path.read_text().replace('"aa"', '"ff"'))
    with pytest.raises(ValueError, match="was altered"):
        load_manifest(str(tmp_path))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "other", "version": 1}'])
def test_a_foreign_manifest_is_refused_by_name(tmp_path, content):
    (tmp_path / MANIFEST_NAME).write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json is not a manifest of glcic-shards"):
        load_manifest(str(tmp_path))


def test_a_later_version_is_refused(tmp_path):
    save_manifest(str(tmp_path), manifest())
    path = tmp_path / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 3}))
    with pytest.raises(ValueError, match="version 3"):
        load_manifest(str(tmp_path))
