"""A training over two hosts whose agents are started again when they end, as a cluster would."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.chaos.hosts import NODES, Loopback, Namespaces, free_port
from tests.torchrun import ROOT

Role = Literal["agent", "worker", "reader"]

_STEP = re.compile(r"(completion|discriminator|joint) step (\d+)/\d+:")
_TOKEN, _NODE = "GLCIC_CHAOS", "GLCIC_CHAOS_NODE"


@dataclass(frozen=True)
class Finished:
    """A training step that a job has reported."""

    time: float  # of the monotonic clock
    step: int  # steps that were made before it and with it
    generation: int  # how often the job had been started or resumed


class Job:
    """Both agents, their output and every process below them. A context manager."""

    def __init__(
        self, hosts: Namespaces | Loopback, nodes: str, preset: Path, folder: Path,
        silence_s: int = 5, workers: int = 1, absence_s: float = 1.0,
    ) -> None:  # fmt: skip
        self.hosts = hosts
        # Of a node whose agent has ended; it comes back earlier once the others train without it.
        self._absence_s = absence_s
        self.token = uuid.uuid4().hex
        self.starts = dict.fromkeys(NODES, 0)
        self.finished: list[Finished] = []
        self.log = folder / "job.log"
        self.temporary = folder / "temporary"
        self.temporary.mkdir(parents=True, exist_ok=True)
        port = free_port() if isinstance(hosts, Loopback) else 29400
        self._command = [
            sys.executable, "launch/elastic.py", "--nodes", nodes, f"--workers-per-node={workers}",
            "--rendezvous", f"{hosts.address}:{port}", "--heartbeat-timeout", str(silence_s),
            "--max-restarts", "1000",
        ]  # fmt: skip
        self._train = ["--", "--config", str(preset)]
        self._agents: dict[str, subprocess.Popen[str]] = {}
        self._ended: dict[str, float] = {}
        self._generation = 0
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()
        for thread in self._threads:
            thread.join(10)

    def start(self, node: str) -> None:
        command = [*self.hosts.prefix(node), *self._command, *self.hosts.agent_arguments(node)]
        self.starts[node] += 1
        self._ended.pop(node, None)
        agent = subprocess.Popen(
            [*command, *self._train], cwd=ROOT, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={
                **os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.temporary),
                _TOKEN: self.token, _NODE: node,
            },
        )  # fmt: skip
        self._agents[node] = agent
        thread = threading.Thread(target=self._follow, args=(node, agent), daemon=True)
        thread.start()
        self._threads.append(thread)

    def is_done(self) -> bool:
        """Whether an agent has ended because the training has."""
        return any(agent.poll() == 0 for agent in self._agents.values())

    def start_again(self) -> None:
        """Those agents that have ended a while ago; to be called again and again."""
        for node, agent in self._agents.items():
            if agent.poll() is None or self.is_done():
                continue
            ended = self._ended.setdefault(node, time.monotonic())
            away_s = time.monotonic() - ended
            if away_s >= self._absence_s or self.first_step_after(ended) is not None:
                self._sweep(node)  # as a container takes all its processes with it
                self.start(node)

    def wait_for(
        self, condition: Callable[[], bool], timeout_s: float = 600, *, restarting: bool = True
    ) -> None:
        """AssertionError with the end of the log if the condition does not hold in time."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if restarting:
                self.start_again()
            assert time.monotonic() < deadline, f"not within {timeout_s} s:\n{self.tail()}"
            time.sleep(0.05)

    def wait_for_step(self, step: int, timeout_s: float = 600) -> Finished:
        """Until so many steps are made."""
        self.wait_for(lambda: self.reached >= step, timeout_s)
        return self.finished[-1]

    def wait_for_recovery(self, since: float, timeout_s: float = 600) -> Finished:
        """The first step that a later generation finishes after a moment."""
        before = self.generation_at(since)
        self.wait_for(lambda: self._recovered(before) is not None, timeout_s)
        found = self._recovered(before)
        assert found is not None
        return found

    @property
    def reached(self) -> int:
        return self.finished[-1].step if self.finished else 0

    @property
    def generation(self) -> int:
        return self._generation

    def generation_at(self, moment: float) -> int:
        return max((f.generation for f in self.finished if f.time <= moment), default=0)

    def first_step_after(self, moment: float) -> Finished | None:
        """Of a generation that began after what was running at the moment."""
        return self._recovered(self.generation_at(moment))

    def _recovered(self, before: int) -> Finished | None:
        return next((f for f in self.finished if f.generation > before), None)

    def processes(self, role: Role | None = None, node: str | None = None) -> list[int]:
        """Of this job, orphans too: they carry its token in their environment."""
        return [
            pid
            for pid, environment, command in _processes()
            if environment.get(_TOKEN) == self.token
            and node in (None, environment.get(_NODE))
            and role in (None, _role(command))
        ]

    def signal(self, number: signal.Signals, *pids: int) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill_node(self, node: str) -> None:
        """As when a machine loses its power: agent, workers and readers at once."""
        self.signal(signal.SIGKILL, *self.processes(node=node))

    def terminate(self, node: str) -> None:
        self._agents[node].send_signal(signal.SIGTERM)

    def has_ended(self, node: str) -> bool:
        return self._agents[node].poll() is not None

    def kill_all(self) -> None:
        while pids := self.processes():
            self.signal(signal.SIGKILL, *pids)
            for agent in self._agents.values():
                agent.poll()
            time.sleep(0.02)
        for agent in self._agents.values():
            agent.wait()

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.read_text().splitlines()[-lines:])

    def _sweep(self, node: str) -> None:
        self.signal(signal.SIGKILL, *self.processes(node=node))

    def _follow(self, node: str, agent: subprocess.Popen[str]) -> None:
        assert agent.stdout is not None
        with open(self.log, "a", buffering=1) as log:
            for line in agent.stdout:
                now = time.monotonic()
                log.write(f"{now:.3f} {node} {line}")
                if line.startswith("name: "):  # of the configuration, which rank 0 prints first
                    self._generation += 1
                elif (match := _STEP.search(line)) is not None:
                    self.finished.append(Finished(now, int(match[2]), self._generation))


@contextmanager
def running(job: Job, *nodes: str) -> Iterator[Job]:
    """A job whose agents on these hosts are started, and all of it ended afterwards."""
    with job:
        for node in nodes or NODES:
            job.start(node)
        yield job


def _role(command: str) -> Role | None:
    if "shards.reading.reader_process" in command:
        return "reader"
    if "torch.distributed.run" in command or "launch/elastic.py" in command:
        return "agent"
    return "worker" if "launch/train.py" in command else None


def _processes() -> Iterator[tuple[int, dict[str, str], str]]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().decode(errors="replace")
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # it ended, or is another user's
            continue
        pairs = (item.partition("=") for item in environment.split("\0"))
        yield int(entry.name), {name: value for name, _, value in pairs}, command
