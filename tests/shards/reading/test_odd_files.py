"""Every odd file is stored, or refused by name and reason: none is lost, none ends the pack."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from shards.format.manifest import load_manifest
from shards.inspection.verify import verify_set
from shards.reading.packed_set import ShardSet
from tests.shards.odd_files import EITHER, RGB, STORED, OddFile, odd_files, write_odd_files

ROOT = Path(__file__).resolve().parents[3]
FILES = odd_files()


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    folder = tmp_path_factory.mktemp("odd")
    num_special = write_odd_files(folder / "source", FILES)
    command = [sys.executable, "-m", "launch.command", "pack", "source", "set"]
    options = ["--size=32", "--pack.short-side=64", "--workers=2", "--pack.validation-fraction=0"]
    result = subprocess.run(
        [*command, *options], cwd=folder, capture_output=True, timeout=120,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr.decode()
    assert result.stderr == b""
    return folder / "set", num_special


def stored_pictures(folder: Path) -> dict[str, np.ndarray]:
    """By the name of their source."""
    shard_set = ShardSet(str(folder), "train")
    pictures = {}
    for number, entry in enumerate(shard_set.entries):
        shard = shard_set.open(number)
        for image in range(entry.num_images):
            place = int(shard.records[image]["json_offset"])
            size = int(shard.records[image]["json_size"])
            source = json.loads(bytes(shard.data[place : place + size]))["source"]
            pictures[source] = simplejpeg.decode_jpeg(bytes(shard.image_bytes(image)))
    return pictures


def test_there_are_more_than_two_hundred_kinds() -> None:
    assert len({file.name for file in FILES}) == len(FILES) > 200


def test_nothing_is_lost(packed: tuple[Path, int]) -> None:
    folder, num_special = packed
    stored, manifest = stored_pictures(folder), load_manifest(str(folder))
    refused = {image.path for image in manifest.refused}
    assert not refused & set(stored)
    for file in FILES:
        assert f"class/{file.name}" in refused | set(stored), file.name
    special = {name for name in refused | set(stored) if name.startswith("special/")}
    assert len(special & set(stored)) == num_special
    assert special - set(stored) >= {
        f"special/{name}.jpg" for name in ("broken", "itself", "pipe", "socket")
    }


def test_each_ends_as_it_should(packed: tuple[Path, int]) -> None:
    folder, _ = packed
    stored, manifest = stored_pictures(folder), load_manifest(str(folder))
    reasons = {image.path: image.reason for image in manifest.refused}
    wrong = []
    for file in FILES:
        name = f"class/{file.name}"
        if file.expected != EITHER and (name in stored) != (file.expected == STORED):
            wrong.append(f"{file.name!r}: {reasons.get(name, 'stored')}")
        elif name in reasons:
            assert reasons[name]
            assert re.search(file.reason, reasons[name]), (file.name, reasons[name])
        elif file.tolerance and difference(stored[name]) > file.tolerance:
            wrong.append(f"{file.name!r}: differs by {difference(stored[name]):.1f} levels")
    assert not wrong, "\n".join(wrong)


def difference(pixels: np.ndarray) -> float:
    original = np.asarray(RGB.resize(pixels.shape[1::-1], Image.Resampling.BICUBIC), float)
    return float(np.abs(pixels - original).mean())


def test_what_is_stored_verifies(packed: tuple[Path, int]) -> None:
    assert list(verify_set(str(packed[0]))) == []


def test_no_two_kinds_are_the_same_file() -> None:
    assert len({(file.name, file.data) for file in FILES}) == len(FILES)
    assert all(isinstance(file, OddFile) for file in FILES)
