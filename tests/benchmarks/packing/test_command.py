from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.harness.photographs import benchmark_recipe
from benchmarks.harness.result import read_result
from benchmarks.packing import __main__ as packing
from benchmarks.packing.candidates import (
    fidelity,
    pack_rate,
    paths_of_slice,
    psnr,
    write_with_webdataset,
)
from benchmarks.peers.adapters.conversion import resized_by_pillow
from tests.shards.pictures import picture, write_class_folders
from tests.torchrun import run, torchrun_command

RECIPE = benchmark_recipe(32, 32, validation_fraction=0)


@pytest.fixture
def source(tmp_path):
    return write_class_folders(tmp_path / "source")


def test_both_ways_scale_the_short_side_and_refuse_what_is_too_small(tmp_path):
    for name, size in (("wide", (96, 48)), ("tiny", (96, 20))):
        Image.fromarray(picture(size)).save(tmp_path / f"{name}.png")
    image = resized_by_pillow(tmp_path / "wide.png", 32)
    assert image is not None
    assert image.size == (64, 32)
    assert resized_by_pillow(tmp_path / "tiny.png", 32) is None


def test_the_peer_writes_shards_of_the_same_images(tmp_path, source):
    paths = sorted(source.rglob("*.jpg"))
    assert write_with_webdataset(paths, tmp_path, 3, RECIPE) == len(paths)
    assert (tmp_path / "part-3-000000.tar").is_file()


def test_packing_leaves_nothing_behind(source, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    assert pack_rate(source, RECIPE, processes=1) > 0
    assert list(scratch.iterdir()) == []


def test_fidelity_is_finite_and_the_finest_encoding_is_nearest(source):
    decibels = fidelity(sorted(source.rglob("*.jpg")), RECIPE)
    assert set(decibels) == {"stored", "stored by Pillow", "resize alone"}
    assert all(20 < value < 99 for values in decibels.values() for value in values)
    assert np.median(decibels["resize alone"]) > np.median(decibels["stored"])


def test_one_level_of_error_everywhere_is_48_decibels():
    flat = np.full((4, 4, 3), 100, dtype=np.uint8)
    assert psnr(flat, flat + 1) == pytest.approx(48.13, abs=0.01)
    assert psnr(flat, flat) == 99


@pytest.mark.slow
def test_the_benchmark_runs_and_its_result_names_no_folder(tmp_path, source):
    output = tmp_path / "results" / "packing.json"
    options = ["--rounds=1", "--repeat=2", "--crop-size=32", "--label=small pictures"]
    options.append("--written-samples=20")
    assert packing.main([*options, f"--source={source}", f"--output={output}"]) == 0
    result = read_result(output)
    assert result.parameters["source"] == "small pictures"
    groups = [figure.group for figure in result.figures]
    assert groups.count(packing.SPEED) == 4 + len(packing.PAIRS)
    assert groups.count(packing.WRITING) == 3
    assert groups.count(packing.FIDELITY) == 6
    assert str(tmp_path) not in output.read_text()


def test_a_missing_source_is_one_line(tmp_path, capsys):
    assert packing.main([f"--source={tmp_path}/none", f"--output={tmp_path}/result.json"]) == 1
    assert "benchmarks.packing" in capsys.readouterr().err


def test_slices_have_every_photograph_once_as_those_of_a_pack():
    recipe = replace(RECIPE, images_per_shard=3)
    paths = [Path(f"{number}.jpg") for number in range(10)]
    slices = [paths_of_slice(paths, recipe, number, 3) for number in range(3)]
    assert sorted(path for part in slices for path in part) == sorted(paths)
    assert slices[1] == paths[3:6]
    assert paths_of_slice(paths, recipe, 0, 1) == paths


def test_a_library_that_is_not_installed_is_listed_and_the_rest_measured(
    source, tmp_path, monkeypatch
):
    monkeypatch.setattr(packing.importlib.util, "find_spec", lambda name: None)
    output = tmp_path / "packing.json"
    options = ["--rounds=1", "--repeat=1", "--crop-size=32", "--written-samples=5"]
    names = [f"--candidate={name}" for name in (packing.WRITER, packing.PEER_WRITER, packing.PEER)]
    assert packing.main([*options, *names, f"--source={source}", f"--output={output}"]) == 0
    result = read_result(output)
    assert result.parameters["peers not measured"][packing.PEER] == "webdataset is not installed"
    measured = [figure.name for figure in result.figures if figure.group == packing.WRITING]
    assert measured == [packing.WRITER]


@pytest.mark.dist
def test_two_workers_pack_a_slice_each_and_their_sum_is_told(tmp_path, source):
    output, log = tmp_path / "packing.json", tmp_path / "log"
    command = torchrun_command(
        2, "--module", "benchmarks.packing", "--rounds=1", "--repeat=1", "--config=quickstart",
        "--crop-size=32", "--written-samples=20", f"--candidate={packing.OURS}",
        f"--candidate={packing.WRITER}", f"--source={source}", f"--output={output}",
    )  # fmt: skip
    assert run(command, log) == 0, log.read_text()
    result = read_result(output)
    assert result.parameters["times that every photograph is packed"] == 2
    assert result.parameters["images per shard"] == 6, "two shards for each worker"
    (speed,) = [figure for figure in result.figures if figure.group == packing.SPEED]
    (table,) = [table for table in result.tables if packing.SPEED in table.title]
    rates = [float(row[2].replace(",", "")) for row in table.rows]
    assert speed.median == pytest.approx(sum(rates), rel=0.01)
    assert str(tmp_path) not in output.read_text()
