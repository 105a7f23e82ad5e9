from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.study.answers import answers, answers_table, effect_percent, multiplicity, verdict
from pipeline.study.definition import Study, StudyAnswer, parse_study
from pipeline.study.page import comparison_table, difference_table
from pipeline.study.record import read_record, study_record
from pipeline.study.results import Results, RunResult, Spread
from tests.pipeline.study.small_study import small_study


def results_of(arms: dict[str, dict[int, float]], figure: str = "hole_mse") -> Results:
    return {
        arm: {seed: RunResult({figure: value}, {}, 4, []) for seed, value in by_seed.items()}
        for arm, by_seed in arms.items()
    }


def asked(claim: str = "lower", reference: str = "masked", **changes: Any) -> StudyAnswer:
    return StudyAnswer("Is it?", "dam", reference, claim=claim, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("claim", "effects", "word"),
    [
        ("lower", [-10.0, -11.0, -9.0], "shown"),
        ("lower", [10.0, 11.0, 9.0], "not shown"),
        ("lower", [-1.0, 1.0, 0.5], "not shown"),  # smaller than 3 % either way
        ("lower", [-1.0, -1.1, -0.9], "shown"),  # it is lower, by less than matters
        ("lower", [1.0, 1.1, 0.9], "not shown"),
        ("lower", [-20.0, 10.0, 5.0], "not resolved"),
        ("lower", [-10.0], "not resolved"),
        ("lower", [0.0, 0.0, 0.0], "not shown"),  # two arms that are the same network
        ("higher", [10.0, 11.0, 9.0], "shown"),
        ("higher", [-10.0, -11.0, -9.0], "not shown"),
        ("higher", [-20.0, 10.0, 5.0], "not resolved"),
        ("same", [-1.0, 1.0, 0.5], "shown"),
        ("same", [1.0, 1.1, 0.9], "shown"),  # it differs, by less than matters
        ("same", [10.0, 11.0, 9.0], "not shown"),
        ("same", [-10.0, -11.0, -9.0], "not shown"),
        ("same", [2.9, 3.0, 3.1], "not resolved"),  # it differs; whether enough to matter is open
        ("same", [-20.0, 10.0, 5.0], "not resolved"),
        ("same", [0.1], "not resolved"),
        ("differs", [10.0, 11.0, 9.0], "shown"),
        ("differs", [-10.0, -11.0, -9.0], "shown"),
        ("differs", [-1.0, 1.0, 0.5], "not shown"),
        ("differs", [-20.0, 10.0, 5.0], "not resolved"),
    ],
)
def test_a_word_is_what_the_interval_allows(claim: str, effects: list[float], word: str) -> None:
    assert verdict(asked(claim), Spread.of(effects))[0] == word


@pytest.mark.parametrize(
    ("claim", "effects", "reason"),
    [
        ("lower", [-10.0, -11.0, -9.0], ""),
        ("lower", [-1.0, -1.1, -0.9], "but smaller than 3 %"),
        ("lower", [10.0, 11.0, 9.0], "it is the other way round"),
        ("lower", [1.0, 1.1, 0.9], "smaller than 3 %"),
        ("lower", [-10.0], "one seed has no interval"),
        ("same", [-1.0, 1.0, 0.5], "smaller than 3 %"),
        ("same", [10.0, 11.0, 9.0], "more than 3 %"),
    ],
)
def test_a_reason_says_what_the_word_leaves_open(
    claim: str, effects: list[float], reason: str
) -> None:
    assert verdict(asked(claim), Spread.of(effects))[1] == reason


def test_the_margin_decides_what_is_too_small() -> None:
    effects = Spread.of([-1.0, 1.0, 0.5])
    assert verdict(asked("same", margin_percent=3), effects) == ("shown", "smaller than 3 %")
    assert verdict(asked("same", margin_percent=1), effects) == ("not resolved", "")


def test_an_effect_is_a_share_of_the_references_mean_seed_by_seed() -> None:
    results = results_of({"masked": {0: 0.1, 1: 0.3}, "dam": {0: 0.08, 1: 0.27, 2: 0.5}})
    effect = effect_percent(asked(), results)
    assert effect is not None
    assert effect.values == pytest.approx((-10, -15))


