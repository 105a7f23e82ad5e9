from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.format.manifest import load_manifest
from shards.format.recipe import MaskRecipe, StrokeRecipe
from shards.packing.pack import pack_images
from shards.reading.batches import Batch, BatchAssembler
from shards.reading.reader import ShardReader
from shards.reading.reader_spec import ReaderSpec
from shards.sampling.mixture import Mixture, WeightedSet, share_lanes
from tests.shards.pictures import pack_small_set, small_recipe, small_spec, write_class_folders


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[WeightedSet]:
    """Three quarters of each batch from classes 0 to 2, one quarter from classes 0 to 1."""
    folder = tmp_path_factory.mktemp("sets")
    large = pack_small_set(folder, images=36, name="large", masks_per_image=2)
    small = pack_small_set(folder, images=16, name="small", classes=2, seed=1)
    return [WeightedSet(large, 3.0), WeightedSet(small, 1.0)]


def spec_for(sets: Sequence[WeightedSet], rank: int = 0, world_size: int = 1) -> ReaderSpec:
    first, *others = sets
    return small_spec(
        first.shards,
        weight=first.weight,
        mixture=tuple(others),
        batch_size=12,
        rank=rank,
        world_size=world_size,
    )


def batches_of(spec: ReaderSpec, steps: int) -> list[Batch]:
    assembler = BatchAssembler(spec)
    try:
        return [assembler.assemble(step) for step in range(steps)]
    finally:
        assembler.close()


@pytest.mark.parametrize(
    ("batch_size", "weights", "counts"),
    [
        (12, [1.0], [12]),
        (12, [3.0, 1.0], [9, 3]),
        (96, [1, 2, 3], [16, 32, 48]),
        (7, [1.0, 1.0], [4, 3]),
        (10, [1.0, 1.0, 1.0], [4, 3, 3]),
        (4, [1e308, 1e308], [2, 2]),
        (4, [1e-308, 1e-308], [2, 2]),
        (5, [0.3, 0.2], [3, 2]),
    ],
)
def test_lanes_are_shared_by_weight_and_every_lane_has_a_set(
    batch_size: int, weights: list[float], counts: list[int]
) -> None:
    lanes = share_lanes(batch_size, weights)
    assert [lanes.count(number) for number in range(len(weights))] == counts
    assert len(lanes) == batch_size


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_every_worker_sees_the_mixture(world_size: int) -> None:
    lanes = share_lanes(12, [2, 1])
    share = 12 // world_size
    for rank in range(world_size):
        count = lanes[rank * share : (rank + 1) * share].count(1)
        assert abs(count - share / 3) < 1


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        share_lanes(12, [1.0, weight])


def test_a_set_that_would_get_no_lane_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch of 12 samples has no place for .* weight 0\.1 "):
        share_lanes(12, [10, 0.1])


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_batch_of_a_step_is_the_same_for_every_world_size(
    sets: list[WeightedSet], world_size: int
) -> None:
    alone = batches_of(spec_for(sets), 8)
    shared = [batches_of(spec_for(sets, rank, world_size), 8) for rank in range(world_size)]
    for step, batch in enumerate(alone):
        for name in ("images", "samples", "labels", "completion_holes", "discriminator_holes"):
            parts = [getattr(batches[step], name) for batches in shared]
            assert np.array_equal(np.concatenate(parts), getattr(batch, name)), (step, name)


def test_the_child_process_reads_the_same_mixture(sets: list[WeightedSet]) -> None:
    expected = batches_of(spec_for(sets), 3)
    with ShardReader(spec_for(sets), timeout_s=60) as reader:
        reader.start(0, 3)
        for batch, other in zip(reader, expected, strict=True):
            assert np.array_equal(batch.samples, other.samples)
            assert np.array_equal(batch.images, other.images)
            batch.release()


def test_each_set_has_its_share_and_reads_its_samples_once_in_each_of_its_epochs(
    sets: list[WeightedSet],
) -> None:
    mixture = Mixture(sets, 12)
    counts = [mixture.manifests[number].num_samples("train") for number in (0, 1)]
    assert counts == [54, 12]
    seen: list[list[int]] = [[], []]
    for batch in batches_of(spec_for(sets), 12):
        of_second = batch.samples >= counts[0]
        assert of_second.sum() == 3
        seen[0] += batch.samples[~of_second].tolist()
        seen[1] += batch.samples[of_second].tolist()
    assert Counter(seen[0]) == dict.fromkeys(range(54), 2)  # 6 steps of 9
    assert Counter(seen[1]) == dict.fromkeys(range(54, 66), 3)  # 4 steps of 3
    assert mixture.steps_per_epoch("train") == 6


def test_labels_are_those_of_all_classes_together(tmp_path: Path) -> None:
    first = pack_small_set(tmp_path, images=12, classes=2, name="first")
    source = write_class_folders(tmp_path / "second-source", 3, 6)
    (source / "class-0").rename(source / "class-9")
    second = tmp_path / "second"
    pack_images(source, str(second), small_recipe(), workers=1)
    mixture = Mixture([WeightedSet(first), WeightedSet(str(second))], 12)
    assert mixture.classes == ["class-0", "class-1", "class-2", "class-9"]
    assert mixture.labels == [[0, 1], [1, 2, 3]]
    labels = Counter[int]()
    for batch in batches_of(spec_for(mixture.sets), 6):
        labels.update(batch.labels[batch.samples >= mixture.first_sample(1, "train")].tolist())
    assert set(labels) == {1, 2, 3}


