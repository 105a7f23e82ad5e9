"""Start this machine's part of an elastic training: torchrun with the settings that it needs.

    glcic elastic --nodes 1:4 --workers-per-node 8 --rendezvous HOST:PORT -- --config places2

The same command on every machine; see docs/elasticity.md for what each setting is for.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):  # started as a script: the repository root is not on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from launch.support.agent import AGENT, NODES
from launch.support.arguments import parse_with_config
from launch.support.former_names import add_former_name
from launch.support.node_address import (
    address_towards,
    interface_of,
    is_listening,
    is_of_this_machine,
    is_port_busy,
    resolve,
)
from pipeline.config.schema import Config
from pipeline.config.validation import world_size_errors

_TRAIN = Path(__file__).resolve().with_name("train.py")
_POLL_S = 1.0


@dataclass(frozen=True)
class Node:
    """This machine's place in the job."""

    address: str
    interface: str
    is_host: bool  # of the store at which the nodes meet


def main(arguments: list[str]) -> int:
    own, train_arguments = _split(arguments)
    options = _parser().parse_args(own)
    min_nodes, max_nodes = _node_range(options.nodes)
    host, port = _endpoint(options.rendezvous)
    _, config = parse_with_config(argparse.ArgumentParser("glcic train"), train_arguments)
    _print_unusable_sizes(config, range(min_nodes, max_nodes + 1), options.workers_per_node)
    node = _place(host, port, options)
    command = torchrun_command(options, node, config.name, train_arguments)
    environment = node_environment(options.nodes, node)
    words = [f"{name}={value}" for name, value in environment.items()]
    print(shlex.join(["env", *words, *command]), flush=True)
    # In this process's place, so that a pod's SIGTERM arrives at torchrun.
    os.execvpe(command[0], command, {**os.environ, **environment, AGENT: str(os.getpid())})


def torchrun_command(
    options: argparse.Namespace, node: Node, job: str, train_arguments: list[str]
) -> list[str]:
    rendezvous = {
        "is_host": str(node.is_host).lower(),
        "join_timeout": options.join_timeout,
        "last_call_timeout": options.join_window,
        "keep_alive_interval": 1,
        "keep_alive_max_attempt": options.heartbeat_timeout,
    }
    return [
        sys.executable, "-m", "torch.distributed.run",
        f"--nnodes={options.nodes}",
        f"--nproc-per-node={options.workers_per_node}",
        f"--max-restarts={options.max_restarts}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={options.rendezvous}",
        f"--rdzv-id={options.job or job}",
        "--rdzv-conf=" + ",".join(f"{name}={value}" for name, value in rendezvous.items()),
        f"--local-addr={node.address}",
        str(_TRAIN), *train_arguments,
    ]  # fmt: skip


def node_environment(nodes: str, node: Node) -> dict[str, str]:
    """Return the variables that torchrun and the workers need; those of the user stay."""
    settings = {
        # Else a node that joins a running job ends it (torch 2.13, dynamic_rendezvous.py: the nodes
        # that stay keep the address of the former round's store to themselves).
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        # Else gloo takes the address of the machine's name, which may be 127.0.0.1.
        "GLOO_SOCKET_IFNAME": node.interface,
        "NCCL_SOCKET_IFNAME": f"={node.interface}",  # exactly this one
    }
    return {name: os.environ.get(name, value) for name, value in settings.items()} | {NODES: nodes}


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in arguments:
        return arguments, []
    place = arguments.index("--")
    return arguments[:place], arguments[place + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="glcic elastic",
        usage="glcic elastic --nodes MIN:MAX --rendezvous HOST:PORT [...] -- TRAIN-ARGUMENTS",
        description="Start this machine's part of a training whose number of machines may change. "
        "The same command on every machine; it becomes a torchrun command, which is printed. "
        "What stands after -- goes to `glcic train`.",
    )
    parser.add_argument("--nodes", required=True, metavar="MIN:MAX", help="machines; N: exactly")
    parser.add_argument(
        "--workers-per-node", type=_positive, default=1, metavar="N", help="one for each GPU"
    )
    parser.add_argument(
        "--rendezvous", required=True, metavar="HOST:PORT",
        help="where the machines meet; the one that HOST belongs to must not be lost",
    )  # fmt: skip
    parser.add_argument(
        "--node-address", metavar="IP",
        help="address of this machine (default: the one used to reach HOST)",
    )  # fmt: skip
    parser.add_argument(
        "--interface", metavar="NAME", help="network interface of the address (default: found)"
    )
    no_host = parser.add_argument(
        "--no-host", action="store_true",
        help="join the rendezvous that another agent on this machine, HOST, holds already",
    )  # fmt: skip
    parser.add_argument(
        "--job", metavar="NAME", help="identifier of the job (default: the run's name)"
    )
    parser.add_argument(
        "--max-restarts", type=_positive, default=100, metavar="N",
        help="failures of this machine's workers before it gives up (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--join-timeout", type=_positive, default=900, metavar="S",
        help="seconds to wait for HOST and for MIN machines (%(default)s)",
    )  # fmt: skip
    join_window = parser.add_argument(
        "--join-window", type=_positive, default=3, metavar="S",
        help="seconds in which more machines may join before the training starts (%(default)s)",
    )  # fmt: skip
    heartbeat_timeout = parser.add_argument(
        "--heartbeat-timeout", type=_positive, default=5, metavar="S",
        help="seconds without a heartbeat after which a machine counts as lost (%(default)s)",
    )  # fmt: skip
    add_former_name(parser, "--guest", no_host)
    add_former_name(parser, "--last-call", join_window)
    add_former_name(parser, "--silence", heartbeat_timeout)
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _node_range(text: str) -> tuple[int, int]:
    min_nodes, _, max_nodes = text.partition(":")
    max_nodes = max_nodes if ":" in text else min_nodes
    if not (min_nodes.isdigit() and max_nodes.isdigit() and 1 <= int(min_nodes) <= int(max_nodes)):
        raise ValueError(f"--nodes is {text!r}: give MIN:MAX with 1 <= MIN <= MAX, or one number")
    return int(min_nodes), int(max_nodes)


