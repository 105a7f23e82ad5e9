"""Holes that are drawn for each (seed, step, lane) while training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.format.manifest import load_manifest
from shards.format.recipe import MaskRecipe, StrokeRecipe
from shards.packing.pack import pack_images
from shards.reading.batches import BatchAssembler
from shards.reading.fresh_holes import FreshHoles, WeightedMasks, fresh_mask_errors
from shards.reading.reader import ShardReader
from shards.reading.reader_spec import ReaderSpec
from shards.reading.ring import BatchArrays, BatchLayout
from shards.sampling.mixture import WeightedSet
from tests.shards.pictures import pack_small_set, small_recipe, small_spec, write_class_folders

SIZE = 32
BRUSH = StrokeRecipe(strokes_max=2, length_min=4, length_max=12, width_min=3, width_max=6)
BOX = MaskRecipe(side_min=4, side_max=8)
STROKES = MaskRecipe(kind="strokes", strokes=BRUSH)
RECIPES = {
    "one box": BOX,
    "several boxes": replace(BOX, holes_per_mask=3),
    "a range of areas": MaskRecipe(area_min=0.1, area_max=0.2, aspect_max=2),
    "strokes": replace(STROKES, holes_per_mask=2),
    "strokes with boxes": replace(
        STROKES, side_min=4, side_max=8, strokes=replace(BRUSH, boxes_max=2)
    ),
    "strokes of a range of areas": replace(STROKES, area_min=0.1, area_max=0.2),
    "a margin": replace(BOX, margin=6),
}
MIXED = (WeightedMasks(BOX, 3.0), WeightedMasks(replace(STROKES, holes_per_mask=2), 1.0))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """18 training images with two masks of one box of 8 to 16 pixels each."""
    return pack_small_set(tmp_path_factory.mktemp("set"), masks_per_image=2)


def drawn(
    masks: Sequence[MaskRecipe], steps: range, lanes: range = range(12), seed: int = 7, **how: Any
) -> list[BatchArrays]:
    """The holes of each step, in arrays that held others before."""
    layout = BatchLayout(
        len(lanes), SIZE, max(one.holes_per_mask for one in masks), has_mask_bits=True
    )
    holes = FreshHoles(masks, SIZE, seed, **(how or {"recipe_of_lane": [0] * 12}))
    batches = []
    for step in steps:
        arrays = layout.allocate()
        arrays.completion_holes[:] = arrays.discriminator_holes[:] = 99
        holes.fill(step, lanes, arrays, 0)
        batches.append(arrays)
    return batches


def pixels_of(arrays: BatchArrays) -> np.ndarray:
    return np.unpackbits(arrays.mask_bits, axis=-1, count=SIZE).astype(bool)


def read(spec: ReaderSpec, steps: Sequence[int]) -> list[dict[str, np.ndarray]]:
    assembler = BatchAssembler(spec)
    names = [entry.name for entry in dataclasses.fields(BatchArrays)]
    try:
        batches = [assembler.assemble(step) for step in steps]
        return [{name: getattr(batch, name) for name in names} for batch in batches]
    finally:
        assembler.close()


def fresh_spec(shards: str, **changes: Any) -> ReaderSpec:
    return small_spec(shards, batch_size=12, **{"holes": "fresh", **changes})


@pytest.mark.parametrize("name", RECIPES)
def test_fresh_holes_keep_to_their_recipe(name: str) -> None:
    recipe = RECIPES[name]
    for arrays in drawn([recipe], range(20)):
        for holes in (arrays.completion_holes, arrays.discriminator_holes):
            x, y, width, height = np.moveaxis(holes, -1, 0)
            assert min(width.min(), height.min()) >= 1
            assert min(x.min(), y.min()) >= recipe.margin
            assert max((x + width).max(), (y + height).max()) <= SIZE - recipe.margin
            if recipe.kind == "rectangles" and not recipe.area_max:
                assert min(width.min(), height.min()) >= recipe.side_min
                assert max(width.max(), height.max()) <= recipe.side_max
        pixels = pixels_of(arrays)
        assert (pixels.any(axis=(1, 2))).all()
        if recipe.area_max:
            share = pixels.mean(axis=(1, 2))
            assert share.min() > 0.085
            assert share.max() < 0.215


@pytest.mark.parametrize("name", RECIPES)
def test_each_lane_and_each_step_has_holes_of_its_own(name: str) -> None:
    batches = drawn([RECIPES[name]], range(30))
    pixels = np.concatenate([pixels_of(arrays).reshape(12, -1) for arrays in batches])
    assert len(np.unique(pixels, axis=0)) > 0.95 * len(pixels)
    differs = [
        (arrays.completion_holes != arrays.discriminator_holes).any(axis=(1, 2)).mean()
        for arrays in batches
    ]
    assert np.mean(differs) > 0.95


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("lanes", [range(6), range(4, 8), range(11, 12)])
def test_a_lane_has_the_same_holes_whoever_draws_them(name: str, lanes: range) -> None:
    masks = [RECIPES[name], *(one.masks for one in MIXED)]
    for how in ({"recipe_of_lane": [0, 1, 2] * 4}, {"weights": [1, 1, 2]}):
        # The later step first: nothing carries over.
        alone, shared = drawn(masks, range(4), **how), drawn(masks, range(3, -1, -1), lanes, **how)
        for arrays, part in zip(alone, reversed(shared), strict=True):
            for field in ("completion_holes", "discriminator_holes", "mask_bits"):
                whole = getattr(arrays, field)[lanes.start : lanes.stop]
                assert np.array_equal(whole, getattr(part, field)), field


def test_another_seed_draws_other_holes() -> None:
    (first,), (other,) = drawn([BOX], range(1)), drawn([BOX], range(1), seed=8)
    assert not np.array_equal(first.completion_holes, other.completion_holes)


def test_they_are_not_those_that_packing_draws_from_the_same_seed(tmp_path: Path) -> None:
    shards = pack_small_set(tmp_path, images=12, masks_per_image=12, seed=7)
    assembler = BatchAssembler(small_spec(shards, batch_size=4))
    packed = {tuple(h) for n in range(20) for h in assembler.assemble(n).completion_holes[:, 0]}
    assembler.close()
    recipe = load_manifest(shards).recipe.masks
    fresh = [h for b in drawn([recipe], range(9)) for h in b.completion_holes[:, 0]]
    assert np.mean([tuple(hole) in packed for hole in fresh]) < 0.1


def test_rectangles_have_the_distribution_of_packed_ones() -> None:
    holes = np.concatenate([a.completion_holes[:, 0] for a in drawn([BOX], range(500))])
    for column in (2, 3):  # five sides, equally likely: 1200 of 6000 each, deviation 31
        sides, counts = np.unique(holes[:, column], return_counts=True)
        assert sides.tolist() == [4, 5, 6, 7, 8]
        assert np.abs(counts - 1200).max() < 160
    free = SIZE - holes[:, 2] + 1
    assert abs(((holes[:, 0] + 0.5) / free).mean() - 0.5) < 0.02
    assert holes[:, 0].min() == 0
    assert (holes[:, 0] + holes[:, 2]).max() == SIZE


def test_recipes_are_mixed_by_their_weights_and_padded_to_the_most_holes() -> None:
    recipes = [one.masks for one in MIXED]
    batches = drawn(recipes, range(400), weights=[one.weight for one in MIXED])
    holes = np.concatenate([arrays.completion_holes for arrays in batches])
    pixels = np.concatenate([pixels_of(arrays) for arrays in batches])
    assert holes.shape == (4800, 2, 4)
    is_box = holes[:, 1, 2] == 0
    assert (holes[is_box, 1] == 0).all()
    assert abs(is_box.mean() - 0.75) < 0.03
    area = pixels.sum(axis=(1, 2))
    assert (area[is_box] == holes[is_box, 0, 2] * holes[is_box, 0, 3]).all()
    shares = np.stack([arrays.completion_holes[:, 1, 2] == 0 for arrays in batches])
    assert shares.mean(axis=0).min() > 0.6, "every lane has its share of the mixture"
    assert shares.mean(axis=0).max() < 0.9


def test_weights_of_any_size_mix() -> None:
    for weight in (1e308, 1e-308):
        batches = drawn([BOX, STROKES], range(50), weights=[weight, weight])
        by_box = [(pixels_of(a).sum((1, 2)) == a.completion_holes[:, 0, 2:].prod(-1)).mean()
                  for a in batches]  # fmt: skip
        assert 0.3 < np.mean(by_box) < 0.7


@pytest.mark.parametrize("fresh_masks", [(), MIXED])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_batch_is_the_same_for_every_number_of_workers_and_threads(
    shards: str, fresh_masks: tuple[WeightedMasks, ...], world_size: int
) -> None:
    steps = [0, 1, 5]
    alone = read(fresh_spec(shards, fresh_masks=fresh_masks, decode_threads=1), steps)
    shared = [
        read(
            fresh_spec(
                shards, fresh_masks=fresh_masks, rank=rank, world_size=world_size, decode_threads=3
            ),
            steps[::-1],
        )[::-1]
        for rank in range(world_size)
    ]
    for number, batch in enumerate(alone):
        for name, whole in batch.items():
            parts = [batches[number][name] for batches in shared]
            assert np.array_equal(np.concatenate(parts), whole), (steps[number], name)


def test_images_and_their_order_are_those_of_packed_holes(shards: str) -> None:
    packed, fresh = (
        read(fresh_spec(shards, holes="packed"), range(4)),
        read(fresh_spec(shards), range(4)),
    )
    for before, after in zip(packed, fresh, strict=True):
        for name in ("images", "samples", "labels"):
            assert np.array_equal(before[name], after[name])
        assert before["completion_holes"].shape == after["completion_holes"].shape
        assert not np.array_equal(before["completion_holes"], after["completion_holes"])


def test_a_sample_has_other_holes_in_each_epoch(shards: str) -> None:
    seen: dict[int, set[tuple[int, ...]]] = {}
    for batch in read(fresh_spec(shards), range(3 * 10)):  # an epoch: 36 pairs in 3 steps of 12
        for sample, holes in zip(batch["samples"], batch["completion_holes"], strict=True):
            seen.setdefault(int(sample), set()).add(tuple(holes[0].tolist()))
    assert len(seen) == 36
    assert {len(holes) for holes in seen.values()} == {10}


def test_without_recipes_holes_follow_those_of_the_set_that_a_lane_reads(
    shards: str, tmp_path: Path
) -> None:
    strokes = replace(STROKES, masks_per_image=2, holes_per_mask=2)
    source = write_class_folders(tmp_path / "source", 3, 8)
    url = str(tmp_path / "strokes")
    pack_images(source, url, replace(small_recipe(), masks=strokes), workers=1)
    spec = fresh_spec(shards, mixture=(WeightedSet(url, 1.0),))
    of_second = spec.load().lanes.index(1)
    for batch in read(spec, range(6)):
        assert batch["mask_bits"].shape == (12, SIZE, SIZE // 8)
        has_two = batch["completion_holes"][:, 1, 2] > 0
        assert (has_two == (batch["samples"] >= 36)).all()
        assert has_two[of_second]
        sides = batch["completion_holes"][~has_two, 0, 2:]
        assert sides.min() >= SIZE // 4
        assert sides.max() <= SIZE // 2


def test_boxes_alone_travel_without_bits_also_on_a_set_of_strokes(tmp_path: Path) -> None:
    source = write_class_folders(tmp_path / "source", 3, 8)
    url = str(tmp_path / "strokes")
    pack_images(source, url, replace(small_recipe(), masks=STROKES), workers=1)
    (batch,) = read(fresh_spec(url, fresh_masks=(WeightedMasks(BOX),)), [0])
    assert batch["mask_bits"].size == 0
    assert batch["completion_holes"][..., 2:].max() <= 8


def test_the_child_process_draws_the_same_holes(shards: str) -> None:
    spec = fresh_spec(shards, fresh_masks=MIXED)
    assert ReaderSpec.from_mapping(json.loads(json.dumps(dataclasses.asdict(spec)))) == spec
    expected = read(spec, range(2, 6))
    with ShardReader(spec, timeout_s=60) as reader:
        reader.start(2, 6)
        for batch, other in zip(reader, expected, strict=True):
            for name, values in other.items():
                assert np.array_equal(getattr(batch, name), values), name
            batch.release()


def test_a_substitute_has_the_holes_of_the_lane(tmp_path: Path) -> None:
    shards = pack_small_set(tmp_path)
    spec = fresh_spec(shards, damaged="substitute", fresh_masks=MIXED)
    whole = read(spec, range(3))
    shard = next(Path(shards).glob("train-*.tar"))
    content = bytearray(shard.read_bytes())
    content[512:2000] = bytes(1488)  # the first image's bytes
    shard.write_bytes(content)
    damaged = read(spec, range(3))
    assert any(not np.array_equal(a["samples"], b["samples"])
               for a, b in zip(whole, damaged, strict=True))  # fmt: skip
    for before, after in zip(whole, damaged, strict=True):
        for name in ("completion_holes", "discriminator_holes", "mask_bits"):
            assert np.array_equal(before[name], after[name])


@pytest.mark.parametrize(
    ("one", "part"),
    [
        (WeightedMasks(BOX, 0.0), "data.fresh_masks.1.weight is 0.0: above 0, and finite"),
        (WeightedMasks(BOX, float("nan")), "data.fresh_masks.1.weight is nan"),
        (WeightedMasks(BOX, float("inf")), "data.fresh_masks.1.weight is inf"),
        (
            WeightedMasks(replace(BOX, side_max=40)),
            "data.fresh_masks.1.masks.side_min and side_max is 4 and 40: "
            "1 <= side_min <= side_max <= 32, what pack.crop_size and margin leave",
        ),
        (WeightedMasks(replace(BOX, margin=16)), "data.fresh_masks.1.masks.margin is 16"),
        (
            WeightedMasks(replace(BOX, masks_per_image=4)),
            "data.fresh_masks.1.masks.masks_per_image is 4: leave it at 1",
        ),
        (
            WeightedMasks(replace(STROKES, strokes=replace(BRUSH, width_max=40))),
            "data.fresh_masks.1.masks.strokes.width_max is 40: at most 32",
        ),
    ],
)
def test_a_fault_of_a_recipe_is_named(one: WeightedMasks, part: str) -> None:
    (fault,) = fresh_mask_errors([WeightedMasks(BOX), one], SIZE)
    assert part in fault


def test_the_reader_refuses_recipes_that_do_not_fit_the_set(shards: str) -> None:
    spec = fresh_spec(shards, fresh_masks=(WeightedMasks(replace(BOX, side_max=33)),))
    with pytest.raises(ValueError, match=r"fresh_masks.0.masks.side_min and side_max is 4 and 33"):
        spec.load()
