import dataclasses
import json
from argparse import ArgumentParser

import pytest

from benchmarks.harness.result import Measurement, Result, write_result
from benchmarks.scaling import projection
from benchmarks.scaling.gpu_step_time import (
    GpuComputeTime,
    assumed_compute_time,
    measured_compute_time,
)
from benchmarks.scaling.gradient_messages import work_of_phases
from benchmarks.scaling.links import Link, LinkModel
from benchmarks.scaling.loading_demand import Loading, demand, read_loading
from benchmarks.scaling.model import ComputeTime
from benchmarks.scaling.projection import (
    ETHERNET,
    FABRICS,
    GPUS,
    INFINIBAND,
    INFINIBAND_SHARED,
    WHOLE_SCHEDULE,
    images_for_target,
    project_strong,
    project_weak,
    strong_sizes,
)
from launch.support.arguments import parse_with_config
from pipeline.config.schedule import Phase

CONFIG = parse_with_config(ArgumentParser(), ["--config=places2"])[1]
WORK = work_of_phases(CONFIG)
COMPUTING = GpuComputeTime({phase: ComputeTime(1e-3, 5e-4) for phase in Phase}, False, "made up")


@pytest.fixture(scope="module")
def weak():
    return project_weak(CONFIG, WORK, COMPUTING, [12, 96])


def efficiencies(rows, **wanted):
    return [
        row.efficiency
        for row in rows
        if all(getattr(row, name) == value for name, value in wanted.items())
    ]


def test_one_gpu_is_the_measure_and_more_of_them_are_never_more_efficient(weak):
    for fabric in FABRICS:
        found = efficiencies(weak, fabric=fabric, gradients="fp32", images=12, phase=WHOLE_SCHEDULE)
        assert len(found) == len(GPUS)
        assert found[0] == 1
        assert found == sorted(found, reverse=True)


def test_a_faster_network_smaller_gradients_and_more_images_are_never_less_efficient(weak):
    for gpus in GPUS[4:]:
        for phase in (*(phase.value for phase in Phase), WHOLE_SCHEDULE):
            here = {"gpus": gpus, "phase": phase}
            by_fabric = [
                efficiencies(weak, fabric=name, gradients="fp32", images=12, **here)[0]
                for name in (ETHERNET, INFINIBAND_SHARED, INFINIBAND)
            ]
            assert by_fabric == sorted(by_fabric)
            fp32, bf16 = (
                efficiencies(weak, fabric=ETHERNET, gradients=gradients, images=12, **here)[0]
                for gradients in ("fp32", "bf16")
            )
            assert fp32 < bf16
            more = efficiencies(weak, fabric=ETHERNET, gradients="fp32", images=96, **here)[0]
            assert fp32 < more


def test_efficiency_grows_with_the_bandwidth_alone(monkeypatch):
    found = []
    for bandwidth in (1e9, 1e10, 1e11):
        fabric = LinkModel(Link(1e-6, 1e11), Link(1e-5, bandwidth))
        monkeypatch.setattr(projection, "FABRICS", {INFINIBAND: fabric})
        rows = project_weak(CONFIG, WORK, COMPUTING, [12])
        found += efficiencies(rows, gradients="fp32", gpus=64, phase=WHOLE_SCHEDULE)
    assert found == sorted(set(found))


def test_hiding_nothing_is_never_better(weak):
    assert all(row.efficiency_unhidden <= row.efficiency for row in weak)


def test_the_batch_is_shared_on_full_nodes_only():
    assert strong_sizes(96) == [1, 2, 3, 4, 6, 8, 16, 24, 32, 48, 96]
    rows = project_strong(CONFIG, WORK, COMPUTING)
    assert {row.images * row.gpus for row in rows} == {96}
    assert set(efficiencies(rows, gpus=1)) == {1.0}


def test_the_images_that_reach_the_target_are_the_fewest(weak):
    needed = images_for_target(CONFIG, WORK, COMPUTING, INFINIBAND, "fp32", overlap=1.0)
    rows = project_weak(CONFIG, WORK, COMPUTING, [needed - 1, needed])
    here = {"fabric": INFINIBAND, "gradients": "fp32", "gpus": 64, "phase": WHOLE_SCHEDULE}
    assert efficiencies(rows, images=needed - 1, **here)[0] < 0.9
    assert efficiencies(rows, images=needed, **here)[0] >= 0.9
    slow = dataclasses.replace(
        COMPUTING, by_phase={phase: ComputeTime(0.0, 1e-7) for phase in Phase}
    )
    assert images_for_target(CONFIG, WORK, slow, ETHERNET, "fp32", overlap=0.0) is None


def test_what_is_assumed_says_so():
    compute_time = assumed_compute_time(CONFIG, WORK)
    assert not compute_time.is_measured
    assert compute_time.description.startswith("assumed, not measured")
    times = [compute_time.by_phase[phase].seconds(96) for phase in Phase]
    assert times[1] < times[0] < times[2]  # by their operations


def gpu_result(path, workers=1, device="NVIDIA H100", phases=tuple(Phase)):
    figures = [
        Measurement.of_runs("a step", f"{phase}, synthetic images", "s", [0.2]) for phase in phases
    ]
    parameters = {"device": device, "workers": workers, "batch size": 96}
    write_result(path, Result("training", "command", parameters, figures))
    return path


def test_a_measured_gpu_takes_the_place_of_what_is_assumed(tmp_path):
    compute_time = measured_compute_time(gpu_result(tmp_path / "gpu.json"))
    assert compute_time.is_measured
    assert compute_time.by_phase[Phase.JOINT].seconds(96) == pytest.approx(0.2)
    assert "measured on one NVIDIA H100" in compute_time.description


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"device": "CPU"}, "1 workers on CPU; give one of a single GPU"),
        ({"workers": 8}, "of 8 workers"),
        ({"phases": (Phase.JOINT,)}, "no step of every phase"),
    ],
)
def test_a_result_of_no_single_gpu_is_refused(changed, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        measured_compute_time(gpu_result(tmp_path / "gpu.json", **changed))


def test_demand_follows_the_loader_that_was_measured(tmp_path):
    figures = [Measurement.of_runs("random scale", "ShardReader, 1 thread", "images/s", [1000.0])]
    parameters = {
        "source": "photographs", "images packed": {"train": 3, "val": 1},
        "bytes of all shards": 800,
    }  # fmt: skip
    path = tmp_path / "loader.json"
    write_result(path, Result("loader", "command", parameters, figures))
    loading = read_loading(path)
    assert isinstance(loading, Loading)
    rows = demand(CONFIG, WORK, COMPUTING, loading, images=96)
    for row in rows:
        assert row.cores == pytest.approx(row.images_per_s / 1000)
        assert row.megabytes_per_s == pytest.approx(row.images_per_s * 200 / 1e6)
    write_result(path, Result("loader", "command", parameters | {"workers": 4}, figures))
    of_four = read_loading(path)
    assert of_four is not None
    assert of_four.images_per_core_s == 250
    assert read_loading(tmp_path / "none.json") is None
    path.write_text(json.dumps({"schema_version": 1}))
    with pytest.raises(ValueError, match="not a benchmark result"):
        read_loading(path)
