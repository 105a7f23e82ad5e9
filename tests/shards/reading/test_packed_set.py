from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import shards.cache.shard_cache
from shards.format.manifest import load_manifest
from shards.reading.packed_set import ShardSet
from shards.storage.files import upload_file
from tests.shards.pictures import pack_small_set

REMOTE = "memory://shard-set-tests"


@pytest.fixture
def remote(packed: Path) -> str:
    """The set on an object store."""
    filesystem = fsspec.filesystem("memory")
    if filesystem.exists(REMOTE):
        filesystem.rm(REMOTE, recursive=True)
    for path in packed.iterdir():
        upload_file(path, f"{REMOTE}/{path.name}")
    return REMOTE


def tar_members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def flip_bit(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def test_images_are_those_that_lie_in_the_tar(packed: Path) -> None:
    shard_set = ShardSet(str(packed), "train")
    for shard, entry in enumerate(shard_set.entries):
        members = tar_members(packed / entry.name)
        for image, record in enumerate(shard_set.records(shard)):
            key = f"{int(record['image_number']):08d}"
            assert bytes(shard_set.image_bytes(shard, image)) == members[f"{key}.jpg"]
            masks = json.loads(members[f"{key}.json"])["masks"]
            assert record["completion_holes"].tolist() == [mask["completion"] for mask in masks]


def test_sample_numbers_run_through_the_split(packed: Path) -> None:
    shard_set = ShardSet(str(packed), "train")
    assert shard_set.num_samples == load_manifest(str(packed)).num_samples("train")
    located = [shard_set.locate(sample) for sample in range(shard_set.num_samples)]
    assert located == [
        (shard, position)
        for shard, entry in enumerate(shard_set.entries)
        for position in range(entry.num_images * 2)
    ]
    assert [shard_set.sample_number(*place) for place in located] == list(range(len(located)))
    with pytest.raises(ValueError, match=f"sample {len(located)} is not in"):
        shard_set.locate(len(located))


def test_a_folder_without_a_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="glcic pack"):
        ShardSet(str(tmp_path), "train")


def test_an_unknown_split_is_refused_with_those_there_are(packed: Path) -> None:
    with pytest.raises(ValueError, match=r"no split 'test'; it has train, val"):
        ShardSet(str(packed), "test")


