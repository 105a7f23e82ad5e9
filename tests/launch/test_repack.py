from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launch import repack, verify
from launch.command import EXIT_DATA, run
from shards.indexing.external_set import index_external_shards
from tests.shards.pictures import pack_small_set, small_recipe

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return Path(pack_small_set(tmp_path))


@pytest.fixture
def source(packed: Path) -> str:
    return str(packed.with_name("set-source"))


def test_a_sound_set_is_left_as_it_is_and_told_so(
    packed: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert repack.main([source, str(packed)]) == 0
    assert "6 shards verified, none is damaged" in capsys.readouterr().out


def test_what_is_damaged_is_mended_and_told(
    packed: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = (packed / "train-000001.tar").read_bytes()
    (packed / "train-000001.tar").write_bytes(sound[:3000])
    (packed / "val-000000.idx").unlink()
    assert repack.main([source, str(packed)]) == 0
    output = capsys.readouterr().out
    assert "packing train-000001.tar again" in output
    assert "2 shards packed again: train-000001.tar, val-000000.tar" in output
    assert (packed / "train-000001.tar").read_bytes() == sound
    assert verify.main([str(packed)]) == 0


def test_single_shards_can_be_named(packed: Path, source: str) -> None:
    for name in ("train-000000.tar", "train-000001.tar", "train-000002.tar"):
        (packed / name).unlink()
    options = ["--shard", "train-000000.tar", "--shard", "train-000002.tar"]
    assert repack.main([source, str(packed), *options]) == 0
    assert [path.name for path in sorted(packed.glob("train-*.tar"))] == [
        "train-000000.tar", "train-000002.tar", "train-000003.tar"
    ]  # fmt: skip


def test_a_wrong_source_or_shard_is_one_line_and_a_status(
    packed: Path, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [source, str(packed), "--shard", "train-000009.tar"]
    assert run("repack", repack.main, arguments) == EXIT_DATA
    assert "has no shard train-000009.tar" in capsys.readouterr().err
    (Path(source) / "class-0" / "picture-0.jpg").unlink()
    assert run("repack", repack.main, [source, str(packed)]) == EXIT_DATA
    error = capsys.readouterr().err
    assert error.startswith("glcic repack: ")
    assert "is not what" in error
    assert error.count("\n") == 1


def test_shards_of_others_are_refused_by_name(
    packed: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in [*packed.glob("*.idx"), packed / "manifest.json"]:
        path.unlink()
    index_external_shards(str(packed), small_recipe())
    assert run("repack", repack.main, [source, str(packed)]) == EXIT_DATA
    assert f"{packed} was packed by others" in capsys.readouterr().err


def test_the_file_can_be_started_as_a_script(packed: Path, source: str, tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "launch" / "repack.py"), source, str(packed)]
    result = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "none is damaged" in result.stdout
