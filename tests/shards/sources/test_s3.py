"""Sources on a real S3 server, the one that AWS_ENDPOINT_URL names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shards.format.recipe import PackRecipe
from shards.sources.plan import plan_packing, read_source_image
from shards.storage.files import open_filesystem, write_bytes
from tests.shards.small_sources import (
    classes_by_name,
    make_files,
    make_remote,
    names_of,
    picture_bytes,
    planned,
    tar_bytes,
)

pytestmark = [
    pytest.mark.s3,
    pytest.mark.skipif(
        "AWS_ENDPOINT_URL" not in os.environ, reason="no S3 server: AWS_ENDPOINT_URL is not set"
    ),
]

NAMES = ["train/cat/a.jpg", "train/cat/deep/b.jpg", "train/dog/c.jpg", "val/dog/d ü+.jpg"]


def contents(location: str) -> dict[str, bytes]:
    plan = planned(location)
    return {
        image.name: read_source_image(location, image)
        for images in plan.splits.values()
        for image in images
    }


def test_a_tree_in_a_bucket_gives_the_plan_of_the_same_tree_on_a_disk(
    folder: str, tmp_path: Path
) -> None:
    make_remote(f"{folder}/photos", NAMES)
    make_remote(f"{folder}/photos-other", ["cat/not-ours.jpg"])
    make_files(tmp_path / "photos", NAMES)
    recipe = PackRecipe(seed=3)
    remote = plan_packing(f"{folder}/photos", recipe)
    assert remote.sha256 == plan_packing(f"{tmp_path}/photos", recipe).sha256
    assert contents(f"{folder}/photos/") == {name: name.encode() for name in NAMES}


def test_folders_made_by_hand_and_keys_like_patterns_are_no_trouble(folder: str) -> None:
    write_bytes(f"{folder}/cat/a.jpg", b"a")
    write_bytes(f"{folder}/cat/picture", picture_bytes())
    filesystem, path = open_filesystem(folder)
    bucket, _, key = path.partition("/")
    for name in ("", "cat/", "empty/", "cat/[1]*?.jpg"):
        filesystem.call_s3("put_object", Bucket=bucket, Key=f"{key}/{name}", Body=b"")
    plan = planned(folder)
    assert names_of(plan) == ["cat/[1]*?.jpg", "cat/a.jpg", "cat/picture"]
    assert plan.ignored == []
    assert contents(folder)["cat/[1]*?.jpg"] == b""


def test_archives_in_a_bucket_are_walked_and_read_by_range(folder: str) -> None:
    large = [f"{number}.jpg" for number in range(2000)]  # more than one request's bytes
    write_bytes(f"{folder}/cat.tar", tar_bytes(large))
    write_bytes(f"{folder}/dog.tar", tar_bytes(["a.jpg"]))
    plan = planned(folder)
    assert plan.classes == ["cat", "dog"]
    for image in plan.splits["train"][:20]:
        assert read_source_image(folder, image) == image.name.split("/")[1].encode()
    assert len(planned(f"{folder}/cat.tar").splits["train"]) == 2000


def test_a_list_in_a_bucket_names_images_beside_it_and_elsewhere(folder: str) -> None:
    make_remote(f"{folder}/images", ["a.jpg"])
    make_remote(f"{folder}/list", ["b.jpg"])
    rows = f"path,class\n{folder}/images/a.jpg,cat\nb.jpg,dog\n"
    write_bytes(f"{folder}/list/list.csv", rows.encode())
    location = f"{folder}/list/list.csv"
    assert classes_by_name(planned(location)) == {f"{folder}/images/a.jpg": "cat", "b.jpg": "dog"}
    assert contents(location) == {f"{folder}/images/a.jpg": b"a.jpg", "b.jpg": b"b.jpg"}


def test_a_missing_source_and_an_object_are_refused(folder: str) -> None:
    make_remote(folder, ["a.jpg"])
    for name in ("missing", "a.jpg"):
        with pytest.raises(ValueError, match="name the folder"):
            planned(f"{folder}/{name}")
    for name in ("missing.tar", "missing.csv"):
        with pytest.raises(ValueError, match=name):
            planned(f"{folder}/{name}")
