"""`glcic study` from photographs to its page, stopped in the middle and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from launch.study import main
from launch.support.study_processes import has_ended
from pipeline.config.loading import config_mapping
from pipeline.study.answers import answers_table
from pipeline.study.definition import parse_study, study_runs
from pipeline.study.record import read_record
from pipeline.study.results import EVALUATION
from tests.pipeline.study.small_study import small_study
from tests.shards.pictures import write_class_folders
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


def tables_of_answers(record: str) -> list[list[str]]:
    study, results, _ = read_record(record)
    return [row[:2] for row in answers_table(study, results)[1:]]


def ended(folder: Path) -> dict[str, int]:
    return {p.parent.name: p.stat().st_mtime_ns for p in folder.glob(f"runs/*/{EVALUATION}")}


@pytest.mark.slow
def test_a_study_that_is_stopped_goes_on_where_it_was_and_writes_its_page(tmp_path: Path) -> None:
    question = {"question": "Is DAM better?", "arm": "dam", "reference": "masked"}
    study, folder = write_study(tmp_path, seeds=[0], answers=[question]), tmp_path / "out"
    process = start(study, folder)
    deadline = time.monotonic() + 120
    while not ended(folder) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    first = ended(folder)
    assert len(first) == 1, output
    assert process.returncode == 130

    process = start(study, folder, "--parallel-runs", "2", "--workers", "2")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert len(ended(folder)) == 2
    assert ended(folder).items() >= first.items(), "what had ended is not trained again"

    page = (folder / "small.html").read_text()
    assert page.count("data:image/") == 3
    assert "http" not in page.split("</style>")[1], "nothing is fetched from anywhere"
    assert "Which &lt;helps&gt;?" in page
    markdown = (folder / "small.md").read_text()
    assert "| MSE in the hole |" in markdown
    record = (folder / "small.json").read_text()
    assert tables_of_answers(record) == [
        ["Is DAM better?", "not resolved (one seed has no interval)"]
    ]
    assert json.loads(record)["runs"]["dam"]["0"]["means"]["blended_hole_mse"] > 0
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
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 70
    assert "failed: dam-seed-0" in output
    assert "train.batch_size is 600" in (tmp_path / "out/logs/dam-seed-0.log").read_text()
    (row,) = [
        line for line in (tmp_path / "out/small.md").read_text().splitlines()
        if line.startswith("| DAM, two masks | -")
    ]  # fmt: skip
    assert row.endswith("| 0 |")


@pytest.mark.slow
def test_arms_can_be_trained_in_parts_and_judged_on_other_photographs(tmp_path: Path) -> None:
    study, folder = write_study(tmp_path, seeds=[0]), tmp_path / "out"
    write_class_folders(tmp_path / "unseen", classes=2, images_per_class=3)
    options = [str(study), "--folder", str(folder), "--evaluation-source", str(tmp_path / "unseen")]
    assert main([*options, "--arms", "masked"]) == 0
    assert "- Missing: dam-seed-0" in (folder / "small.md").read_text()
    assert main([*options, "--arms", "dam"]) == 0
    record = json.loads((folder / "small.json").read_text())
    assert record["evaluation_set"]["num_samples"] == 6
    assert [list(record["runs"][arm]) for arm in ("masked", "dam")] == [["0"], ["0"]]
    assert record["command"] == "glcic study small --evaluation-source unseen"


def test_an_arm_to_train_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--arms damm: arms are dam, masked"):
        main([str(write_study(tmp_path)), "--arms", "damm"])


@pytest.mark.parametrize("length", [{"joint": 3}, {"completion": 3}])
def test_a_run_of_another_length_is_not_taken_for_one_of_the_study(
    tmp_path: Path, length: dict[str, int]
) -> None:
    mapping = small_study(tmp_path)
    ended_run = study_runs(parse_study(mapping), str(tmp_path))[0].config
    folder = Path(ended_run.run_folder)
    folder.mkdir(parents=True)
    (folder / EVALUATION).write_text("{}")
    (folder / "config.yaml").write_text(yaml.safe_dump(config_mapping(ended_run)))
    mapping["base"]["schedule"] |= length
    run = study_runs(parse_study(mapping), str(tmp_path))[0]
    with pytest.raises(ValueError, match=rf"another schedule\.{next(iter(length))}"):
        has_ended(run)


def test_photographs_that_are_missing_are_named_before_anything_is_trained(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere, are not there; .*--source"):
        main([str(study), "--source", "nowhere", "--folder", str(tmp_path / "out")])


def test_a_study_that_does_not_exist_names_those_that_ship() -> None:
    with pytest.raises(ValueError, match=r"no such file; studies that ship: .*study-quick"):
        main(["study-slow"])
