from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

import shards
from shards.reading.open_shard import OpenShard
from shards.reading.packed_set import ShardSet
from shards.reading.reader import Batch, BatchAssembler, ShardReader, read_in_order
from shards.reading.reader_spec import ReaderSpec
from shards.reading.ring import create_ring_file
from tests.shards.pictures import pack_small_set, small_spec

PROJECT = Path(shards.__file__).parents[2]
ARRAYS = ("images", "completion_holes", "discriminator_holes", "samples", "labels")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """36 pictures, 27 of them for training in shards of 5; two masks of two holes for each."""
    folder = tmp_path_factory.mktemp("packed")
    return pack_small_set(folder, images=36, masks_per_image=2, holes_per_mask=2)


@pytest.fixture
def copy(packed: str, tmp_path: Path) -> Path:
    """A copy of the set that a test may damage."""
    return Path(shutil.copytree(packed, tmp_path / "copy"))


def spec_for(
    url: str | Path,
    rank: int = 0,
    world_size: int = 1,
    decode_threads: int = 2,
    prefetch_batches: int = 3,
) -> ReaderSpec:
    return small_spec(
        url,
        rank=rank,
        world_size=world_size,
        decode_threads=decode_threads,
        prefetch_batches=prefetch_batches,
    )


def read_all(reader: ShardReader) -> None:
    for batch in reader:
        batch.release()


def copied(batch: Batch) -> dict[str, np.ndarray]:
    return {name: getattr(batch, name).copy() for name in ARRAYS}


def read(spec: ReaderSpec, start: int, stop: int) -> list[dict[str, np.ndarray]]:
    batches = []
    with ShardReader(spec, timeout_s=60) as reader:
        reader.start(start, stop)
        for number, batch in enumerate(reader):
            assert batch.step == start + number
            batches.append(copied(batch))
            batch.release()
    assert len(batches) == stop - start
    return batches


def assemble(spec: ReaderSpec, steps: range) -> list[dict[str, np.ndarray]]:
    assembler = BatchAssembler(spec)
    batches = [copied(assembler.assemble(step)) for step in steps]
    assembler.close()
    return batches


def assert_equal(ours: list[dict[str, np.ndarray]], others: list[dict[str, np.ndarray]]) -> None:
    assert len(ours) == len(others)
    for batch, other in zip(ours, others, strict=True):
        for name in ARRAYS:
            assert np.array_equal(batch[name], other[name]), name


