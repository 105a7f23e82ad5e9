from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path

import pytest
import torch

from benchmarks.harness.device_peak import Peak
from benchmarks.harness.photographs import SHIPPED_LABEL
from benchmarks.harness.result import Measurement, Result, read_result
from benchmarks.training import __main__ as training
from benchmarks.training.variants import AS_CONFIGURED, StepsInOwnProcess
from pipeline.config.schedule import Phase
from pipeline.engines.ddp import Worker
from tests.shards.pictures import pack_small_set, write_class_folders
from tests.small_run import small_config, small_mapping, write_preset
from tests.torchrun import run, torchrun_command

QUICK = ["--steps=1", "--rounds=2", "--warm-up=1", "--train.batch-size=2"]
SIX = [f"{phase}, {kind} images" for phase in Phase for kind in ("synthetic", "real")]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pack_small_set(tmp_path_factory.mktemp("set"))


@pytest.fixture
def preset(shards: str, tmp_path: Path) -> Path:
    return write_preset(tmp_path / "small.yaml", small_mapping(shards, tmp_path / "run"))


@pytest.fixture(autouse=True)
def _peak_as_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "benchmarks.training.measured_steps.measured_peak", lambda *_: Peak(2.0, 1.0, 1.0)
    )


def measured(output: Path, *arguments: str) -> Result:
    assert training.main([*arguments, f"--output={output}"]) == 0
    return read_result(output)


def names(result: Result, group: str) -> list[str]:
    return [figure.name for figure in result.figures if figure.group == group]


def figure(result: Result, group: str, name: str) -> Measurement:
    (found,) = (one for one in result.figures if (one.group, one.name) == (group, name))
    return found


