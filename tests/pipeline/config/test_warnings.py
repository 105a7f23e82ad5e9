from __future__ import annotations

from typing import Any

import pytest

from pipeline.config.loading import parse_config
from pipeline.config.schema import Config
from pipeline.config.warnings import config_warnings

ADADELTA = {"completion_optimizer": {"kind": "adadelta"}}
BOTH = {**ADADELTA, "discriminator_optimizer": {"kind": "adadelta"}}


def warnings_of(**sections: Any) -> list[str]:
    return config_warnings(parse_config(sections))


def test_nothing_is_said_of_the_defaults_nor_of_adadelta_for_both_networks() -> None:
    assert config_warnings(Config()) == []
    assert warnings_of(**BOTH) == []


@pytest.mark.parametrize(
    ("field", "value", "remedy"),
    [
        ("learning_rate", 0.001, "--completion-optimizer.learning-rate 1"),
        ("epsilon", 1e-8, "--completion-optimizer.epsilon 1e-6"),
    ],
)
def test_a_value_with_which_adadelta_hardly_learns_is_named_with_what_to_write(
    field: str, value: float, remedy: str
) -> None:
    optimizer = {"kind": "adadelta", field: value}
    (warning,) = warnings_of(**{**BOTH, "completion_optimizer": optimizer})
    assert f"completion_optimizer.{field} is {value:g}" in warning
    assert "hardly moves a weight" in warning
    assert remedy in warning
    assert warnings_of(completion_optimizer={"kind": "adam", field: value}) == []


def test_a_network_that_stays_on_adam_is_named_with_the_flag_that_changes_it() -> None:
    (warning,) = warnings_of(**ADADELTA)
    assert "the discriminators stay on Adam" in warning
    assert "--discriminator-optimizer.kind adadelta" in warning
    (warning,) = warnings_of(discriminator_optimizer={"kind": "adadelta"})
    assert "the completion network stays on Adam" in warning
    assert "--completion-optimizer.kind adadelta" in warning


def test_the_optimizer_of_a_network_that_no_phase_trains_does_not_matter() -> None:
    assert warnings_of(**ADADELTA, schedule={"discriminator": 0, "joint": 0}) == []
