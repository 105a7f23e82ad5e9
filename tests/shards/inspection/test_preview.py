import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from webdataset import WebDataset

from launch.preview import main
from shards.format.manifest import load_manifest
from shards.format.recipe import MaskRecipe, PackRecipe, StrokeRecipe
from shards.inspection.preview import draw_preview, read_samples
from shards.masks.drawing import draw_masks
from shards.packing.pack import pack_images
from shards.reading.packed_set import ShardSet
from shards.storage.files import remove_tree, upload_file
from tests.shards.pictures import pack_small_set, small_recipe, write_class_folders

STROKES = MaskRecipe(
    kind="strokes", masks_per_image=2, holes_per_mask=2, strokes=StrokeRecipe(1, 2, 3, 3, 12, 2, 6)
)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    return pack_small_set(tmp_path_factory.mktemp("preview"), masks_per_image=2, holes_per_mask=2)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_class_folders(tmp_path_factory.mktemp("source"))


def packed(source: Path, folder: Path, **changes: object) -> tuple[str, PackRecipe]:
    recipe = replace(small_recipe(), **changes)
    pack_images(source, str(folder / "set"), recipe, workers=1)
    return str(folder / "set"), recipe


def samples_of(url, split="train", count=4, shard=""):
    return read_samples(ShardSet(url, split), count, shard)


def test_samples_are_crops_with_their_masks(url):
    samples = samples_of(url)
    assert len(samples) == 4
    assert len({sample.caption for sample in samples}) == 4
    for sample in samples:
        assert sample.crop.shape == (32, 32, 3)
        assert sample.mask.shape == (32, 32)
        assert 8 * 8 <= sample.mask.sum() <= 2 * 16 * 16


def test_samples_come_from_the_whole_split(url):
    captions = [sample.caption for sample in samples_of(url)]
    assert captions[0].startswith("00000000")
    assert captions[-1].startswith("00000017")


def test_no_more_rows_are_drawn_than_there_are_images(url):
    assert len(samples_of(url, "val", count=100)) == 6


@pytest.mark.parametrize(("fill", "level"), [("gray", (128, 128, 128)), ("mean", None)])
def test_the_hole_is_filled_with_the_chosen_colour(url, fill, level):
    if level is None:
        level = tuple(round(255 * value) for value in load_manifest(url).mean_color)
    sheet = np.asarray(draw_preview(url, count=1, fill=fill))
    mask = sheet[20:148, 8 + 2 * 136 : 8 + 2 * 136 + 128]
    masked = sheet[20:148, 8 + 136 : 8 + 136 + 128]
    original = sheet[20:148, 8 : 8 + 128]
    hole = mask.all(axis=2)
    assert set(np.unique(mask)) == {0, 255}
    assert (masked[hole] == level).all()
    assert np.array_equal(masked[~hole], original[~hole])


def test_every_row_adds_to_the_height(url):
    assert draw_preview(url, count=3).height > draw_preview(url, count=2).height


def test_a_missing_split_is_refused_with_those_that_exist(tmp_path):
    url = pack_small_set(tmp_path, validation_fraction=0)
    with pytest.raises(ValueError, match="no images in the split 'val'; it has train"):
        draw_preview(url, split="val")


def test_a_count_of_zero_is_refused(url):
    with pytest.raises(ValueError, match="cannot draw 0 samples"):
        draw_preview(url, count=0)


def test_a_flipped_bit_is_refused_by_name(tmp_path):
    url = pack_small_set(tmp_path)
    path = Path(url) / "train-000000.tar"
    data = bytearray(path.read_bytes())
    data[900] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        ValueError, match=r"00000000\.jpg in .*train-000000\.tar is damaged: its checksum"
    ):
        draw_preview(url, count=1)


def test_a_missing_set_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no packed set"):
        draw_preview(str(tmp_path))


def test_the_caption_and_the_mask_are_those_of_the_stored_description(url):
    manifest = load_manifest(url)
    urls = [f"{url}/{shard.name}" for shard in manifest.splits["train"]]
    stored = {sample["__key__"]: sample for sample in WebDataset(urls, shardshuffle=False)}
    for row, sample in enumerate(samples_of(url)):
        description = json.loads(stored[sample.caption[:8]]["json"])
        assert f"mask {row % 2}, {description['class']}:" in sample.caption
        mask = np.zeros((32, 32), bool)
        for x, y, width, height in description["masks"][row % 2]["completion"]:
            mask[y : y + height, x : x + width] = True
        assert np.array_equal(sample.mask, mask)


def test_a_set_in_an_object_store_is_drawn_like_the_local_one(url, tmp_path):
    remote = f"memory://{tmp_path.name}/set"
    for path in Path(url).iterdir():
        upload_file(path, f"{remote}/{path.name}")
    drawn = draw_preview(remote)
    remove_tree(f"memory://{tmp_path.name}")
    assert np.array_equal(np.asarray(drawn), np.asarray(draw_preview(url)))


def test_the_masks_of_strokes_are_drawn_as_they_are(source, tmp_path):
    url, recipe = packed(source, tmp_path, masks=STROKES)
    for row, sample in enumerate(samples_of(url)):
        drawn = draw_masks(recipe, int(sample.caption[:8]))
        assert np.array_equal(sample.mask, drawn.pixels[row % 2])


@pytest.mark.parametrize("encoding", ["png", "webp", "raw"])
def test_every_encoding_shows_the_same_pictures(source, tmp_path, encoding):
    plain, _ = packed(source, tmp_path / "jpeg")
    url, _ = packed(source, tmp_path / encoding, encoding=encoding)
    for split in ("train", "val"):
        for sample, expected in zip(samples_of(url, split), samples_of(plain, split), strict=True):
            assert sample.caption == expected.caption
            assert np.abs(sample.crop.astype(int) - expected.crop).mean() < 5
            assert np.array_equal(sample.mask, expected.mask)


@pytest.mark.parametrize("name", ["train-000001.tar", "train-000001"])
def test_one_shard_can_be_looked_at(url, name):
    captions = [sample.caption for sample in samples_of(url, count=100, shard=name)]
    assert [caption[:8] for caption in captions] == [f"{number:08d}" for number in range(5, 10)]


def test_a_shard_that_is_not_in_the_split_is_refused_with_those_that_are(url):
    with pytest.raises(
        ValueError, match=r"no shard val-000000\.tar in the split 'train'; it has tr"
    ):
        draw_preview(url, shard="val-000000")


def test_the_command_writes_a_sheet(url, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([url, "--split", "val", "--count", "2"]) == 0
    assert "split val" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["preview.png"]


def test_the_command_writes_statistics_alone_or_beside_a_sheet(url, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([url, "--statistics", "masks.png", "--shard", "train-000000"]) == 0
    assert "10 masks" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masks.png"]
    assert main([url, "--statistics", "deep/masks.png", "--output", "sheet.png"]) == 0
    assert (tmp_path / "deep/masks.png").stat().st_size > 10_000
    assert (tmp_path / "sheet.png").exists()
