"""A packed set for the tests of several files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.shards.pictures import pack_small_set


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pictures in train shards of 5 and two of val, two masks of two holes for each."""
    folder = tmp_path_factory.mktemp("packed")
    return Path(pack_small_set(folder, masks_per_image=2, holes_per_mask=2))


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    """A copy of the set that a test may damage."""
    return Path(shutil.copytree(packed, tmp_path / "copy"))
