"""`glcic import`, and what can be done with the network that it writes."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from launch.complete import main as complete_main
from pipeline.config.loading import parse_config
from pipeline.engines.ddp import Worker
from pipeline.exports.network_folder import load_completion_network
from pipeline.step.training_data import training_data
from pipeline.training.preflight import check_run
from pipeline.training.run_state import RunState
from pipeline.training.warm_start import warm_start_
from tests.pipeline.weight_import.layouts import (
    MEAN,
    AuthorsLayout,
    MmagicLayout,
    OtenimLayout,
    randomised,
    sample,
)
from tests.pipeline.weight_import.torch7_writer import sequential, torch7_bytes, torch7_layers
from tests.shards.pictures import pack_small_set
from tests.small_run import small_mapping

main = importlib.import_module("launch.import").main  # a keyword cannot be imported by name
LAYOUTS = {"authors": AuthorsLayout, "otenim": OtenimLayout, "mmagic": MmagicLayout}
TOLERANCE = 1e-5  # of pixels in [0, 1]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pack_small_set(tmp_path_factory.mktemp("set"), images=36, images_per_shard=7)


def write(layout: str, path: Path) -> torch.nn.Module:
    network = randomised(LAYOUTS[layout]())
    if layout == "authors":
        model = sequential(list(torch7_layers(network.layers)))  # type: ignore[arg-type]
        path.write_bytes(torch7_bytes({"model": model, "mean": np.array(MEAN)}))
    else:
        torch.save(network.state_dict(), path)
    if layout == "otenim":
        path.with_name("config.json").write_text(json.dumps({"mpv": MEAN}))
    return network


def imported(layout: str, folder: Path) -> tuple[str, torch.nn.Module]:
    """The folder of the imported network, and the foreign one."""
    network = write(layout, folder / "weights")
    assert main([str(folder / "weights"), str(folder / "network")]) == 0
    return str(folder / "network"), network


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_imported_is_loaded_like_any_exported_network(
    tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, network = imported(layout, tmp_path)
    loaded = load_completion_network(folder, "ema", torch.device("cpu"))
    image, mask = sample()
    torch.testing.assert_close(loaded(image, mask), network(image, mask), rtol=0, atol=TOLERANCE)
    assert f"the layout of {layout}" in capsys.readouterr().out


def test_the_source_of_the_weights_stays_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = imported("authors", tmp_path)
    description = json.loads((Path(folder) / "network.json").read_text())
    assert description["source"]["layout"] == "authors"
    assert len(description["source"]["sha256"]) == 64
    assert "CC BY-NC-SA 4.0" in description["licence"]
    assert "CC BY-NC-SA 4.0" in capsys.readouterr().out


def test_photographs_are_completed_with_an_imported_network(tmp_path: Path) -> None:
    folder, _ = imported("mmagic", tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photograph.png")
    arguments = [str(tmp_path / "photograph.png"), "--hole", "30,20,40,30"]
    output = tmp_path / "result.png"
    assert complete_main([*arguments, "--checkpoint", folder, "--output", str(output)]) == 0
    changed = (np.asarray(Image.open(output)) != pixels).any(axis=2)
    assert changed[20:50, 30:70].mean() > 0.9


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_starts_from_an_imported_network_by_the_fields_that_the_import_prints(
    tmp_path: Path, layout: str, shards: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = imported(layout, tmp_path)
    flags = capsys.readouterr().out.split("to train on: ")[1].split()
    mapping = small_mapping(shards, tmp_path / "run")
    for flag, value in zip(flags[::2], flags[1::2], strict=True):
        section, field = flag.removeprefix("--").split(".")
        mapping.setdefault(section, {})[field] = value
    config = parse_config(mapping)
    check_run(config, world_size=1)
    state = RunState(config, Worker(), training_data(config))
    warm_start_(state, config, Worker(), print)
    image, mask = sample()
    expected = load_completion_network(folder, "ema", torch.device("cpu"))
    network = state.completion.network.eval()
    torch.testing.assert_close(network(image, mask), expected(image, mask))


def test_a_run_that_would_read_the_weights_another_way_is_refused(
    tmp_path: Path, shards: str
) -> None:
    folder, _ = imported("otenim", tmp_path)
    start = {"checkpoint": folder, "take": "completion"}
    config = parse_config(small_mapping(shards, tmp_path / "run", start=start))
    with pytest.raises(ValueError, match=r"block_order is 'conv_bn_act', but .*'conv_act_bn'"):
        check_run(config, world_size=1)


def test_a_folder_with_a_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    write("authors", tmp_path / "weights")
    (tmp_path / "COMMITTED").write_text("{}")
    with pytest.raises(ValueError, match="is a checkpoint"):
        main([str(tmp_path / "weights"), str(tmp_path)])
    assert (tmp_path / "COMMITTED").read_text() == "{}"


@pytest.mark.parametrize("mean", ["0.5", "0.1,0.2,x", "1,2,3", "nan,0,0"])
def test_a_mean_that_is_no_colour_is_refused(tmp_path: Path, mean: str) -> None:
    write("authors", tmp_path / "weights")
    with pytest.raises(ValueError, match="--mean"):
        main([str(tmp_path / "weights"), str(tmp_path / "network"), "--mean", mean])
    assert not (tmp_path / "network").exists()
