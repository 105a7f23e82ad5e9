"""Connections that break: what is read through them is whole, or an error in bounded time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.cache.shard_cache import ShardCache
from shards.storage import files as storage
from shards.storage.errors import is_passing
from shards.storage.files import download_file, read_bytes, storage_counters
from tests.fault_proxy import KINDS, SLOW_DOWN, STALL, FaultProxy
from tests.shards.shard_server import ShardServer


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(storage, "_JITTER_S", 0.01)


@pytest.fixture
def server() -> Iterator[ShardServer]:
    pytest.importorskip("aiohttp", reason="fsspec reads http:// with it")
    with ShardServer() as server:
        yield server


def test_thirty_shards_come_whole_through_a_store_that_fails_every_fifth_time(
    server: ShardServer, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    entries = [server.add(f"train-{n:06d}.tar", random.bytes(300_000)) for n in range(30)]
    before = storage_counters.snapshot()
    with FaultProxy(server.url, rate=0.2, seed=2, stall_seconds=0.05) as proxy:
        cache = ShardCache(proxy.url, str(tmp_path))
        for entry in entries:
            with cache.open(entry) as file:
                assert file.read() == server.files[entry.name]
        faults = sum(proxy.injected.values())
        assert set(proxy.injected) == set(KINDS)
        assert 6 <= faults <= 20
    after = storage_counters.snapshot()
    assert 4 <= after["retries"] - before["retries"] <= faults
    assert after["bytes_read"] - before["bytes_read"] == 30 * 300_000
    assert after["failures"] == before["failures"]
    assert sorted(os.listdir(tmp_path))[1:] == sorted(
        f"{entry.sha256[:16]}-{entry.name}" for entry in entries
    ), "and the lock of the folder"


@pytest.mark.parametrize("kind", KINDS)
def test_what_never_comes_whole_is_an_error_that_names_it_and_leaves_nothing(
    server: ShardServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(storage, "ATTEMPTS", 3)
    server.add("train-000000.tar", bytes(300_000))
    before = storage_counters.failures
    with FaultProxy(server.url, rate=1, kinds=[kind], stall_seconds=0.01) as proxy:
        url = f"{proxy.url}/train-000000.tar"
        for read in (lambda: read_bytes(url), lambda: download_file(url, tmp_path / "file")):
            with pytest.raises(OSError, match=rf"(reading|downloading) {url} failed: "):
                read()
        assert proxy.injected[kind] >= 6, "aiohttp tries once more where nothing came at all"
    assert storage_counters.failures == before + 2
    assert os.listdir(tmp_path) == []


def test_a_connection_that_goes_quiet_is_given_up(
    server: ShardServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.storage.filesystems.READ_TIMEOUT_S", 0.1)
    monkeypatch.setattr(storage, "ATTEMPTS", 2)
    server.add("file", bytes(300_000))
    with FaultProxy(server.url, rate=1, kinds=[STALL], stall_seconds=3600) as proxy:
        with pytest.raises(OSError, match=rf"reading {proxy.url}/file failed"):
            read_bytes(f"{proxy.url}/file")
        assert proxy.injected == {STALL: 2}


def test_a_wait_is_announced_with_its_cause(
    server: ShardServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(storage, "ATTEMPTS", 2)
    proxy = FaultProxy(server.url, rate=1, kinds=[SLOW_DOWN])
    with proxy, pytest.raises(OSError, match="Slow Down"):
        read_bytes(f"{proxy.url}/file")
    assert "attempt 1 of 2 failed (503" in capsys.readouterr().err


class AnswerError(Exception):
    """As aiohttp's and gcsfs's."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status}")
        self.status = status


@pytest.mark.parametrize(
    ("status", "passing"), [(400, False), (401, False), (408, True), (429, True), (503, True)]
)
def test_only_answers_that_may_change_are_asked_for_again(status: int, passing: bool) -> None:
    assert is_passing(AnswerError(status)) == passing


@pytest.mark.parametrize("code", ["IncompleteBody", "BadDigest", "NoSuchUpload"])
def test_an_upload_spoilt_on_its_way_is_made_again(code: str) -> None:
    cause: Any = Exception(code)
    cause.response = {"Error": {"Code": code}}
    for error in (OSError(22, "Invalid argument"), FileNotFoundError(code)):
        assert not is_passing(error)
        error.__cause__ = cause
        assert is_passing(error)
