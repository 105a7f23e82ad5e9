"""What the benchmarks' command lines have in common."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from benchmarks.result import RESULTS_FOLDER

# Their values name folders of the machine.
_PRIVATE_OPTIONS = (
    "--source", "--shards", "--data.shards", "--data.cache", "--output", "--peers",
)  # fmt: skip


def benchmark_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--source",
        type=Path,
        metavar="FOLDER",
        help="photographs to measure with; default: parts of the photographs that ship",
    )
    parser.add_argument("--label", default="", help="what the results call the photographs")
    parser.add_argument("--note", default="", help="about the run, for the reader of the results")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--crop-size", type=int, default=256, help="short side of what is packed, pixels"
    )
    parser.add_argument(
        "--peers",
        action="append",
        default=[],
        metavar="PYTHON",
        help="interpreter of an environment with other libraries to measure beside; several may be"
        " given (see benchmarks/peers/requirements.txt)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=RESULTS_FOLDER / f"{name}.json",
        metavar="FILE",
        help=f"where the result is written; default: benchmarks/results/{name}.json",
    )
    return parser


def command_line(name: str, arguments: list[str]) -> str:
    """The command for the result, without the paths of this machine."""
    words = [f"python -m benchmarks.{name}"]
    hide_next = False
    for argument in arguments:
        option, equals, _ = argument.partition("=")
        if hide_next:
            words.append("PATH")
        elif equals and option in _PRIVATE_OPTIONS:
            words.append(f"{option}=PATH")
        else:
            words.append(f'"{argument}"' if " " in argument else argument)
        hide_next = argument in _PRIVATE_OPTIONS
    return " ".join(words)


def source_label(options: argparse.Namespace, default: str) -> str:
    """Never the folder's own name: results are published."""
    if options.label:
        return str(options.label)
    own = options.source or getattr(options, "shards", None)
    return "photographs of one's own" if own else default


def circumstances(options: argparse.Namespace) -> dict[str, Any]:
    """Parameters that every result has."""
    load = round(os.getloadavg()[0], 2)
    note = {"note": options.note} if options.note else {}
    return {**note, "rounds": options.rounds, "load average at the start": load}