def _endpoint(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError(f"--rendezvous is {text!r}: give HOST:PORT with a port of 1 to 65535")
    return host.strip("[]"), int(port)


def _print_unusable_sizes(config: Config, nodes: range, workers_per_node: int) -> None:
    """Print the numbers of nodes that cannot train. Raises ValueError if none can."""
    errors = {n: world_size_errors(config, n * workers_per_node) for n in nodes}
    usable = [n for n, found in errors.items() if not found]
    if not usable:
        raise ValueError(
            f"no number of nodes from {nodes[0]} to {nodes[-1]} with {workers_per_node} workers "
            f"each can train this: {errors[nodes[0]][0]}"
        )
    for n in sorted(errors.keys() - set(usable)):
        print(
            f"with {n} nodes ({n * workers_per_node} workers) the job will wait, since they cannot "
            f"share a batch of {config.train.batch_size} equally; it trains with "
            f"{', '.join(map(str, usable))}",
            flush=True,
        )


def _place(host: str, port: int, options: argparse.Namespace) -> Node:
    """Find this machine's place. Raises ValueError for an address of another machine and
    RuntimeError where nothing answers.
    """
    deadline = time.monotonic() + options.join_timeout
    rendezvous = _wait_for_name(host, deadline)
    is_here = is_of_this_machine(rendezvous)
    if options.no_host and not is_here:
        raise ValueError(f"--no-host: {host} ({rendezvous}) is not an address of this machine")
    address = options.node_address or (rendezvous if is_here else address_towards(rendezvous))
    if not is_of_this_machine(address):
        raise ValueError(
            f"--node-address is {address}, which is not an address of this machine; leave it out "
            f"to use {address_towards(rendezvous)}, from which {host} is reached"
        )
    interface = options.interface or interface_of(address)
    if not interface:
        raise ValueError(f"no network interface carries {address}; name it with --interface")
    is_host = is_here and not options.no_host
    if is_host and is_port_busy(rendezvous, port):
        raise RuntimeError(
            f"port {port} of {host} is in use: by another job (choose another port), an earlier "
            "agent of this one (end it), or an agent on this machine that this one is to join "
            "(add --no-host)"
        )
    if not is_host:
        _wait_for_host(rendezvous, port, deadline)
    return Node(address, interface, is_host)


def _wait_for_name(host: str, deadline: float) -> str:
    """Resolve HOST, waiting: a pod's name is known only once the pod is there."""
    is_logged = False
    while True:
        try:
            return resolve(host)
        except OSError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"--rendezvous: {host} is not known here ({error})") from error
        if not is_logged:
            print(f"waiting until the name {host} is known", flush=True)
        is_logged = True
        time.sleep(_POLL_S)


def _wait_for_host(address: str, port: int, deadline: float) -> None:
    """Wait until HOST listens: torchrun itself would give up after a minute."""
    is_logged = False
    while not is_listening(address, port, timeout_s=2.0):
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"nothing listens at the rendezvous {address}:{port}; start the node that has this "
                "address, or look for a firewall between"
            )
        if not is_logged:
            print(f"waiting for the rendezvous at {address}:{port}", flush=True)
        is_logged = True
        time.sleep(_POLL_S)


if __name__ == "__main__":
    from launch.command import run

    sys.exit(run("elastic", main))