def test_sets_of_the_same_images_are_cropped_differently(tmp_path: Path) -> None:
    url = pack_small_set(tmp_path, images=16, images_per_shard=20)
    (batch,) = batches_of(spec_for([WeightedSet(url), WeightedSet(url)]), 1)
    num_samples = load_manifest(url).num_samples("train")
    images = {int(sample): image for sample, image in zip(batch.samples, batch.images, strict=True)}
    assert len(images) == 12
    both = [(images[key], images[key + num_samples]) for key in images if key + num_samples in
            images]  # fmt: skip
    assert both, "the sets have the same order"
    assert not any(np.array_equal(one, other) for one, other in both)


def test_the_mean_colour_counts_each_set_by_its_lanes(sets: list[WeightedSet]) -> None:
    colors = np.array([load_manifest(one.shards).mean_color for one in sets])
    mixed = np.array(Mixture(sets, 12).mean_color)
    assert np.allclose(mixed, 0.75 * colors[0] + 0.25 * colors[1])


def test_the_identity_is_that_of_what_is_read_wherever_it_lies(
    sets: list[WeightedSet], tmp_path: Path
) -> None:
    moved = WeightedSet(str(shutil.copytree(sets[1].shards, tmp_path / "moved")), 1.0)
    identity = Mixture(sets, 12).fingerprint
    assert Mixture([sets[0], moved], 12).fingerprint == identity
    assert Mixture([sets[0], replace(moved, weight=2.0)], 12).fingerprint != identity
    assert Mixture(sets[::-1], 12).fingerprint != identity
    alone = Mixture(sets[:1], 12).fingerprint
    assert alone == load_manifest(sets[0].shards).fingerprint != identity


def test_sets_of_other_crops_do_not_mix(sets: list[WeightedSet], tmp_path: Path) -> None:
    crops = pack_small_set(tmp_path, images=12, crop_size=48, name="crops")
    with pytest.raises(ValueError, match=r"cannot be mixed with .*large: pack.crop_size is 48"):
        Mixture([sets[0], WeightedSet(crops)], 12)


def test_a_set_of_more_holes_mixes_with_one_of_fewer(
    sets: list[WeightedSet], tmp_path: Path
) -> None:
    url = pack_small_set(tmp_path, images=16, holes_per_mask=3, name="holes")
    for pair in ([sets[0], WeightedSet(url)], [WeightedSet(url), sets[0]]):
        spec = spec_for(pair)
        used = spec.layout(spec.load())
        assert used.holes_per_mask == 3
        arrays = used.allocate()
        arrays.completion_holes[:] = arrays.discriminator_holes[:] = 99  # of the slot's last user
        assembler = BatchAssembler(spec)
        batch = assembler.assemble(0, arrays)
        assembler.close()
        of_second = batch.samples >= spec.load().first_sample(1, "train")
        has_three = of_second if pair[1].shards == url else ~of_second
        assert has_three.any()
        assert not has_three.all()
        for holes in (batch.completion_holes, batch.discriminator_holes):
            assert (holes[:, 0, 2:] > 0).all()
            assert (holes[has_three][:, 1:, 2:] > 0).all()
            assert (holes[~has_three][:, 1:] == 0).all()


def test_a_set_that_is_missing_is_named(sets: list[WeightedSet], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere holds no packed set"):
        Mixture([sets[0], WeightedSet(str(tmp_path / "nowhere"))], 12)


def test_a_set_of_fewer_samples_than_lanes_is_refused(sets: list[WeightedSet]) -> None:
    with pytest.raises(ValueError, match="the set holds 54 samples, fewer than one batch of 96"):
        Mixture(sets, 128).order("train", 0)


def test_rectangles_beside_free_form_masks_become_bits(
    sets: list[WeightedSet], tmp_path: Path
) -> None:
    strokes = StrokeRecipe(length_min=4, length_max=9, width_min=3, width_max=5)
    recipe = replace(small_recipe(), masks=MaskRecipe(kind="strokes", strokes=strokes))
    source = write_class_folders(tmp_path / "source", 2, 6)
    pack_images(source, str(tmp_path / "free"), recipe, workers=1)
    mixed = [sets[0], WeightedSet(str(tmp_path / "free"))]
    (batch,) = batches_of(spec_for(mixed), 1)
    assert batch.mask_bits.shape == (12, 32, 4)
    pixels = np.unpackbits(batch.mask_bits, axis=-1).astype(bool)
    is_rectangle = batch.samples < 54
    for mask, ((x, y, width, height),), exact in zip(
        pixels, batch.completion_holes, is_rectangle, strict=True
    ):
        assert mask[y : y + height, x : x + width].sum() == mask.sum() > 0
        assert mask[y : y + height, x : x + width].all() or not exact
    assert 0 < is_rectangle.sum() < 12
