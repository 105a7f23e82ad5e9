"""What the benchmarks' command lines have in common."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.harness.launched_workers import Workers, launched_workers
from benchmarks.harness.result import RESULTS_FOLDER, Result
from benchmarks.harness.tables import publish
from launch.support.arguments import parse_with_config
from pipeline.config.schema import Config
from pipeline.config.validation import world_size_errors
from pipeline.errors import ReportedElsewhere
from pipeline.training.preflight import world_size_from_environment

T = TypeVar("T")
Measure = Callable[[argparse.Namespace, Config, Workers, str], Result]

# Their values name folders of the machine, or buckets.
_PRIVATE_OPTIONS = (
    "--source", "--shards", "--store", "--output", "--peers", "--folder", "--data.shards",
    "--data.cache", "--data.mixture", "--evaluation.shards", "--checkpoint.url",
    "--start.checkpoint",
)  # fmt: skip
_PATH = re.compile(r"/|[~.].*/|[\w+.-]+://")  # so begins one that shows more than a file's name


def benchmark_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--source",
        type=_local_folder,
        metavar="FOLDER",
        help="photographs to measure with; default: parts of the photographs that ship",
    )
    parser.add_argument("--label", default="", help="what the results call the photographs")
    parser.add_argument("--note", default="", help="about the run, for the reader of the results")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--crop-size", type=int, help="short side of what is packed, pixels; default: that of the "
        "configuration, if any of it is given, else 256",
    )  # fmt: skip
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
        default=str(RESULTS_FOLDER / f"{name}.json"),
        metavar="URL",
        help=f"file or URL of the result; default: benchmarks/results/{name}.json",
    )
    return parser


def _local_folder(text: str) -> Path:
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text}: must be a folder of this machine, not a URL")
    return Path(text)


def run_benchmark(
    name: str, parser: argparse.ArgumentParser, arguments: list[str], measure: Measure
) -> int:
    """Run it on every worker of the launch, of which rank 0 publishes the result; return the exit
    status.
    """
    several = world_size_from_environment() > 1
    speaker = f"benchmarks.{name}: worker {os.environ['RANK']}" if several else f"benchmarks.{name}"

    def run() -> None:
        options, config = parse_with_config(parser, arguments)
        with launched_workers() as workers:
            result = measure(options, config, workers, command_line(name, arguments))
            workers.on_main(lambda: publish(result, options.output))

    return exit_status(speaker, run)


def exit_status(speaker: str, run: Callable[[], None]) -> int:
    """Return 0 when it has run; 1 when it could not, with a message of `speaker` unless another
    had.
    """
    try:
        run()
    except ReportedElsewhere:
        return 1
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{speaker}: {error}", file=sys.stderr)
        return 1
    return 0


def is_configured(options: argparse.Namespace, config: Config) -> bool:
    """Return whether a preset or any field of the configuration was given."""
    return bool(options.config) or config != Config()


def chosen_crop_size(options: argparse.Namespace, config: Config) -> int:
    return int(options.crop_size or (config.crop_size if is_configured(options, config) else 256))


def batch_of_worker(config: Config, workers: Workers) -> int:
    """Its share of the configuration's batch. Raises ValueError where it cannot be shared."""
    if errors := world_size_errors(config, workers.world_size):
        raise ValueError("; ".join(errors))
    return config.train.batch_size // workers.world_size


def chosen(option: str, names: list[str] | None, known: Mapping[str, T]) -> dict[str, T]:
    """Return those that were asked for, by name; none asked for: all. Raises ValueError."""
    if unknown := [name for name in names or () if name not in known]:
        raise ValueError(f"{option} {unknown[0]!r} is none of: {', '.join(known)}")
    return {name: one for name, one in known.items() if not names or name in names}


def command_line(name: str, arguments: list[str]) -> str:
    """Return the command for the result, without the paths of this machine."""
    words = [f"python -m benchmarks.{name}"]
    hide_next = False
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if hide_next or _PATH.match(argument):
            words.append("PATH")
        elif equals and (option.replace("_", "-") in _PRIVATE_OPTIONS or _PATH.match(value)):
            words.append(f"{option}=PATH")
        else:
            words.append(f'"{argument}"' if " " in argument else argument)
        hide_next = argument.replace("_", "-") in _PRIVATE_OPTIONS
    return " ".join(words)


def source_label(options: argparse.Namespace, default: str) -> str:
    """Never the folder's own name: results are published."""
    if options.label:
        return str(options.label)
    own = options.source or getattr(options, "shards", None)
    return "photographs of one's own" if own else default


def environment(options: argparse.Namespace, workers: Workers) -> dict[str, Any]:
    """Parameters that every result has."""
    if options.rounds < 1:
        raise ValueError(f"--rounds is {options.rounds}: at least 1")
    load = round(os.getloadavg()[0], 2)
    note = {"note": options.note} if options.note else {}
    own = workers.parameters()
    return {**note, **own, "rounds": options.rounds, "load average at the start": load}
