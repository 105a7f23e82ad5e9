from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from pipeline.config.loading import config_mapping, parse_config
from pipeline.config.schema import Config
from pipeline.config.validation import world_size_errors
from shards.format.recipe import MaskRecipe, StrokeRecipe
from shards.reading.fresh_holes import WeightedMasks
from shards.sampling.mixture import WeightedSet

PRESETS = sorted((Path(__file__).parents[3] / "launch" / "presets").glob("*.yaml"))


def test_an_empty_mapping_gives_the_defaults() -> None:
    assert parse_config({}) == Config()


def test_the_defaults_are_the_papers_schedule() -> None:
    config = Config()
    assert (config.schedule.completion, config.schedule.discriminator) == (90_000, 10_000)
    assert config.schedule.joint == 400_000
    assert config.train.batch_size == 96
    assert config.loss.alpha == 0.0004


def test_a_resolved_configuration_parses_to_itself() -> None:
    config = parse_config({"train": {"batch_size": 12}, "loss": {"reconstruction": "masked"}})
    assert parse_config(yaml.safe_load(yaml.safe_dump(config_mapping(config)))) == config


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ({"trian": {}}, "did you mean train?"),
        ({"train": {"batch_sise": 3}}, "did you mean train.batch_size?"),
        ({"pack": {"masks": {"side_mn": 3}}}, "did you mean pack.masks.side_min?"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(wrong: dict, near: str) -> None:
    with pytest.raises(ValueError, match="is not a field") as error:
        parse_config(wrong)
    assert near in str(error.value)


def test_all_faults_are_reported_at_once() -> None:
    wrong = {
        "nmae": "x",
        "train": {"batch_size": "many", "precision": "fp17", "ema_decay": 1.5},
        "loss": {"alpha": -1},
        "pack": {"crop_size": 30},
    }
    with pytest.raises(ValueError, match="cannot be used") as error:
        parse_config(wrong)
    message = str(error.value)
    for part in ("did you mean name?", "train.batch_size is 'many'", "'fp32', 'bf16' or 'fp16'",
                 "train.ema_decay is 1.5", "loss.alpha is -1", "pack.crop_size is 30"):  # fmt: skip
        assert part in message


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ({"weight": 0}, ["data.weight and data.mixture: the weights", "must be above 0"]),
        ({"mixture": [{"shards": "a", "weight": -1}]}, ["[1.0, -1.0]", "must be above 0"]),
        ({"mixture": [{"shards": "a", "weight": 1e9}]}, ["no place for a set of weight 1.0"]),
        ({"mixture": [{"shards": "a", "weight": "much"}]}, ["data.mixture.0.weight is 'much'"]),
        ({"mixture": [{"weight": "much"}, 3]}, ["data.mixture.0.shards", "data.mixture.1 is 3"]),
        ({"mixture": [{"shards": "a", "wieght": 2}]}, ["did you mean data.mixture.0.weight?"]),
        ({"mixture": ["a"]}, ["data.mixture.0 is 'a'"]),
        ({"holes": "new"}, ["data.holes is 'new'", "'packed' or 'fresh'"]),
        ({"fresh_masks": [{}]}, ["data.fresh_masks is given, but data.holes is 'packed'"]),
        (
            {"holes": "fresh", "fresh_masks": [{"weight": 0}, {"masks": {"side_max": 300}}]},
            ["data.fresh_masks.0.weight is 0.0", "data.fresh_masks.1.masks.side_min and side_max"],
        ),
        (
            {"holes": "fresh", "fresh_masks": [{"masks": {"masks_per_image": 2}}]},
            ["data.fresh_masks.0.masks.masks_per_image is 2"],
        ),
        (
            {"holes": "fresh", "fresh_masks": [{"masks": {"strokes": {"widht_max": 9}}}]},
            ["did you mean data.fresh_masks.0.masks.strokes.width_max?"],
        ),
        ({"fresh_masks": [{"masks": {"kind": "circles"}}]}, ["data.fresh_masks.0.masks.kind"]),
        ({"fresh_masks": [{"mask": {}}, 3]}, ["did you mean data.fresh_masks.0.masks?", "1 is 3"]),
        ({"damaged": "skip"}, ["data.damaged is 'skip'", "'stop' or 'substitute'"]),
        ({"cache_limit_gb": -1}, ["data.cache_limit_gb is -1"]),
        ({"check_crc": "perhaps"}, ["data.check_crc is 'perhaps'"]),
    ],
)
def test_a_fault_of_the_sets_is_told_with_the_others(data: dict, parts: list[str]) -> None:
    with pytest.raises(ValueError, match="cannot be used") as error:
        parse_config({"data": data, "loss": {"alpha": -1}})
    for part in [*parts, "loss.alpha is -1"]:
        assert part in str(error.value)


