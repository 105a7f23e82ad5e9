from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from launch import elastic
from launch.support.agent import is_elastic, stop_agent_after
from launch.support.node_address import (
    address_towards,
    interface_of,
    is_of_this_machine,
    is_port_busy,
)

ROOT = Path(__file__).parents[2]
SMALL = ["--config", "quickstart", "--train.batch-size", "8"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list:
    """What would be executed: command and environment."""
    calls: list = []
    monkeypatch.setattr("os.execvpe", lambda *call: calls.append(call))
    return calls


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_printed_line_is_the_torchrun_command_that_takes_this_process_s_place(
    started: list, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"127.0.0.1:{port}"
    arguments = ["--nodes", "1:4", "--workers-per-node", "2", "--rendezvous", where]
    elastic.main([*arguments, "--", *SMALL, "--name", "mine"])
    ((program, command, environment),) = started
    assert program == sys.executable
    printed = capsys.readouterr().out.splitlines()[-1]
    for word in command:
        assert word in printed
    for setting in ("--nnodes=1:4", "--nproc-per-node=2", f"--rdzv-endpoint={where}"):
        assert setting in command
    assert "--rdzv-id=mine" in command
    assert command[-6:] == [*SMALL, "--name", "mine"]
    assert "is_host=true" in next(word for word in command if word.startswith("--rdzv-conf"))
    assert "--local-addr=127.0.0.1" in command
    assert environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    assert environment["GLOO_SOCKET_IFNAME"] == "lo"
    assert environment["GLCIC_AGENT"] == str(os.getpid()), "torchrun gets this process's number"


def test_settings_of_the_environment_stay(
    started: list, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "=ib0")
    elastic.main(["--nodes", "2", "--rendezvous", f"127.0.0.1:{port}", "--", *SMALL])
    assert started[0][2]["NCCL_SOCKET_IFNAME"] == "=ib0"


def test_a_node_that_is_not_the_host_waits_for_it_and_joins(started: list) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"127.0.0.1:{server.getsockname()[1]}"
        elastic.main(["--nodes", "1:2", "--no-host", "--rendezvous", where, "--", *SMALL])
    assert any("is_host=false" in word for word in started[0][1])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--nodes", "3:1"], "--nodes is '3:1': give MIN:MAX"),
        (["--nodes", "two"], "--nodes is 'two'"),
        (["--rendezvous", "somewhere"], "--rendezvous is 'somewhere': give HOST:PORT"),
        (["--rendezvous", "127.0.0.1:0"], "a port of 1 to 65535"),
        (["--node-address", "192.0.2.1"], "192.0.2.1, which is not an address of this machine"),
        (["--nodes", "3"], "no number of nodes from 3 to 3"),
    ],
)
def test_what_cannot_work_is_told_before_torchrun_starts(
    arguments: list[str], told: str, port: int, started: list
) -> None:
    usual = ["--nodes", "1:2", "--rendezvous", f"127.0.0.1:{port}"]
    with pytest.raises(ValueError, match=r".") as raised:
        elastic.main([*usual, *arguments, "--", *SMALL])
    assert told in str(raised.value)
    assert not started


def test_a_fault_of_the_configuration_is_told_before_torchrun_starts(started: list) -> None:
    with pytest.raises(ValueError, match=r"train.batch_size is -1"):
        elastic.main(
            ["--nodes", "1", "--rendezvous", "127.0.0.1:1", "--", "--train.batch-size", "-1"]
        )
    assert not started


def test_a_port_that_is_in_use_is_told_with_what_may_hold_it(started: list) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(RuntimeError, match=r"is in use: by another job .* --no-host"):
            elastic.main(["--nodes", "1:2", "--rendezvous", where, "--", *SMALL])
    assert not started


def test_a_host_that_never_answers_is_told_after_the_join_timeout(started: list, port: int) -> None:
    where = ["--rendezvous", f"127.0.0.1:{port}", "--no-host", "--join-timeout", "1"]
    with pytest.raises(RuntimeError, match="nothing listens at the rendezvous"):
        elastic.main(["--nodes", "1:2", *where, "--", *SMALL])
    assert not started


def test_numbers_of_nodes_that_will_have_to_wait_are_named(
    started: list, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    elastic.main(["--nodes", "1:4", "--rendezvous", f"127.0.0.1:{port}", "--", *SMALL])
    assert "with 3 nodes (3 workers) the job will wait" in capsys.readouterr().out
    assert started


def test_an_address_of_this_machine_is_known_as_such_and_has_an_interface(port: int) -> None:
    assert is_of_this_machine("127.0.0.1")
    assert not is_of_this_machine("192.0.2.1")  # reserved for documentation
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") == ""
    assert address_towards("127.0.0.1") == "127.0.0.1"
    assert not is_port_busy("127.0.0.1", port)


def test_only_a_job_whose_number_of_nodes_may_change_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for nodes, elastic_job in {"": False, "2:2": False, "2": False, "1:2": True}.items():
        monkeypatch.setenv("GLCIC_NODES", nodes)
        assert is_elastic() is elastic_job


WORKER_UNDER_AN_AGENT = """
import os, subprocess, sys, time
if "WORKER" not in os.environ:
    environment = {**os.environ, "WORKER": "1", "GLCIC_AGENT": str(os.getpid())}
    worker = subprocess.Popen([sys.executable, *sys.argv], env=environment)
    time.sleep(60)
from launch.support.agent import die_with_agent, stop_agent_after
die_with_agent()
print(os.getpid(), flush=True)
stop_agent_after(int(os.environ["STATUS"]))
time.sleep(60)
"""


def agent_with_worker(tmp_path: Path, status: int) -> subprocess.Popen[str]:
    script = tmp_path / "agent.py"
    script.write_text(WORKER_UNDER_AN_AGENT)
    environment = {"TORCHELASTIC_RUN_ID": "x", "GLCIC_NODES": "1:2", "STATUS": str(status)}
    return subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_worker_does_not_outlive_its_agent(tmp_path: Path) -> None:
    with agent_with_worker(tmp_path, status=70) as agent:
        assert agent.stdout is not None
        worker = int(agent.stdout.readline())
        os.kill(worker, 0)  # it is there
        agent.kill()
        agent.wait()
        assert agent.stdout.read() == "", "the worker held the other end of this line"


def test_a_fault_that_no_restart_mends_ends_the_agent_too(tmp_path: Path) -> None:
    with agent_with_worker(tmp_path, status=65) as agent:
        assert agent.wait(60) == -15


def test_a_worker_of_plain_torchrun_leaves_its_agent_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.delenv("GLCIC_NODES", raising=False)
    monkeypatch.setattr("os.kill", lambda *call: pytest.fail(f"killed {call}"))
    assert stop_agent_after(65) == 65
