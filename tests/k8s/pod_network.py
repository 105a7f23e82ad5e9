"""The network of pods on one machine: a namespace for each, names for all, a bridge between.

Namespaces need root, Linux and iproute2; elsewhere all pods share the loopback and one address.
Everything is removed by a process that waits for this one to end, so also when this one is killed.
"""

from __future__ import annotations

import ctypes
import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.chaos.hosts import free_port, namespaces_are_possible

_CLONE_NEWNET = 0x40000000
_NETNS = Path("/etc/netns")  # `ip netns exec` puts what lies here over the files in /etc
_REMOVE = """
cat > /dev/null
for namespace in $(ip netns list | cut -d' ' -f1 | grep "^$0-"); do
    ip netns pids $namespace | xargs --no-run-if-empty kill -9
    ip netns del $namespace
    rm -rf "/etc/netns/$namespace"
done
"""


@dataclass(frozen=True)
class Place:
    """Where a pod is in the network."""

    name: str  # of the pod, which is its host's name
    address: str
    namespace: str  # empty on the loopback

    @property
    def prefix(self) -> list[str]:
        """What stands before a command that runs there, and becomes that command."""
        if not self.namespace:
            return []
        entry = ["sh", "-c", 'hostname "$0" && exec "$@"', self.name]
        return ["ip", "netns", "exec", self.namespace, "unshare", "--uts", *entry]


class Loopback:
    """All pods are this machine. Their commands have to be told apart by other means."""

    kind = "loopback"

    def __init__(self) -> None:
        self._port = free_port()

    def attach(self, name: str, subdomain: str) -> Place:
        return Place(name, "127.0.0.1", "")

    def detach(self, place: Place) -> None:
        pass

    def url_in_pods(self, url: str) -> str:
        return url

    def adapted(self, words: list[str], index: int) -> list[str]:
        """Pod 0 by its address, at a port that is free; who it is has to be said."""
        adapted = []
        for word in words:
            if word.startswith("--rdzv-endpoint="):
                word = f"--rdzv-endpoint=127.0.0.1:{self._port}"
            if word.startswith("--rdzv-conf="):
                word += f",is_host={'true' if index == 0 else 'false'}"
            if word.startswith("--telemetry.port="):
                word = "--telemetry.port=0"
            adapted.append(word)
        return adapted


class Namespaces:
    """10.78.0.1 is a bridge in a namespace of its own; every pod gets an address that is new."""

    kind = "namespaces"
    _BRIDGE = "10.78.0.1"

    def __init__(self) -> None:
        self._token = f"glcic-{uuid.uuid4().hex[:6]}"
        self._hub = f"{self._token}-hub"
        self._names: dict[str, str] = {}  # of all pods -> address
        self._places: list[Place] = []
        self._number = 9
        self._forwarders: list[_Forwarder] = []

    def __enter__(self) -> Namespaces:
        self._remover = subprocess.Popen(
            ["sh", "-c", _REMOVE, self._token], stdin=subprocess.PIPE, start_new_session=True
        )
        try:
            _ip("netns", "add", self._hub)
            _ip("-n", self._hub, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._hub, "addr", "add", f"{self._BRIDGE}/24", "dev", "bridge")
            for device in ("lo", "bridge"):
                _ip("-n", self._hub, "link", "set", device, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for forwarder in self._forwarders:
            forwarder.close()
        assert self._remover.stdin is not None
        self._remover.stdin.close()
        self._remover.wait()

    def attach(self, name: str, subdomain: str) -> Place:
        self._number += 1
        place = Place(name, f"10.78.0.{self._number}", f"{self._token}-{self._number}")
        namespace, outer = place.namespace, f"v{self._token[6:]}{self._number}"
        _ip("netns", "add", namespace)
        inner = ["peer", "name", "eth0", "netns", namespace]
        _ip("-n", self._hub, "link", "add", outer, "type", "veth", *inner)
        _ip("-n", self._hub, "link", "set", outer, "master", "bridge", "up")
        _ip("-n", namespace, "addr", "add", f"{place.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", namespace, "link", "set", device, "up")
        if subdomain:  # a headless Service gives names to its pods, ready or not
            self._names[f"{name}.{subdomain}"] = place.address
        self._places.append(place)
        self._write_names()
        return place

    def detach(self, place: Place) -> None:
        self._places.remove(place)
        self._names = {k: v for k, v in self._names.items() if v != place.address}
        _ip("netns", "del", place.namespace)
        shutil.rmtree(_NETNS / place.namespace)
        self._write_names()

    def url_in_pods(self, url: str) -> str:
        """Of a server that listens on this machine's loopback, which pods do not reach."""
        parts = urlsplit(url)
        target = (parts.hostname or "127.0.0.1", parts.port or 80)
        forwarder = _Forwarder(self._hub, (self._BRIDGE, target[1]), target)
        self._forwarders.append(forwarder)
        return f"{parts.scheme}://{self._BRIDGE}:{target[1]}"

    def adapted(self, words: list[str], index: int) -> list[str]:
        return words

    def _write_names(self) -> None:
        others = [f"{address} {name}" for name, address in self._names.items()]
        for place in self._places:
            lines = ["127.0.0.1 localhost", *others, f"{place.address} {place.name}"]
            path = _NETNS / place.namespace / "hosts"
            path.parent.mkdir(parents=True, exist_ok=True)
            # Over what is there: pods that run have this very file as theirs.
            path.write_text("\n".join(lines) + "\n")


class _Forwarder:
    """Passes connections to a port in a namespace on to a server outside of it."""

    def __init__(self, namespace: str, listen: tuple[str, int], target: tuple[str, int]) -> None:
        self._target = target
        self._socket = _in_namespace(namespace, listen)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
                server = socket.create_connection(self._target)
            except OSError:
                return
            for pair in ((client, server), (server, client)):
                threading.Thread(target=_pass_on, args=pair, daemon=True).start()


def _pass_on(source: socket.socket, destination: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            destination.sendall(data)
        destination.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
        destination.close()


def _in_namespace(namespace: str, listen: tuple[str, int]) -> socket.socket:
    """A socket stays in the namespace in which its thread was when it was made."""
    made: list[socket.socket] = []

    def make() -> None:
        with open(f"/var/run/netns/{namespace}") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns to {namespace}")
        made.append(socket.create_server(listen, backlog=64))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


@contextmanager
def open_pod_network(kind: str = "auto") -> Iterator[Namespaces | Loopback]:
    """`kind`: namespaces, loopback, or auto for namespaces where they are possible."""
    if kind == "loopback" or (kind == "auto" and not namespaces_are_possible()):
        yield Loopback()
        return
    with Namespaces() as network:
        yield network


def _ip(*arguments: str) -> None:
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")