def test_a_missing_shard_is_named(copy: Path) -> None:
    (copy / "train-000001.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"train-000001\.tar is missing.*glcic repack"):
        ShardSet(str(copy), "train")
    ShardSet(str(copy), "val")


def test_a_truncated_shard_is_named_with_both_sizes(copy: Path) -> None:
    shard = copy / "train-000002.tar"
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(ValueError, match=rf"train-000002.tar has {size - 512} bytes .* {size};"):
        ShardSet(str(copy), "train")


@pytest.mark.parametrize("damage", ["missing", "altered", "cut"])
def test_an_index_that_cannot_be_used_is_made_anew_and_told(
    copy: Path, packed: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy / "train-000001.idx"
    if damage == "missing":
        path.unlink()
    elif damage == "altered":
        flip_bit(path, -1)
    else:
        path.write_bytes(path.read_bytes()[:50])
    expected = ShardSet(str(packed), "train").open(1)
    found = ShardSet(str(copy), "train").open(1)
    assert np.array_equal(found.records, expected.records)
    assert [bytes(found.image_bytes(n)) for n in range(5)] == [
        bytes(expected.image_bytes(n)) for n in range(5)
    ]
    assert "train-000001.idx" in capsys.readouterr().err


def test_an_index_made_anew_that_is_not_the_manifests_is_refused(copy: Path) -> None:
    (copy / "train-000001.idx").unlink()
    offset = int(ShardSet(str(copy), "train").records(0)[0]["image_offset"])
    flip_bit(copy / "train-000001.tar", offset + 100)
    with pytest.raises(ValueError, match=r"train-000001\.idx.*mend the set with `glcic repack`"):
        ShardSet(str(copy), "train").open(1)


def test_a_flipped_bit_is_refused_by_name_and_its_neighbours_are_read(copy: Path) -> None:
    record = ShardSet(str(copy), "train").records(1)[2]
    flip_bit(copy / "train-000001.tar", int(record["image_offset"]) + 100)
    shard_set = ShardSet(str(copy), "train")
    key = f"{int(record['image_number']):08d}"
    with pytest.raises(ValueError, match=rf"{key}\.jpg in .*train-000001\.tar is damaged"):
        shard_set.image_bytes(1, 2)
    shard_set.image_bytes(1, 1)
    shard_set.image_bytes(1, 3)


def test_views_outlive_the_map_they_came_from(packed: Path) -> None:
    shard_set = ShardSet(str(packed), "train", open_shards=1)
    views = [shard_set.image_bytes(shard, 0) for shard in (0, 1, 2, 0)]
    copies = [bytes(view) for view in views]
    shard_set.close()
    assert copies[0] == copies[3] == bytes(views[0])
    assert [bytes(view) for view in views] == copies


def test_a_remote_set_reads_like_the_local_one(remote: str, packed: Path, tmp_path: Path) -> None:
    local, fetched = ShardSet(str(packed), "train"), ShardSet(remote, "train", str(tmp_path))
    for shard, entry in enumerate(local.entries):
        for image in range(entry.num_images):
            assert fetched.image_bytes(shard, image) == local.image_bytes(shard, image)
    assert len(list(tmp_path.glob("*.tar"))) == len(local.entries)


def test_a_fetched_shard_is_not_fetched_again(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ShardSet(remote, "train", str(tmp_path)).image_bytes(0, 0)
    monkeypatch.setattr(shards.cache.shard_cache, "download_file", refuse_download)
    assert ShardSet(remote, "train", str(tmp_path)).image_bytes(0, 0) == first


def refuse_download(url: str, *others: Any, **more: Any) -> None:
    raise AssertionError(f"{url} was fetched again")


def test_threads_that_want_the_same_shard_fetch_it_once(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []
    download: Callable[..., None] = shards.cache.shard_cache.download_file

    def counting(url: str, *others: Any, **more: Any) -> None:
        if url.endswith(".tar"):
            fetched.append(url)
        download(url, *others, **more)

    monkeypatch.setattr(shards.cache.shard_cache, "download_file", counting)
    shard_set = ShardSet(remote, "train", str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda n: bytes(shard_set.image_bytes(0, n % 5)), range(40)))
    assert len(set(images)) == 5
    assert len(fetched) == 1


def test_a_remote_shard_with_other_bytes_is_refused_and_not_kept(
    remote: str, tmp_path: Path
) -> None:
    filesystem = fsspec.filesystem("memory")
    data = bytearray(filesystem.cat_file(f"{REMOTE}/train-000000.tar"))
    data[5000] ^= 1
    filesystem.pipe_file(f"{REMOTE}/train-000000.tar", bytes(data))
    with pytest.raises(ValueError, match=r"train-000000\.tar has SHA-256"):
        ShardSet(remote, "train", str(tmp_path)).image_bytes(0, 0)
    assert list(tmp_path.glob("*train-000000.tar*")) == []


def test_a_missing_remote_shard_is_named_when_the_set_is_opened(
    remote: str, tmp_path: Path
) -> None:
    fsspec.filesystem("memory").rm(f"{REMOTE}/train-000001.tar")
    with pytest.raises(FileNotFoundError, match=r"train-000001\.tar is missing"):
        ShardSet(remote, "train", str(tmp_path))


def test_sets_with_shards_of_the_same_name_share_a_cache_folder(
    remote: str, packed: Path, tmp_path: Path
) -> None:
    other = Path(pack_small_set(tmp_path, seed=1, name="other"))
    for path in other.iterdir():
        upload_file(path, f"{REMOTE}-other/{path.name}")
    cache = str(tmp_path / "cache")
    ShardSet(remote, "train", cache).image_bytes(0, 0)
    data = ShardSet(f"{REMOTE}-other", "train", cache).image_bytes(0, 0)
    assert data == ShardSet(str(other), "train").image_bytes(0, 0)


def test_a_shard_replaced_by_a_shorter_one_after_opening_is_named(copy: Path) -> None:
    shard_set = ShardSet(str(copy), "train")
    (copy / "train-000000.tar").write_bytes(b"0" * 512)
    with pytest.raises(ValueError, match=r"train-000000\.tar has 512 bytes"):
        shard_set.image_bytes(0, 0)
