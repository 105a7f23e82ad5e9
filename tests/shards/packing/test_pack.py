import errno
import hashlib
import json
import os
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import webdataset
from PIL import Image

from shards.format.index import decode_index, index_name
from shards.format.manifest import MANIFEST_NAME, load_manifest
from shards.format.recipe import MaskRecipe, StrokeRecipe
from shards.masks.drawing import draw_masks
from shards.packing.pack import pack_images, pack_slice
from shards.sources.plan import is_ignored
from shards.storage.files import list_names, read_bytes, remove_tree
from tests.shards.pictures import pack_small_set, picture, small_recipe, write_class_folders

RECIPE = small_recipe(masks_per_image=2, holes_per_mask=3)


def contents(folder):
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def read_with_webdataset(url, manifest, split):
    urls = [f"{url}/{shard.name}" for shard in manifest.splits[split]]
    return list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))


@pytest.fixture
def source(tmp_path):
    return write_class_folders(tmp_path / "source", classes=3, images_per_class=8)


def test_plain_webdataset_reads_every_sample(tmp_path, source):
    url = str(tmp_path / "set")
    manifest = pack_images(source, url, RECIPE, workers=2)
    assert manifest.num_images("train") == 18
    assert manifest.num_images("val") == 6
    keys = []
    for split, num_images in (("train", 18), ("val", 6)):
        samples = read_with_webdataset(url, manifest, split)
        assert len(samples) == num_images
        for sample in samples:
            keys.append(sample["__key__"])
            text = sample["json"]
            assert manifest.classes[text["label"]] == text["class"] == text["source"].split("/")[0]
            assert text["original_size"] == [96, 72]
            assert sample["jpg"].size == ((64, 48) if split == "train" else (32, 32))
            assert np.array(text["masks"][1]["completion"]).shape == (3, 4)
            assert np.array(text["masks"][1]["discriminator"]).shape == (3, 4)
    assert keys == [f"{number:08d}" for number in range(24)]


def test_the_stored_picture_is_the_one_its_json_names(tmp_path, source):
    manifest = pack_images(source, str(tmp_path / "set"), RECIPE)
    for sample in read_with_webdataset(tmp_path / "set", manifest, "train"):
        original = Image.open(source / sample["json"]["source"]).resize(
            (64, 48), Image.Resampling.BOX
        )
        difference = np.asarray(sample["jpg"], float) - np.asarray(original, float)
        assert np.abs(difference).mean() < 5


def test_the_index_leads_to_the_bytes_of_every_member(tmp_path, source):
    manifest = pack_images(source, str(tmp_path / "set"), RECIPE)
    for shard in [*manifest.splits["train"], *manifest.splits["val"]]:
        data = (tmp_path / "set" / shard.name).read_bytes()
        index = (tmp_path / "set" / index_name(shard.name)).read_bytes()
        records = decode_index(index, shard.name)
        assert len(data) == shard.size_bytes
        assert hashlib.sha256(data).hexdigest() == shard.sha256
        assert hashlib.sha256(index).hexdigest() == shard.index_sha256
        assert len(records) == shard.num_images
        with tarfile.open(tmp_path / "set" / shard.name) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        for record in records:
            key = f"{record['image_number']:08d}"
            for kind, suffix in (("image", "jpg"), ("json", "json")):
                start, size = int(record[f"{kind}_offset"]), int(record[f"{kind}_size"])
                member = data[start : start + size]
                assert member == members[f"{key}.{suffix}"]
                assert zlib.crc32(member) == record[f"{kind}_crc32"]
            text = json.loads(members[f"{key}.json"])
            pixels = simplejpeg.decode_jpeg(members[f"{key}.jpg"])
            assert pixels.shape == (record["image_height"], record["image_width"], 3)
            assert text["label"] == record["label"]
            for kind in ("completion", "discriminator"):
                holes = [mask[kind] for mask in text["masks"]]
                assert holes == record[f"{kind}_holes"].tolist()


def test_masks_are_those_of_the_image_number(tmp_path, source):
    manifest = pack_images(source, str(tmp_path / "set"), RECIPE)
    for sample in read_with_webdataset(tmp_path / "set", manifest, "val"):
        drawn, stored = draw_masks(RECIPE, int(sample["__key__"])), sample["json"]["masks"]
        assert [mask["completion"] for mask in stored] == drawn.completion_holes.tolist()
        assert [mask["discriminator"] for mask in stored] == drawn.discriminator_holes.tolist()


