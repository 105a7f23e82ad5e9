import dataclasses
import json

import pytest

from benchmarks.cluster import __main__ as cluster
from benchmarks.cluster.__main__ import images_of_workers
from benchmarks.harness.result import Measurement, Result, read_result, write_result
from benchmarks.harness.tables import render_markdown
from benchmarks.scaling.gpu_step_time import measured_compute_time
from benchmarks.scaling.gradient_messages import work_of_phases
from benchmarks.scaling.links import Link, LinkModel, Topology
from benchmarks.scaling.model import ComputeTime, ScalingModel
from benchmarks.scaling.model_check import check_model, error_figures
from benchmarks.scaling.result import changed_fields, read_measured, result_of_launch
from benchmarks.training.step_times import Case
from launch.support.arguments import parse_with_config
from pipeline.config.loading import config_mapping
from pipeline.config.schedule import Phase
from pipeline.engines.ddp import Worker
from tests.torchrun import run, torchrun_command

IMAGES = (2, 4, 8)
SIZES = (1024, 1 << 16, 1 << 20, 1 << 24)

SMALL = [
    "--pack.crop-size=32", "--pack.short-side=48", "--pack.masks.side-min=8",
    "--pack.masks.side-max=16", "--data.short-side-min=32", "--data.short-side-max=48",
    "--completion.width=8", "--discriminator.width=4", "--discriminator.local-size=16",
    "--discriminator.num-features=8", "--train.precision=fp32", "--train.threads=1",
]  # fmt: skip


def config_of(*arguments):
    return parse_with_config(cluster.cluster_parser(), [*SMALL, *arguments])[1]


def write_launch(folder, workers, *arguments, slower=1.0):
    """A result as a launch writes it, of a machine that does exactly what the model says."""
    config = config_of("--train.batch-size=8", *arguments)
    model = ScalingModel(
        work_of_phases(config),
        {phase: ComputeTime(0.002, 0.001) for phase in Phase},
        LinkModel(Link(1e-4, 1e9)),
    )
    topology = Topology(workers, 8)
    images = images_of_workers(config, workers, IMAGES)
    steps = {
        Case(phase, n, on): [
            slower * model.step_s(phase, n, topology, averages_gradients=on) * noise
            for noise in (0.99, 1.0, 1.02)
        ]
        for n in images
        for phase in Phase
        for on in ((True,) if workers == 1 else (True, False))
    }
    messages = {n: [model.link_model.all_reduce_s(n, topology)] * 3 for n in SIZES if workers > 1}
    worker = Worker(world_size=workers, local_world_size=workers)
    parameters = {"load average at the start": 0.5}
    path = folder / f"workers-{workers}.json"
    result = result_of_launch(config, worker, steps, messages, "command", parameters)
    write_result(path, result)
    return path


def join(capsys, output, *paths):
    options = ["--join", *map(str, paths), f"--output={output}", "--project=quickstart"]
    status = cluster.main(options)
    return status, capsys.readouterr().err


def figure(result, group, name):
    return next(f for f in result.figures if f.group.startswith(group) and f.name == name)


def test_several_world_sizes_become_one_result_with_a_page_and_plots(tmp_path, capsys):
    paths = [write_launch(tmp_path, workers) for workers in (4, 1, 2)]
    output = tmp_path / "joined" / "cluster.json"
    assert join(capsys, output, *paths)[0] == 0
    result = read_result(output)
    alone = read_measured(paths[1])
    two = read_measured(paths[2])

    def seconds(one, images):
        return next(
            s.seconds
            for s in one.steps
            if (s.phase, s.images, s.averages_gradients) == (Phase.JOINT, images, True)
        )

    weak = figure(result, "weak scaling, 8 images", "joint, 2 workers")
    assert weak.median == pytest.approx(seconds(alone, 8) / seconds(two, 8))
    strong = figure(result, "strong scaling, 8 images in all", "joint, 2 workers")
    assert strong.median == pytest.approx(seconds(alone, 8) / seconds(two, 4) / 2)
    assert figure(result, "strong scaling", "joint, 4 workers").median < strong.median
    bus = figure(result, "all-reduce: bus", f"{1 << 24:,} bytes, 4 workers")
    algorithm = figure(result, "all-reduce: algorithm", f"{1 << 24:,} bytes, 4 workers")
    assert bus.median == pytest.approx(1.5 * algorithm.median)
    for name in ("efficiency", "all-reduce", "model", "projection"):
        picture = (tmp_path / "joined" / "cluster" / f"{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
    assert json.loads((tmp_path / "joined" / "cluster" / "projection.json").read_text())
    page = (tmp_path / "joined" / "cluster.md").read_text()
    assert "assumed, not measured" in page
    assert "### weak scaling" in render_markdown([result])
    status, error = join(capsys, tmp_path / "again.json", output)
    assert (status, "not of one launch" in error) == (1, True)


def test_a_machine_that_follows_the_model_leaves_it_no_error_where_it_was_not_fitted(tmp_path):
    def errors():
        measured = [read_measured(tmp_path / f"workers-{workers}.json") for workers in (1, 2, 4)]
        return {f.name: f for f in error_figures(check_model(measured))}

    for workers in (1, 2, 4):
        write_launch(tmp_path, workers)
    assert errors().keys() >= {
        "steps of 1 worker",
        "steps of 2 workers",
        "all-reduces of 2 workers",
    }
    assert max(error.maximum for error in errors().values()) < 1e-3
    write_launch(tmp_path, 2, slower=1.5)  # two do not take what one and four make expect
    assert errors()["steps of 2 workers"].median == pytest.approx(100 / 3, abs=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train.precision=bf16"], "train.precision is fp32 in one and bf16 in the other"),
        (["--completion.width=16"], "completion.width is 8 in one and 16 in the other"),
    ],
)
def test_results_of_other_configurations_are_not_joined(arguments, message, tmp_path, capsys):
    paths = [write_launch(tmp_path, 1), write_launch(tmp_path, 2, *arguments)]
    status, error = join(capsys, tmp_path / "cluster.json", *paths)
    assert status == 1
    assert message in error
    assert len(error.splitlines()) == 1


