"""New runs from what other runs have learnt: each combination works or is refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.checkpoints.format import read_checkpoint, step_name
from pipeline.config.loading import parse_config
from pipeline.config.schema import Config
from pipeline.engines.ddp import Worker
from pipeline.exports.network_folder import save_described_network
from pipeline.networks.dam import AttentionCompletionNetwork
from pipeline.step.training_data import training_data
from pipeline.training.preflight import check_run
from pipeline.training.run_state import RunState
from pipeline.training.trainer import train
from tests.shards.pictures import pack_small_set
from tests.small_run import final_tensors, small_config

TOTAL = 12


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pack_small_set(tmp_path_factory.mktemp("set"), images=36, images_per_shard=7)


@pytest.fixture(scope="module")
def source(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: checkpoints of every step, and an exported network."""
    folder = tmp_path_factory.mktemp("source") / "run"
    assert train(small_config(shards, folder), Worker()).finished
    return folder


def new_run(shards: str, folder: Path, source: Path | str, **changes: Any) -> Config:
    start = {"checkpoint": str(source), **changes.pop("start", {})}
    config = small_config(shards, folder, name="next", start=start, **changes)
    check_run(config, world_size=1)
    return config


def first_state(config: Config) -> dict[str, dict[str, torch.Tensor]]:
    """What the run starts from, before its first step."""
    from pipeline.training.warm_start import warm_start_

    state = RunState(config, Worker(), training_data(config))
    warm_start_(state, config, Worker(), print)
    return state.tensors()


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def test_networks_are_taken_and_optimizers_start_anew(
    shards: str, source: Path, tmp_path: Path
) -> None:
    theirs = read_checkpoint(str(source / "checkpoints" / step_name(TOTAL))).tensors
    state = first_state(new_run(shards, tmp_path / "run", source))
    assert_same(state["completion"], theirs["completion"])
    assert_same(state["discriminator"], theirs["discriminator"])
    assert_same(state["ema"], theirs["completion"])
    assert state["optimizers"] == {}


def test_with_all_the_optimizers_and_the_average_go_on(
    shards: str, source: Path, tmp_path: Path
) -> None:
    checkpoint = source / "checkpoints" / step_name(5)
    theirs = read_checkpoint(str(checkpoint)).tensors
    state = first_state(new_run(shards, tmp_path / "run", checkpoint, start={"take": "all"}))
    for stem in ("completion", "discriminator", "ema", "optimizers"):
        assert_same(state[stem], theirs[stem])


def test_an_exported_network_starts_a_run_whose_discriminators_are_fresh(
    shards: str, source: Path, tmp_path: Path
) -> None:
    config = new_run(shards, tmp_path / "run", source / "network", start={"take": "completion"})
    fresh = RunState(config, Worker(), training_data(config)).tensors()
    state = first_state(config)
    assert_same(state["discriminator"], fresh["discriminator"])
    assert not torch.equal(
        state["completion"]["encoder.1.conv.weight"], fresh["completion"]["encoder.1.conv.weight"]
    )


def test_phases_may_run_under_presets_of_their_own_one_after_another(
    shards: str, source: Path, tmp_path: Path
) -> None:
    """The completion phase of one run, then the others under another loss and precision."""
    end_of_first_phase = source / "checkpoints" / step_name(4)
    config = new_run(
        shards, tmp_path / "run", end_of_first_phase, start={"take": "all"},
        schedule={"completion": 0, "discriminator": 2, "joint": 3},
        loss={"reconstruction": "global", "alpha": 0.01},
        train={"precision": "bf16"},
    )  # fmt: skip
    outcome = train(config, Worker())
    assert outcome.finished
    assert outcome.step == 5


def test_a_run_that_was_handed_over_resumes_without_its_source(
    shards: str, source: Path, tmp_path: Path
) -> None:
    config = new_run(shards, tmp_path / "whole", source, start={"take": "all"})
    assert train(config, Worker()).finished
    resumed = dataclasses.replace(config, folder=str(tmp_path / "resumed"))
    resumed = dataclasses.replace(
        resumed, resume=str(tmp_path / "whole" / "checkpoints" / step_name(6))
    )
    assert train(resumed, Worker()).finished
    assert_same(
        final_tensors(tmp_path / "whole", TOTAL), final_tensors(tmp_path / "resumed", TOTAL)
    )


def test_frozen_parameters_stay_and_the_others_learn(
    shards: str, source: Path, tmp_path: Path
) -> None:
    config = new_run(
        shards, tmp_path / "run", source,
        train={"freeze": ["completion.encoder.*", "discriminator.global_branch.*"]},
    )  # fmt: skip
    before = first_state(config)
    assert train(config, Worker()).finished
    after = read_checkpoint(str(tmp_path / "run" / "checkpoints" / step_name(TOTAL))).tensors
    for network in ("completion", "discriminator"):
        for name, tensor in before[network].items():
            frozen = name.startswith(("encoder.", "global_branch."))
            if name.endswith((".weight", ".bias")):
                assert torch.equal(tensor, after[network][name]) == frozen, name
    names = after["optimizers"]
    assert not any(n.startswith(("completion.encoder.", "discriminator.global")) for n in names)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"completion": {"width": 16}}, "completion.width is 16, but .* was made with 8"),
        (
            {"discriminator": {"width": 8, "local_size": 16, "num_features": 8}},
            "discriminator.width is 8, .* set --start.take completion",
        ),
        (
            {"start": {"take": "all"}, "completion_optimizer": {"kind": "adadelta"}},
            "completion_optimizer.kind is 'adadelta', .* set --start.take networks",
        ),
        ({"train": {"freeze": ["completion.encodr.*"]}}, "did you mean completion.encoder"),
        ({"train": {"freeze": ["discriminator.*"]}}, "leaves nothing of the discriminator"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    changes: dict, told: str, shards: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=told):
        new_run(shards, tmp_path / "run", source, **changes)


