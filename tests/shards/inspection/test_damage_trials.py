"""Hundreds of damages to small sets, each read as training reads: told by name, or without effect.

Every trial damages one shard in one place and reads the whole set.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from shards.format.manifest import load_manifest
from shards.format.recipe import StrokeRecipe
from shards.inspection.verify import verify_set
from shards.packing.pack import pack_images
from shards.reading.batches import BatchAssembler
from shards.reading.reader_spec import ReaderSpec
from shards.reading.ring import BatchArrays
from tests.shards.pictures import small_recipe, write_class_folders

TRIALS = 200
BATCH_SIZE = 6
KINDS = ("jpeg", "png", "strokes")
Facts = tuple[bytes, ...]  # all that a batch holds of one sample
Damage = tuple[str, Callable[[bytes], bytes]]  # the shard, and what becomes of its bytes


@pytest.fixture(scope="module", params=KINDS)
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training images of 24 samples in three shards."""
    folder = tmp_path_factory.mktemp(f"damage-{request.param}")
    source = write_class_folders(folder / "source", classes=2, images_per_class=8, size=(40, 36))
    recipe = small_recipe(short_side=36, images_per_shard=4, masks_per_image=2)
    if request.param == "png":
        recipe = replace(recipe, encoding="png")
    if request.param == "strokes":
        strokes = StrokeRecipe(length_max=20, width_min=4, width_max=8)
        recipe = replace(recipe, masks=replace(recipe.masks, kind="strokes", strokes=strokes))
    manifest = pack_images(source, str(folder / "set"), recipe, workers=1)
    assert [entry.num_images for entry in manifest.splits["train"]] == [4, 4, 4]
    return folder / "set"


def read_epoch(folder: Path, damaged: str) -> tuple[list[BatchArrays], dict[str, float]]:
    spec = ReaderSpec(
        shards=str(folder),
        split="train",
        batch_size=BATCH_SIZE,
        rank=0,
        world_size=1,
        seed=3,
        short_side_min=32,
        short_side_max=36,
        horizontal_flip=True,
        decode_threads=1,
        damaged="substitute" if damaged == "substitute" else "stop",
    )
    assembler = BatchAssembler(spec)
    try:
        steps = range(assembler.steps_per_epoch)
        return [assembler.assemble(step) for step in steps], assembler.counters()
    finally:
        assembler.close()


def facts(batches: list[BatchArrays]) -> list[tuple[int, Facts]]:
    """(number, content) of each sample in the order in which they came."""
    names = [field.name for field in fields(BatchArrays)]
    return [
        (int(batch.samples[row]), tuple(getattr(batch, name)[row].tobytes() for name in names))
        for batch in batches
        for row in range(BATCH_SIZE)
    ]


def shard_names(folder: Path) -> list[str]:
    return [entry.name for entry in load_manifest(str(folder)).splits["train"]]


def flipped(bit: int) -> Callable[[bytes], bytes]:
    def flip(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    return flip


def cut(size: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:size]


def flips(folder: Path) -> Iterator[Damage]:
    generator = np.random.default_rng(1)
    for name in generator.choice(shard_names(folder), TRIALS).tolist():
        yield name, flipped(int(generator.integers(8 * (folder / name).stat().st_size)))


def cuts(folder: Path) -> Iterator[Damage]:
    generator = np.random.default_rng(2)
    for name in generator.choice(shard_names(folder), TRIALS).tolist():
        yield name, cut(int(generator.integers((folder / name).stat().st_size)))


def cuts_at_boundaries(folder: Path) -> Iterator[Damage]:
    """Before and after each member and each header, where the rest is a fine archive; where those
    are fewer than the trials, also at other blocks."""
    places = []
    for name in shard_names(folder):
        size = (folder / name).stat().st_size
        with tarfile.open(folder / name) as tar:
            for member in tar:
                places += [(name, member.offset), (name, member.offset_data)]
        places += [(name, end) for end in range(512, size, 512)]
    assert len(set(places)) > 70
    for name, size in list(dict.fromkeys(places))[:TRIALS]:
        yield name, cut(size)


@contextmanager
def damaged_shard(folder: Path, damage: Damage) -> Iterator[str]:
    name, change = damage
    path, aside = folder / name, folder / "aside"
    os.replace(path, aside)
    try:
        path.write_bytes(change(aside.read_bytes()))
        yield name
    finally:
        os.replace(aside, path)


DAMAGES = pytest.mark.parametrize("damages", [flips, cuts, cuts_at_boundaries])


@DAMAGES
def test_no_damage_is_silent(packed: Path, damages: Callable[[Path], Iterator[Damage]]) -> None:
    whole = facts(read_epoch(packed, "stop")[0])
    assert len({number for number, _ in whole}) == len(whole) == 24
    num_trials = num_refused = 0
    for damage in damages(packed):
        num_trials += 1
        with damaged_shard(packed, damage) as name:
            try:
                found = facts(read_epoch(packed, "stop")[0])
            except ValueError as error:
                assert name in str(error)
                num_refused += 1
                continue
        assert found == whole
    assert num_trials == TRIALS or damages is cuts_at_boundaries
    if damages is flips:
        assert TRIALS // 10 < num_refused < TRIALS  # some lie in images, some in padding
    else:
        assert num_refused == num_trials


@DAMAGES
def test_with_substitutes_every_batch_is_whole_and_true(
    packed: Path,
    damages: Callable[[Path], Iterator[Damage]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = facts(read_epoch(packed, "substitute")[0])
    content = dict(whole)
    num_samples = load_manifest(str(packed)).num_samples("train")
    assert num_samples == len(content)
    for damage in damages(packed):
        with damaged_shard(packed, damage) as name:
            batches, counters = read_epoch(packed, "substitute")
        found = facts(batches)
        assert len(found) == len(whole)
        assert all(content[number] == facts_of_it for number, facts_of_it in found)
        changed = sum(a[0] != b[0] for a, b in zip(found, whole, strict=True))
        assert counters["substituted_samples"] == changed
        assert (changed > 0) == (name in capsys.readouterr().err)
        if damages is flips:
            assert counters["unreadable_shards"] == 0
            assert counters["damaged_samples"] >= changed
        else:
            assert counters["unreadable_shards"] == 1
            assert counters["damaged_samples"] == 0
            assert changed == 8  # all of the shard's samples


def test_a_set_with_every_image_of_a_shard_damaged_is_read_by_the_other_shards(
    packed: Path,
) -> None:
    whole = dict(facts(read_epoch(packed, "stop")[0]))
    name = shard_names(packed)[1]

    with tarfile.open(packed / name) as tar:
        middles = [member.offset_data + member.size // 2 for member in tar]

    def damage_all(data: bytes) -> bytes:
        changed = bytearray(data)
        for middle in middles:
            changed[middle] ^= 1
        return bytes(changed)

    with damaged_shard(packed, (name, damage_all)):
        batches, counters = read_epoch(packed, "substitute")
    assert counters["substituted_samples"] == 8
    assert all(whole[number] == content for number, content in facts(batches))


def test_verifying_finds_every_flipped_bit_in_its_shard(packed: Path) -> None:
    assert list(verify_set(str(packed), threads=1)) == []
    for damage in flips(packed):
        with damaged_shard(packed, damage) as name:
            findings = list(verify_set(str(packed), "train", threads=1))
            assert any(finding.place.startswith(name) for finding in findings)
            assert all(str(finding).isprintable() for finding in findings)
