import subprocess
import sys
from pathlib import Path

import pytest

from launch import verify
from launch.command import EXIT_DATA, EXIT_NO_INPUT
from tests.shards.pictures import pack_small_set

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def packed(tmp_path):
    return Path(pack_small_set(tmp_path))


def test_a_sound_set_ends_with_status_zero_and_its_counts(packed, capsys):
    assert verify.main([str(packed)]) == 0
    output = capsys.readouterr().out
    assert "no problem was found" in output
    assert "verified 6 of 6 shards" in output
    (train,) = [line for line in output.splitlines() if "train" in line]
    assert train.replace("│", " ").split()[:3] == ["train", "4", "18"]


def test_every_fault_is_printed_and_counted_and_the_status_says_it(packed, capsys):
    data = bytearray((packed / "train-000001.tar").read_bytes())
    data[5000] ^= 1
    (packed / "train-000001.tar").write_bytes(data)
    (packed / "val-000000.idx").unlink()
    (packed / "[red]notes.tar").write_bytes(b"")
    assert verify.main([str(packed), "--threads", "2"]) == EXIT_DATA
    output = capsys.readouterr().out
    assert "train-000001.tar: SHA-256 is not the manifest's: expected " in output
    assert "val-000000.idx: the file is missing although the manifest lists it" in output
    assert "[red]notes.tar: the manifest does not list this file" in output
    assert "1 × the manifest does not list this file" in output
    (whole,) = [line for line in output.splitlines() if "whole set" in line]
    assert whole.replace("│", " ").split()[-1] == "1"
    assert "no fault" not in output


def test_a_split_can_be_named(packed, capsys):
    (packed / "val-000000.tar").write_bytes(b"")
    assert verify.main([str(packed), "--split", "train"]) == 0
    assert verify.main([str(packed), "--split", "val"]) == EXIT_DATA
    with pytest.raises(ValueError, match="no split 'test'"):
        verify.main([str(packed), "--split", "test"])


def test_a_negative_number_of_threads_is_refused(packed):
    with pytest.raises(ValueError, match="--threads is -1"):
        verify.main([str(packed), "--threads=-1"])


def test_the_file_can_be_started_as_a_script(tmp_path):
    script = [sys.executable, str(ROOT / "launch" / "verify.py")]
    result = subprocess.run(
        [*script, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == EXIT_NO_INPUT
    assert result.stderr.startswith(f"glcic verify: {tmp_path} holds no packed set")
