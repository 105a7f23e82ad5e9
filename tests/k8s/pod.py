"""A pod, played by processes: the commands, environment, volumes and grace of its manifest."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.k8s.manifests import Work, config_map, environment, expanded
from tests.k8s.pod_network import Loopback, Namespaces, Place
from tests.torchrun import ROOT

Say = Callable[[str, str], None]  # POD/CONTAINER, and a line of its output
_DYING_S = 30.0  # that a killed process may take to go
_TOKEN = "GLCIC_REHEARSAL_POD"  # in the environment of every process of a pod


class Pod:
    """Its init containers run first, then its container; it ends when that does."""

    def __init__(
        self, work: Work, index: int, folder: Path, network: Namespaces | Loopback,
        secret: dict[str, str], say: Say,
    ) -> None:  # fmt: skip
        self.index, self.work = index, work
        self.name = f"{work.name}-{index}"
        self.is_disrupted = False  # deleted by the cluster: its condition is DisruptionTarget
        self.exit_codes: dict[str, int] = {}  # by container
        self._network, self._secret, self._say = network, secret, say
        self._token = uuid.uuid4().hex
        self._mounts = self._make_volumes(folder)
        self._process: subprocess.Popen[str] | None = None
        self._killing = False
        self.place: Place = network.attach(self.name, work.pod.get("subdomain", ""))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    @property
    def has_succeeded(self) -> bool:
        names = [container["name"] for container in self.work.containers]
        return self.has_ended and [self.exit_codes.get(name) for name in names] == [0] * len(names)

    def kill(self) -> None:
        """As when its machine loses its power."""
        self.is_disrupted = self._killing = True
        self._sweep()
        self._thread.join()

    def delete(self) -> float:
        """As the API does: SIGTERM to the container's process, SIGKILL after the grace period.
        Returns the seconds that it took to end.
        """
        self.is_disrupted = True
        begin = time.monotonic()
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._thread.join(self.work.pod["terminationGracePeriodSeconds"])
        if not self.has_ended:
            self.kill()
        return time.monotonic() - begin

    def processes(self) -> list[int]:
        wanted = f"{_TOKEN}={self._token}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):  # it ended, or is another user's
                    if wanted in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found

    def _run(self) -> None:
        for container in self.work.containers:
            if self._killing:
                break
            self.exit_codes[container["name"]] = self._run_container(container)
            self._sweep()  # a container takes all its processes with it
            if self.exit_codes[container["name"]] != 0:
                break
        self._network.detach(self.place)

    def _run_container(self, container: dict[str, Any]) -> int:
        variables = self._environment(container)
        words = [*container["command"], *container.get("args", [])]
        words = [expanded(self._mapped(word), variables) for word in words]
        self._process = subprocess.Popen(
            [*self.place.prefix, *self._network.adapted(words, self.index)],
            cwd=ROOT, env=variables, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._say(f"{self.name}/{container['name']}", line.rstrip("\n"))
        return self._process.wait()

    def _environment(self, container: dict[str, Any]) -> dict[str, str]:
        """The image's, the manifest's and the Secret's; nothing of the test's own."""
        of_the_pod = {"POD_IP": self.place.address}
        if self.work.job.get("completionMode") == "Indexed":
            of_the_pod["JOB_COMPLETION_INDEX"] = str(self.index)
        literal = {entry["name"] for entry in container.get("env", []) if "value" in entry}
        found = environment(self.work, container, **of_the_pod)
        mapped = {k: self._mapped(v) if k in literal else v for k, v in found.items()}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        image = {"PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        return image | self._secret | mapped | {_TOKEN: self._token}

    def _make_volumes(self, folder: Path) -> dict[str, str]:
        """Where the image would have it -> where it is here. Memory stays where it is."""
        here: dict[str, Path] = {}
        for volume in self.work.pod["volumes"]:
            place = folder / volume["name"]
            place.mkdir(parents=True)
            here[volume["name"]] = place
            if "configMap" in volume:
                files = config_map(self.work.documents, volume["configMap"]["name"])
                for name, text in files.items():
                    (place / name).write_text(text)
        (container,) = self.work.pod["containers"]
        return {
            mount["mountPath"]: str(here[mount["name"]])
            for mount in container["volumeMounts"]
            if mount["mountPath"] != "/dev/shm"
        }

    def _mapped(self, word: str) -> str:
        """In one pass: where something is here may itself begin with /tmp."""
        mounted = "|".join(map(re.escape, self._mounts))
        return re.sub(rf"(?<![\w/])({mounted})(?=/|$)", lambda match: self._mounts[match[1]], word)

    def _sweep(self) -> None:
        """Until all are gone: what a dying process has open, its peers take for alive."""
        killed: set[int] = set()
        deadline = time.monotonic() + _DYING_S
        while (pids := self.processes()) or any(map(_is_dying, killed)):
            killed |= set(pids)
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self._process is not None:
                self._process.poll()
            if time.monotonic() > deadline:  # another program may have got the number since
                return
            time.sleep(0.02)


def _is_dying(pid: int) -> bool:
    """Killed, and not yet a zombie: its connections are not closed."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
