from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from benchmarks.generator import __main__ as generator
from benchmarks.generator import worker_devices
from benchmarks.generator.layer_times import layer_table, time_layers
from benchmarks.generator.setups import (
    CPU_SETUPS,
    CUDA_SETUPS,
    FORWARD,
    PLAIN,
    TUNED,
    Case,
    GeneratorMeasurement,
)
from benchmarks.generator.worker_devices import (
    lacking_setups,
    leave_own_gpu_to_children,
    require_gpus,
)
from benchmarks.harness.device_peak import Peak, measured_peak
from benchmarks.harness.launched_workers import Workers
from benchmarks.harness.result import read_result
from benchmarks.harness.tables import render_markdown
from tests.torchrun import run, torchrun_command

SMALL = ["--width=8", "--rounds=1", "--seconds=0.01", "--threads=1", "--device=cpu"]
SMALL_CONFIG = [
    "--pack.crop-size=32", "--pack.short-side=48", "--pack.masks.side-min=8",
    "--pack.masks.side-max=16", "--data.short-side-min=32", "--data.short-side-max=48",
    "--completion.width=8", "--discriminator.local-size=16", "--train.batch-size=4",
]  # fmt: skip
PLAIN_NAME = next(iter(CPU_SETUPS))
IN_8_BITS = "8 bits, OpenVINO"
FOLDED_NAME = "default, batch norm folded"


@pytest.fixture(scope="module")
def peak() -> Peak:
    return measured_peak(torch.device("cpu"), "fp32", seconds=0.01)


@pytest.mark.slow
def test_setups_are_compared_in_one_run_with_their_shares_and_a_picture(tmp_path: Path) -> None:
    output = tmp_path / "generator.json"
    setups = [f"--setup={name}" for name in (PLAIN_NAME, FOLDED_NAME)]
    assert generator.main([*SMALL, "--case=16x1", *setups, f"--output={output}"]) == 0
    result = read_result(output)
    figures = {(figure.group, figure.name): figure for figure in result.figures}
    forward, both = "forward, 16 pixels, batch 1", "forward and backward, 16 pixels, batch 1"
    ratio = figures[forward, f"{FOLDED_NAME} / {PLAIN_NAME}"]
    rates = [figures[forward, name].median for name in (FOLDED_NAME, PLAIN_NAME)]
    assert ratio.median == pytest.approx(rates[0] / rates[1])
    assert (both, PLAIN_NAME) in figures
    assert (both, FOLDED_NAME) not in figures, "it cannot train"
    assert [table.title for table in result.tables][-2:] == ["layers, forward", "layers, backward"]
    assert (tmp_path / "generator-roofline.png").read_bytes().startswith(b"\x89PNG")
    assert "![generator](results/generator-roofline.png)" in render_markdown([result])


def test_every_layer_is_timed_and_held_against_what_bounds_it(peak: Peak) -> None:
    times = time_layers(Case(16, 2, 8, 1, "cpu"), "fp32")
    assert [len(layers) for layers in times.values()] == [17, 17]
    first, second = times["backward"][:2]
    assert first.flops == times["forward"][0].flops, "nothing needs the image's gradient"
    assert second.flops == 2 * times["forward"][1].flops
    table = layer_table("forward", times["forward"], peak)
    assert [row[0] for row in table.rows] == [
        *(f"encoder.{row}" for row in range(1, 7)), *(f"middle.{row}" for row in range(7, 13)),
        *(f"decoder.{row}" for row in range(13, 18)), "all",
    ]  # fmt: skip
    assert sum(float(row[3]) for row in table.rows[:-1]) <= float(table.rows[-1][3]) * 1.01


def test_the_peaks_of_this_processor_are_positive(peak: Peak) -> None:
    assert min(peak.matrix_tflops, peak.convolution_tflops, peak.memory_gb_per_s) > 0


def test_8_bits_are_measured_for_inference_alone_and_beside_no_peak() -> None:
    measurement = GeneratorMeasurement(CPU_SETUPS[IN_8_BITS], Case(16, 1, 8, 1, "cpu"), 0.01)
    assert measurement().images_per_second.keys() == {FORWARD}
    assert generator._shares(0.5, None) == ["0.5", "-", "-"]


