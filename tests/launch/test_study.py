"""`glcic study` from photographs to its page, stopped in the middle and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from launch.study import main
from pipeline.study.results import EVALUATION
from tests.pipeline.study.small_study import small_study
from tests.torchrun import ROOT


def write_study(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small_study(tmp_path, **changes)))
    return path


def start(study: Path, folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "launch.study", str(study), "--folder", str(folder), *options]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def ended(folder: Path) -> dict[str, int]:
    return {p.parent.name: p.stat().st_mtime_ns for p in folder.glob(f"runs/*/{EVALUATION}")}


@pytest.mark.slow
def test_a_study_that_is_stopped_goes_on_where_it_was_and_writes_its_page(tmp_path: Path) -> None:
    study, folder = write_study(tmp_path, seeds=[0]), tmp_path / "out"
    process = start(study, folder)
    deadline = time.monotonic() + 120
    while not ended(folder) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    first = ended(folder)
    assert len(first) == 1, output
    assert process.returncode == 130

    process = start(study, folder, "--side-by-side", "2", "--workers", "2")
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    assert len(ended(folder)) == 2
    assert ended(folder).items() >= first.items(), "what had ended is not trained again"

    page = (folder / "small.html").read_text()
    assert page.count("data:image/") == 3
    assert "http" not in page.split("</style>")[1], "nothing is fetched from anywhere"
    assert "Which &lt;helps&gt;?" in page
    markdown = (folder / "small.md").read_text()
    assert "| MSE in the hole |" in markdown
    for line in markdown.splitlines():
        if line.startswith("!["):
            assert (folder / line.split("(")[1].rstrip(")")).stat().st_size > 1000


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_others_are_compared(tmp_path: Path) -> None:
    mapping = small_study(tmp_path, seeds=[0])
    mapping["arms"]["dam"]["switches"]["train"] = {"batch_size": 600}  # more than was packed
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(mapping))
    process = start(path, tmp_path / "out")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 70
    assert "failed: dam-seed-0" in output
    assert "train.batch_size is 600" in (tmp_path / "out/logs/dam-seed-0.log").read_text()
    (row,) = [
        line for line in (tmp_path / "out/small.md").read_text().splitlines()
        if line.startswith("| DAM, two masks | -")
    ]  # fmt: skip
    assert row.endswith("| 0 |")


def test_photographs_that_are_missing_are_named_before_anything_is_trained(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere, are not there; .*--source"):
        main([str(study), "--source", "nowhere", "--folder", str(tmp_path / "out")])


def test_a_study_that_does_not_exist_names_those_that_ship() -> None:
    with pytest.raises(ValueError, match=r"no such file; studies that ship: .*study-quick"):
        main(["study-slow"])
