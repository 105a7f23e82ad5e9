"""Two hosts on one machine: network namespaces joined by a cable that can be cut, or the loopback.

Namespaces need root, Linux and iproute2. Everything of them is removed by a process that waits for
this one to end, so also when this one is killed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

NODES = ("a", "b")

_REMOVE = """
cat > /dev/null
for namespace in "$@"; do
    ip netns pids $namespace | xargs --no-run-if-empty kill -9
    ip netns del $namespace
done
"""


class Loopback:
    """Both hosts are this machine, by one address; nothing can be cut."""

    can_cut = False
    address = "127.0.0.1"

    def prefix(self, node: str) -> list[str]:
        """What stands before a command that runs on a host."""
        return []

    def agent_arguments(self, node: str) -> list[str]:
        return [] if node == "a" else ["--no-host"]

    def leftovers(self) -> list[str]:
        return []


class Namespaces:
    """`glcic-TOKEN-a` has 10.77.0.1 and hosts the rendezvous, `glcic-TOKEN-b` has 10.77.0.2."""

    can_cut = True
    address = "10.77.0.1"

    def __init__(self) -> None:
        self._token = uuid.uuid4().hex[:6]

    def __enter__(self) -> Namespaces:
        names = [self._namespace(node) for node in NODES]
        self._remover = subprocess.Popen(
            ["sh", "-c", _REMOVE, "sh", *names], stdin=subprocess.PIPE, start_new_session=True
        )
        try:
            for name in names:
                _ip("netns", "add", name)
                _ip("-n", name, "link", "set", "lo", "up")
            a, b = (["name", self._interface(n), "netns", self._namespace(n)] for n in NODES)
            _ip("link", "add", *a, "type", "veth", "peer", *b)
            for number, node in enumerate(NODES, start=1):
                address = f"10.77.0.{number}/24"
                _ip(
                    "-n",
                    self._namespace(node),
                    "addr",
                    "add",
                    address,
                    "dev",
                    self._interface(node),
                )
                self._link(node, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._remover.stdin is not None
        self._remover.stdin.close()
        self._remover.wait()

    def prefix(self, node: str) -> list[str]:
        return ["ip", "netns", "exec", self._namespace(node)]

    def agent_arguments(self, node: str) -> list[str]:
        return []

    def cut(self) -> None:
        """Takes b's end of the cable out: nothing is closed, nothing arrives."""
        self._link("b", "down")

    def mend(self) -> None:
        self._link("b", "up")

    def leftovers(self) -> list[str]:
        listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True)
        return [line.split()[0] for line in listed.stdout.splitlines() if self._token in line]

    def _namespace(self, node: str) -> str:
        return f"glcic-{self._token}-{node}"

    def _interface(self, node: str) -> str:
        return f"g{self._token}{node}"

    def _link(self, node: str, state: str) -> None:
        _ip("-n", self._namespace(node), "link", "set", self._interface(node), state)


def namespaces_are_possible() -> bool:
    """Tried, since being root is not enough in every container."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    try:
        with Namespaces():
            return True
    except (OSError, RuntimeError):
        return False


@contextmanager
def open_hosts(kind: str) -> Iterator[Namespaces | Loopback]:
    """`kind`: namespaces, loopback, or auto for namespaces where they are possible."""
    if kind == "auto":
        kind = "namespaces" if namespaces_are_possible() else "loopback"
    if kind == "loopback":
        yield Loopback()
        return
    with Namespaces() as hosts:
        yield hosts


def free_port() -> int:
    """Of the loopback; another program may take it before it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ip(*arguments: str) -> None:
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")
