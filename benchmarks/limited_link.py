"""The model of `benchmarks.cluster` compared with links that it was not fitted to.

    python -m benchmarks.limited_link --rates 1000 200

Two network namespaces of this machine, joined by a link of a limited rate (Mb/s), each with one
worker: as root, with iproute2. What is expected of the link is its rate, and of everything else
what two workers on one machine were found to do (`--results`): nothing is fitted here. A step has
to lie between all the hiding that the order of the buckets allows and none.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks.harness.command_line import command_line
from benchmarks.harness.result import RESULTS_FOLDER, Measurement, Result, write_result
from benchmarks.harness.tables import print_result
from benchmarks.scaling.links import Link, LinkModel, Topology
from benchmarks.scaling.model import ScalingModel, StepTime
from benchmarks.scaling.model_check import check_model
from benchmarks.scaling.result import Measured, read_measured, require_joinable

_NAMESPACES = ("glcic-link-a", "glcic-link-b")
_INTERFACES = ("glcic-link0", "glcic-link1")
_ADDRESSES = ("10.78.0.1", "10.78.0.2")
_PAYLOAD = 1448 / 1514  # of an Ethernet frame of 1,500 bytes, whose headers count as well
_TIMEOUT_S = 900


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.limited_link", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--rates", type=int, nargs="+", default=[1000, 200], metavar="MBIT")
    parser.add_argument(
        "--results", type=Path, nargs=2, metavar="FILE",
        default=[RESULTS_FOLDER / "cluster" / f"workers-{size}.json" for size in (1, 2)],
        help="of 1 and of 2 workers on this machine; default: those of results/cluster",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--largest-message", type=int, default=16 << 20, metavar="BYTES")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", default=RESULTS_FOLDER / "limited-link.json"
    )
    options = parser.parse_args(arguments)
    try:
        known = [read_measured(path) for path in options.results]
        require_joinable(known)
        model = check_model(known).model
        found = {rate: measure_over_link(rate, known[0], options) for rate in options.rates}
        command = command_line("limited_link", arguments)
        result = compare(model, found, command, options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"benchmarks.limited_link: {error}", file=sys.stderr)
        return 1
    write_result(options.output, result)
    print_result(result, Console(stderr=True))
    return 0


def compare(
    model: ScalingModel, found: dict[int, Measured], command: str, options: argparse.Namespace
) -> Result:
    figures: list[Measurement] = []
    outside = "the model on links that it was not fitted to: error, a round for each point"
    for rate, measured in found.items():
        expected = replace(model, link_model=limited(model.link_model, rate))
        steps = [one for one in measured.steps if one.averages_gradients]
        errors = [step_error(expected, step) for step in steps]
        figures.append(Measurement.of_runs(outside, f"steps over {rate} Mb/s", "%", errors))
        sizes = [message.num_bytes for message in measured.messages]
        times = [expected.link_model.all_reduce_s(size, Topology(2, 2)) for size in sizes]
        ratios = [
            100 * abs(time / message.seconds - 1)
            for time, message in zip(times, measured.messages, strict=True)
        ]
        figures.append(Measurement.of_runs(outside, f"all-reduces over {rate} Mb/s", "%", ratios))
    for rate, measured in found.items():
        expected = replace(model, link_model=limited(model.link_model, rate))
        for step in (one for one in measured.steps if one.averages_gradients):
            group, name = f"a step over {rate} Mb/s", f"{step.phase.value}, {step.images} images"
            band = [1e3 * value for value in bounds(expected, step)]
            runs = [1e3 * run for run in step.runs]
            figures.append(Measurement.of_runs(group, f"{name}: measured", "ms", runs))
            figures.append(
                Measurement.of_runs(group, f"{name}: model, all hidden to none", "ms", band)
            )
    first = next(iter(found.values())).result
    parameters = {
        "source": "random images",
        "workers": "2, in two network namespaces of one machine",
        "rates of the link, Mb/s": list(found),
        "configuration": " ".join(first.parameters["configuration"]),
        "load average at the start of each": [
            one.result.parameters["load average at the start"] for one in found.values()
        ],
        "steps in a round": options.steps,
        "rounds": options.rounds,
    }
    return Result("limited link", command, parameters, figures)


def limited(fabric: LinkModel, rate: int) -> LinkModel:
    """Return the machine's own link, no faster than `rate` Mb/s."""
    payload = rate * 1e6 / 8 * _PAYLOAD
    return LinkModel(Link(fabric.inside.latency_s, min(fabric.inside.bytes_per_s, payload)))


