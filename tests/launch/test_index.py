from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import webdataset

from launch import index, preview, verify
from launch.command import EXIT_DATA, EXIT_IO, run
from shards.format.manifest import load_manifest
from tests.shards.external_shards import write_shards

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--pack.crop-size", "32", "--pack.short-side", "48", "--pack.masks.side-min", "8",
         "--pack.masks.side-max", "16"]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "set", ("train-0.tar", "train-1.tar", "val-0.tar"))


def test_a_set_is_made_that_verifies_and_can_be_looked_at(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert index.main([str(folder), *SMALL]) == 0
    output = capsys.readouterr().out
    assert "train: 8 images in 2 shards" in output
    assert "val: 4 images in 1 shards" in output
    assert f"3 classes, fingerprint {load_manifest(str(folder)).fingerprint[:12]}" in output
    assert verify.main([str(folder)]) == 0
    sheet = tmp_path / "sheet.png"
    assert preview.main([str(folder), "--output", str(sheet)]) == 0
    assert sheet.stat().st_size > 0


def test_verifying_finds_a_flipped_bit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert index.main([str(folder), *SMALL]) == 0
    data = bytearray((folder / "train-1.tar").read_bytes())
    data[1000] ^= 1
    (folder / "train-1.tar").write_bytes(data)
    assert verify.main([str(folder)]) == EXIT_DATA
    assert "train-1.tar: SHA-256 is not the manifest's" in capsys.readouterr().out


def test_refused_images_are_told_up_to_twenty(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with webdataset.TarWriter(str(folder / "train-2.tar")) as sink:
        for number in range(25):
            sink.write({"__key__": f"bad-{number}", "jpg": b"no image"})
    assert index.main([str(folder), *SMALL]) == 0
    output = capsys.readouterr().out
    assert output.count("refused: train-2.tar/bad-") == 20
    assert "and 5 more, all in the manifest" in output


def test_a_fault_is_one_line_and_a_status(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("index", index.main, [str(tmp_path / "nowhere"), *SMALL]) == EXIT_DATA
    assert "holds no shard" in capsys.readouterr().err
    (folder / "train-1.tar").write_bytes(b"")
    assert run("index", index.main, [str(folder), *SMALL]) == EXIT_DATA
    assert capsys.readouterr().err == (
        "glcic index: train-1.tar is empty; copy it again from its source\n"
    )


def test_a_folder_that_cannot_be_written_is_told_with_what_to_do(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert run("index", index.main, [str(folder), *SMALL]) == EXIT_IO
    error = capsys.readouterr().err
    assert error.startswith(f"glcic index: {folder} cannot be written (Permission denied)")
    assert "copy the shards to where you may write" in error


def test_the_file_can_be_started_as_a_script(folder: Path, tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "launch" / "index.py"), str(folder), *SMALL]
    result = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (folder / "manifest.json").exists()