def test_a_refused_image_moves_no_other_one(tmp_path, source):
    recipe = small_recipe(images_per_shard=4)
    whole = pack_images(source, str(tmp_path / "whole"), recipe)
    before = keys_by_source(tmp_path / "whole", whole)
    path = source / "class-0" / "picture-1.jpg"
    path.write_bytes(path.read_bytes()[:300].ljust(path.stat().st_size, b"\0"))  # the size counts
    manifest = pack_images(source, str(tmp_path / "set"), recipe)
    (refused,) = manifest.refused
    assert refused.path == "class-0/picture-1.jpg"
    before.pop(refused.path)
    assert keys_by_source(tmp_path / "set", manifest) == before
    assert sorted(shard.num_images for shard in manifest.splits["train"])[-2:] == [4, 4]


def keys_by_source(folder, manifest):
    return {
        sample["json"]["source"]: (split, sample["__url__"].rsplit("/")[-1], sample["__key__"])
        for split in ("train", "val")
        for sample in read_with_webdataset(folder, manifest, split)
    }


@pytest.mark.parametrize("encoding", ["jpeg", "png", "webp", "raw"])
def test_every_encoding_is_read_by_plain_webdataset(tmp_path, source, encoding):
    recipe = replace(RECIPE, encoding=encoding)
    manifest = pack_images(source, str(tmp_path / "set"), recipe)
    for sample in read_with_webdataset(tmp_path / "set", manifest, "val"):
        pixels = np.asarray(sample[recipe.extension])
        assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
        path = source / sample["json"]["source"]
        expected = Image.open(path).resize((32, 32), Image.Resampling.BOX, box=(12, 0, 84, 72))
        assert np.abs(pixels.astype(float) - np.asarray(expected, float)).mean() < 6


def test_free_form_masks_lie_in_a_picture_beside_the_image(tmp_path, source):
    masks = MaskRecipe(kind="strokes", masks_per_image=3, strokes=StrokeRecipe(width_max=12))
    recipe = replace(RECIPE, masks=masks)
    manifest = pack_images(source, str(tmp_path / "set"), recipe)
    for sample in read_with_webdataset(tmp_path / "set", manifest, "val"):
        stacked = np.asarray(sample["masks.png"].convert("L")) > 0
        drawn = draw_masks(recipe, int(sample["__key__"]))
        assert np.array_equal(stacked.reshape(3, 32, 32), drawn.pixels)
        assert drawn.pixels.any(axis=(1, 2)).all()


