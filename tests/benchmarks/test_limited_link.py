import math
import os
import shutil
from argparse import Namespace
from dataclasses import replace

import pytest

from benchmarks import limited_link
from benchmarks.limited_link import bounds, limited, step_error
from benchmarks.scaling.links import Link, LinkModel, Topology
from benchmarks.scaling.model import StepTime
from benchmarks.scaling.model_check import check_model
from pipeline.config.schedule import Phase
from tests.benchmarks.cluster.test_command import read_measured, write_launch
from tests.benchmarks.scaling.test_model import REAL


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launches")
    return check_model([read_measured(write_launch(folder, workers)) for workers in (1, 2)]).model


def test_a_limited_link_is_never_faster_than_the_machine_or_than_its_rate():
    machine = LinkModel(Link(1e-4, 1e9))
    assert limited(machine, 100).inside.bytes_per_s == pytest.approx(12.5e6 * 1448 / 1514)
    assert limited(machine, 100_000).inside.bytes_per_s == 1e9
    assert limited(machine, 100).inside.latency_s == 1e-4


def test_a_step_between_the_bounds_is_no_error_and_outside_it_is_counted_from_the_nearer():
    slow = replace(REAL, link_model=limited(REAL.link_model, 100))
    place = Topology(2, 2), Phase.JOINT, 4, True
    hidden_s, none_s = bounds(slow, StepTime(*place, math.nan))
    assert hidden_s < none_s
    assert step_error(slow, StepTime(*place, (hidden_s + none_s) / 2)) == 0
    assert step_error(slow, StepTime(*place, hidden_s / 2)) == pytest.approx(100)
    assert step_error(slow, StepTime(*place, none_s * 2)) == pytest.approx(50)


def test_a_comparison_has_an_error_for_each_rate_and_the_bounds_of_every_step(model, tmp_path):
    measured = read_measured(write_launch(tmp_path, 2))
    options = Namespace(steps=1, rounds=1)
    result = limited_link.compare(model, {10**6: measured}, "command", options)
    errors = {f.name: f for f in result.figures if f.unit == "%"}
    assert errors["steps over 1000000 Mb/s"].maximum < 0.1
    assert errors["all-reduces over 1000000 Mb/s"].maximum < 0.1
    exchanged = [step for step in measured.steps if step.averages_gradients]
    assert sum(f.name.endswith(": measured") for f in result.figures) == len(exchanged)


@pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("tc") is not None, reason="namespaces can be had"
)
def test_without_namespaces_it_says_what_is_needed(tmp_path, capsys):
    results = [str(write_launch(tmp_path, workers)) for workers in (1, 2)]
    assert limited_link.main(["--results", *results]) == 1
    assert capsys.readouterr().err.startswith("benchmarks.limited_link: ")
