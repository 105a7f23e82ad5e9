"""Nodes that are lost and come back, over two network namespaces, else over the loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from launch import train
from pipeline.checkpoints.format import committed_steps
from tests.chaos.hosts import Loopback, Namespaces, free_port, open_hosts
from tests.chaos.job import Job, running
from tests.chaos.proof import sample_faults, worlds_of_steps
from tests.shards.pictures import pack_small_set
from tests.small_run import small_config, small_mapping, write_preset
from tests.torchrun import ROOT

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.dist
def test_training_goes_on_without_a_node_that_vanishes_and_with_one_that_takes_its_place(
    tmp_path: Path,
) -> None:
    shards = pack_small_set(tmp_path, images=36, images_per_shard=7)
    changes = {
        "schedule": {"completion": 4, "discriminator": 4, "joint": 100_000},
        "checkpoint": {"every_steps": 4, "keep": 3},
        "log": {"every_steps": 1, "record_samples": True},
        "train": {"timeout_s": 8},
    }
    folder = tmp_path / "run"
    preset = write_preset(tmp_path / "preset.yaml", small_mapping(shards, folder, **changes))
    with open_hosts("auto") as hosts, running(Job(hosts, "1:2", preset, tmp_path)) as job:
        job.wait_for_step(10)
        vanished = time.monotonic()
        if isinstance(hosts, Namespaces):
            hosts.cut()
        else:
            warnings.warn("no network namespaces here: node b is killed instead", stacklevel=1)
            job.kill_node("b")
        job.wait_for(lambda: job.first_step_after(vanished) is not None, restarting=False)
        # What was cut off ends without ever having heard of it, and another takes its place: the
        # rendezvous of torch 2.13 gives up the whole job here without the launcher's setting.
        job.kill_node("b")
        if isinstance(hosts, Namespaces):
            hosts.mend()
        job.wait_for(lambda: job.has_ended("b"), restarting=False)
        came = time.monotonic()
        job.start("b")
        again = job.wait_for_recovery(came)
        job.wait_for_step(again.step + 10)
        assert job.starts == {"a": 1, "b": 2}, "no other agent had to be started again"
        job.kill_all()
        assert job.processes() == []
    assert hosts.leftovers() == []
    last = committed_steps(str(folder / "checkpoints"))[-1]
    worlds = list(worlds_of_steps(folder).values())[:last]
    assert [w for w, before in zip(worlds, [0, *worlds], strict=False) if w != before] == [2, 1, 2]
    assert sample_faults(small_config(shards, folder, **changes), folder, last) == []


STANDS_BY = """
from pipeline.engines.wait_for_nodes import wait_for_nodes
print("waits", flush=True)
wait_for_nodes(timeout_s=60)
"""


@pytest.mark.dist
def test_workers_that_wait_for_a_further_node_notice_the_loss_of_one() -> None:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    lost, left = (
        subprocess.Popen(
            [sys.executable, "-c", STANDS_BY], cwd=ROOT, text=True,
            env={**os.environ, **place, "RANK": rank, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in ("0", "1")
    )  # fmt: skip
    with lost, left:
        try:
            for worker in (lost, left):
                assert worker.stdout is not None
                worker.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                left.wait(3)  # both are there: they wait
            lost.send_signal(signal.SIGKILL)
            _, told = left.communicate(timeout=60)
        finally:
            lost.kill()
            left.kill()
    assert "RuntimeError: a worker was lost while the job waited for further nodes" in told


def test_a_number_of_workers_that_cannot_share_the_batch_waits_in_an_elastic_job_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Waiting(Exception):
        pass

    def wait_for_nodes(timeout_s: int) -> None:
        raise Waiting

    monkeypatch.setattr("pipeline.engines.wait_for_nodes.wait_for_nodes", wait_for_nodes)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "5")
    arguments = ["--data.shards", str(pack_small_set(tmp_path)), "--train.batch-size", "6"]
    with pytest.raises(ValueError, match="cannot be shared equally by 5 workers; start 1, 2, 3, 6"):
        train.main(arguments)
    monkeypatch.setenv("GLCIC_NODES", "1:5")
    with pytest.raises(Waiting):
        train.main(arguments)
    assert "start 1, 2, 3, 6 of them" in capsys.readouterr().out


def test_the_loopback_stands_in_where_there_are_no_namespaces() -> None:
    with open_hosts("loopback") as hosts:
        assert isinstance(hosts, Loopback)
        assert not hosts.can_cut
