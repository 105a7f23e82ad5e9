from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.study import provenance
from pipeline.study.definition import Study, packed_sets, parse_study
from pipeline.study.provenance import provenance_lines, study_provenance, this_environment
from pipeline.study.results import Results, RunResult
from shards.packing.pack import pack_images
from tests.pipeline.study.small_study import small_study


def judged(date: str, commit: str) -> RunResult:
    made = {**this_environment(), "date": date, "commit": commit}
    judge = {"made": made, "networks_sha256": {"lpips_network_sha256": "ab" * 32}}
    return RunResult({"hole_mse": 0.1}, {}, 6, [], judge)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = parse_study(small_study(tmp_path))
    for folder, one in packed_sets(study, str(tmp_path)).items():
        pack_images(one.source, folder, one.recipe)
    return study


RESULTS: Results = {
    "masked": {0: judged("2026-01-02T10:00:00+00:00", "aaa")},
    "dam": {0: judged("2026-03-04T10:00:00+00:00", "bbb"), 1: judged("2026-02-03", "aaa")},
}


def test_the_newest_measurement_dates_a_study_and_every_commit_is_named(
    study: Study, tmp_path: Path
) -> None:
    found = study_provenance(study, str(tmp_path), RESULTS, "glcic study small")
    assert found["date"] == "2026-03-04T10:00:00+00:00"
    assert found["commit"] == "aaa, bbb"
    assert found["versions"]["torch"]


def test_runs_that_have_not_ended_are_named(study: Study, tmp_path: Path) -> None:
    found = study_provenance(study, str(tmp_path), RESULTS, "glcic study small")
    lines = provenance_lines(study, found)
    assert found["missing_runs"] == ["masked-seed-1"]
    assert "Missing: masked-seed-1" in lines
    assert "Runs: 3 of 4 have ended; seeds 0, 1" in lines


def test_the_set_and_the_networks_that_judge_are_told_by_their_checksums(
    study: Study, tmp_path: Path
) -> None:
    found = study_provenance(study, str(tmp_path), RESULTS, "glcic study small")
    text = "\n".join(provenance_lines(study, found))
    assert f"set {found['evaluation_set']['fingerprint'][:16]}" in text
    assert "Network for lpips: SHA-256 abababababababab" in text
    assert "Measured on 6 samples of 6 validation images that the source sets aside" in text


def test_a_study_without_results_says_what_is_missing(study: Study, tmp_path: Path) -> None:
    nothing: Results = {"masked": {}, "dam": {}}
    lines = provenance_lines(study, study_provenance(study, str(tmp_path), nothing, "glcic study"))
    assert lines[-1].startswith("Missing: masked-seed-0, dam-seed-0")


def test_outside_a_repository_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    assert this_environment()["commit"] == ""
