"""The cache within one process: what is fetched, kept, mended and refused."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.cache.folder import CacheFolder
from shards.cache.shard_cache import ShardCache
from shards.format.manifest import ShardEntry
from shards.storage.files import download_file, remove_tree, write_bytes
from tests.shards.small_store import FOLDER_LOCK, STORE, cached_names, stored_shard, stored_shards


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield tmp_path
    remove_tree(STORE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_a_shard_is_fetched_once_and_stays_for_the_next_run(folder: Path) -> None:
    entry = stored_shard(b"shard")
    cache = ShardCache(STORE, str(folder))
    with cache.open(entry) as file:
        assert file.read() == file.path.read_bytes() == b"shard"
    cache.close()
    remove_tree(STORE)
    again = ShardCache(STORE, str(folder))
    assert again.fetch(entry).read_bytes() == b"shard"
    assert (cache.counters.downloads, cache.counters.bytes_downloaded) == (1, 5)
    assert (again.counters.downloads, again.counters.hits) == (0, 1)


def test_an_index_is_kept_like_its_shard_and_mended_if_its_copy_was_damaged(folder: Path) -> None:
    entry = stored_shard(b"shard")
    cache = ShardCache(STORE, str(folder))
    assert cache.fetch_index(entry) == cache.fetch_index(entry) == b"drahs"
    assert cache.counters.downloads == 1
    (path,) = folder.glob("*.idx")
    path.write_bytes(b"dRahs")
    assert cache.fetch_index(entry) == b"drahs"
    assert cache.counters.refetched == 1


@pytest.mark.parametrize("altered", [b"sharb", b"shar", b"shards"])
def test_a_shard_that_is_not_the_manifests_is_refused_by_name(folder: Path, altered: bytes) -> None:
    entry = stored_shard(b"shard")
    write_bytes(f"{STORE}/train-000000.tar", altered)
    cache = ShardCache(STORE, str(folder))
    with pytest.raises(ValueError, match=r"train-000000.tar has .* where the manifest says"):
        cache.open(entry)
    assert cached_names(folder) == set()


def test_a_missing_shard_is_said_by_its_url(folder: Path) -> None:
    entry = stored_shard(b"shard")
    remove_tree(STORE)
    with pytest.raises(FileNotFoundError, match=f"{STORE}/train-000000.tar"):
        ShardCache(STORE, str(folder)).open(entry)
    assert cached_names(folder) == set()


def test_a_byte_that_flipped_on_the_way_is_fetched_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = stored_shard(b"shard")

    def damaging(url: str, target: Path, size_bytes: int) -> None:
        target.write_bytes(b"shord")
        monkeypatch.setattr("shards.cache.shard_cache.download_file", download_file)

    monkeypatch.setattr("shards.cache.shard_cache.download_file", damaging)
    cache = ShardCache(STORE, str(folder))
    assert cache.fetch(entry).read_bytes() == b"shard"
    assert cache.counters.refetched == 1


def test_a_cached_file_of_the_wrong_size_is_fetched_again(folder: Path) -> None:
    entry = stored_shard(b"shard")
    cache = ShardCache(STORE, str(folder))
    cache.fetch(entry).write_bytes(b"sha")
    assert cache.fetch(entry).read_bytes() == b"shard"
    assert (cache.counters.downloads, cache.counters.refetched) == (2, 1)


def test_a_cached_file_with_a_flipped_byte_is_found_when_it_is_verified(folder: Path) -> None:
    entry = stored_shard(b"shard")
    cache = ShardCache(STORE, str(folder))
    cache.fetch(entry).write_bytes(b"shord")
    with cache.open(entry) as file, cache.open(entry, verify=True) as verified:
        assert (file.read(), verified.read()) == (b"shord", b"shard")
    cache.open(entry, verify=True).close()
    assert (cache.counters.downloads, cache.counters.refetched) == (2, 1)


def test_threads_that_want_the_same_shard_fetch_it_once(folder: Path) -> None:
    entries = stored_shards(3)
    cache = ShardCache(STORE, str(folder))
    threads = [
        threading.Thread(target=cache.fetch, args=(entries[number % 3],)) for number in range(24)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.counters.downloads == 3
    assert cached_names(folder) == {entry.name for entry in entries}


def test_what_a_killed_download_left_is_swept_and_what_is_in_flight_stays(folder: Path) -> None:
    folder.mkdir()
    stem = ".0123456789abcdef-train-00000"
    for name in (f"{stem}0.tar.part", f"{stem}1.tar.part", f"{stem}1.tar.lock"):
        (folder / name).write_bytes(b"half")
    alive = CacheFolder(folder, 0).lock(folder / f"{stem[1:]}2.tar")
    (folder / f"{stem}2.tar.part").write_bytes(b"half")
    assert alive.try_acquire()
    ShardCache(STORE, str(folder)).close()
    assert set(os.listdir(folder)) == {f"{stem}2.tar.part", f"{stem}2.tar.lock", FOLDER_LOCK}
    alive.release()


def test_close_ends_the_wait_for_another_download(folder: Path) -> None:
    entry = stored_shard(b"shard")
    cache = ShardCache(STORE, str(folder))
    place = CacheFolder(folder, 0)
    lock = place.lock(place.file(entry.sha256, entry.name))
    assert lock.try_acquire()
    errors: list[str] = []

    def fetch() -> None:
        try:
            cache.fetch(entry)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=fetch)
    thread.start()
    while not cache.counters.waits_for_others:
        time.sleep(0.01)
    cache.close()
    thread.join()
    lock.release()
    assert errors == [f"the shard cache was closed before {STORE}/train-000000.tar had arrived"]


def test_without_a_folder_all_caches_of_the_user_share_one(temporary: Path) -> None:
    entry = stored_shard(b"shard")
    first, second = ShardCache(STORE), ShardCache(f"{STORE}-elsewhere")
    assert first.fetch(entry) == second.fetch(entry)
    assert first.folder == temporary / f"glcic-shards-{os.getuid()}"
    assert first.folder.stat().st_mode & 0o777 == 0o700
    first.close()
    assert cached_names(first.folder) == {entry.name}


def test_a_shared_folder_that_is_not_the_users_own_is_refused(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = temporary / f"glcic-shards-{os.getuid()}"
    path.mkdir()
    path.chmod(0o777)
    with pytest.raises(RuntimeError, match="may be written by other users"):
        ShardCache(STORE)
    path.rmdir()
    path.symlink_to(temporary)
    with pytest.raises(RuntimeError, match="is not a folder of user"):
        ShardCache(STORE)
    path.unlink()
    path.mkdir()
    user = os.getuid() + 1
    path.rename(temporary / f"glcic-shards-{user}")
    monkeypatch.setattr(os, "getuid", lambda: user)
    with pytest.raises(RuntimeError, match=f"glcic-shards-{user} is not a folder of user {user}"):
        ShardCache(STORE)


@pytest.mark.parametrize("name", ["../train.tar", "train.txt", "a/b.tar"])
def test_a_shard_whose_name_leads_elsewhere_is_refused(folder: Path, name: str) -> None:
    digest = hashlib.sha256(b"").hexdigest()
    with pytest.raises(ValueError, match="is no shard of a packed set"):
        ShardCache(STORE, str(folder)).open(ShardEntry(name, 1, 0, digest, digest))