def wait_until(condition_holds: Iterator[bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    for holds in condition_holds:
        if holds:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return False


def is_running(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# What a batch is


def test_batches_have_the_promised_shapes_and_types(packed: str) -> None:
    (batch,) = read(spec_for(packed), 0, 1)
    assert (batch["images"].shape, batch["images"].dtype) == ((8, 32, 32, 3), np.uint8)
    for name in ("completion_holes", "discriminator_holes"):
        assert (batch[name].shape, batch[name].dtype) == ((8, 2, 4), np.int32)
    for name in ("samples", "labels"):
        assert (batch[name].shape, batch[name].dtype) == ((8,), np.int64)


def test_holes_and_labels_are_those_of_the_sample(packed: str) -> None:
    shard_set = ShardSet(packed, "train")
    for batch in read(spec_for(packed), 0, 6):
        for row, sample in enumerate(batch["samples"]):
            shard, position = shard_set.locate(int(sample))
            record = shard_set.records(shard)[position // 2]
            assert batch["labels"][row] == record["label"]
            for name in ("completion_holes", "discriminator_holes"):
                assert np.array_equal(batch[name][row], record[name][position % 2])


def test_an_epoch_reads_each_sample_at_most_once(packed: str) -> None:
    spec = spec_for(packed)
    steps = BatchAssembler(spec).steps_per_epoch
    samples = np.concatenate([batch["samples"] for batch in read(spec, 0, steps)])
    assert len(np.unique(samples)) == len(samples) == steps * 8
    assert samples.max() < ShardSet(packed, "train").num_samples


# Always the same batches


def test_every_world_size_reads_the_same_batches(packed: str) -> None:
    whole = read(spec_for(packed), 4, 11)
    for world_size in (2, 4):
        parts = [read(spec_for(packed, rank, world_size), 4, 11) for rank in range(world_size)]
        joined = [
            {name: np.concatenate([part[name] for part in step]) for name in ARRAYS}
            for step in zip(*parts, strict=True)
        ]
        assert_equal(joined, whole)


def test_seeking_reads_what_iterating_reads(packed: str) -> None:
    walked = read(spec_for(packed), 0, 16)
    assert_equal(read(spec_for(packed), 13, 16), walked[13:])


def test_the_number_of_decoding_threads_changes_nothing(packed: str) -> None:
    one, three = (read(spec_for(packed, decode_threads=threads), 0, 9) for threads in (1, 3))
    assert_equal(one, three)


def test_the_child_reads_what_the_assembler_reads(packed: str) -> None:
    assert_equal(read(spec_for(packed), 2, 9), assemble(spec_for(packed), range(2, 9)))


def test_the_assembler_fills_given_arrays(packed: str) -> None:
    assembler = BatchAssembler(spec_for(packed))
    out = assembler.layout.allocate()
    batch = assembler.assemble(3, out)
    assert batch.images is out.images
    assert_equal([copied(batch)], [copied(assembler.assemble(3))])


# The ring


def test_a_slow_consumer_finds_its_batches_untouched(packed: str) -> None:
    expected = assemble(spec_for(packed), range(0, 6))
    with ShardReader(spec_for(packed, prefetch_batches=3), timeout_s=60) as reader:
        reader.start(0, 6)
        held = [next(reader), next(reader)]
        assert_equal([copied(batch) for batch in held], expected[:2])
        third = next(reader)
        third.release()
        fourth = next(reader)
        assert_equal([copied(batch) for batch in [*held, fourth]], [*expected[:2], expected[3]])


def test_the_ring_goes_round_many_times(packed: str) -> None:
    expected = assemble(spec_for(packed), range(0, 60))
    assert_equal(read(spec_for(packed, prefetch_batches=2), 0, 60), expected)


def test_slots_may_be_released_in_any_order_and_twice(packed: str) -> None:
    expected = assemble(spec_for(packed), range(0, 12))
    with ShardReader(spec_for(packed, prefetch_batches=4), timeout_s=60) as reader:
        reader.start(0, 12)
        seen = []
        for _ in range(4):
            batches = [next(reader) for _ in range(3)]
            seen += [copied(batch) for batch in batches]
            for batch in (batches[1], batches[2], batches[1], batches[0]):
                batch.release()
        assert_equal(seen, expected)


def test_forgetting_to_release_is_an_error_rather_than_a_hang(packed: str) -> None:
    with ShardReader(spec_for(packed, prefetch_batches=2), timeout_s=60) as reader:
        reader.start(0, 6)
        kept = [next(reader), next(reader)]
        with pytest.raises(RuntimeError, match=r"all 2 batches .* in use: release one"):
            next(reader)
        kept[0].release()
        assert next(reader).step == 2


def test_every_batch_lies_in_the_ring_view(packed: str) -> None:
    with ShardReader(spec_for(packed), timeout_s=60) as reader:
        ring = reader.ring_view()
        reader.start(0, 3)
        for batch in reader:
            assert all(np.shares_memory(getattr(batch, name), ring) for name in ARRAYS)


def test_a_batch_outlives_its_reader(packed: str) -> None:
    with ShardReader(spec_for(packed), timeout_s=60) as reader:
        reader.start(5, 9)
        batch = next(reader)
        before = copied(batch)
    del reader
    assert_equal([copied(batch)], [before])
    batch.release()


def test_a_ring_larger_than_half_the_memory_is_refused_before_any_is_claimed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    with pytest.raises(RuntimeError, match=r"no room .* ring of \d+ bytes \(half of this machine"):
        create_ring_file(1 << 62)


def test_memory_that_cannot_be_claimed_is_an_error_that_leaves_no_file_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_space(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(RuntimeError, match=r"4096 bytes \(No space left on device\)"):
        create_ring_file(4096)
    assert os.listdir("/proc/self/fd") == before


def test_the_counters_count(packed: str) -> None:
    with ShardReader(spec_for(packed), timeout_s=60) as reader:
        reader.start(0, 5)
        read_all(reader)
        assert reader.batches == 5
        mean_bytes = reader.counters["bytes_read"] / (5 * 8)
        shard_set = ShardSet(packed, "train")
        sizes = np.concatenate(
            [shard_set.records(shard)["image_size"] for shard in range(len(shard_set.entries))]
        )
        assert sizes.min() <= mean_bytes <= sizes.max()
        assert reader.counters["decode_seconds"] > 0
        for name in ("damaged_samples", "unreadable_shards", "substituted_samples"):
            assert reader.counters[name] == 0
        assert reader.wait_seconds > 0


# The child process


def test_the_child_never_loads_torch(packed: str) -> None:
    with ShardReader(spec_for(packed), timeout_s=60) as reader:
        reader.start(0, 4)
        next(reader)
        maps = Path(f"/proc/{reader.process_id}/maps").read_text()
    assert "simplejpeg" in maps
    assert "libtorch" not in maps
    code = "import sys, shards.reading.reader_process; print('torch' in sys.modules)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=PROJECT)
    assert child.stdout == b"False\n"


def test_the_child_starts_where_the_project_is_neither_installed_nor_the_folder(
    packed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shards").mkdir()  # a folder of data must not be taken for the package
    (tmp_path / "json.py").write_text("raise ImportError('the wrong json')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert len(read(spec_for(packed), 0, 2)) == 2


def test_a_killed_child_is_reported_with_its_exit_code(packed: str) -> None:
    with ShardReader(spec_for(packed, prefetch_batches=2), timeout_s=60) as reader:
        reader.start(0, 100)
        next(reader).release()
        os.kill(reader.process_id, signal.SIGKILL)
        with pytest.raises(RuntimeError, match=r"died \(exit code -9, killed by SIGKILL\)"):
            read_all(reader)
        with pytest.raises(RuntimeError, match="died"):
            next(reader)


def test_a_stopped_child_is_not_waited_for_longer_than_allowed(packed: str) -> None:
    with ShardReader(spec_for(packed), timeout_s=0.5) as reader:
        os.kill(reader.process_id, signal.SIGSTOP)
        reader.start(30, 40)
        with pytest.raises(RuntimeError, match=r"no batch for step 30 in 0\.5 s"):
            next(reader)
    assert not is_running(reader.process_id)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_meant_for_the_parent_leave_the_child_reading(
    packed: str, number: signal.Signals
) -> None:
    with ShardReader(spec_for(packed), timeout_s=60) as reader:
        reader.start(0, 10)
        next(reader).release()
        os.kill(reader.process_id, number)
        read_all(reader)
        assert reader.batches == 10


@pytest.mark.parametrize("started", [False, True])
def test_closing_ends_the_child_at_any_moment_and_twice(packed: str, started: bool) -> None:
    reader = ShardReader(spec_for(packed), timeout_s=60)
    if started:
        reader.start(0, 1000)
        next(reader)
    reader.close()
    assert not is_running(reader.process_id)
    reader.close()


def test_a_remote_set_is_read_through_a_cache_that_the_machine_shares(
    packed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    expected = assemble(spec_for(packed), range(3))
    # This protocol goes the way of an object store, and the child sees the same files.
    with ShardReader(spec_for(f"local://{packed}"), timeout_s=60) as reader:
        reader.start(0, 3)
        assert_equal([copied(next(reader)) for _ in range(3)], expected)
        fetched = sorted(tmp_path.glob("*/*.tar"))
        assert len(fetched) > 0
    with ShardReader(spec_for(f"local://{packed}"), timeout_s=60) as reader:
        reader.start(0, 3)
        assert_equal([copied(next(reader)) for _ in range(3)], expected)
        assert reader.counters["cache_hits"] > 0


PARENT = """
import json, os, signal, sys
from shards.reading.reader import ShardReader
from shards.reading.reader_spec import ReaderSpec
reader = ShardReader(ReaderSpec.from_mapping(json.loads(sys.argv[1])))
reader.start(0, 1000)
next(reader)
print(reader.process_id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_parent_leaves_no_orphan(packed: str) -> None:
    argument = json.dumps(dataclasses.asdict(spec_for(packed)))
    parent = subprocess.run(
        [sys.executable, "-c", PARENT, argument], cwd=PROJECT, stdout=subprocess.PIPE
    )
    assert parent.returncode == -signal.SIGKILL
    child = int(parent.stdout)
    assert wait_until(not is_running(child) for _ in iter(int, 1))


# What is refused


def test_a_flipped_bit_is_refused_by_name(copy: Path) -> None:
    record = ShardSet(str(copy), "train").records(2)[1]
    path = copy / "train-000002.tar"
    data = bytearray(path.read_bytes())
    data[int(record["image_offset"]) + 200] ^= 1
    path.write_bytes(data)
    key = f"{int(record['image_number']):08d}"
    with pytest.raises(ValueError, match=rf"{key}\.jpg in .*train-000002\.tar is damaged"):
        read(spec_for(copy), 0, 20)


def test_a_truncated_shard_is_refused_by_name(copy: Path) -> None:
    path = copy / "train-000001.tar"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"train-000001\.tar has \d+ bytes"):
        read(spec_for(copy), 0, 20)


def test_a_missing_shard_is_refused_by_name(copy: Path) -> None:
    (copy / "train-000001.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"train-000001\.tar is missing"):
        read(spec_for(copy), 0, 20)


def test_a_jpeg_that_was_packed_broken_is_refused_by_name(
    packed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def garbage(self: OpenShard, image: int) -> memoryview:
        return memoryview(b"\xff\xd8 this is no picture")

    monkeypatch.setattr(OpenShard, "image_bytes", garbage)
    with pytest.raises(ValueError, match=r"\d{8}\.jpg in .*\.tar cannot be decoded"):
        BatchAssembler(spec_for(packed)).assemble(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "test"}, "no split 'test'"),
        ({"short_side_min": 31}, r"31 and 48: must be at least the crop size .*\(32\)"),
        ({"short_side_max": 31}, "32 and 31"),
        ({"world_size": 3}, "cannot be shared equally by 3 workers"),
        ({"batch_size": 64}, "holds 54 samples, fewer than one batch of 64"),
        ({"prefetch_batches": 1}, "prefetch_batches is 1: must be at least 2"),
        ({"decode_threads": -1}, "decode_threads is -1"),
    ],
)
def test_what_cannot_be_read_is_refused_before_a_process_is_started(
    packed: str, change: dict[str, int], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(subprocess, "Popen")
    with pytest.raises(ValueError, match=message):
        ShardReader(dataclasses.replace(spec_for(packed), **change))  # type: ignore[arg-type]


# Reading in order


def test_validation_images_are_read_as_they_are_stored(packed: str) -> None:
    shard_set = ShardSet(packed, "val")
    chosen = [5, 0, 3, 2, shard_set.num_samples - 1]
    batches = list(read_in_order(packed, "val", chosen, batch_size=2))
    assert [batch.samples.tolist() for batch in batches] == [[5, 0], [3, 2], [chosen[-1]]]
    for batch in batches:
        for row, sample in enumerate(batch.samples):
            shard, position = shard_set.locate(int(sample))
            jpeg = shard_set.image_bytes(shard, position // 2)
            assert np.array_equal(batch.images[row], simplejpeg.decode_jpeg(jpeg))
            record = shard_set.records(shard)[position // 2]
            assert np.array_equal(
                batch.completion_holes[row], record["completion_holes"][position % 2]
            )


def test_images_of_another_size_are_not_read_without_resampling(packed: str) -> None:
    with pytest.raises(ValueError, match=r"64 x 48 pixels, not the crop's 32 x 32"):
        next(read_in_order(packed, "train", [0], batch_size=1))


def test_a_sample_outside_the_split_is_refused(packed: str) -> None:
    with pytest.raises(ValueError, match="sample 1000 is not in"):
        list(read_in_order(packed, "val", [0, 1000], batch_size=1))
