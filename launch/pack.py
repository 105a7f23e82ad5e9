"""`glcic pack SOURCE DESTINATION`: a tree of image classes becomes WebDataset shards with masks."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

if __package__ in (None, ""):  # started as a script: the repository root is not on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from launch.support.arguments import parse_with_config
from launch.support.progress import PlainProgress
from pipeline.config.schema import Config
from pipeline.config.telemetry_validation import require_telemetry
from pipeline.monitoring.packing_metrics import PackingMetrics
from shards.format.manifest import Manifest, RefusedImage
from shards.packing.merge import merge_if_last, merge_slices
from shards.packing.pack import Progress as PackProgress
from shards.packing.pack import pack_images, pack_slice
from shards.sources.plan import is_ignored

_INDEX_VARIABLE = "JOB_COMPLETION_INDEX"  # set by Kubernetes in the pods of an Indexed Job
_LISTED = 20  # refused images that are printed; the manifest has them all


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="glcic pack",
        description="Pack image classes into WebDataset shards with precomputed random masks. "
        "What a killed pack has finished is kept: the same command goes on from there.",
    )
    parser.add_argument(
        "source",
        nargs="?",
        help="folder of image classes, or of tar archives of classes, or of train/ and val/; a tar "
        "archive; or a list, .csv or .parquet with columns path and class; each also as a URL",
    )
    parser.add_argument("destination", nargs="?", help="folder or URL of the packed set")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes; 0: one per core (%(default)s)"
    )
    parser.add_argument(
        "--slice",
        metavar="I/N",
        help="pack only every N-th shard, from the I-th on, for N machines that need nothing of "
        "each other; /N takes I from JOB_COMPLETION_INDEX",
    )
    parser.add_argument(
        "--merge", metavar="DESTINATION", help="join the slices packed there into a set"
    )
    parser.add_argument(
        "--merge-last",
        action="store_true",
        help="with --slice: join the slices if this one was the last to be packed",
    )
    parser.add_argument(
        "--size",
        type=int,
        metavar="S",
        help="short for pack.crop_size S, pack.short_side 3S/2 and holes of 3S/8 to S/2, where "
        "those are not given",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a set that is there")
    options, config = parse_with_config(
        parser, _with_size(arguments), sections=("pack", "telemetry")
    )
    _check(options)
    console = Console()
    begin = time.perf_counter()
    if options.merge:
        manifest = merge_slices(options.merge)
        _print_summary(console, manifest, options.merge, time.perf_counter() - begin)
        return 0
    require_telemetry(config.telemetry)
    metrics = PackingMetrics(options.destination)
    with metrics.exported(config.telemetry, print):
        return _pack(options, config, console, metrics, begin)


def _pack(
    options: argparse.Namespace, config: Config, console: Console, metrics: PackingMetrics,
    begin: float,
) -> int:  # fmt: skip
    if options.slice:
        number, of = _slice(options.slice)
        num_stored = _with_progress(
            console,
            lambda progress: pack_slice(
                options.source, options.destination, config.pack, number, of,
                workers=options.workers, progress=progress, watch=metrics,
            ),
        )  # fmt: skip
        message = (
            f"slice {number}/{of} of {options.destination}: {num_stored:,} images packed in "
            f"{time.perf_counter() - begin:.1f} s"
        )
        if options.merge_last:
            merged = merge_if_last(options.destination, of)
            message += "; others are still to be packed" if merged is None else ", the last one"
        else:
            merged = None
            message += f"; when all {of} are packed: glcic pack --merge {options.destination}"
        console.print(message, highlight=False, soft_wrap=True)
        if merged is not None:
            _print_summary(console, merged, options.destination, time.perf_counter() - begin)
        return 0
    manifest = _with_progress(
        console,
        lambda progress: pack_images(
            options.source, options.destination, config.pack, workers=options.workers,
            overwrite=options.overwrite, progress=progress, watch=metrics,
        ),
    )  # fmt: skip
    _print_summary(console, manifest, options.destination, time.perf_counter() - begin)
    return 0


def _check(options: argparse.Namespace) -> None:
    if options.workers < 0:
        raise ValueError(f"--workers is {options.workers}: at least 0")
    if options.merge:
        if options.source or options.slice or options.overwrite:
            raise ValueError("--merge takes the destination alone: glcic pack --merge DESTINATION")
    elif options.destination is None:
        raise ValueError("name the source and the destination: glcic pack SOURCE DESTINATION")
    if options.merge_last and not options.slice:
        raise ValueError("--merge-last belongs to --slice; a pack without slices needs no merging")
    if options.slice and options.overwrite:
        raise ValueError(
            "--overwrite would remove what other slices have packed; remove the old set, or name "
            "another destination"
        )


def _slice(text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    number = number or os.environ.get(_INDEX_VARIABLE, "")
    if not number:
        raise ValueError(f"--slice {text} leaves out which one, and {_INDEX_VARIABLE} is not set")
    if not number.isdecimal() or not of.isdecimal() or int(number) >= int(of):
        raise ValueError(f"--slice is {number}/{of}: I/N with 0 <= I < N, for example 0/4")
    return int(number), int(of)


def _with_size(arguments: list[str]) -> list[str]:
    """`--size S` written out, before the fields that are given: these come later and win."""
    size = None
    for position, argument in enumerate(arguments):
        if argument.startswith("--size"):
            _, _, value = argument.partition("=")
            size = value or "".join(arguments[position + 1 : position + 2])
    if size is None or not size.isdecimal():
        return arguments
    side = int(size)
    values = {
        "crop-size": side,
        "short-side": side * 3 // 2,
        "masks.side-min": side * 3 // 8,
        "masks.side-max": side // 2,
    }
    fields = [word for name, value in values.items() for word in (f"--pack.{name}", str(value))]
    return [*fields, *arguments]


Result = TypeVar("Result")


def _with_progress(console: Console, pack: Callable[[PackProgress], Result]) -> Result:
    if not console.is_terminal:
        return pack(PlainProgress("packed", "images"))
    columns = (
        TextColumn("packing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("packing", total=None)
        return pack(lambda done, total: bar.update(task, completed=done, total=total))


def _print_summary(console: Console, manifest: Manifest, destination: str, seconds: float) -> None:
    num_images = sum(manifest.num_images(split) for split in manifest.splits)
    table = Table(title=f"{destination}: packed in {seconds:.1f} s", title_justify="left")
    for heading in ("split", "images", "samples", "shards", "MB"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for split, shards in manifest.splits.items():
        size_mb = sum(shard.size_bytes for shard in shards) / 1e6
        table.add_row(
            split,
            f"{manifest.num_images(split):,}",
            f"{manifest.num_samples(split):,}",
            str(len(shards)),
            f"{size_mb:.1f}",
        )
    console.print(table)
    red, green, blue = manifest.mean_color
    console.print(
        f"{num_images:,} images of {len(manifest.classes):,} classes, mean colour "
        f"({red:.3f}, {green:.3f}, {blue:.3f}), fingerprint {manifest.fingerprint[:12]}",
        highlight=False,
        soft_wrap=True,
    )
    for kind, count in manifest.converted.items():
        console.print(f"converted: {count:,} {kind}", highlight=False)
    ignored = [image for image in manifest.refused if is_ignored(image)]
    refused = [image for image in manifest.refused if not is_ignored(image)]
    for reason, count in Counter(image.reason for image in ignored).items():
        console.print(f"{reason}: {count:,}", highlight=False)
    _print_refused(console, refused)


def _print_refused(console: Console, refused: list[RefusedImage]) -> None:
    if not refused:
        console.print("no image was refused")
        return
    console.print(f"[bold]refused images, left out: {len(refused):,}[/bold]")
    for image in refused[:_LISTED]:
        # A file name may hold bytes that are no text; they are shown as question marks.
        line = f"  {image.path}: {image.reason}".encode(errors="replace").decode()
        console.print(escape(line), highlight=False, soft_wrap=True)
    if len(refused) > _LISTED:
        console.print(f"  and {len(refused) - _LISTED:,} more, all in the manifest")


if __name__ == "__main__":
    from launch.command import run

    sys.exit(run("pack", main))
