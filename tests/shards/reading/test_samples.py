"""Samples and shards that cannot be read: mixtures, threads, workers, and where it ends.

`tests.shards.inspection.test_damage_trials` tries many kinds of damage."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.format.index import decode_index
from shards.format.manifest import load_manifest
from shards.reading.batches import BatchAssembler
from shards.reading.reader import ShardReader
from shards.reading.reader_spec import ReaderSpec
from shards.sampling.mixture import WeightedSet
from tests.shards.pictures import pack_small_set, small_spec

ARRAYS = ("images", "completion_holes", "discriminator_holes", "samples", "labels")
SHARD = "train-000001.tar"


def spec_for(url: str | Path, rank: int = 0, world_size: int = 1, threads: int = 2) -> ReaderSpec:
    return small_spec(
        url, rank=rank, world_size=world_size, decode_threads=threads, damaged="substitute"
    )


def read(spec: ReaderSpec, steps: int = 6) -> tuple[list[dict[str, np.ndarray]], dict[str, float]]:
    assembler = BatchAssembler(spec)
    try:
        batches = [assembler.assemble(step) for step in range(steps)]
        return [{name: getattr(b, name).copy() for name in ARRAYS} for b in batches], (
            assembler.counters()
        )
    finally:
        assembler.close()


def damage_image(folder: Path, shard: str, image: int) -> None:
    path = folder / shard
    record = decode_index(path.with_suffix(".idx").read_bytes(), "")[image]
    data = bytearray(path.read_bytes())
    data[int(record["image_offset"]) + int(record["image_size"]) // 2] ^= 1
    path.write_bytes(data)


def damage_much(folder: Path) -> None:
    """Single images, a shard that is missing, and one that is damaged together with its index."""
    damage_image(folder, SHARD, 0)
    damage_image(folder, SHARD, 3)
    (folder / "train-000002.tar").unlink()
    damage_image(folder, "train-000000.tar", 2)
    (folder / "train-000000.idx").write_bytes(b"damaged")


def test_a_run_stops_at_damage_unless_it_is_told_otherwise(copy: Path) -> None:
    assert ReaderSpec.__dataclass_fields__["damaged"].default == "stop"
    damage_image(copy, SHARD, 0)
    with pytest.raises(ValueError, match=rf"{SHARD} is damaged"):
        read(replace(spec_for(copy), damaged="stop"))


def test_neither_threads_nor_workers_change_what_takes_a_damaged_samples_place(
    copy: Path,
) -> None:
    damage_much(copy)
    expected, counters = read(spec_for(copy, threads=1))
    assert counters["unreadable_shards"] == 2
    assert counters["substituted_samples"] > 0
    again, same = read(spec_for(copy, threads=4))
    for name in ("unreadable_shards", "substituted_samples", "damaged_samples"):
        assert same[name] == counters[name], name
    ranks = [read(spec_for(copy, rank, 2))[0] for rank in range(2)]
    for step, batch in enumerate(expected):
        for name in ARRAYS:
            assert np.array_equal(again[step][name], batch[name])
            shared = np.concatenate([batches[step][name] for batches in ranks])
            assert np.array_equal(shared, batch[name])


def test_what_is_delivered_is_whole_and_comes_from_readable_shards(copy: Path) -> None:
    sound, _ = read(spec_for(copy))
    holes = {
        int(sample): tuple(batch["completion_holes"][row].flat)
        for batch in sound
        for row, sample in enumerate(batch["samples"])
    }
    damage_much(copy)
    batches, _ = read(spec_for(copy))
    readable = set(range(10, 20)) - {10, 11, 16, 17} | set(range(30, 36))
    seen = {int(sample) for batch in batches for sample in batch["samples"]}
    assert seen <= readable
    for batch in batches:
        for row, sample in enumerate(batch["samples"]):
            expected = holes.get(int(sample))
            assert expected in (None, tuple(batch["completion_holes"][row].flat))


def test_a_damaged_index_alone_costs_nothing(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, _ = read(spec_for(copy))
    (copy / "train-000000.idx").write_bytes(b"damaged")
    (copy / "train-000001.idx").unlink()
    batches, counters = read(spec_for(copy))
    assert counters["substituted_samples"] == counters["unreadable_shards"] == 0
    for batch, other in zip(batches, expected, strict=True):
        assert np.array_equal(batch["images"], other["images"])
    assert "train-000000.idx is damaged" in capsys.readouterr().err


def test_a_set_of_which_nothing_can_be_read_ends_with_the_first_fault(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in copy.glob("train-*.tar"):
        path.unlink()
    with pytest.raises(OSError, match=r"no substitute was found .* the first error was: ") as error:
        read(spec_for(copy, threads=4))
    assert re.search(r"first error was: .*train-00000\d\.tar", str(error.value))
    told = [line for line in capsys.readouterr().err.splitlines() if "take its samples'" in line]
    assert len(told) == len(set(told)) <= 4


def test_the_child_process_tells_that_nothing_can_be_read_without_a_traceback(
    copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in copy.glob("train-*.tar"):
        path.write_bytes(path.read_bytes()[:100])
    with ShardReader(spec_for(copy), timeout_s=60) as reader:
        reader.start(0, 2)
        with pytest.raises(OSError, match=r"first error was: .*train-00000\d\.tar"):
            next(reader)
    assert "Traceback" not in capfd.readouterr().err


def test_a_sample_of_a_mixture_is_replaced_by_one_of_its_own_set(
    copy: Path, tmp_path: Path
) -> None:
    other = pack_small_set(tmp_path, images=16, masks_per_image=2, holes_per_mask=2, name="other")
    (Path(other) / "train-000000.tar").unlink()
    spec = replace(spec_for(copy), mixture=(WeightedSet(other),))
    batches, counters = read(spec)
    assert counters["unreadable_shards"] == 1
    assert counters["substituted_samples"] > 0
    first = load_manifest(str(copy)).num_samples("train")
    for batch in batches:
        assert (batch["samples"] >= first).sum() == 4
        assert not set(range(first, first + 10)) & set(batch["samples"].tolist())


def test_a_large_shard_of_which_every_image_is_damaged_is_left_for_the_others(
    tmp_path: Path,
) -> None:
    url = pack_small_set(tmp_path, images=24, images_per_shard=10, masks_per_image=8)
    for image in range(10):
        damage_image(Path(url), "train-000000.tar", image)
    expected, counters = read(spec_for(url, threads=1))
    assert counters["unreadable_shards"] == 0
    assert counters["substituted_samples"] > 0
    assert min(int(batch["samples"].min()) for batch in expected) >= 80
    ranks = [read(spec_for(url, rank, 2))[0] for rank in range(2)]
    for step, batch in enumerate(expected):
        shared = np.concatenate([batches[step]["images"] for batches in ranks])
        assert np.array_equal(shared, batch["images"])


def test_the_only_shard_is_searched_on_for_what_is_whole(tmp_path: Path) -> None:
    url = pack_small_set(tmp_path, images=36, images_per_shard=40)
    for image in range(25):
        damage_image(Path(url), "train-000000.tar", image)
    batches, counters = read(spec_for(url))
    assert counters["substituted_samples"] > 0
    assert {int(sample) for batch in batches for sample in batch["samples"]} <= {25, 26}


def test_a_damage_that_is_told_is_told_a_limited_number_of_times(
    tmp_path: Path, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(packed, tmp_path / "copy"))
    damage_image(folder, SHARD, 0)
    _, counters = read(spec_for(folder), steps=120)
    assert counters["damaged_samples"] > 25
    told = capsys.readouterr().err.count("another sample takes its place")
    assert 0 < told <= 20
