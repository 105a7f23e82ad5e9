"""One judge for all runs of a study, on a run of a few steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launch.train import main as train
from pipeline.config.loading import config_mapping
from pipeline.config.schema import Config
from pipeline.evaluation.report import BLENDED, NETWORK
from pipeline.study.definition import packed_sets, parse_study, study_runs
from pipeline.study.judging import Judge
from pipeline.study.results import JUDGEMENT, gather_results
from shards.packing.pack import pack_images
from tests.pipeline.study.small_study import small_study
from tests.small_run import write_preset


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    """A folder of a study and the configuration of its first run, which has ended."""
    folder = tmp_path_factory.mktemp("study")
    study = parse_study(small_study(folder))
    for place, one in packed_sets(study, str(folder)).items():
        pack_images(one.source, place, one.recipe)
    config = study_runs(study, str(folder))[0].config
    preset = write_preset(folder / "run.yaml", config_mapping(config))
    assert train(["--config", str(preset)]) == 0
    return folder, config


@pytest.fixture
def config(trained: tuple[Path, Config]) -> Config:
    path = Path(trained[1].run_folder) / JUDGEMENT
    path.unlink(missing_ok=True)
    return trained[1]


def judgement(config: Config) -> dict[str, Any]:
    return json.loads((Path(config.run_folder) / JUDGEMENT).read_text())


def test_a_network_is_measured_raw_blended_and_with_its_running_statistics(config: Config) -> None:
    Judge().judge(config, baselines=False)
    found = judgement(config)
    assert set(found["methods"]) == {NETWORK, BLENDED}
    assert found["num_samples"] == 6, "all of the evaluation set, whatever evaluation.limit is"
    raw, running = found["methods"][NETWORK]["hole_mse"], found["running_statistics"]["hole_mse"]
    assert raw != running


def test_its_figures_are_gathered_under_prefixes(
    trained: tuple[Path, Config], config: Config
) -> None:
    Judge().judge(config, baselines=True)
    folder, _ = trained
    result = gather_results(parse_study(small_study(folder)), str(folder))["masked"][0]
    found = judgement(config)
    assert result.figures["blended_hole_mse"] == found["methods"][BLENDED]["hole_mse"]
    assert result.figures["running_statistics_hole_mse"] == found["running_statistics"]["hole_mse"]
    assert "Telea" in result.baselines
    assert result.judge["evaluation_set"]


def test_what_is_measured_already_is_not_measured_again(config: Config) -> None:
    Judge().judge(config, baselines=True)
    path = Path(config.run_folder) / JUDGEMENT
    before = path.stat().st_mtime_ns
    Judge().judge(config, baselines=True)
    Judge().judge(config, baselines=False)  # less is asked for than is there
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "change",
    [{"evaluation_set": "another"}, {"num_samples": 3}, {"version": 0}, {"baselines": False}],
)
def test_another_judge_measures_again(config: Config, change: dict[str, Any]) -> None:
    Judge().judge(config, baselines=True)
    right = judgement(config)
    changed = {**right, "judge": {**right["judge"], **change}, "methods": {}}
    (Path(config.run_folder) / JUDGEMENT).write_text(json.dumps(changed))
    Judge().judge(config, baselines=True)
    assert judgement(config)["methods"] == right["methods"]


@pytest.mark.parametrize("text", ['{"judge"', "[]", '{"judge": {}}'])
def test_a_damaged_measurement_is_made_again(config: Config, text: str) -> None:
    (Path(config.run_folder) / JUDGEMENT).write_text(text)
    Judge().judge(config, baselines=False)
    assert judgement(config)["methods"][NETWORK]["hole_mse"] > 0


def test_figures_of_a_judging_network_stay_where_it_is_not_named_again(config: Config) -> None:
    Judge().judge(config, baselines=False)
    with_network = judgement(config)
    with_network["judge"]["networks_sha256"] = {"lpips_network_sha256": "ab"}
    with_network["methods"][NETWORK]["lpips"] = 0.5
    (Path(config.run_folder) / JUDGEMENT).write_text(json.dumps(with_network))
    Judge().judge(config, baselines=False)
    assert judgement(config)["methods"][NETWORK]["lpips"] == 0.5
