from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.harness.launched_workers import ALONE, Workers
from tests.torchrun import run, torchrun_command


def test_a_worker_alone_says_nothing_of_workers() -> None:
    assert ALONE.parameters() == {}
    assert ALONE.table("rates", "images/s", [[1.0], [2.0]]) == []
    assert ALONE.each(lambda: 3) == [3]


def test_a_slow_worker_stands_out_against_the_median_of_its_rounds() -> None:
    workers = Workers(world_size=3, local_world_size=2)
    (table,) = workers.table("rates", "images/s", [[10.0, 10.0, 5.0], [2000.0, 2200.0, 1000.0]])
    assert table.columns[2] == "images/s"
    assert [row[1] for row in table.rows] == ["0", "0", "1"]
    assert table.rows[2] == ["2", "1", "502", "0.500", "0.500", "0.500"]
    assert table.rows[1] == ["1", "0", "1,105", "1.050", "1.000", "1.100"]


def test_the_cores_of_a_node_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.harness.launched_workers.available_cores", lambda: 6)
    assert Workers(world_size=8, local_world_size=4).cores == 1
    assert Workers(world_size=2, local_world_size=2).cores == 3


@pytest.mark.dist
def test_a_failure_of_one_worker_ends_the_wait_of_all(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = torchrun_command(
        2, "--module", "tests.benchmarks.harness.launched_job", str(tmp_path)
    )
    assert run(command, log, timeout_s=60) == 0, log.read_text()
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["ranks"] == second["ranks"] == [0, 1]
    assert first["failure"] == "ReportedElsewhere: worker 1 has failed"
    assert second["failure"] == "ZeroDivisionError: division by zero"
    assert (second["once a node"], second["on main"]) == (0, 0)
    assert second["of the launch"] == [], "what it starts must not take itself for a worker"
