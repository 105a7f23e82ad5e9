"""What a cache keeps within its limit, and what has to go."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import shards.cache.shard_cache
from shards.cache.folder import CacheFolder
from shards.cache.shard_cache import CachedFile, ShardCache
from shards.storage.files import download_file, remove_tree
from tests.shards.small_store import FOLDER_LOCK, STORE, cached_names, stored_shards


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("shards.cache.shard_cache._warned", False)
    yield
    remove_tree(STORE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_the_least_recently_used_goes_first_and_the_limit_is_kept(folder: Path) -> None:
    entries = stored_shards(5)
    cache = ShardCache(STORE, str(folder), limit_bytes=35)
    for number in (0, 1, 2, 0, 3):  # the last is fetched in place of 1
        cache.fetch(entries[number])
    assert cached_names(folder) == {entries[number].name for number in (0, 2, 3)}
    cache.fetch(entries[4])
    assert cached_names(folder) == {entries[number].name for number in (0, 3, 4)}
    assert cache.counters.evictions == 2


def test_an_open_shard_is_never_evicted(folder: Path) -> None:
    entries = stored_shards(4)
    cache = ShardCache(STORE, str(folder), limit_bytes=25)
    held = cache.open(entries[0])
    for entry in entries[1:]:
        cache.fetch(entry)
    assert cached_names(folder) == {entries[0].name, entries[3].name}
    held.close()
    cache.fetch(entries[1])
    assert cached_names(folder) == {entries[1].name, entries[3].name}


def test_a_memory_map_holds_its_shard_after_the_file_is_closed(folder: Path) -> None:
    entries = stored_shards(2)
    cache = ShardCache(STORE, str(folder), limit_bytes=15)
    with cache.open(entries[0]) as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    cache.fetch(entries[1])
    assert entries[0].name in cached_names(folder)
    mapped.close()
    cache.fetch(entries[1])
    assert CacheFolder(folder, 15).evict_all() == 2


def test_a_limit_below_what_is_in_use_is_passed_with_one_warning(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = stored_shards(4)
    cache = ShardCache(STORE, str(folder), limit_bytes=15)
    files: list[CachedFile] = [cache.open(entry) for entry in entries]
    assert [file.read() for file in files] == [f"shard {n:04d}".encode() for n in range(4)]
    (line,) = capsys.readouterr().err.splitlines()
    assert "limit of 1.5e-08 GB" in line
    assert "2e-08 GB" in line
    assert "data.cache_limit_gb" in line


def test_downloads_in_flight_elsewhere_take_their_room(folder: Path) -> None:
    entries = stored_shards(3)
    cache = ShardCache(STORE, str(folder), limit_bytes=35)
    cache.fetch(entries[0])
    elsewhere = CacheFolder(folder, 35)
    lock = elsewhere.lock(elsewhere.file(entries[2].sha256, entries[2].name))
    assert lock.try_acquire()
    assert elsewhere.reserve(lock, 20).evictions == 0
    cache.fetch(entries[1])
    lock.release()
    assert cached_names(folder) == {entries[1].name}


def test_without_a_limit_a_part_of_the_disk_is_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = stored_shards(4)
    cache = ShardCache(STORE, str(folder))

    def usage_of_a_disk_of_33_bytes(path: Path) -> SimpleNamespace:
        return SimpleNamespace(free=33 - sum(file.stat().st_size for file in folder.glob("*.tar")))

    monkeypatch.setattr("shutil.disk_usage", usage_of_a_disk_of_33_bytes)
    for entry in entries:
        cache.fetch(entry)
    assert cached_names(folder) == {entry.name for entry in entries[2:]}
    monkeypatch.setattr("shards.cache.folder.MAX_DEFAULT_BYTES", 10)
    cache.fetch(entries[0])
    assert cached_names(folder) == {entries[0].name}


def full_disk(times: int) -> type:
    class FullDisk:
        left = times

        def __call__(self, url: str, target: Path, size_bytes: int) -> None:
            if self.left:
                type(self).left -= 1
                target.write_bytes(b"half")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            download_file(url, target, size_bytes)

    return FullDisk


def test_on_a_full_disk_all_that_is_not_held_goes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = stored_shards(4)
    cache = ShardCache(STORE, str(folder))
    held = cache.open(entries[0])
    cache.fetch(entries[1])
    monkeypatch.setattr(shards.cache.shard_cache, "download_file", full_disk(times=1)())
    cache.fetch(entries[2])
    assert cached_names(folder) == {entries[0].name, entries[2].name}
    monkeypatch.setattr(shards.cache.shard_cache, "download_file", full_disk(times=2)())
    with pytest.raises(OSError, match=f"shard cache {folder} is full") as raised:
        cache.fetch(entries[3])
    assert raised.value.errno == errno.ENOSPC
    assert cached_names(folder) == {entries[0].name}
    held.close()


def test_foreign_files_are_never_touched(folder: Path) -> None:
    foreign = [".mine.part", "notes.txt", "0123456789abcdef-notes.txt", ".other.lock", "a.tar"]
    (folder / "0123456789abcdef").mkdir(parents=True)
    for name in foreign:
        (folder / name).write_bytes(b"x" * 100)
    cache = ShardCache(STORE, str(folder), limit_bytes=15)
    for entry in stored_shards(3):
        cache.fetch(entry)
    assert CacheFolder(folder, 15).evict_all() == 1
    assert set(os.listdir(folder)) == {*foreign, "0123456789abcdef", FOLDER_LOCK}
