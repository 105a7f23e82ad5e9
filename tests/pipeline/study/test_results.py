from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from pipeline.study.definition import Study, StudyRun, parse_study, study_runs
from pipeline.study.page import (
    comparison_table,
    difference_table,
    shown_difference,
    shown_spread,
)
from pipeline.study.results import (
    EVALUATION,
    JUDGEMENT,
    Spread,
    changes_since_first_phase,
    curve,
    gather_results,
    paired_difference,
    spread_of,
)
from tests.pipeline.study.small_study import small_study


def end_run(run: StudyRun, hole_mse: float, running: float = 0.5) -> None:
    folder = Path(run.config.run_folder)
    folder.mkdir(parents=True, exist_ok=True)
    methods = {"glcic": {"hole_mse": hole_mse}, "Telea": {"hole_mse": 0.2}}
    (folder / EVALUATION).write_text(json.dumps({"methods": methods, "num_samples": 3}))
    judged = {
        "methods": {**methods, "glcic blended": {"hole_mse": hole_mse / 2}},
        "running_statistics": {"hole_mse": running},
        "num_samples": 6,
    }
    (folder / JUDGEMENT).write_text(json.dumps(judged))
    records = [
        {"step": step, "phase": "joint", "evaluation_hole_mse": hole_mse * 4 / step}
        for step in (2, 4)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return parse_study(small_study(tmp_path))


def end_runs(study: Study, folder: str, values: dict[tuple[str, int], float]) -> None:
    for run in study_runs(study, folder):
        if (run.arm, run.seed) in values:
            end_run(run, values[run.arm, run.seed])


VALUES = {("masked", 0): 0.10, ("masked", 1): 0.30, ("dam", 0): 0.08, ("dam", 1): 0.27}


def test_figures_are_gathered_with_their_spread_over_the_seeds(
    study: Study, tmp_path: Path
) -> None:
    end_runs(study, str(tmp_path), VALUES)
    results = gather_results(study, str(tmp_path))
    spread = spread_of(results, "masked", "hole_mse")
    assert spread == Spread((0.1, 0.3))
    assert spread.mean == pytest.approx(0.2)
    blended = spread_of(results, "masked", "blended_hole_mse")
    assert blended == Spread((0.05, 0.15))
    running = spread_of(results, "masked", "running_statistics_hole_mse")
    assert running is not None
    assert running.mean == 0.5
    assert results["dam"][1].baselines == {"Telea": {"hole_mse": 0.2}}


def test_differences_are_taken_seed_by_seed(study: Study, tmp_path: Path) -> None:
    end_runs(study, str(tmp_path), VALUES)
    results = gather_results(study, str(tmp_path))
    difference = paired_difference(results, "dam", "masked", "hole_mse")
    assert difference is not None
    assert (difference.lowest, difference.highest) == pytest.approx((-0.03, -0.02))


def test_runs_that_have_not_ended_are_left_out(study: Study, tmp_path: Path) -> None:
    end_runs(study, str(tmp_path), {("masked", 0): 0.1, ("dam", 1): 0.2})
    results = gather_results(study, str(tmp_path))
    assert list(results["masked"]) == [0]
    assert list(results["dam"]) == [1]
    assert paired_difference(results, "dam", "masked", "hole_mse") is None
    assert spread_of(results, "dam", "psnr_db") is None


def test_a_curve_has_the_spread_of_the_seeds_at_each_step(study: Study, tmp_path: Path) -> None:
    end_runs(study, str(tmp_path), VALUES)
    results = gather_results(study, str(tmp_path))
    steps, spreads = curve(results, "masked", lambda record: record.get("evaluation_hole_mse"))
    assert steps == [2, 4]
    assert (spreads[0].lowest, spreads[1].highest) == pytest.approx((0.2, 0.3))


def test_the_tables_have_a_row_for_each_arm(study: Study, tmp_path: Path) -> None:
    end_runs(study, str(tmp_path), VALUES)
    results = gather_results(study, str(tmp_path))
    table = comparison_table(study, study.figures[1], results)
    assert table[0][:2] == ["", "MSE in the hole"]
    assert table[1][:2] == ["masked", "0.20000 (0.10000 to 0.30000)"]
    assert table[2][:2] == ["DAM, two masks", "0.17500 (0.08000 to 0.27000)"]
    assert table[2][-1] == "2"
    differences = difference_table(study, study.figures[1], results)
    assert differences[0][:3] == [
        "difference from: masked (95 % interval)", "MSE in the hole, %", "MSE in the hole",
    ]  # fmt: skip
    assert differences[1][:3] == [
        "DAM, two masks", "-12.5 (-44.3 to +19.3)", "-0.02500 (-0.08853 to +0.03853)",
    ]  # fmt: skip


def test_an_arm_without_results_has_dashes_and_nothing_is_compared_with_it(
    study: Study, tmp_path: Path
) -> None:
    end_runs(study, str(tmp_path), {("dam", 0): 0.08})
    results = gather_results(study, str(tmp_path))
    table = comparison_table(study, study.figures[1], results)
    assert table[1] == ["masked", "-", "-", "0"]
    assert difference_table(study, study.figures[1], results) == []


def test_what_the_discriminators_did_is_the_change_since_the_first_phase() -> None:
    records = [
        {"step": 1, "phase": "completion", "evaluation_hole_mse": 0.5,
         "evaluation_known_mse_of_raw": 0.2},
        {"step": 2, "phase": "completion", "evaluation_hole_mse": 0.1,
         "evaluation_known_mse_of_raw": 0.1},
        {"step": 3, "phase": "joint", "adversarial": 1.0},
    ]  # fmt: skip
    figures = {"hole_mse": 0.15, "known_mse_of_raw": 0.05}
    changes = changes_since_first_phase(figures, records)
    assert changes == pytest.approx(
        {
            "first_phase_hole_mse": 0.1, "hole_mse_change": 1.5,
            "first_phase_known_mse_of_raw": 0.1, "known_mse_change": 0.5,
        }
    )  # fmt: skip
    assert changes_since_first_phase(figures, records[:2]) == {}


def test_a_damaged_file_of_a_run_is_named(study: Study, tmp_path: Path) -> None:
    run = study_runs(study, str(tmp_path))[0]
    end_run(run, 0.1)
    (Path(run.config.run_folder) / EVALUATION).write_text('{"methods"')
    with pytest.raises(ValueError, match=r"masked-seed-0/evaluation\.json is damaged"):
        gather_results(study, str(tmp_path))


def test_one_seed_has_no_range_and_none_is_a_dash() -> None:
    assert shown_spread(Spread.of([0.25]), 2) == "0.25"
    assert shown_difference(Spread.of([0.25]), 2) == "+0.25"
    assert shown_spread(Spread.of([]), 2) == shown_difference(None, 2) == "-"


def test_the_interval_is_students_over_the_seeds() -> None:
    spread = Spread.of([1.0, 2.0, 3.0])
    assert spread is not None
    low, high = spread.interval or (0, 0)
    assert (low, high) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-4)
    assert Spread((1.0,)).interval is None


def test_a_figure_may_show_the_classic_methods_below_its_arms(study: Study, tmp_path: Path) -> None:
    end_runs(study, str(tmp_path), VALUES)
    figure = dataclasses.replace(study.figures[1], baselines=True)
    table = comparison_table(study, figure, gather_results(study, str(tmp_path)))
    assert table[-1][:2] == ["Telea", "0.20000"]
    assert len({len(row) for row in table}) == 1
