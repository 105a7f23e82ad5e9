from __future__ import annotations

import errno
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import simplejpeg
import webdataset

import shards.indexing.external_set
from shards.format.index import decode_index
from shards.format.manifest import load_manifest
from shards.format.recipe import MaskRecipe
from shards.indexing.external_set import index_external_shards
from shards.inspection.verify import verify_set
from shards.masks.drawing import draw_masks
from shards.packing.repack import repack_damaged
from shards.reading.in_order import read_in_order
from shards.reading.packed_set import ShardSet
from shards.storage.files import list_names, read_bytes, upload_file
from tests.shards.external_shards import write_shards
from tests.shards.pictures import pack_small_set, picture, small_recipe

REMOTE = "memory://foreign-tests"
RECIPE = small_recipe(masks_per_image=2, holes_per_mask=2)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_shards_stay_as_they_are_and_get_indexes_and_a_manifest(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set")
    before = contents(folder)
    seen: list[tuple[int, int]] = []
    manifest = index_external_shards(str(folder), RECIPE, lambda *at: seen.append(at))
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    indexes = {name.replace(".tar", ".idx") for name in before}
    assert set(after) == set(before) | indexes | {"manifest.json"}
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert load_manifest(str(folder)) == manifest
    assert manifest.plan_sha256 == ""
    assert manifest.recipe.short_side == 48
    for entry in [entry for entries in manifest.splits.values() for entry in entries]:
        assert entry.num_images == 4
        assert entry.sha256 == hashlib.sha256(before[entry.name]).hexdigest()
    assert list(verify_set(str(folder))) == []


def test_records_lead_to_the_images_and_hold_the_masks_of_their_numbers(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set")
    index_external_shards(str(folder), RECIPE)
    number = 0
    for name in ("a-000000", "a-000001", "a-000002"):
        for record in decode_index((folder / f"{name}.idx").read_bytes(), name):
            assert record["image_number"] == number
            assert (record["image_width"], record["image_height"]) == (64 + number, 48)
            assert record["label"] == number % 3
            masks = draw_masks(RECIPE, number)
            assert np.array_equal(record["completion_holes"], masks.completion_holes)
            assert np.array_equal(record["discriminator_holes"], masks.discriminator_holes)
            number += 1
    assert number == 12


def test_a_second_run_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set")
    index_external_shards(str(folder), RECIPE)
    first = contents(folder)
    (folder / "a-000001.idx").write_bytes(b"damaged")
    index_external_shards(str(folder), RECIPE)
    assert contents(folder) == first


def test_a_set_of_a_store_gets_the_same_bytes(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set")
    filesystem = fsspec.filesystem("memory")
    if filesystem.exists(REMOTE):
        filesystem.rm(REMOTE, recursive=True)
    for path in folder.iterdir():
        upload_file(path, f"{REMOTE}/{path.name}")
    index_external_shards(REMOTE, RECIPE)
    index_external_shards(str(folder), RECIPE)
    assert {name: read_bytes(f"{REMOTE}/{name}") for name in list_names(REMOTE)} == contents(folder)
    assert list(verify_set(REMOTE)) == []


@pytest.mark.parametrize(
    ("names", "validation"),
    [
        (("b-0.tar", "train-0.tar", "val-0.tar"), ["val-0.tar"]),
        (("imagenet-train-0.tar", "imagenet-val-0.tar"), ["imagenet-val-0.tar"]),
        (("train_0.tar", "TEST_0.tar", "validation_0.tar"), ["TEST_0.tar", "validation_0.tar"]),
        (("valley-0.tar", "contest-1.tar", "values-2.tar"), ["values-2.tar"]),  # the last one
        (("a.tar", "b.tar", "c.tar", "d.tar"), ["d.tar"]),
        (("only.tar",), []),
    ],
)
def test_validation_shards_are_told_by_a_word_of_their_names_or_are_the_last(
    names: tuple[str, ...], validation: list[str], tmp_path: Path
) -> None:
    folder = write_shards(tmp_path / "set", names, images=1)
    manifest = index_external_shards(str(folder), RECIPE)
    assert [entry.name for entry in manifest.splits["val"]] == validation
    train = {entry.name for entry in manifest.splits["train"]}
    assert train == set(names) - set(validation)


def test_without_a_fraction_nothing_is_kept_for_validation(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set")
    manifest = index_external_shards(str(folder), replace(RECIPE, validation_fraction=0.0))
    assert manifest.num_images("val") == 0


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["10", "9", "100", "0"], ["0", "9", "10", "100"]),
        (["02", "1", "003", "2"], ["1", "02", "2", "003"]),
        (["zebra", "ant", "bee"], ["ant", "bee", "zebra"]),
        (["x", "10", "-1", "9"], ["9", "10", "-1", "x"]),
        (["9" * 6000, "1" * 5999], ["1" * 5999, "9" * 6000]),
    ],
)
def test_classes_stand_in_the_order_of_their_numbers_then_of_the_alphabet(
    labels: list[str], classes: list[str], tmp_path: Path
) -> None:
    folder = write_shards(tmp_path / "set", ("a.tar",), len(labels), lambda number: labels[number])
    manifest = index_external_shards(str(folder), RECIPE)
    assert manifest.classes == classes
    records = decode_index((folder / "a.idx").read_bytes(), "a")
    assert [classes[label] for label in records["label"]] == labels


def test_images_that_cannot_be_used_are_refused_and_the_set_is_sound(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set")
    with webdataset.TarWriter(str(folder / "b-0.tar")) as sink:
        sink.write({"__key__": "broken", "jpg": b"no image", "cls": b"1"})
    with webdataset.TarWriter(str(folder / "b-1.tar")) as sink:
        small = simplejpeg.encode_jpeg(picture((31, 31)), colorsubsampling="420")
        sink.write({"__key__": "small", "jpg": small, "cls": b"1"})
    with webdataset.TarWriter(str(folder / "b-2.tar")):
        pass
    manifest = index_external_shards(str(folder), RECIPE)
    refused = {image.path: image.reason for image in manifest.refused}
    assert "neither JPEG" in refused["b-0.tar/broken.jpg"]
    assert "too small: 31x31" in refused["b-1.tar/small.jpg"]
    assert refused["b-2.tar"] == "no sample in the shard"
    assert not list(folder.glob("b-*.idx"))
    assert list(verify_set(str(folder))) == []


def test_hidden_files_are_no_shards_and_any_name_of_a_shard_verifies(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set", ("my shard (1).tar", "b+c.tar"))
    (folder / "._b+c.tar").write_bytes(b"resource fork")
    index_external_shards(str(folder), RECIPE)
    findings = [finding.place for finding in verify_set(str(folder))]
    assert findings == ["._b+c.tar"]


def test_a_flipped_bit_is_found_wherever_it_lies(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set")
    index_external_shards(str(folder), RECIPE)
    path = folder / "a-000001.tar"
    data = bytearray(path.read_bytes())
    record = decode_index((folder / "a-000001.idx").read_bytes(), "")[2]
    data[int(record["image_offset"]) + 300] ^= 1
    path.write_bytes(data)
    findings = list(map(str, verify_set(str(folder))))
    assert any("a-000001.tar: SHA-256 is not the manifest's" in finding for finding in findings)
    assert any("CRC-32 is not the index's" in finding for finding in findings)


def test_an_index_that_is_missing_is_a_fault(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set")
    index_external_shards(str(folder), RECIPE)
    (folder / "a-000001.idx").unlink()
    assert [finding.place for finding in verify_set(str(folder))] == ["a-000001.idx"]


def test_validation_images_are_read_as_their_centre_square(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set", ("train.tar", "val.tar"))
    index_external_shards(str(folder), RECIPE)
    (batch,) = read_in_order(str(folder), "val", range(8), batch_size=8)
    shard_set = ShardSet(str(folder), "val")
    for row, image in ((0, 0), (1, 0), (7, 3)):
        whole = simplejpeg.decode_jpeg(shard_set.image_bytes(0, image))
        x = (whole.shape[1] - 48) // 2
        square = whole[:, x : x + 48].astype(float).reshape(16, 3, 16, 3, 3).mean(axis=(1, 3))
        ours = batch.images[row].astype(float).reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
        assert np.abs(ours - square).mean() < 2
    shard_set.close()


def test_it_cannot_be_packed_again(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set")
    index_external_shards(str(folder), RECIPE)
    with pytest.raises(ValueError, match=r"set was packed by others and only indexed here"):
        repack_damaged(str(tmp_path), str(folder))


def test_a_broken_archive_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set")
    path = folder / "a-000002.tar"
    path.write_bytes(path.read_bytes()[:5000])
    before = contents(folder)
    with pytest.raises(ValueError, match=r"a-000002\.tar is not a whole tar archive"):
        index_external_shards(str(folder), RECIPE)
    assert contents(folder) == before


def test_a_folder_without_a_shard_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"holds no shard: no file there ends in \.tar"):
            index_external_shards(str(folder), RECIPE)


def test_shards_without_one_image_to_train_on_are_refused(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set", ("val.tar",))
    with pytest.raises(ValueError, match="no image of 1 shards can be used for training"):
        index_external_shards(str(folder), RECIPE)
    recipe = small_recipe(crop_size=64, short_side=64)
    with pytest.raises(ValueError, match="no image of 3 shards can be used for training"):
        index_external_shards(str(write_shards(tmp_path / "small")), recipe)


def test_free_form_masks_are_refused_since_they_would_lie_in_the_shards(tmp_path: Path) -> None:
    recipe = replace(RECIPE, masks=MaskRecipe(kind="strokes"))
    with pytest.raises(ValueError, match=r"pack\.masks\.kind is strokes.*pack the images again"):
        index_external_shards(str(write_shards(tmp_path / "set")), recipe)


def test_a_set_that_was_packed_here_is_left_as_it_is(tmp_path: Path) -> None:
    url = Path(pack_small_set(tmp_path))
    before = contents(url)
    with pytest.raises(ValueError, match="was packed by `glcic pack`"):
        index_external_shards(str(url), RECIPE)
    assert contents(url) == before


def test_a_pack_under_way_is_left_as_it_is(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set")
    (folder / "pack-records").mkdir()
    with pytest.raises(ValueError, match="holds a pack that was not finished"):
        index_external_shards(str(folder), RECIPE)


def test_a_manifest_of_others_is_not_replaced(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set")
    (folder / "manifest.json").write_text(json.dumps({"name": "theirs"}))
    with pytest.raises(ValueError, match="to index the shards there, remove it first"):
        index_external_shards(str(folder), RECIPE)
    assert json.loads((folder / "manifest.json").read_text()) == {"name": "theirs"}


def test_an_index_of_another_reader_is_not_replaced_but_our_own_is(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set")
    index_external_shards(str(folder), RECIPE)
    first = contents(folder)
    (folder / "manifest.json").unlink()
    (folder / "a-000001.idx").write_text("v1.0 4")
    with pytest.raises(ValueError, match=r"a-000001\.idx is an index of another reader"):
        index_external_shards(str(folder), RECIPE)
    assert (folder / "a-000001.idx").read_text() == "v1.0 4"
    (folder / "a-000001.idx").unlink()
    index_external_shards(str(folder), RECIPE)
    assert contents(folder) == first


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_shards(tmp_path / "set")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(shards.indexing.external_set, "read_external_shard", None)
    with pytest.raises(OSError, match=r"set cannot be written \(Permission denied\).*copy the sh"):
        index_external_shards(str(folder), RECIPE)


def test_a_store_that_does_not_take_the_index_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str, data: bytes) -> None:
        raise OSError(errno.EROFS, "Read-only file system", url)

    monkeypatch.setattr(shards.indexing.external_set, "write_bytes", refuse)
    folder = write_shards(tmp_path / "set")
    with pytest.raises(OSError, match=r"Read-only file system.*or let their owner run `glcic ind"):
        index_external_shards(str(folder), RECIPE)