def test_the_same_source_and_seed_give_the_same_bytes_whatever_the_threads(tmp_path, source):
    pack_images(source, str(tmp_path / "one"), RECIPE, workers=1)
    os.utime(source / "class-0" / "picture-0.jpg", (1, 1))
    pack_images(source, str(tmp_path / "two"), RECIPE, workers=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_another_seed_gives_another_order_and_other_masks(tmp_path, source):
    first = pack_images(source, str(tmp_path / "one"), small_recipe(seed=0))
    second = pack_images(source, str(tmp_path / "two"), small_recipe(seed=1))
    assert first.fingerprint != second.fingerprint
    sources = [
        [sample["json"]["source"] for sample in read_with_webdataset(folder, manifest, "train")]
        for folder, manifest in ((tmp_path / "one", first), (tmp_path / "two", second))
    ]
    assert sources[0] != sources[1]


def test_the_mean_colour_is_that_of_the_stored_training_pixels(tmp_path, source):
    manifest = pack_images(source, str(tmp_path / "set"), RECIPE)
    stored = [
        np.asarray(sample["jpg"])
        for sample in read_with_webdataset(tmp_path / "set", manifest, "train")
    ]
    mean = np.mean([pixels.mean(axis=(0, 1)) for pixels in stored], axis=0) / 255
    assert np.abs(np.array(manifest.mean_color) - mean).max() < 0.002


def test_refused_images_are_listed_by_name_and_the_rest_is_packed(tmp_path, source):
    (source / "class-1" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (source / "class-2" / "notes.txt").write_text("about this class")
    Image.fromarray(picture((90, 20))).save(source / "class-0" / "flat.png")
    manifest = pack_images(source, str(tmp_path / "set"), RECIPE)
    refused = {image.path: image for image in manifest.refused}
    assert sorted(refused) == ["class-0/flat.png", "class-1/broken.jpg", "class-2/notes.txt"]
    assert "too small: 90x20" in refused["class-0/flat.png"].reason
    assert is_ignored(refused["class-2/notes.txt"])
    assert not is_ignored(refused["class-1/broken.jpg"])
    assert manifest.num_images("train") + manifest.num_images("val") == 24


def test_conversions_are_counted(tmp_path, source):
    for number in range(2):
        grey = Image.fromarray(picture(seed=number)).convert("L")
        grey.save(source / "class-0" / f"grey-{number}.png")
    manifest = pack_images(source, str(tmp_path / "set"), RECIPE)
    assert manifest.converted == {"greyscale to RGB": 2}


def test_the_manifest_that_is_returned_is_the_one_that_is_stored(tmp_path, source):
    manifest = pack_images(source, str(tmp_path / "set"), RECIPE)
    assert load_manifest(str(tmp_path / "set")) == manifest


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_counts_every_image(tmp_path, source, workers):
    calls = []
    pack_images(
        source,
        str(tmp_path / "set"),
        RECIPE,
        workers=workers,
        progress=lambda *call: calls.append(call),
    )
    assert calls == sorted(set(calls))
    assert calls[-1] == (24, 24)


def test_a_set_in_an_object_store_has_the_same_bytes(tmp_path, source):
    url = f"memory://{tmp_path.name}/set"
    pack_images(source, url, RECIPE, workers=1)  # other processes have a memory of their own
    pack_images(source, str(tmp_path / "set"), RECIPE)
    stored = {name: read_bytes(f"{url}/{name}") for name in list_names(url)}
    remove_tree(f"memory://{tmp_path.name}")
    assert stored == contents(tmp_path / "set")


def test_a_source_with_its_own_splits_keeps_them(tmp_path):
    write_class_folders(tmp_path / "source" / "train", classes=2, images_per_class=3)
    write_class_folders(tmp_path / "source" / "val", classes=2, images_per_class=1, seed=1)
    manifest = pack_images(tmp_path / "source", str(tmp_path / "set"), RECIPE)
    assert (manifest.num_images("train"), manifest.num_images("val")) == (6, 2)
    assert manifest.classes == ["class-0", "class-1"]


def test_validation_may_be_left_out(tmp_path, source):
    manifest = pack_images(source, str(tmp_path / "set"), small_recipe(validation_fraction=0))
    assert manifest.splits["val"] == []
    assert manifest.num_samples("val") == 0


def test_faults_of_the_recipe_are_reported_before_anything_is_written(tmp_path, source):
    recipe = small_recipe(crop_size=30, jpeg_quality=1)
    with pytest.raises(ValueError, match=r"(?s)pack.crop_size is 30.*pack.jpeg_quality is 1"):
        pack_images(source, str(tmp_path / "set"), recipe)
    assert not (tmp_path / "set").exists()


def test_a_set_without_a_usable_image_is_refused_with_counts(tmp_path, source):
    with pytest.raises(ValueError, match=r"split 'train' of 18 listed \(18 too small\)"):
        pack_images(source, str(tmp_path / "set"), small_recipe(crop_size=128, short_side=128))
    assert os.listdir(tmp_path / "set") == []
    pack_images(source, str(tmp_path / "set"), RECIPE)


def test_an_empty_validation_split_is_refused_with_what_to_do(tmp_path):
    write_class_folders(tmp_path / "source" / "train", classes=1)
    write_class_folders(tmp_path / "source" / "val", classes=1, images_per_class=2, size=(20, 20))
    with pytest.raises(ValueError, match=r"'val' of 2 listed \(2 too small\); add images"):
        pack_images(tmp_path / "source", str(tmp_path / "set"), RECIPE)
    assert MANIFEST_NAME not in os.listdir(tmp_path / "set")


def test_a_set_that_is_there_is_not_replaced_unasked(tmp_path, source):
    url = pack_small_set(tmp_path)
    before = contents(url)
    with pytest.raises(ValueError, match="already holds a packed set, of another source or"):
        pack_images(source, url, RECIPE)
    assert contents(url) == before


def test_overwriting_leaves_nothing_of_the_old_set_and_touches_nothing_else(tmp_path, source):
    url = pack_small_set(tmp_path, images=60, images_per_shard=2)
    (Path(url) / "notes.txt").write_text("mine")
    pack_images(source, url, RECIPE, overwrite=True)
    pack_images(source, str(tmp_path / "fresh"), RECIPE)
    assert contents(url) == {**contents(tmp_path / "fresh"), "notes.txt": b"mine"}


@pytest.mark.parametrize("emptied", ["train", "val"])
def test_a_source_with_an_empty_split_is_refused_before_the_old_set_is_removed(tmp_path, emptied):
    url = pack_small_set(tmp_path)
    before = contents(url)
    for split in ("train", "val"):
        write_class_folders(tmp_path / "source" / split, 2, images_per_class=2)
    for path in (tmp_path / "source" / emptied).rglob("*.jpg"):
        path.unlink()
    with pytest.raises(ValueError, match=f"no image is listed for the split '{emptied}'; add"):
        pack_images(tmp_path / "source", url, RECIPE, overwrite=True)
    assert contents(url) == before


def test_a_source_without_a_usable_image_leaves_the_old_set(tmp_path, source):
    url = pack_small_set(tmp_path)
    before = contents(url)
    recipe = small_recipe(crop_size=128, short_side=128)
    with pytest.raises(ValueError, match=r"no image of .* can be stored .* stays as it is"):
        pack_images(source, url, recipe, overwrite=True)
    assert contents(url) == before


def test_overwriting_that_is_interrupted_goes_on_when_it_is_asked_for_again(tmp_path, source):
    url = pack_small_set(tmp_path)

    def interrupt(done, total):
        if done > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_images(source, url, RECIPE, workers=1, overwrite=True, progress=interrupt)
    assert MANIFEST_NAME not in os.listdir(url)
    first = Path(url) / "train-000000.tar"
    written = first.stat().st_mtime_ns
    pack_images(source, url, RECIPE, overwrite=True)
    pack_images(source, str(tmp_path / "fresh"), RECIPE)
    assert contents(url) == contents(tmp_path / "fresh")
    assert first.stat().st_mtime_ns == written


def test_shards_without_a_manifest_are_not_overwritten_unasked(tmp_path, source):
    url = Path(pack_small_set(tmp_path))
    (url / MANIFEST_NAME).unlink()
    (url / ".train-000009.tar.0a1b2c3d.part").write_bytes(b"rest of a killed pack")
    before = contents(url)
    with pytest.raises(ValueError, match=r"holds train-000000\.(idx|tar) but no manifest\.json"):
        pack_images(source, str(url), RECIPE)
    assert contents(url) == before
    pack_images(source, str(url), RECIPE, overwrite=True)
    assert not [name for name in contents(url) if name.endswith(".part")]


def test_a_destination_inside_the_source_is_refused(tmp_path, source):
    with pytest.raises(ValueError, match="lies in the source"):
        pack_images(source, str(source / "set"), RECIPE)


def test_an_unwritable_destination_is_refused_before_the_work(tmp_path, source):
    (tmp_path / "file").write_text("in the way")
    calls = []
    with pytest.raises(OSError, match="file/set cannot be written"):
        pack_images(
            source,
            str(tmp_path / "file" / "set"),
            RECIPE,
            progress=lambda *call: calls.append(call),
        )
    assert calls == []


def test_a_disk_that_fills_up_keeps_what_is_finished_and_names_the_destination(
    tmp_path, source, monkeypatch
):
    flush = os.fsync
    calls = []

    def fill_up(descriptor):
        calls.append(descriptor)
        if len(calls) > 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    destination = tmp_path / "set"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fill_up)
        with pytest.raises(OSError, match=r"packing into .*set failed: .*No space left on device"):
            pack_images(source, str(destination), RECIPE, workers=1)
    assert len(calls) > 8
    left = sorted(path.name for path in destination.glob("*.tar"))
    assert left == ["train-000000.tar", "train-000001.tar"]
    assert not list(destination.glob(".*"))
    pack_images(source, str(destination), RECIPE)
    pack_images(source, str(tmp_path / "fresh"), RECIPE)
    assert contents(destination) == contents(tmp_path / "fresh")


def test_a_set_that_is_complete_is_left_as_it_is(tmp_path, source):
    url = str(tmp_path / "set")
    manifest = pack_images(source, url, RECIPE)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()}
    calls = []
    again = pack_images(source, url, RECIPE, progress=lambda *call: calls.append(call))
    assert again == manifest
    assert calls == []
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()}


def test_an_unfinished_pack_of_another_source_is_not_mixed_with_this_one(tmp_path, source):
    url = str(tmp_path / "set")
    pack_slice(source, url, RECIPE, 0, 2)
    before = contents(url)
    other = small_recipe(seed=5)
    with pytest.raises(ValueError, match="unfinished pack of another source or recipe"):
        pack_images(source, url, other)
    assert contents(url) == before
    pack_images(source, url, other, overwrite=True)
    pack_images(source, str(tmp_path / "fresh"), other)
    assert contents(url) == contents(tmp_path / "fresh")
