"""Real processes that share one cache folder, before a store that counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.cache.shard_cache import ShardCache
from shards.format.manifest import ShardEntry
from tests.shards.shard_server import ShardServer

ROOT = Path(__file__).parents[3]
SHARD_BYTES = 3_000_000  # more than the buffers of a connection hold

FETCH = """
import json, sys
from shards.cache.shard_cache import ShardCache
from shards.format.manifest import ShardEntry
url, folder, limit_bytes, entries = json.loads(sys.argv[1])
cache = ShardCache(url, folder, limit_bytes)
print("ready", flush=True)
sys.stdin.readline()
for entry in entries:
    with cache.open(ShardEntry(**entry), verify=False) as file:
        assert len(file.read()) == entry["size_bytes"]
print(json.dumps(cache.counters.snapshot()), flush=True)
"""


@pytest.fixture
def server() -> Iterator[ShardServer]:
    pytest.importorskip("aiohttp", reason="fsspec reads http:// with it")
    with ShardServer() as server:
        yield server


class Reader:
    """A process that opens `entries` one after the other once it is told to begin."""

    def __init__(
        self, url: str, folder: Path, entries: list[ShardEntry], limit_bytes: int = 0
    ) -> None:
        order = json.dumps([url, str(folder), limit_bytes, [asdict(entry) for entry in entries]])
        self.process = subprocess.Popen(
            [sys.executable, "-c", FETCH, order], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def begin(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def counters(self) -> dict[str, Any]:
        """When it has ended."""
        output, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return json.loads(output)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def added_shards(server: ShardServer, count: int) -> list[ShardEntry]:
    random = np.random.default_rng(0)
    return [server.add(f"train-{n:06d}.tar", random.bytes(SHARD_BYTES)) for n in range(count)]


def assert_whole_and_alone(folder: Path, server: ShardServer, entries: list[ShardEntry]) -> None:
    names = {name for name in os.listdir(folder) if name != ".glcic-shards.lock"}
    assert names == {f"{entry.sha256[:16]}-{entry.name}" for entry in entries}
    for entry in entries:
        cached = (folder / f"{entry.sha256[:16]}-{entry.name}").read_bytes()
        assert cached == server.files[entry.name]


def test_four_processes_download_each_of_five_shards_once(
    server: ShardServer, tmp_path: Path
) -> None:
    entries = added_shards(server, 5)
    readers = [
        Reader(server.url, tmp_path, entries[first:] + entries[:first]) for first in (0, 0, 2, 4)
    ]
    for reader in readers:
        reader.begin()
    counters = [reader.counters() for reader in readers]
    assert server.begun == server.finished == {entry.name: 1 for entry in entries}
    assert sum(one["downloads"] for one in counters) == 5
    assert sum(one["bytes_downloaded"] for one in counters) == 5 * SHARD_BYTES
    assert_whole_and_alone(tmp_path, server, entries)


def test_a_killed_download_is_taken_over_and_nothing_whole_is_fetched_again(
    server: ShardServer, tmp_path: Path
) -> None:
    entries = added_shards(server, 3)
    ShardCache(server.url, str(tmp_path)).fetch(entries[0])
    assert server.at_gate.acquire(timeout=30)
    server.gate.clear()
    readers = [Reader(server.url, tmp_path, entries) for _ in range(3)]
    readers[0].begin()
    assert server.at_gate.acquire(timeout=30), "half of the second shard has come"
    for reader in readers[1:]:
        reader.begin()
    readers[0].kill()
    assert server.at_gate.acquire(timeout=30), "another process has taken over"
    server.gate.set()
    assert sum(reader.counters()["downloads"] for reader in readers[1:]) == 2
    assert server.begun[entries[0].name] == 1
    assert server.begun[entries[1].name] == 2
    assert server.begun[entries[2].name] == 1
    assert_whole_and_alone(tmp_path, server, entries)


def test_when_all_were_killed_the_next_run_takes_up_their_folder(
    server: ShardServer, tmp_path: Path
) -> None:
    entries = added_shards(server, 2)
    server.gate.clear()
    readers = [Reader(server.url, tmp_path, [entry]) for entry in entries]
    for reader in readers:
        reader.begin()
        assert server.at_gate.acquire(timeout=30)
    for reader in readers:
        reader.kill()
    assert any(name.endswith(".part") for name in os.listdir(tmp_path))
    server.gate.set()
    cache = ShardCache(server.url, str(tmp_path))
    assert not any(name.endswith((".part", ".tar.lock")) for name in os.listdir(tmp_path))
    for entry in entries:
        cache.fetch(entry)
    assert_whole_and_alone(tmp_path, server, entries)


def test_processes_that_evict_each_others_shards_stay_within_the_limit(
    server: ShardServer, tmp_path: Path
) -> None:
    entries = added_shards(server, 6)
    limit = 4 * SHARD_BYTES
    readers = [Reader(server.url, tmp_path, order * 3, limit) for order in (entries, entries[::-1])]
    for reader in readers:
        reader.begin()
    counters = [reader.counters() for reader in readers]
    downloads = sum(one["downloads"] for one in counters)
    evictions = sum(one["evictions"] for one in counters)
    cached = list(tmp_path.glob("*.tar"))
    assert sum(path.stat().st_size for path in cached) <= limit
    assert downloads - evictions == len(cached)
    assert downloads == sum(server.finished.values())
    for path in cached:
        assert path.read_bytes() == server.files[path.name.split("-", 1)[1]]
