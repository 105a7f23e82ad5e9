from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pipeline.training.preflight
from pipeline.config.schema import Config
from pipeline.training.preflight import check_run, index_external_sets
from shards.format.manifest import load_manifest
from shards.indexing.external_set import index_external_shards
from shards.sampling.mixture import WeightedSet
from tests.shards.external_shards import write_shards
from tests.shards.pictures import pack_small_set, small_recipe
from tests.small_run import small_config


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(pack_small_set(tmp_path_factory.mktemp("set"), images=36, images_per_shard=7))


@pytest.fixture
def shards(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "copy"))


def config_for(shards: Path, **data: Any) -> Config:
    config = small_config(str(shards), shards.parent / "run")
    return replace(config, data=replace(config.data, **data))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_sound_run_is_let_through_with_what_it_reads(packed: Path) -> None:
    data = check_run(config_for(packed), world_size=4)
    assert data.fingerprint == load_manifest(str(packed)).fingerprint
    assert data.recipe.crop_size == 32


def test_all_faults_are_told_at_once(packed: Path) -> None:
    config = config_for(packed, short_side_max=60)
    config = replace(config, train=replace(config.train, batch_size=30))
    config = replace(config, pack=replace(config.pack, crop_size=64))
    with pytest.raises(ValueError, match="the run cannot start") as error:
        check_run(config, world_size=7)
    for part in ("by 7 workers", "set --pack.crop_size 32", "set --data.short_side_max 48",
                 "has only 27 training samples"):  # fmt: skip
        assert part in str(error.value)


def test_a_set_to_judge_on_is_evaluated_on_but_not_trained_on(packed: Path, tmp_path: Path) -> None:
    judged = pack_small_set(tmp_path, validation_fraction=1, name="judged")
    config = config_for(packed)
    evaluation = replace(config.evaluation, shards=judged)
    assert check_run(replace(config, evaluation=evaluation), world_size=1)
    further = config_for(packed, mixture=(WeightedSet(judged, 1.0),))
    for refused in (config_for(Path(judged)), further):
        with pytest.raises(ValueError, match="no training images, it is a set to judge") as error:
            check_run(refused, world_size=1)
        assert f"--evaluation.shards {judged}" in str(error.value)


def test_a_further_set_is_checked_like_the_first(packed: Path, tmp_path: Path) -> None:
    other = pack_small_set(tmp_path, images=8, classes=2, size=(44, 36), name="other")
    config = config_for(packed, mixture=(WeightedSet(other, 3.0),))
    with pytest.raises(ValueError, match="the run cannot start") as error:
        check_run(config, world_size=1)
    assert f"but {other} stores images with a short side of at most 36" in str(error.value)
    assert "6 training samples for 9 of them in every batch; lower its weight" in str(error.value)


@pytest.mark.parametrize("name", ["train-000001.tar", "val-000000.tar"])
def test_a_shard_that_is_missing_is_named_before_the_run(shards: Path, name: str) -> None:
    (shards / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} is missing although the manifest lists"):
        check_run(config_for(shards), world_size=1)


def test_with_substitutes_a_training_shard_may_be_missing_but_none_of_validation(
    shards: Path,
) -> None:
    (shards / "train-000001.tar").unlink()
    check_run(config_for(shards, damaged="substitute"), world_size=1)
    (shards / "val-000000.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"val-000000\.tar is missing"):
        check_run(config_for(shards, damaged="substitute"), world_size=1)


def test_a_set_without_validation_images_says_what_to_do(tmp_path: Path) -> None:
    ours = pack_small_set(tmp_path, validation_fraction=0.0)
    with pytest.raises(ValueError, match=r"pack it with pack\.validation_fraction above 0"):
        check_run(config_for(Path(ours)), world_size=1)
    theirs = write_shards(tmp_path / "theirs", ("only.tar",), images=14)
    index_external_shards(str(theirs), small_recipe())
    with pytest.raises(ValueError, match=r"name one of its shards val-\*\.tar"):
        check_run(config_for(theirs), world_size=1)


# Shards that others have packed


def test_shards_without_a_manifest_are_indexed_on_first_use_and_only_then(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "theirs", images=6)
    second = write_shards(tmp_path / "second", images=6)
    config = config_for(folder, mixture=(WeightedSet(str(second)),))
    said: list[str] = []
    index_external_sets(config, said.append)
    assert [line.split(" has no ")[0] for line in said] == [str(folder), str(second)]
    assert check_run(config, world_size=2).num_samples("train") == 12
    before = contents(folder)
    index_external_sets(config, said.append)
    assert len(said) == 2
    assert contents(folder) == before


def test_a_set_of_our_own_and_an_empty_folder_are_left_as_they_are(
    packed: Path, tmp_path: Path
) -> None:
    before = contents(packed)
    index_external_sets(config_for(packed), print)
    assert contents(packed) == before
    index_external_sets(config_for(tmp_path), print)
    assert list(tmp_path.iterdir()) == []


def test_a_pack_that_was_not_finished_is_not_taken_for_shards_of_others(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "theirs")
    (folder / "pack-records").mkdir()
    with pytest.raises(ValueError, match=r"was not finished; run its `glcic pack` again, or `glc"):
        index_external_sets(config_for(folder), print)
    assert not (folder / "manifest.json").exists()


def test_the_other_ranks_wait_for_the_manifest_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_shards(tmp_path / "theirs", images=6)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(pipeline.training.preflight, "_POLL_S", 0.01)
    said: list[str] = []

    def say(line: str) -> None:
        """Only once the others wait does the first rank begin."""
        said.append(line)
        threading.Thread(target=index_external_shards, args=(str(folder), small_recipe())).start()

    index_external_sets(config_for(folder), say)
    assert load_manifest(str(folder)).num_images("train") == 12
    assert [line.partition(": ")[2] for line in said] == [
        "waiting for rank 0 to index the shards there"
    ]


def test_a_manifest_that_does_not_come_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_shards(tmp_path / "theirs")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(pipeline.training.preflight, "_POLL_S", 0.01)
    monkeypatch.setattr(pipeline.training.preflight, "_INDEXING_S", 0.03)
    with pytest.raises(RuntimeError, match=r"rank 0 has not indexed .*run `glcic index "):
        index_external_sets(config_for(folder), print)


def test_a_set_to_evaluate_on_must_have_validation_images_of_the_same_size(
    packed: Path, tmp_path: Path
) -> None:
    other = pack_small_set(tmp_path, crop_size=16, validation_fraction=0, name="other")
    config = config_for(packed)
    config = replace(config, evaluation=replace(config.evaluation, shards=other))
    with pytest.raises(ValueError, match=r"(?s)whose images have 16 pixels.*no validation images"):
        check_run(config, world_size=1)