def test_a_reference_counts_in_the_seeds_that_both_have_run() -> None:
    results = results_of({"masked": {0: 0.1, 1: 0.3, 2: 9.0}, "dam": {0: 0.08, 1: 0.27}})
    effect = effect_percent(asked(), results)
    assert effect is not None
    assert effect.values == pytest.approx((-10, -15))


def test_an_arm_is_compared_with_a_method_that_learns_nothing() -> None:
    membrane = {"membrane": {"hole_mse": 4.0}}
    figures = [{"hole_mse": 9.0, "blended_hole_mse": value} for value in (5.0, 3.0)]
    runs = {seed: RunResult(one, membrane, 4, []) for seed, one in enumerate(figures)}
    blended = asked(reference="membrane", figure="blended_hole_mse")
    effect = effect_percent(blended, {"dam": runs})
    assert effect is not None
    assert effect.values == pytest.approx((25, -25))
    plain = effect_percent(asked(reference="membrane"), {"dam": runs})
    assert plain is not None
    assert plain.values == pytest.approx((125, 125))
    assert effect_percent(asked(reference="Telea"), {"dam": runs}) is None


def test_a_change_since_the_first_phase_needs_no_reference() -> None:
    results = results_of({"dam": {0: 1.2, 1: 1.1}}, "hole_mse_change")
    effect = effect_percent(asked("higher", "", figure="hole_mse_change"), results)
    assert effect is not None
    assert effect.values == pytest.approx((20, 10))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    questions = [
        {"question": "Is DAM better?", "arm": "dam", "reference": "masked"},
        {"question": "As good?", "arm": "dam", "reference": "masked", "claim": "same"},
    ]
    return parse_study(small_study(tmp_path, answers=questions))


def test_an_arm_that_has_not_run_is_said_to_be_not_run(study: Study) -> None:
    results = results_of({"masked": {0: 0.1}, "dam": {}})
    assert [one.verdict for one in answers(study, results)] == ["not run", "not run"]
    assert answers_table(study, results)[1] == ["Is DAM better?", "not run", "-", "0"]


def test_the_table_gives_the_effect_its_interval_and_the_seeds(study: Study) -> None:
    results = results_of({"masked": {0: 0.1, 1: 0.1, 2: 0.1}, "dam": {0: 0.08, 1: 0.081, 2: 0.079}})
    row = answers_table(study, results)[1]
    assert row == ["Is DAM better?", "shown", "-20.0 % (-22.5 to -17.5)", "3"]
    assert "Of 2 intervals of 95 %, about 0.1 would" in multiplicity(study, results)


def test_chance_is_counted_over_the_questions_that_have_an_interval(study: Study) -> None:
    assert multiplicity(study, results_of({"masked": {0: 0.1}, "dam": {0: 0.1}})) == ""


def test_the_record_alone_gives_the_same_answers(study: Study) -> None:
    results = results_of(
        {"masked": {0: 0.1, 1: 0.11, 2: 0.1}, "dam": {0: 0.08, 1: 0.081, 2: 0.079}}
    )
    again, read, provenance = read_record(study_record(study, results, {"command": "glcic"}))
    assert again == study
    assert answers_table(again, read) == answers_table(study, results)
    figure = study.figures[1]
    for table in (comparison_table, difference_table):
        assert table(again, figure, read) == table(study, figure, results)
    assert provenance == {"command": "glcic"}


def test_a_file_that_is_no_record_is_refused() -> None:
    with pytest.raises(ValueError, match="of version 2 but of None"):
        read_record("{}")


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        ({"arm": "damm", "reference": "masked"}, "compares damm; known: masked, dam"),
        ({"arm": "dam", "reference": "membrain"}, "compares membrain; known: masked, dam, mean"),
        ({"arm": "dam"}, "has no reference"),
        ({"arm": "dam", "reference": "masked", "figure": "hole_mes"}, "did you mean hole_mse?"),
        ({"arm": "dam", "reference": "masked", "margin_percent": 0}, "must be above 0"),
        ({"arm": "dam", "reference": "masked", "claim": "best"}, "answers.0.claim"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused(
    tmp_path: Path, answer: dict[str, Any], part: str
) -> None:
    with pytest.raises(ValueError, match="the study cannot be used") as error:
        parse_study(small_study(tmp_path, answers=[{"question": "Is it?", **answer}]))
    assert part in str(error.value)
