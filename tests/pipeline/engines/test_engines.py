"""The engines beside the default one: the same training, the same checkpoints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline.checkpoints.format import committed_steps, read_checkpoint, step_name
from pipeline.config.engine_validation import launcher_errors
from pipeline.config.loading import parse_config
from pipeline.config.run_identity import config_digest
from pipeline.config.schema import Config
from pipeline.engines.ddp import Worker
from pipeline.engines.deepspeed_settings import (
    SHIPPED,
    deepspeed_file,
    deepspeed_file_errors,
    deepspeed_settings,
)
from pipeline.training.preflight import check_run
from tests.pipeline.engines.engine_results import (
    TOLERANCE,
    engine_results,
    step_agrees,
    whole_agrees,
)
from tests.pipeline.engines.engine_trials import (
    CELLS,
    ENGINES,
    FURTHER,
    Cell,
    Trial,
    copy_checkpoint,
    read_batches,
    state_deviation,
    trial_config,
)
from tests.shards.pictures import pack_small_set
from tests.small_run import small_mapping, write_preset
from tests.torchrun import ROOT, run, torchrun_command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    return engine_results(folder)


def deepspeed_config(**sections: Any) -> Config:
    parallel = {"engine": "deepspeed", **sections.pop("parallel", {})}
    return parse_config({**sections, "parallel": parallel})


@pytest.mark.dist
@pytest.mark.slow
class TestTraining:
    def test_a_step_of_any_phase_leads_to_the_state_of_the_default_engine(
        self, results: dict[str, Any]
    ) -> None:
        rows = results["cells"]
        assert len(rows) == len(CELLS) * 3
        assert not [row for row in rows if not step_agrees(row)]

    def test_a_whole_run_goes_no_further_from_the_default_one_than_the_last_bit_would(
        self, results: dict[str, Any]
    ) -> None:
        for row in results["cells"]:
            phase = ["completion", "discriminator", "joint"].index(row["phase"])
            assert whole_agrees(row, results["sensitivity"][phase]), row

    @pytest.mark.parametrize("settings", FURTHER)
    def test_so_it_is_under_other_settings(self, settings: str, results: dict[str, Any]) -> None:
        rows = results["further"][settings]
        assert rows
        assert not [row for row in rows if not step_agrees(row)]

    def test_the_first_step_of_adam_is_its_first(self, results: dict[str, Any]) -> None:
        assert len(results["first_step"]) == 3
        assert not [row for row in results["first_step"] if not step_agrees(row)]

    def test_a_run_resumed_in_any_phase_ends_in_the_same_bits(
        self, results: dict[str, Any]
    ) -> None:
        found = results["different_after_resume"]
        assert len(found) == len(CELLS) * 3
        assert not {name: tensors for name, tensors in found.items() if tensors}

    def test_a_run_goes_on_under_another_engine(self, results: dict[str, Any]) -> None:
        assert results["changes"]
        assert not [row for row in results["changes"] if row["state"] > TOLERANCE]

    def test_one_worker_goes_on_with_what_two_have_shared_among_them(
        self, results: dict[str, Any], folder: Path
    ) -> None:
        copy_checkpoint(folder / "deepspeed-2-fp32", 3, folder / "alone-again")
        config = trial_config(results["shards"], folder / "alone-again", Cell("deepspeed", 2))
        trial = Trial(config, read_batches(config, Worker()))
        assert trial.step == 3
        trial.train(4)
        deviation = state_deviation(folder / "alone-again", folder / "alone", 4, config)
        assert deviation <= TOLERANCE

    def test_an_update_that_one_rank_spoils_is_left_out_by_all_and_changes_nothing(
        self, results: dict[str, Any]
    ) -> None:
        assert results["skips"].keys() == {cell.name for cell in ENGINES}
        for found in results["skips"].values():
            for step in found["steps"]:
                assert set(step["skipped"].values()) == {1.0}, step
                assert step["changed"] == []
            afterwards = found["afterwards"]
            reference = results["skips"]["ddp-fp32"]["afterwards"]
            assert afterwards == pytest.approx(reference, rel=TOLERANCE)

    def test_accelerate_launch_starts_a_run(self, results: dict[str, Any], tmp_path: Path) -> None:
        schedule = {"completion": 1, "discriminator": 1, "joint": 1}
        mapping = small_mapping(
            results["shards"], tmp_path / "run", schedule=schedule,
            parallel={"engine": "accelerate"},
        )  # fmt: skip
        preset = write_preset(tmp_path / "preset.yaml", mapping)
        launcher = [str(Path(sys.executable).with_name("accelerate")), "launch"]
        launcher += ["--config_file", "launch/accelerate/cpu.yaml"]
        log = tmp_path / "log"
        assert run([*launcher, "launch/train.py", "--config", str(preset)], log) == 0, (
            log.read_text()
        )
        assert committed_steps(str(tmp_path / "run" / "checkpoints")) == [1, 2, 3]
        last = read_checkpoint(str(tmp_path / "run" / "checkpoints" / step_name(3)))
        assert last.facts["world_size"] == 2


@pytest.mark.gpu
@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("cell", ENGINES, ids=lambda cell: cell.name)
def test_two_gpus_go_through_all_phases_and_resume(cell: Cell, tmp_path: Path) -> None:
    shards = pack_small_set(tmp_path / "set", images=36, images_per_shard=7)
    parallel = {"engine": cell.engine, "zero_stage": cell.zero_stage}
    folder, log = tmp_path / "run", tmp_path / "log"
    for joint in (2, 4):
        schedule = {"completion": 2, "discriminator": 2, "joint": joint}
        mapping = small_mapping(shards, folder, schedule=schedule, parallel=parallel)
        preset = write_preset(tmp_path / "preset.yaml", mapping)
        command = torchrun_command(2, "launch/train.py", "--config", str(preset))
        assert run(command, log) == 0, log.read_text()
    assert committed_steps(str(folder / "checkpoints")) == list(range(1, 9))


def test_the_engine_may_change_on_resume() -> None:
    digest = config_digest(Config())
    for parallel in ({"engine": "accelerate"}, {"engine": "deepspeed", "zero_stage": 2}):
        assert config_digest(parse_config({"parallel": parallel})) == digest


@pytest.mark.parametrize(
    ("sections", "parts"),
    [
        ({"parallel": {"zero_stage": 3}}, ["parallel.zero_stage is 3", "use 0, 1 or 2"]),
        ({"parallel": {"zero_stage": 7}}, ["parallel.zero_stage is 7", "use one of 0, 1, 2"]),
        ({"train": {"precision": "fp16"}}, ["train.precision is 'fp16'", "loss scale for each"]),
        (
            {"parallel": {"engine": "ddp", "zero_stage": 1, "deepspeed_config": "a"}},
            ["parallel.zero_stage is 1", "parallel.deepspeed_config is 'a'", "that is ddp"],
        ),
        (
            {"parallel": {"engine": "deepspeed", "bucket_cap_mb": 0}},
            ["parallel.bucket_cap_mb is 0: parallel.engine deepspeed has buckets of its own"],
        ),
        ({"parallel": {"bucket_cap_mb": -1}}, ["parallel.bucket_cap_mb", "at least 0"]),
        ({"parallel": {"engine": "horovod"}}, ["parallel.engine is 'horovod'", "'deepspeed'"]),
    ],
)
def test_what_does_not_hold_is_refused_with_a_reason(sections: dict, parts: list[str]) -> None:
    with pytest.raises(ValueError, match="cannot be used") as error:
        deepspeed_config(**sections)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("engine", ["accelerate", "deepspeed"])
def test_a_package_that_is_missing_is_named_before_anything_starts(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = parse_config({"parallel": {"engine": engine}, "data": {"shards": "/nowhere"}})
    with pytest.raises(RuntimeError, match=f"package {engine} is not installed") as error:
        check_run(config, world_size=2)
    assert f"pip install -e '.[{engine}]'" in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("MIXED_PRECISION", "fp16", "train.precision decides"),
        ("DYNAMO_BACKEND", "INDUCTOR", "remove dynamo_config"),
        ("GRADIENT_ACCUMULATION_STEPS", "4", "--train.micro_batch_size"),
        ("USE_DEEPSPEED", "true", "--parallel.engine deepspeed"),
        ("USE_FSDP", "true", "set MULTI_GPU"),
    ],
)
def test_other_settings_of_accelerate_launch_are_refused(name: str, value: str, part: str) -> None:
    environment = {
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_DYNAMO_BACKEND": "NO",
        "ACCELERATE_USE_DEEPSPEED": "false",
    }
    assert launcher_errors(Config(), environment) == []
    assert launcher_errors(Config(), {"ACCELERATE_MIXED_PRECISION": "bf16"}) == []
    (error,) = launcher_errors(Config(), environment | {f"ACCELERATE_{name}": value})
    assert part in error
    assert value.lower() in error or name.removeprefix("USE_") in error


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"bf16": {"enabled": True}}, "batch norm's buffers stay float32"),
        ({"gradient_clipping": 1.0}, "gradient_clipping: no other engine clips"),
        ({"train_batch_size": 8}, "train_batch_size, which train.batch_size decides"),
        ({"zero_optimization": {"stage": 3}}, "which parallel.zero_stage decides"),
        ({"zero_optimization": {"offload_optimizer": {}}}, "another Adam"),
        ({"zero_optimization": 1}, "is no object"),
        ({"elasticity": {}}, "elasticity, which is not known to leave the result alone"),
        ([], "holds no JSON object"),
    ],
)
def test_a_deepspeed_file_may_not_change_what_is_computed(
    content: object, part: str, tmp_path: Path
) -> None:
    file = tmp_path / "deepspeed.json"
    file.write_text(json.dumps(content))
    (error,) = deepspeed_file_errors(deepspeed_config(parallel={"deepspeed_config": str(file)}))
    assert part in error
    assert str(file) in error


def test_a_deepspeed_file_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    file = tmp_path / "deepspeed.json"
    config = deepspeed_config(parallel={"deepspeed_config": str(file)})
    assert "cannot be read: No such file" in deepspeed_file_errors(config)[0]
    file.write_text("{")
    assert "is not JSON" in deepspeed_file_errors(config)[0]


@pytest.mark.parametrize(
    "folder", ["launch/deepspeed", "./launch/deepspeed", "/app/launch/deepspeed"]
)
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_shipped_file_is_found_where_it_was_in_earlier_versions(folder: str, stage: int) -> None:
    parallel = {"deepspeed_config": f"{folder}/zero-{stage}.json", "zero_stage": stage}
    assert deepspeed_file(deepspeed_config(parallel=parallel)) == SHIPPED / f"zero-{stage}.json"


def test_a_file_of_the_user_in_a_folder_of_that_name_is_taken_as_it_is(tmp_path: Path) -> None:
    own = tmp_path / "launch" / "deepspeed" / "zero-1.json"
    own.parent.mkdir(parents=True)
    own.write_text("{}")
    for name in (str(own), "launch/deepspeed/zero-7.json", "elsewhere/zero-1.json"):
        config = deepspeed_config(parallel={"deepspeed_config": name, "zero_stage": 1})
        assert deepspeed_file(config) == Path(name)


def test_a_deepspeed_file_may_tune_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "deepspeed.json"
    file.write_text('{"zero_optimization": {"reduce_bucket_size": 1000}}')
    parallel = {"deepspeed_config": str(file), "zero_stage": 2}
    config = deepspeed_config(parallel=parallel, train={"precision": "bf16"})
    assert deepspeed_file_errors(config) == []
    settings = deepspeed_settings(config, samples_per_worker=6)
    assert settings["zero_optimization"] == {"reduce_bucket_size": 1000, "stage": 2}
    assert settings["gradient_clipping"] == 0.0
    assert settings["communication_data_type"] == "fp32"
    assert settings["torch_autocast"]["lower_precision_safe_modules"] == []
    assert "bf16" not in settings


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_deepspeed_files_that_ship_are_used(stage: int) -> None:
    config = deepspeed_config(parallel={"zero_stage": stage})
    assert deepspeed_file_errors(config) == []
    shipped = json.loads((SHIPPED / f"zero-{stage}.json").read_text())
    assert deepspeed_settings(config, 6)["zero_optimization"] == shipped["zero_optimization"]


@pytest.mark.parametrize("name", ["cpu", "single-node", "multi-node"])
def test_an_accelerate_file_has_a_header_with_its_command(name: str) -> None:
    text = (ROOT / "launch" / "accelerate" / f"{name}.yaml").read_text()
    header = text.split("\ncompute_environment:")[0]
    assert "Purpose:" in header
    assert "Command" in header
    assert f"--config_file launch/accelerate/{name}.yaml" in header
    assert yaml.safe_load(text)["mixed_precision"] == "no"
