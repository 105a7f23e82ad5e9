import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shards.cache import ShardCache
from shards.manifest import ShardEntry
from shards.storage import remove_tree, write_bytes

STORE = "memory://set-to-be-cached"
ROOT = Path(__file__).parents[2]
HOLD_A_CACHE = """
import sys
from pathlib import Path
from shards.cache import ShardCache
cache = ShardCache("memory://anywhere")
print(cache._folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield tmp_path
    remove_tree(STORE)


def stored_shard(data: bytes) -> ShardEntry:
    write_bytes(f"{STORE}/train-000000.tar", data)
    digest = hashlib.sha256(data).hexdigest()
    return ShardEntry("train-000000.tar", 1, len(data), digest, index_sha256="")


def test_a_shard_is_fetched_once_and_its_folder_removed_at_the_end(temporary):
    entry = stored_shard(b"shard")
    cache = ShardCache(STORE)
    path = cache.fetch(entry)
    assert path.read_bytes() == b"shard"
    remove_tree(STORE)
    assert cache.fetch(entry) == path
    cache.close()
    assert os.listdir(temporary) == []


@pytest.mark.parametrize("altered", [b"drahs", b"shar"])
def test_a_shard_that_is_not_the_manifests_never_gets_its_name(tmp_path, altered):
    entry = stored_shard(b"shard")
    write_bytes(f"{STORE}/train-000000.tar", altered)
    cache = ShardCache(STORE, str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"train-000000.tar has .* where the manifest says"):
        cache.fetch(entry)
    assert os.listdir(tmp_path / "cache") == []


def test_the_folder_of_a_killed_process_is_removed_by_the_next_and_no_other(temporary):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_A_CACHE], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(temporary)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        folder = Path(process.stdout.readline().strip())
        ShardCache(STORE).close()
        assert folder.is_dir(), "its process lives"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()
    ShardCache(STORE).close()
    assert not folder.exists()


def test_what_a_killed_download_left_in_a_lasting_folder_goes_after_a_day(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    for name, age_s in ((".old.tar.0a1b.part", 2 * 86_400), (".new.tar.0a1b.part", 60)):
        (folder / name).write_bytes(b"half")
        written = (folder / name).stat().st_mtime - age_s
        os.utime(folder / name, (written, written))
    ShardCache(STORE, str(folder)).close()
    assert os.listdir(folder) == [".new.tar.0a1b.part"]