def test_setups_whose_package_is_missing_are_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert lacking_setups(CPU_SETUPS, "cpu") == {}
    monkeypatch.setattr(worker_devices, "missing_package", lambda: "openvino")
    lacking = lacking_setups(CPU_SETUPS, "cpu")
    assert lacking == {name: "openvino is not installed" for name in ("bf16, OpenVINO", IN_8_BITS)}


@pytest.mark.parametrize("setups", [CPU_SETUPS, CUDA_SETUPS])
def test_the_first_setup_is_the_plain_one_that_ratios_are_of(setups: dict) -> None:
    assert next(iter(setups.values())) == PLAIN
    assert len(set(setups.values())) == len(setups), "no two are the same"


def test_training_runs_by_default_as_the_tuned_setup_does() -> None:
    from pipeline.config.schema import TrainConfig

    train = TrainConfig()
    assert (TUNED.precision, TUNED.channels_last) == (train.precision, train.channels_last)
    assert TUNED.execution == ("compile" if train.compile else "eager")
    assert (TUNED.dilation, TUNED.convolution) == (train.dilation, train.convolution)
    assert TUNED.keeps_memory == train.keep_memory


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--case=16", "is not SIZExBATCH, such as 256x96"),
        ("--case=18x1", "SIZE a multiple of 4"),
        ("--setup=fastest", "'fastest' is none of: plain"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    option: str, told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert generator.main([*SMALL, option, f"--output={tmp_path / 'x.json'}"]) == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--completion.kind=unet", "completion.kind is unet"),
        ("--completion.block-order=conv_act_bn", "measure this one's steps by benchmarks.training"),
    ],
)
def test_the_setups_are_ways_of_running_the_papers_network(
    option: str, told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert generator.main(["--device=cpu", option, f"--output={tmp_path / 'x.json'}"]) == 1
    assert told in capsys.readouterr().err


def test_a_setup_that_needs_a_compiler_is_not_measured_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(device: torch.device, field: str, without: str) -> None:
        raise RuntimeError("this setup needs a C++ compiler; install g++")

    monkeypatch.setattr(worker_devices, "require_compiler", refuse)
    lacking = lacking_setups(CPU_SETUPS, "cpu")
    assert lacking["default, compiled"] == "this setup needs a C++ compiler"
    assert PLAIN_NAME not in lacking


@pytest.mark.parametrize(("visible", "own"), [(None, "1"), ("5,3", "3"), ("GPU-a,GPU-b", "GPU-b")])
def test_the_processes_of_a_worker_see_its_own_gpu(
    visible: str | None, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    leave_own_gpu_to_children(Workers(3, 4, local_rank=1, local_world_size=2))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == own


def test_more_workers_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="which has 2 GPUs; start --nproc_per_node=2"):
        require_gpus(Workers(local_world_size=4))


@pytest.mark.dist
def test_two_workers_measure_their_devices_by_the_configuration_and_are_compared(
    tmp_path: Path,
) -> None:
    output, log = tmp_path / "generator.json", tmp_path / "log"
    command = torchrun_command(
        2, "--module", "benchmarks.generator", *SMALL_CONFIG, "--device=cpu", "--rounds=2",
        "--seconds=0.01", f"--setup={PLAIN_NAME}", f"--output={output}",
    )  # fmt: skip
    assert run(command, log) == 0, log.read_text()
    result = read_result(output)
    assert (result.parameters["workers"], result.parameters["workers of a node"]) == (2, 2)
    assert (result.parameters["source"], result.parameters["width"]) == ("32 pixels, batch 2", 8)
    group = "forward and backward, 32 pixels, batch 2"
    (figure,) = [one for one in result.figures if one.group == group]
    (table,) = [one for one in result.tables if one.title == f"workers: {group}, {PLAIN_NAME}"]
    rates = [float(row[2].replace(",", "")) for row in table.rows]
    assert [row[:2] for row in table.rows] == [["0", "0"], ["1", "0"]]
    # Of two workers and two rounds the median is the mean.
    assert figure.median == pytest.approx(sum(rates) / 2, rel=0.01)
    assert sum(float(row[3]) for row in table.rows) == pytest.approx(2, abs=0.01)
    assert str(tmp_path) not in output.read_text()
    assert (tmp_path / "generator-roofline.png").is_file()