def test_of_an_exported_network_no_more_than_the_completion_network_can_be_taken(
    shards: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="holds a completion network alone"):
        new_run(shards, tmp_path / "run", source / "network")


def test_a_source_that_does_not_exist_or_was_damaged_is_told_before_training(
    shards: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="holds no trained network"):
        new_run(shards, tmp_path / "run", tmp_path / "nowhere")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in (source / "checkpoints" / step_name(4)).iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    (damaged / "state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"state\.json has 2 bytes"):
        new_run(shards, tmp_path / "run", damaged)


def test_other_weights_at_the_start_make_another_run(
    shards: str, source: Path, tmp_path: Path
) -> None:
    assert train(small_config(shards, tmp_path / "run"), Worker()).finished
    config = small_config(shards, tmp_path / "run", start={"checkpoint": str(source)})
    with pytest.raises(ValueError, match=r"start\.checkpoint was '', is '.*source"):
        train(config, Worker())


@pytest.mark.parametrize("part", ["checkpoints/step-000000012", "network"])
def test_a_network_with_dam_blocks_takes_over_one_without(
    shards: str, source: Path, tmp_path: Path, part: str
) -> None:
    config = new_run(
        shards, tmp_path / "run", source / part, completion={"kind": "dam"},
        start={"take": "completion"},
    )  # fmt: skip
    theirs = read_checkpoint(str(source / "checkpoints" / step_name(TOTAL))).tensors
    state = first_state(config)
    source_tensors = theirs["ema" if part == "network" else "completion"]
    for name, tensor in state["completion"].items():
        # The statistics of an exported network were estimated anew.
        if not name.startswith("attention.") and (part != "network" or "running" not in name):
            assert name.endswith("tracked") or torch.equal(tensor, source_tensors[name]), name
    assert len(state["completion"]) > len(source_tensors)
    assert_same(state["ema"], state["completion"])


@pytest.mark.parametrize("fields", [{"attention_maps": "zero"}, {"attention_form": "author"}])
def test_every_form_of_the_blocks_takes_over_a_network_without(
    shards: str, source: Path, tmp_path: Path, fields: dict[str, str]
) -> None:
    config = new_run(shards, tmp_path / "run", source, completion={"kind": "dam", **fields})
    theirs = read_checkpoint(str(source / "checkpoints" / step_name(TOTAL))).tensors
    state = first_state(config)
    for name, tensor in theirs["completion"].items():
        assert torch.equal(state["completion"][name], tensor), name
    assert_same(state["ema"], state["completion"])


def test_optimizers_that_know_nothing_of_the_blocks_are_refused(
    shards: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="have no state for the DAM blocks"):
        new_run(shards, tmp_path / "run", source, completion={"kind": "dam"}, start={"take": "all"})


def test_a_network_without_blocks_does_not_take_over_one_with_them(
    shards: str, tmp_path: Path
) -> None:
    folder = tmp_path / "dam"
    changes = {"completion": {"kind": "dam"}, "schedule": {"completion": 1, "joint": 0}}
    assert train(small_config(shards, folder, **changes), Worker()).finished
    with pytest.raises(ValueError, match=r"completion\.kind is 'glcic', but .* made with 'dam'"):
        new_run(shards, tmp_path / "run", folder)
    joins = {"kind": "dam", "attention_maps": "zero"}
    for part in (".", "network"):
        with pytest.raises(ValueError, match=r"attention_maps is 'zero', but .* with 'learned'"):
            new_run(
                shards, tmp_path / "run", folder / part, completion=joins,
                start={"take": "completion"},
            )  # fmt: skip


def test_an_export_from_before_there_were_other_forms_has_the_one_that_there_was(
    shards: str, tmp_path: Path
) -> None:
    completion = parse_config({"completion": {"kind": "dam", "width": 8}}).completion
    described = dataclasses.asdict(completion)
    del described["attention_maps"], described["attention_form"]
    folder = str(tmp_path / "export")
    description = {"step": 3, "completion": described}
    save_described_network(folder, AttentionCompletionNetwork(completion), description)
    taken = {"start": {"take": "completion"}}
    new_run(shards, tmp_path / "run", folder, completion={"kind": "dam"}, **taken)
    with pytest.raises(ValueError, match=r"attention_form is 'author', but .* with 'report'"):
        new_run(
            shards, tmp_path / "run", folder,
            completion={"kind": "dam", "attention_form": "author"}, **taken,
        )  # fmt: skip
