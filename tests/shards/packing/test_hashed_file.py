from __future__ import annotations

import fcntl
import hashlib
from pathlib import Path

import numpy as np
import pytest

from shards.packing.hashed_file import HashedFileWriter


@pytest.mark.parametrize(
    "sizes",
    [[], [0], [1 << 20], [(1 << 20) + 1], [700_000, 700_000, 5], [3, 5_000_000, 0, 1_048_573, 9]],
)
def test_a_growing_file_holds_what_was_appended_and_tells_its_hash(
    tmp_path: Path, sizes: list[int]
) -> None:
    random = np.random.default_rng(0)
    parts = [random.bytes(size) for size in sizes]
    file = HashedFileWriter(tmp_path / "file")
    for part in parts:
        file.append(part)
    sha256 = file.flush()
    file.close()
    content = b"".join(parts)
    assert (tmp_path / "file").read_bytes() == content
    assert sha256 == hashlib.sha256(content).hexdigest()
    assert file.size_bytes == len(content)


def test_a_growing_file_is_locked_until_it_is_closed(tmp_path: Path) -> None:
    file = HashedFileWriter(tmp_path / "file")
    with open(tmp_path / "file", "rb") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.close()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_full_disk_is_reported_by_whoever_appends() -> None:
    file = HashedFileWriter(Path("/dev/full"))
    with pytest.raises(OSError, match="No space left"):
        file.append(bytes(2_000_000))
    file.close()