def bounds(model: ScalingModel, step: StepTime) -> tuple[float, float]:
    """Seconds of a step with all possible hiding and with none, of two workers on one machine."""
    hidden, none = (
        replace(model, overlap=overlap).step_s(step.phase, step.images, Topology(2, 2))
        for overlap in (1.0, 0.0)
    )
    return hidden, none


def step_error(model: ScalingModel, step: StepTime) -> float:
    """Per cent by which a measured step lies outside the bounds; 0 within them."""
    hidden_s, none_s = bounds(model, step)
    return 100 * max(0.0, hidden_s / step.seconds - 1, 1 - none_s / step.seconds)


def measure_over_link(rate: int, known: Measured, options: argparse.Namespace) -> Measured:
    """Return a launch of `benchmarks.cluster` on two hosts with the same configuration
    and images.
    """
    images = sorted({step.images for step in known.steps})
    with tempfile.TemporaryDirectory() as folder, two_hosts(rate):
        output = Path(folder) / "result.json"
        arguments = [
            *(f"--{field}" for field in known.result.parameters["configuration"]),
            "--train.threads=1", "--images", *map(str, images), f"--steps={options.steps}",
            f"--rounds={options.rounds}", f"--largest-message={options.largest_message}",
            f"--output={output}",
        ]  # fmt: skip
        _launch(arguments, Path(folder))
        return read_measured(output)


def _launch(arguments: Sequence[str], folder: Path) -> None:
    processes = []
    with open(folder / "log", "wb") as log:
        for number, namespace in enumerate(_NAMESPACES):
            command = [
                "ip", "netns", "exec", namespace, sys.executable, "-m", "torch.distributed.run",
                "--nnodes=2", "--nproc_per_node=1", f"--node_rank={number}",
                f"--master_addr={_ADDRESSES[0]}", "--master_port=29400",
                "--module", "benchmarks.cluster", *arguments,
            ]  # fmt: skip
            environment = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": _INTERFACES[number]}
            processes.append(
                subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
            )
        try:
            statuses = [process.wait(_TIMEOUT_S) for process in processes]
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"no end of the launch after {_TIMEOUT_S} s") from None
        finally:
            for process in processes:
                process.terminate()  # torchrun ends its workers
    if any(statuses):
        lines = (folder / "log").read_text(errors="replace").splitlines()
        print("\n".join(lines[-20:]), file=sys.stderr)
        raise RuntimeError("the launch over the limited link has failed, see above")


@contextmanager
def two_hosts(rate: int) -> Iterator[None]:
    """Raises RuntimeError where namespaces or limits are not to be had."""
    if not (shutil.which("ip") and shutil.which("tc")):
        raise RuntimeError("ip and tc are needed: install iproute2, on Linux")
    try:
        for namespace in _NAMESPACES:
            _run("ip", "netns", "add", namespace)
        (first, second), (a, b) = _INTERFACES, _NAMESPACES
        _run("ip", "link", "add", first, "netns", a, "type", "veth", "peer", "name", second,
             "netns", b)  # fmt: skip
        for place in zip(_NAMESPACES, _INTERFACES, _ADDRESSES, strict=True):
            _set_up(*place, rate)
        yield
    finally:
        for namespace in _NAMESPACES:
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)


def _set_up(namespace: str, interface: str, address: str, rate: int) -> None:
    _run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", interface)
    for name in ("lo", interface):
        _run("ip", "-n", namespace, "link", "set", name, "up")
    _run("tc", "-n", namespace, "qdisc", "add", "dev", interface, "root", "tbf",
         "rate", f"{rate}mbit", "burst", "256kb", "latency", "50ms")  # fmt: skip


def _run(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(
            f"{' '.join(command)}: {ended.stderr.strip()}; it needs root, and a kernel with "
            "network namespaces and the token bucket filter"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
