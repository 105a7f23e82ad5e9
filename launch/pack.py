"""`glcic pack SOURCE DESTINATION`: a tree of image classes becomes WebDataset shards with masks."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

if __package__ in (None, ""):  # started as a script: the repository root is not on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from launch.arguments import parse_with_config
from launch.progress import PlainProgress
from shards.manifest import Manifest, RefusedImage
from shards.pack import pack_images
from shards.recipe import PackRecipe
from shards.sources import is_ignored

_LISTED = 20  # refused images that are printed; the manifest has them all


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="glcic pack",
        description="Pack image classes (first-level folders of SOURCE, or of SOURCE/train and "
        "SOURCE/val) into WebDataset shards with precomputed random masks.",
    )
    parser.add_argument("source", type=Path, help="folder of image classes")
    parser.add_argument("destination", help="folder or URL of the packed set")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace a set that is there")
    options, config = parse_with_config(parser, arguments, sections=("pack",))
    if options.threads < 0:
        raise ValueError(f"--threads is {options.threads}: at least 0")
    console = Console()
    begin = time.perf_counter()
    manifest = _pack(console, options, config.pack)
    _print_summary(console, manifest, options.destination, time.perf_counter() - begin)
    return 0


def _pack(console: Console, options: argparse.Namespace, recipe: PackRecipe) -> Manifest:
    def run(progress: object) -> Manifest:
        return pack_images(
            options.source,
            options.destination,
            recipe,
            threads=options.threads,
            overwrite=options.overwrite,
            progress=progress,  # type: ignore[arg-type]
        )

    if not console.is_terminal:
        return run(PlainProgress("packed", "images"))
    columns = (
        TextColumn("packing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("packing", total=None)
        return run(lambda done, total: bar.update(task, completed=done, total=total))


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
