from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import yaml

from launch.support.arguments import parse_with_config
from pipeline.config.loading import parse_config
from pipeline.config.schema import Config
from shards.sampling.mixture import WeightedSet


def parse(*arguments: str) -> Config:
    return parse_with_config(argparse.ArgumentParser(), list(arguments))[1]


def test_a_dash_and_an_underscore_are_the_same() -> None:
    assert parse("--train.batch-size", "32").train.batch_size == 32
    assert parse("--train.batch_size=32").train.batch_size == 32


def test_a_shipped_preset_is_found_by_its_name_and_overridden() -> None:
    config = parse("--config", "quickstart", "--resume", "never", "--schedule.joint", "7")
    assert (config.name, config.resume, config.schedule.joint) == ("quickstart", "never", 7)
    assert config.schedule.completion > 0


def test_an_exponent_is_a_number(tmp_path: Path) -> None:
    assert parse("--loss.alpha", "4e-4").loss.alpha == 0.0004
    preset = tmp_path / "preset.yaml"
    preset.write_text("loss: {alpha: 4e-4}")
    assert parse("--config", str(preset)).loss.alpha == 0.0004


def test_the_kind_of_an_optimizer_decides_the_values_that_nobody_names() -> None:
    kind = ("--completion-optimizer.kind", "adadelta")
    optimizer = parse(*kind).completion_optimizer
    assert (optimizer.learning_rate, optimizer.epsilon) == (1.0, 1e-6)
    assert parse(*kind).discriminator_optimizer.learning_rate == 0.0004
    # The preset names a rate, which is kept and warned of.
    assert parse("--config", "quickstart", *kind).completion_optimizer.learning_rate == 0.001


def test_a_word_stays_a_word_and_may_be_empty() -> None:
    assert parse("--name", "2024").name == "2024"
    assert parse("--name", "no").name == "no"
    assert parse("--checkpoint.url", "").checkpoint.url == ""
    assert parse("--checkpoint.url=").checkpoint.url == ""


def test_a_list_is_read_as_yaml_and_a_text_stays_one() -> None:
    mixture = "[{shards: s3://bucket/a, weight: 2}, {shards: memory://b}]"
    config = parse("--data.mixture", mixture, "--data.shards", "[1]/{a}")
    assert config.data.mixture == (WeightedSet("s3://bucket/a", 2.0), WeightedSet("memory://b"))
    assert config.data.shards == "[1]/{a}"
    assert parse(f"--data.mixture={mixture}").data.mixture == config.data.mixture
    assert parse("--data.mixture", "[]").data.mixture == ()


def test_a_list_of_the_command_line_takes_the_place_of_the_presets(tmp_path: Path) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text("data: {mixture: [{shards: one}, {shards: two}]}")
    config = parse("--config", str(preset), "--data.mixture", "[{shards: three}]")
    assert config.data.mixture == (WeightedSet("three"),)


def test_a_field_that_the_verb_does_not_read_is_refused_on_its_command_line() -> None:
    def parse_pack(*arguments: str) -> Config:
        parser = argparse.ArgumentParser()
        return parse_with_config(parser, list(arguments), sections=("pack",))[1]

    assert parse_pack("--config", "celeba", "--pack.seed", "7").pack.seed == 7
    for arguments in (["--seed", "7"], ["--data.shards", "x"]):
        with pytest.raises(ValueError, match="changes nothing here; fields of: pack"):
            parse_pack(*arguments)
    with pytest.raises(ValueError, match=r"did you mean pack\?"):
        parse_pack("--pakc.seed", "7")


def test_an_empty_section_of_a_preset_takes_overrides(tmp_path: Path) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text("train:\n")
    assert parse("--config", str(preset), "--train.batch-size", "8").train.batch_size == 8


def test_words_of_the_verb_stay_apart_from_fields() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sources", nargs="+")
    options, config = parse_with_config(parser, ["a", "--seed", "3", "b"])
    assert options.sources == ["a", "b"]
    assert config.seed == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train.batch-sise", "3"], "did you mean train.batch_size?"),
        (["--tarin.batch-size", "3"], "did you mean train?"),
        (["--train.batch-size"], "needs a value"),
        (["--train.batch-size", "--seed", "3"], "needs a value"),
        (["--config", "quickstrat"], "presets that ship"),
        (["--train.precision", "fp8"], "'fp32', 'bf16' or 'fp16'"),
        (["--data.mixture", "[{shards: a"], "--data.mixture [{shards: a: this is not YAML"),
        (["--data.mixture", "{shards: a}"], "data.mixture is {'shards': 'a'}"),
        (["--data.mixture", "a"], "data.mixture is 'a'"),
        (["--train.batch-size", "[1]"], "train.batch_size is [1]"),
    ],
)
def test_a_wrong_argument_is_one_clear_error(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=r"--|configuration") as error:
        parse(*arguments)
    assert message in str(error.value)


def test_a_preset_that_is_not_yaml_is_named(tmp_path: Path) -> None:
    preset = tmp_path / "broken.yaml"
    preset.write_text("train: [")
    with pytest.raises(ValueError, match=r"broken\.yaml is not YAML"):
        parse("--config", str(preset))


def test_the_printed_configuration_is_a_preset_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--config", "celeba", "--print-config")
    assert parse_config(yaml.safe_load(capsys.readouterr().out)) == parse("--config", "celeba")


def test_help_lists_every_field_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    assert "--train.batch_size 96" in text
    assert "--pack.masks.side_max 128" in text
