"""The files of a real S3 server, the one that AWS_ENDPOINT_URL names."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from shards.storage import files as storage
from shards.storage.files import join_url, list_names, read_bytes, remove_tree, write_bytes

pytestmark = [
    pytest.mark.s3,
    pytest.mark.skipif(
        "AWS_ENDPOINT_URL" not in os.environ, reason="no S3 server: AWS_ENDPOINT_URL is not set"
    ),
]


def another_process() -> Any:
    """A filesystem that shares nothing with the one that the project uses."""
    return fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)


def test_files_are_written_listed_read_and_removed(folder: str) -> None:
    for name in ("step-1/a", "step-1/b", "step-10/a", "empty"):
        write_bytes(join_url(folder, name), b"" if name == "empty" else name.encode())
    assert list_names(folder) == ["empty", "step-1", "step-10"]
    assert read_bytes(join_url(folder, "step-1/b")) == b"step-1/b"
    assert read_bytes(join_url(folder, "empty")) == b""
    remove_tree(join_url(folder, "step-1"))
    assert list_names(folder) == ["empty", "step-10"], "a name that begins alike stays"
    remove_tree(join_url(folder, "empty"))
    assert list_names(folder) == ["step-10"]
    assert not storage.exists(join_url(folder, "step-1/a"))
    remove_tree(join_url(folder, "never-there"))


def test_what_other_processes_write_and_remove_is_seen_at_once(folder: str) -> None:
    other = another_process()
    write_bytes(join_url(folder, "a"), b"old")
    assert (list_names(folder), storage.exists(join_url(folder, "b"))) == (["a"], False)
    other.pipe_file(join_url(folder, "b"), b"new")
    other.rm_file(join_url(folder, "a"))
    assert storage.exists(join_url(folder, "b"))
    assert not storage.exists(join_url(folder, "a"))
    assert storage.size_bytes(join_url(folder, "b")) == 3
    assert list_names(folder) == ["b"]


def test_a_large_file_goes_up_in_parts_and_comes_back_whole(folder: str, tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(1 << 20) * 104
    (tmp_path / "file").write_bytes(data)
    storage.upload_file(tmp_path / "file", join_url(folder, "file"))
    write_bytes(join_url(folder, "bytes"), memoryview(data))
    for name in ("file", "bytes"):
        assert "-" in another_process().info(join_url(folder, name))["ETag"], "uploaded in parts"
        assert read_bytes(join_url(folder, name)) == data
    storage.download_file(join_url(folder, "file"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data


def test_threads_share_one_connection_pool_without_mixing_files(folder: str) -> None:
    failed = []

    def write_and_read(number: int) -> None:
        url = join_url(folder, str(number))
        for turn in range(5):
            write_bytes(url, f"{number} {turn}".encode() * 1000)
            if read_bytes(url) != f"{number} {turn}".encode() * 1000:
                failed.append(number)

    threads = [threading.Thread(target=write_and_read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert list_names(folder) == [str(number) for number in range(8)]


@contextmanager
def deletion_denied(url: str) -> Iterator[None]:
    """Whoever asks, nothing under `url` is deleted: a policy of its bucket."""
    filesystem, path = storage.open_filesystem(url)
    name = path.split("/")[0]
    statement = {
        "Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject",
        "Resource": f"arn:aws:s3:::{path}/*",
    }  # fmt: skip
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    filesystem.call_s3("put_bucket_policy", Bucket=name, Policy=policy)
    try:
        yield
    finally:
        filesystem.call_s3("delete_bucket_policy", Bucket=name)


def test_a_removal_that_the_store_refuses_is_an_error(folder: str) -> None:
    for name in ("a", "b"):
        write_bytes(join_url(folder, name), b"x")
    with deletion_denied(folder):
        for url in (folder, join_url(folder, "a")):
            with pytest.raises(PermissionError, match=f"removing {url} failed"):
                remove_tree(url)
        assert list_names(folder) == ["a", "b"]
