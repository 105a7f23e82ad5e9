"""The S3 server that AWS_ENDPOINT_URL names, behind a proxy that fails every fifth time."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.format.manifest import ShardEntry
from shards.storage.files import join_url, list_tree, read_bytes, read_range, write_bytes
from tests.fault_proxy import KINDS, RESET_AMID, TRUNCATE, FaultProxy

ROOT = Path(__file__).parents[3]
pytestmark = [
    pytest.mark.s3,
    pytest.mark.skipif(
        "AWS_ENDPOINT_URL" not in os.environ, reason="no S3 server: AWS_ENDPOINT_URL is not set"
    ),
]

FETCH = """
import json, sys
from shards.cache.shard_cache import ShardCache
from shards.format.manifest import ShardEntry
from shards.storage.files import storage_counters
url, folder, entries = json.loads(sys.argv[1])
cache = ShardCache(url, folder)
for entry in entries:
    cache.fetch(ShardEntry(**entry))
print(json.dumps({**cache.counters.snapshot(), **storage_counters.snapshot()}))
"""

UPLOAD = """
import sys
from pathlib import Path
from shards import storage
storage._FIRST_WAIT_S = 0.05
url, source = sys.argv[1:]
data = Path(source).read_bytes()
for number in range(10):
    storage.write_bytes(f"{url}/written-{number}", data[: 100_000])
storage.upload_file(Path(source), f"{url}/uploaded")
"""


def run_behind(proxy: FaultProxy, program: str, *arguments: str) -> str:
    """Another process, whose S3 client has the proxy for its server."""
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, text=True, timeout=300,
        capture_output=True, env={**os.environ, "AWS_ENDPOINT_URL": proxy.url},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


def stored_shards(folder: str, count: int, size_bytes: int) -> list[ShardEntry]:
    random = np.random.default_rng(0)
    entries = []
    for number in range(count):
        data = random.bytes(size_bytes)
        name = f"train-{number:06d}.tar"
        write_bytes(join_url(folder, name), data)
        digest = hashlib.sha256(data).hexdigest()
        entries.append(ShardEntry(name, 1, size_bytes, digest, index_sha256=""))
    return entries


def test_thirty_shards_come_whole_through_every_kind_of_fault(folder: str, tmp_path: Path) -> None:
    entries = stored_shards(folder, 30, 1_500_000)
    order = json.dumps([folder, str(tmp_path), [asdict(entry) for entry in entries]])
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], rate=0.2, seed=3) as proxy:
        counters: dict[str, Any] = json.loads(run_behind(proxy, FETCH, order))
        assert len(proxy.injected) == len(KINDS)
        assert proxy.requests >= 30 + sum(proxy.injected.values()) / 2
    assert (counters["downloads"], counters["failures"], counters["refetched"]) == (30, 0, 0)
    for entry in entries:
        cached = (tmp_path / f"{entry.sha256[:16]}-{entry.name}").read_bytes()
        assert hashlib.sha256(cached).hexdigest() == entry.sha256
    assert len(os.listdir(tmp_path)) == 30 + 1, "and the lock of the folder"


def test_uploads_whose_answers_are_lost_are_stored_once_and_whole(
    folder: str, tmp_path: Path
) -> None:
    data = np.random.default_rng(0).bytes(104 << 20)  # in parts
    (tmp_path / "source").write_bytes(data)
    target = os.environ["AWS_ENDPOINT_URL"]
    with FaultProxy(target, rate=0.2, seed=1, kinds=[TRUNCATE, RESET_AMID]) as proxy:
        run_behind(proxy, UPLOAD, folder, str(tmp_path / "source"))
        assert sum(proxy.injected.values()) >= 5
    sizes = {f"written-{number}": 100_000 for number in range(10)}
    assert dict(list_tree(folder)) == {**sizes, "uploaded": len(data)}
    assert read_bytes(join_url(folder, "uploaded")) == data
    for name in sizes:
        assert read_bytes(join_url(folder, name)) == data[:100_000]


def test_ranges_are_read_and_trees_listed(folder: str) -> None:
    write_bytes(join_url(folder, "a", "file"), b"0123456789")
    write_bytes(join_url(folder, "b"), b"x")
    assert read_range(join_url(folder, "a", "file"), 2, 5) == b"23456"
    for start, size in ((8, 5), (20, 5)):
        with pytest.raises(OSError, match=f"reading bytes {start} to {start + size} of .*/a/file"):
            read_range(join_url(folder, "a", "file"), start, size)
    assert list_tree(folder) == [("a/file", 10), ("b", 1)]
    assert list_tree(join_url(folder, "missing")) == []
