from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pipeline.study.definition import packed_sets, parse_study, study_runs
from tests.pipeline.study.small_study import small_study


def test_every_arm_runs_under_every_seed_the_first_seed_first(tmp_path: Path) -> None:
    runs = study_runs(parse_study(small_study(tmp_path)), "folder")
    assert [(run.arm, run.seed) for run in runs] == [
        ("masked", 0), ("dam", 0), ("masked", 1), ("dam", 1),
    ]  # fmt: skip
    assert len({run.config.run_folder for run in runs}) == 4


def test_arms_differ_in_their_switches_alone(tmp_path: Path) -> None:
    mapping = small_study(tmp_path)
    mapping["arms"]["dam"]["switches"] = {"completion": {"kind": "dam"}}
    masked, dam = (run.config for run in study_runs(parse_study(mapping), "folder")[:2])
    same = dataclasses.replace(
        dam, name=masked.name, folder=masked.folder, completion=masked.completion, loss=masked.loss
    )
    assert same == masked
    assert dam.completion.kind == "dam"
    assert dam.completion.width == masked.completion.width == 8


def test_arms_that_are_packed_alike_share_a_set_and_all_are_evaluated_on_one(
    tmp_path: Path,
) -> None:
    study = parse_study(small_study(tmp_path))
    masked, dam = (run.config for run in study_runs(study, "folder")[:2])
    assert masked.data.shards != dam.data.shards
    assert masked.validation_shards == dam.validation_shards != masked.data.shards
    sets = packed_sets(study, "folder")
    assert set(sets) == {masked.data.shards, dam.data.shards, masked.validation_shards}
    assert sets[dam.data.shards].recipe.masks.masks_per_image == 2
    assert sets[masked.validation_shards].recipe.masks.side_max == 10


def test_other_photographs_to_evaluate_on_are_a_set_that_nothing_is_trained_on(
    tmp_path: Path,
) -> None:
    study = parse_study(small_study(tmp_path, evaluation_source="unseen"))
    runs = study_runs(study, "folder")
    sets = packed_sets(study, "folder")
    unseen = sets[runs[0].config.validation_shards]
    assert unseen.source == "unseen"
    assert unseen.recipe.validation_fraction == 1
    assert unseen.recipe.masks.side_max == 10
    assert {sets[run.config.data.shards].source for run in runs} == {study.source}


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"seeds": []}, ["seeds is []"]),
        ({"seeds": [1, 1]}, ["none twice"]),
        ({"name": "My Study"}, ["'My Study' names a folder"]),
        ({"sedes": [1]}, ["sedes is not a field"]),
        (
            {"arms": {"a": {"label": "A", "switches": {"seed": 3, "loss": {"alhpa": 1}}}}},
            ["arm a sets seed", "did you mean loss.alpha?"],
        ),
        (
            {"figures": [{"title": "T", "question": "?", "arms": ["x"], "rows": ["hole_msee"]}]},
            ["'T' shows x; arms: masked, dam", "did you mean hole_mse?"],
        ),
        ({"figures": [{"title": "T", "question": "?"}]}, ["'T' shows no arm"]),
        ({"figures": [{"title": "T"}]}, ["figures.0.question"]),
        ({"source": "a", "evaluation_source": "a"}, ["evaluation_source is the source, a"]),
    ],
)
def test_all_faults_of_a_study_are_told_at_once(
    tmp_path: Path, changes: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(ValueError, match="the study cannot be used") as error:
        parse_study(small_study(tmp_path, **changes))
    for part in parts:
        assert part in str(error.value)