def test_a_mixture_is_read_and_written_like_the_rest() -> None:
    mixture = [{"shards": "a"}, {"shards": "b", "weight": 2}]
    config = parse_config({"data": {"mixture": mixture, "weight": "3"}})
    assert config.data.mixture == (WeightedSet("a", 1.0), WeightedSet("b", 2.0))
    assert config.data.weight == 3.0
    for text in (yaml.safe_dump(config_mapping(config)), json.dumps(config_mapping(config))):
        assert parse_config(yaml.safe_load(text)) == config


def test_recipes_of_fresh_masks_are_read_and_written_like_the_rest() -> None:
    fresh_masks = [
        {"masks": {"side_min": 24, "side_max": 32}},
        {"weight": "2", "masks": {"kind": "strokes", "strokes": {"width_max": 20}}},
    ]
    config = parse_config({"data": {"holes": "fresh", "fresh_masks": fresh_masks}})
    assert config.data.fresh_masks == (
        WeightedMasks(MaskRecipe(side_min=24, side_max=32), 1.0),
        WeightedMasks(MaskRecipe(kind="strokes", strokes=StrokeRecipe(width_max=20)), 2.0),
    )
    for text in (yaml.safe_dump(config_mapping(config)), json.dumps(config_mapping(config))):
        assert parse_config(yaml.safe_load(text)) == config


def test_holes_are_the_packed_ones_unless_asked_otherwise() -> None:
    assert (Config().data.holes, Config().data.fresh_masks) == ("packed", ())


def test_a_run_stops_at_damage_and_checks_every_sample_unless_told_otherwise() -> None:
    data = Config().data
    assert (data.damaged, data.check_crc, data.mixture) == ("stop", True, ())
    assert parse_config({"data": {"cache_limit_gb": 1.5}}).data.cache_limit_bytes == 1_500_000_000


def test_a_method_to_compare_with_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"evaluation.baselines holds 'telea'.*mean 'Telea'"):
        parse_config({"evaluation": {"baselines": ["telea", "membrane"]}})
    assert parse_config({"evaluation": {"baselines": []}}).evaluation.baselines == ()
    assert "membrane" in Config().evaluation.baselines


def test_out_of_range_is_looked_for_only_in_the_sections_that_matter() -> None:
    smaller = {"pack": {"crop_size": 32, "masks": {"side_min": 8, "side_max": 16}}}
    with pytest.raises(ValueError, match=r"discriminator\.local_size"):
        parse_config(smaller)
    assert parse_config(smaller, sections=("pack",)).pack.crop_size == 32
    with pytest.raises(ValueError, match=r"pack\.crop_size is 30"):
        parse_config({"pack": {"crop_size": 30}}, sections=("pack",))


def test_a_section_that_is_no_mapping_is_a_fault() -> None:
    with pytest.raises(ValueError, match="data is 3"):
        parse_config({"data": 3})


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train.batch_size = 3  # type: ignore[misc]


def test_a_world_size_that_does_not_divide_the_batch_is_refused_with_those_that_do() -> None:
    config = parse_config({"train": {"batch_size": 12}})
    assert world_size_errors(config, 4) == []
    (fault,) = world_size_errors(config, 5)
    assert "train.batch_size is 12" in fault
    assert "by 5 workers" in fault
    assert "1, 2, 3, 4, 6, 12" in fault


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
def test_a_name_that_is_no_folder_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name is"):
        parse_config({"name": name})


def test_an_empty_section_and_a_key_that_is_no_word_are_understood() -> None:
    assert parse_config({"train": None}) == Config()
    with pytest.raises(ValueError, match="1 is not a field"):
        parse_config({1: 2})


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_weight_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"loss\.alpha"):
        parse_config({"loss": {"alpha": value}})


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_valid_and_its_header_is_a_contract(path: Path) -> None:
    text = path.read_text()
    config = parse_config(yaml.safe_load(text))
    assert config.name == path.stem
    header = text.split("\nname:")[0]
    assert "Purpose:" in header
    assert "Data:" in header
    assert "Command" in header
    assert f"--config {path.stem}" in header


def test_micro_batches_must_divide_a_workers_share_of_the_batch() -> None:
    config = parse_config({"train": {"batch_size": 96, "micro_batch_size": 12}})
    assert world_size_errors(config, 4) == []
    assert world_size_errors(config, 8) == []
    (fault,) = world_size_errors(config, 16)
    assert "train.micro_batch_size is 12" in fault
    assert "use one of 1, 2, 3, 6, or 0" in fault
