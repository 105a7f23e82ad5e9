"""`glcic preview SHARDS`: a picture of packed samples, and figures of the masks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # started as a script: the repository root is not on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from shards.format.manifest import load_manifest
from shards.inspection.mask_statistics import draw_statistics, measure_masks, statistics_lines
from shards.inspection.preview import draw_preview


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    options.split = options.split or _first_split(options.shards)
    if options.output is None and options.statistics is None:
        options.output = Path("preview.png")
    if options.output is not None:
        _write_sheet(options)
    if options.statistics is not None:
        _write_statistics(options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="glcic preview",
        description="Draw packed samples, one row each: original, masked image, mask.",
    )
    parser.add_argument("shards", help="folder or URL of the packed set")
    parser.add_argument(
        "--output",
        type=Path,
        help="PNG or JPEG (preview.png, where --statistics is not asked for alone)",
    )
    parser.add_argument(
        "--split", default="", help="train, or val in a set without training images"
    )
    parser.add_argument("--shard", default="", metavar="NAME", help="look at this shard only")
    parser.add_argument("--count", type=int, default=4, help="samples drawn (%(default)s)")
    parser.add_argument(
        "--fill",
        choices=("gray", "mean"),
        default="gray",
        help="colour of the holes: 0.5 or the set's mean colour (%(default)s)",
    )
    parser.add_argument(
        "--statistics",
        type=Path,
        metavar="FILE.png",
        help="draw and print the distribution of the masks' areas, places and sides",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=10_000,
        help="most samples whose masks are measured (%(default)s)",
    )
    return parser


def _first_split(url: str) -> str:
    """Return the first split of the set that has images."""
    manifest = load_manifest(url)
    return next((split for split in manifest.splits if manifest.num_images(split)), "train")


def _write_sheet(options: argparse.Namespace) -> None:
    sheet = draw_preview(options.shards, options.split, options.count, options.fill, options.shard)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(options.output)
    print(f"{options.output}: {sheet.width}x{sheet.height} pixels, {_part(options)}")


def _write_statistics(options: argparse.Namespace) -> None:
    statistics = measure_masks(options.shards, options.split, options.samples, options.shard)
    for line in statistics_lines(statistics):
        print(line)
    options.statistics.parent.mkdir(parents=True, exist_ok=True)
    title = f"{options.shards}, {_part(options)}"
    draw_statistics(statistics, title).savefig(options.statistics)
    print(f"{options.statistics}: masks of {_part(options)}")


def _part(options: argparse.Namespace) -> str:
    return f"shard {options.shard}" if options.shard else f"split {options.split}"


if __name__ == "__main__":
    from launch.command import run

    sys.exit(run("preview", main))