def test_every_phase_is_measured_on_both_kinds_of_images_and_looked_into(
    preset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "results" / "training.json"
    result = measured(output, f"--config={preset}", *QUICK)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == json.loads(output.read_text())
    assert names(result, "a step") == SIX
    assert all(len(one.runs) == 2 for one in result.figures)
    assert all(one.minimum > 0 for one in result.figures if one.unit not in ("share", "ratio"))
    for phase in Phase:
        group = f"where a step's time goes: {phase}"
        waiting, _, *parts, overhead = (one for one in result.figures if one.group == group)
        assert 0 <= waiting.minimum <= waiting.maximum < 1
        assert [sum(runs) for runs in zip(*(part.runs for part in parts), strict=True)] == [
            pytest.approx(1),
            pytest.approx(1),
        ]
        assert overhead.unit == "ratio"


def test_operations_a_second_are_held_against_both_peaks_in_the_same_round(
    preset: Path, tmp_path: Path
) -> None:
    result = measured(tmp_path / "result.json", f"--config={preset}", *QUICK, "--data=synthetic")
    name = "joint, synthetic images"
    rate = figure(result, "operations", name)
    assert figure(result, "share of the measured peak of matrix products", name).runs == [
        pytest.approx(one / 2) for one in rate.runs
    ]
    assert figure(result, "share of the measured peak of a convolution", name).runs == rate.runs
    assert result.parameters["source"] == "random images"


def test_a_peak_may_be_given_and_what_is_not_counted_is_said(preset: Path, tmp_path: Path) -> None:
    options = [f"--config={preset}", *QUICK, "--data=synthetic", "--no-parts"]
    given = measured(tmp_path / "given.json", *options, "--peak-tflops=4")
    rate = figure(given, "operations", "joint, synthetic images")
    share = figure(given, "share of the peak that was given", "joint, synthetic images")
    assert share.runs == [pytest.approx(one / 4) for one in rate.runs]
    with_r1 = measured(tmp_path / "r1.json", *options, "--loss.r1-weight=1")
    assert not names(with_r1, "operations")
    assert "r1_weight" in with_r1.parameters["operations"]


def test_hours_of_the_schedule_are_told_of_its_own_steps_alone(
    preset: Path, tmp_path: Path
) -> None:
    options = [f"--config={preset}", *QUICK, "--data=synthetic", "--no-parts"]
    own = measured(tmp_path / "own.json", *options)
    (group,) = {one.group for one in own.figures if one.unit == "hours"}
    assert "extrapolated from 2 steps on synthetic images" in group
    assert "batches of 2 were measured, small has 12" in group
    assert names(own, group)[-1] == "all phases, 12 steps"
    other = measured(tmp_path / "other.json", *options, "--completion.width=16")
    assert not [one for one in other.figures if one.unit == "hours"]
    assert "completion.width is 16, not 8" in other.parameters["hours of the schedule"]


def test_variants_are_measured_in_the_same_rounds_in_processes_of_their_own(
    preset: Path, tmp_path: Path
) -> None:
    options = [f"--config={preset}", *QUICK, "--data=synthetic", "--no-parts", "--peak-tflops=1"]
    result = measured(tmp_path / "result.json", *options, "--compare=plain")
    for phase in Phase:
        group = f"compared: {phase}, synthetic images"
        configured, plain, ratio = (one for one in result.figures if one.group == group)
        assert (configured.name, ratio.unit) == (AS_CONFIGURED, "ratio")
        assert ratio.runs == [a / b for a, b in zip(plain.runs, configured.runs, strict=True)]
    assert result.parameters["variants"] == "in a process each"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_recorded_steps_are_measured_and_unrecorded_ones_looked_into(
    preset: Path, tmp_path: Path
) -> None:
    options = [*QUICK, "--train.cuda-graphs=true", "--train.precision=bf16"]
    result = measured(tmp_path / "result.json", f"--config={preset}", *options)
    assert names(result, "a step") == SIX
    assert figure(result, "where a step's time goes: joint", "optimizer").minimum > 0
    assert figure(result, "peak memory of a worker", "as configured, joint").minimum > 0


def test_a_variant_whose_process_is_killed_ends_the_benchmark_with_a_reason(
    tmp_path: Path,
) -> None:
    steps = StepsInOwnProcess(small_config("unread", tmp_path), ("synthetic",))
    with closing(steps), pytest.raises(RuntimeError, match="when memory runs out"):
        steps._call(os._exit, 9)


def test_seconds_of_a_step_are_given_by_round_for_other_benchmarks(tmp_path: Path) -> None:
    config = small_config("unread", tmp_path, train={"batch_size": 2})
    seconds = training.measure(config, Worker(), steps=1, rounds=2)
    assert list(seconds) == list(Phase)
    assert all(len(runs) == 2 and min(runs) > 0 for runs in seconds.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps=0"], "--steps is 0: at least 1"),
        (["--rounds=0"], "--rounds is 0: at least 1"),
        (["--data=real", "--data.shards=nowhere/set"], "nowhere/set holds no packed set"),
        (["--compare=train.compiled=true"], "did you mean train.compile?"),
        (["--compare=fast"], "fast is not section.field=value, nor the word plain"),
        (["--compare=train.ema_decay=0.9"], "this is the configuration as it is"),
        (["--compare=pack.crop_size=16 discriminator.local_size=16"], "of another size"),
        (["--hours-of=places2"], "pack.crop_size is 32, not 256"),
        (["--data.short-side-max=64"], "stores images with a short side of at most 48"),
        (["--train.batch-size=1000"], "1000"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line(
    options: list[str], message: str, preset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert training.main([f"--config={preset}", *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("benchmarks.training: ")


def test_workers_that_cannot_share_the_batch_are_refused(
    monkeypatch: pytest.MonkeyPatch, preset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "5")
    assert training.main([f"--config={preset}"]) == 1
    assert "cannot be shared equally by 5 workers" in capsys.readouterr().err


def test_a_set_that_is_not_here_is_not_looked_for_unless_asked(
    preset: Path, tmp_path: Path
) -> None:
    options = [*QUICK, "--no-parts", "--peak-tflops=1", "--data.shards=s3://nowhere/set"]
    result = measured(tmp_path / "result.json", f"--config={preset}", *options)
    assert result.parameters["source"] == "random images"
    assert "nowhere" not in (tmp_path / "result.json").read_text()


def test_the_photographs_that_ship_stand_in_for_a_set(
    preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.training.data.write_shipped_parts", write_class_folders)
    options = [*QUICK, "--no-parts", "--peak-tflops=1", "--data=real", "--shipped"]
    result = measured(tmp_path / "result.json", f"--config={preset}", *options)
    assert names(result, "a step") == SIX[1::2]
    assert result.parameters["source"] == SHIPPED_LABEL


@pytest.mark.dist
@pytest.mark.slow
def test_two_workers_read_a_set_and_tell_what_the_exchange_of_gradients_costs(
    preset: Path, tmp_path: Path
) -> None:
    output = tmp_path / "result.json"
    options = [f"--config={preset}", *QUICK, "--compare=train.micro_batch_size=1"]
    options += [f"--output={output}", "--peak-tflops=1"]
    command = torchrun_command(2, "-m", "benchmarks.training", *options)
    assert run(command, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    result = read_result(output)
    assert names(result, "a step") == SIX
    assert result.parameters["workers"] == 2
    assert result.parameters["variants"] == "in the same processes"
    for phase in Phase:
        all_reduce = "exchange of gradients that nothing hides, of a step"
        assert all_reduce in names(result, f"where a step's time goes: {phase}")
