"""Runs that were started when a field had another default."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoints.format import STATE, commit, step_name
from pipeline.config.changed_defaults import CHANGED_DEFAULTS, with_recorded_defaults
from pipeline.config.loading import config_mapping, parse_config
from pipeline.config.schema import Config

RATE, EPSILON = "completion_optimizer.learning_rate", "completion_optimizer.epsilon"
KIND = "completion_optimizer.kind"
ADADELTA = parse_config({"completion_optimizer": {"kind": "adadelta"}})
OF_ADAM = {"kind": "adadelta", "learning_rate": 0.0004, "epsilon": 1e-8}


def at(config: Config, url: str, **changes: Any) -> Config:
    return replace(config, checkpoint=replace(config.checkpoint, url=url), **changes)


def record(url: str, step: int, optimizer: dict[str, Any]) -> str:
    """A checkpoint of nothing but what it was made with."""
    recorded = config_mapping(parse_config({"completion_optimizer": optimizer}))
    content = json.dumps({"step": step, "config": recorded}).encode()
    commit(url, step, {STATE: content})
    return f"{url}/{step_name(step)}"


@pytest.mark.parametrize("store", ["file", "memory"])
def test_a_run_goes_on_with_the_defaults_it_was_started_with_and_says_so(
    store: str, tmp_path: Path
) -> None:
    url = str(tmp_path) if store == "file" else f"memory://{tmp_path.name}"
    record(url, 3, OF_ADAM)
    config, line = with_recorded_defaults(at(ADADELTA, url), {KIND})
    assert (config.completion_optimizer.learning_rate, config.completion_optimizer.epsilon) == (
        (0.0004, 1e-8)
    )
    assert "\n" not in line
    assert f"{RATE} 0.0004 (now 1.0)" in line
    assert f"{EPSILON} 1e-08 (now 1e-06)" in line
    assert "discriminator" not in line


def test_a_new_run_and_one_that_must_not_resume_have_the_defaults_of_today(tmp_path: Path) -> None:
    fresh = at(ADADELTA, str(tmp_path))
    assert with_recorded_defaults(fresh, {KIND}) == (fresh, "")
    record(str(tmp_path), 3, OF_ADAM)
    never = replace(fresh, resume="never")
    assert with_recorded_defaults(never, {KIND}) == (never, "")


def test_a_field_that_is_named_keeps_the_value_that_it_is_given(tmp_path: Path) -> None:
    record(str(tmp_path), 3, OF_ADAM)
    config, line = with_recorded_defaults(at(ADADELTA, str(tmp_path)), {KIND, RATE})
    assert config.completion_optimizer.learning_rate == 1.0
    assert config.completion_optimizer.epsilon == 1e-8
    assert RATE not in line


def test_a_value_that_was_chosen_is_no_default_and_is_not_taken_over(tmp_path: Path) -> None:
    record(str(tmp_path), 3, {"kind": "adadelta", "learning_rate": 0.3, "epsilon": 1e-6})
    config = at(ADADELTA, str(tmp_path))
    assert with_recorded_defaults(config, {KIND}) == (config, "")


def test_a_checkpoint_that_is_named_to_go_on_from_counts_like_the_runs_own(tmp_path: Path) -> None:
    other = record(f"{tmp_path}/other", 3, OF_ADAM)
    config = at(ADADELTA, f"{tmp_path}/own", resume=other)
    assert with_recorded_defaults(config, {KIND})[0].completion_optimizer.learning_rate == 0.0004


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    record(str(tmp_path), 3, OF_ADAM)
    damaged = record(str(tmp_path), 4, OF_ADAM)
    Path(damaged, STATE).write_text("{}")
    config, _ = with_recorded_defaults(at(ADADELTA, str(tmp_path)), {KIND})
    assert config.completion_optimizer.learning_rate == 0.0004


def test_only_fields_of_the_configuration_are_listed() -> None:
    for path in CHANGED_DEFAULTS:
        section, name = path.split(".")
        assert hasattr(getattr(Config(), section), name)