def test_results_of_other_hardware_are_not_joined(tmp_path, capsys):
    paths = [write_launch(tmp_path, 1), write_launch(tmp_path, 2)]
    other = read_result(paths[1])
    hardware = dataclasses.replace(other.hardware, cpu="another processor")
    write_result(paths[1], dataclasses.replace(other, hardware=hardware))
    status, error = join(capsys, tmp_path / "cluster.json", *paths)
    assert status == 1
    assert "the processor is" in error
    assert "another processor" in error


def test_a_join_needs_one_worker_and_each_world_size_once(tmp_path, capsys):
    path = write_launch(tmp_path, 2)
    output = tmp_path / "cluster.json"
    status, error = join(capsys, output, path)
    assert (status, "no result is of 1 worker, only of 2" in error) == (1, True)
    status, error = join(capsys, output, write_launch(tmp_path, 1), path, path)
    assert (status, "two results are of 2 workers" in error) == (1, True)
    assert not output.exists()


def test_what_is_no_result_of_a_launch_is_named(tmp_path, capsys):
    broken, other = tmp_path / "broken.json", tmp_path / "loader.json"
    broken.write_text("{")
    write_result(
        other, Result("loader", "command", {}, [Measurement.of_runs("a", "b", "s", [1.0])])
    )
    for path, message in (
        (broken, "broken.json is not a benchmark result"),
        (other, "loader.json is a result of benchmarks.loader"),
        (tmp_path / "none.json", "none.json: there is no such file"),
    ):
        status, error = join(capsys, tmp_path / "cluster.json", path)
        assert status == 1
        assert message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds=0"], "--steps and --rounds: at least 1"),
        (["--workers", "2"], "name 1 as well"),
        (["--workers", "1", "5", "--train.batch-size=12"], "which 5 workers cannot share equally"),
        (["--workers", "1", "--join", "x.json"], "give one of them"),
        (["--images", "0"], "--images: at least 1"),
        (["--largest-message=8"], "--largest-message: at least 1024 bytes"),
        (["--parallel.engine=accelerate"], "set --parallel.engine ddp"),
        (["--train.micro-batch-size=1"], "set --train.micro-batch-size 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, message, capsys):
    assert cluster.main([*SMALL, *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_share_of_the_batch_is_measured_where_there_is_one():
    config = config_of("--train.batch-size=24")
    assert images_of_workers(config, 1, None) == [3, 6, 12, 24]
    assert images_of_workers(config, 3, [6]) == [6, 8]
    assert images_of_workers(config, 5, [6]) == [6]


def test_the_configuration_in_a_result_gives_the_same_steps_again_and_no_path():
    config = config_of("--data.shards=/home/somebody/shards", "--train.freeze=[completion.*]")
    fields = changed_fields(config)
    assert not any("somebody" in field for field in fields)
    again = parse_with_config(cluster.cluster_parser(), [f"--{field}" for field in fields])[1]
    ours, theirs = config_mapping(config), config_mapping(again)
    for section in ("completion", "discriminator", "loss", "pack", "schedule", "parallel"):
        assert theirs[section] == ours[section]
    assert again.train.freeze == ("completion.*",)


def test_a_launch_on_one_gpu_says_how_long_a_gpu_computes(tmp_path):
    path = write_launch(tmp_path, 1)
    result = read_result(path)
    parameters = {**result.parameters, "device": "NVIDIA H100"}
    write_result(path, dataclasses.replace(result, parameters=parameters))
    compute_time = measured_compute_time(path)
    assert "measured on one NVIDIA H100, 2, 4, 8 images" in compute_time.description
    for phase in Phase:
        assert compute_time.by_phase[phase].seconds(96) == pytest.approx(0.002 + 0.096)


@pytest.mark.dist
def test_two_workers_of_a_real_launch_measure_steps_and_messages(tmp_path):
    output, log = tmp_path / "workers-2.json", tmp_path / "log"
    command = torchrun_command(
        2, "--module", "benchmarks.cluster", *SMALL, "--train.batch-size=4", "--images=2",
        "--steps=1", "--rounds=1", "--largest-message=4096", f"--output={output}",
    )  # fmt: skip
    assert run(command, log) == 0, log.read_text()
    measured = read_measured(output)
    assert measured.topology == Topology(2, 2)
    assert {(step.images, step.averages_gradients) for step in measured.steps} == {
        (2, True),
        (2, False),
    }
    assert [message.num_bytes for message in measured.messages] == [1024, 4096]
    assert all(one.seconds > 0 for one in (*measured.steps, *measured.messages))


@pytest.mark.dist
def test_the_laptop_command_measures_joins_and_draws(tmp_path):
    output = tmp_path / "cluster.json"
    arguments = [
        "--workers", "1", "2", *SMALL,
        "--train.batch-size=4", "--images", "2", "3", "4", "--steps=1", "--rounds=1",
        "--largest-message=65536", "--project=quickstart", f"--output={output}",
    ]  # fmt: skip
    assert cluster.main(arguments) == 0
    result = read_result(output)
    assert result.parameters["workers"] == [1, 2]
    assert str(tmp_path) not in output.read_text() + output.with_suffix(".md").read_text()
    assert any(f.group.startswith("the model's error") for f in result.figures)
    assert (tmp_path / "cluster" / "projection.png").is_file()
