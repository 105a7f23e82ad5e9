from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launch.command import VERBS, run
from pipeline.errors import ReportedElsewhere

ROOT = Path(__file__).parents[2]


def raising(error: Exception):
    def entry(arguments: list[str]) -> int:
        raise error

    return entry


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("bad input"), 65),
        (FileNotFoundError("no such set"), 66),
        (RuntimeError("install the extra"), 70),
        (OSError("disk full"), 74),
        (PermissionError("not allowed"), 74),
    ],
)
def test_an_expected_error_is_one_line_and_a_status_of_its_kind(
    error: Exception, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", raising(error), []) == status
    output = capsys.readouterr()
    assert output.err == f"glcic train: {error}\n"
    assert output.out == ""


def test_a_fault_of_our_own_is_not_dressed_up() -> None:
    with pytest.raises(AssertionError):
        run("train", raising(AssertionError("invariant")), [])


def test_before_the_ranks_have_met_the_machines_first_one_speaks_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others wait, and speak only if they live to: then the fault is theirs alone."""
    slept = []

    def sleep(seconds: float) -> None:
        assert capsys.readouterr().err == "", "silent until it has waited"
        slept.append(seconds)

    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("time.sleep", sleep)
    assert run("train", raising(ValueError("no such mount")), []) == 65
    assert slept
    assert capsys.readouterr().err == "glcic train (rank 3): no such mount\n"


def test_a_fault_that_rank_0_tells_is_not_told_by_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert run("train", raising(ReportedElsewhere("rank 0 has failed")), []) == 70
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_explains_itself_and_runs_as_a_script_without_installation(
    verb: str, tmp_path: Path
) -> None:
    script = [sys.executable, str(ROOT / "launch" / f"{verb}.py"), "--help"]
    result = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert f"glcic {verb}" in result.stdout


def test_an_unknown_verb_lists_the_known_ones() -> None:
    command = [sys.executable, "-m", "launch.command", "trian"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 64
    assert "there is no verb 'trian'" in result.stderr
    assert "  train" in result.stdout
