from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pipeline.config.changed_defaults import CHANGED_DEFAULTS
from pipeline.config.loading import config_mapping, parse_config
from pipeline.config.run_identity import (
    ADDED_FIELDS,
    config_digest,
    recorded_config,
    result_affecting_settings,
)
from pipeline.config.schema import Config

ROOT = Path(__file__).parents[3]
DIGESTS = yaml.safe_load((ROOT / "tests" / "fixtures" / "digests-8345c66.yaml").read_text())


@pytest.mark.parametrize("name", DIGESTS)
def test_a_run_of_an_earlier_version_has_the_digest_that_it_had(name: str) -> None:
    preset = ROOT / "launch" / "presets" / f"{name}.yaml"
    mapping = {} if name == "defaults" else yaml.safe_load(preset.read_text())
    for path, before in CHANGED_DEFAULTS.items():  # which a run that exists keeps as recorded
        section, field = path.split(".")
        mapping[section] = {field: before, **mapping.get(section, {})}
    config = parse_config(mapping)
    if config.train.precision == "auto":  # which a run that exists replaces by what it recorded
        config = replace(config, train=replace(config.train, precision="bf16"))
    assert config_digest(config) == DIGESTS[name]


def test_a_field_that_was_added_counts_where_it_has_another_value_than_before() -> None:
    assert config_digest(parse_config({"loss": {"adversarial": "saturating"}})) != (
        config_digest(Config())
    )
    assert "loss.adversarial" in result_affecting_settings(Config())


def test_a_recorded_configuration_has_what_was_in_effect_before_a_field_was_added(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As if learning rates had been fixed to 0.5 before they became a field.
    monkeypatch.setitem(ADDED_FIELDS, "completion_optimizer.learning_rate", 0.5)
    recorded = config_mapping(Config())
    del recorded["completion_optimizer"]["learning_rate"], recorded["loss"]["adversarial"]
    config = recorded_config(recorded)
    assert config.completion_optimizer.learning_rate == 0.5
    assert config.loss.adversarial == "non_saturating"
    assert "learning_rate" not in recorded["completion_optimizer"]
    assert recorded_config(config_mapping(Config())) == Config()


def test_holes_drawn_anew_and_their_recipes_make_another_run() -> None:
    fresh = {"holes": "fresh", "fresh_masks": [{"weight": 2}]}
    configs = [parse_config({"data": data}) for data in ({}, {"holes": "fresh"}, fresh)]
    assert len({config_digest(config) for config in configs}) == 3
    assert recorded_config(config_mapping(configs[2])) == configs[2]


def test_a_trajectory_is_of_plain_values() -> None:
    for value in result_affecting_settings(Config()).values():
        assert isinstance(value, (str, int, float, bool, list))


def test_the_digest_ignores_what_does_not_change_the_weights() -> None:
    digest = config_digest(Config())
    moved = {"folder": "elsewhere", "log": {"every_steps": 7}, "schedule": {"joint": 9}}
    assert config_digest(parse_config(moved)) == digest
    for other in ({"seed": 1}, {"loss": {"alpha": 0.1}}, {"train": {"batch_size": 48}},
                  {"schedule": {"completion": 5}}, {"completion": {"width": 32}}):  # fmt: skip
        assert config_digest(parse_config(other)) != digest


def test_the_digest_takes_the_shares_of_a_mixture_but_not_where_its_sets_lie() -> None:
    def digest(**data: object) -> str:
        return config_digest(parse_config({"data": data}))

    mixed = digest(mixture=[{"shards": "a", "weight": 2}])
    assert digest(mixture=[{"shards": "b", "weight": 2}], shards="c") == mixed
    assert digest(mixture=[{"shards": "a", "weight": 3}]) != mixed
    assert digest(mixture=[{"shards": "a", "weight": 2}], weight=2) != mixed
    assert digest() != mixed
    assert digest(weight=2) == digest()
    reading = {"damaged": "substitute", "check_crc": False, "cache": "x", "cache_limit_gb": 3}
    assert digest(**reading) == config_digest(Config())
