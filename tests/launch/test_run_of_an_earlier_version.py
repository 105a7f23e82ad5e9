"""A run and a packed set that the code of commit 8345c66 made: today's code takes both further.

`tests/fixtures/run-8345c66/preset.yaml` says how they were made.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch.evaluate import main as evaluate
from launch.export import main as export
from launch.verify import main as verify
from pipeline.checkpoints.format import committed_steps
from pipeline.config.run_identity import config_digest, recorded_config
from pipeline.config.schema import Config
from tests.torchrun import ROOT

ORIGINAL = ROOT / "tests" / "fixtures" / "run-8345c66"
LAST_STEP = 5  # of which the run recorded its losses, but whose checkpoint was removed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ORIGINAL, tmp_path / "copy"))


def fields(folder: Path) -> list[str]:
    """The places of the run and its set, where they were copied to."""
    config = ["--config", str(folder / "preset.yaml"), "--folder", str(folder / "run")]
    return [*config, "--data.shards", str(folder / "set")]


def train(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Train as the run was started: ADADELTA is named, its rate and epsilon are not."""
    command = [sys.executable, "launch/train.py", *fields(folder)]
    return subprocess.run(
        [*command, "--completion-optimizer.kind", "adadelta", *options],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def losses(folder: Path) -> dict[str, Any]:
    """What the last step recorded of its losses."""
    for line in (folder / "run" / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["step"] == LAST_STEP and "reconstruction" in record:
            return {name: record[name] for name in ("reconstruction", "discriminator")}
    raise AssertionError(f"no record of step {LAST_STEP}")


def state(folder: Path) -> dict[str, Any]:
    path = folder / "run" / "checkpoints" / "step-000000004" / "state.json"
    return json.loads(path.read_text())


def test_its_recorded_configuration_has_the_digest_that_it_recorded() -> None:
    facts = state(ORIGINAL)
    assert config_digest(recorded_config(facts["config"])) == facts["config_digest"]
    assert config_digest(Config()) != facts["config_digest"]


def test_the_same_command_resumes_it_with_the_values_it_was_started_with(folder: Path) -> None:
    before = losses(folder)
    result = train(folder)
    assert result.returncode == 0, result.stderr
    assert "resuming at step 4 of 5" in result.stdout
    assert committed_steps(str(folder / "run" / "checkpoints")) == [4, LAST_STEP]
    # Not to the bit: the processor that it was made on may have been another.
    assert losses(folder) == pytest.approx(before, rel=1e-3)

    (kept,) = [line for line in result.stdout.splitlines() if "goes on with the defaults" in line]
    assert "completion_optimizer.learning_rate 0.0004 (now 1.0)" in kept
    warnings = [line for line in result.stdout.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 3, warnings  # the rate, the epsilon, and discriminators on Adam
    assert "--completion-optimizer.learning-rate 1" in warnings[0]


def test_a_rate_that_is_named_is_another_run(folder: Path) -> None:
    result = train(folder, "--completion-optimizer.learning-rate", "1")
    assert result.returncode not in (0, 1)
    assert "completion_optimizer.learning_rate was 0.0004, is 1.0" in result.stderr


def test_its_set_is_sound(folder: Path) -> None:
    assert verify([str(folder / "set")]) == 0


def test_it_is_evaluated_with_the_figures_that_it_recorded(folder: Path) -> None:
    """Those of its end are of its exported network."""
    written = json.loads((folder / "run" / "evaluation.json").read_text())
    of_network = ["--checkpoint", str(folder / "run" / "network")]
    as_exported = ["--evaluation.recalibration-images", "0"]
    assert evaluate([*fields(folder), *of_network, *as_exported]) == 0
    again = json.loads((folder / "run" / "evaluation.json").read_text())
    del written["methods"]["glcic"]["hole_sharpness"]  # which is counted in another way since
    for name, value in written["methods"]["glcic"].items():
        assert again["methods"]["glcic"][name] == pytest.approx(value, rel=1e-3), name
    assert evaluate([*fields(folder)]) == 0  # its newest checkpoint


def test_its_network_is_exported(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "exported"
    run, shards = str(folder / "run"), str(folder / "set")
    assert export([run, str(output), "--shards", shards]) == 0
    assert json.loads((output / "network.json").read_text())["step"] == 4
