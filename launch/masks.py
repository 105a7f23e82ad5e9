"""`glcic masks SOURCE FOLDER`: images and masks as files, for evaluations that can be repeated."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # started as a script: the repository root is not on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from launch.support.arguments import parse_with_config
from shards.evaluation_sets.image_mask_pairs import LIST_NAME
from shards.evaluation_sets.write_pairs import PACKED, write_fixed_files
from shards.masks.presets import MASK_PRESETS

_MAX_LISTED = 20  # refused images that are printed


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="glcic masks",
        description="Write images as PNG, one mask of every set for each, and a list with their "
        "checksums: the same for every model. `glcic evaluate --images FOLDER/images.csv --masks "
        "FOLDER/SET` reads them, and so do other projects (white is the hole).",
    )
    parser.add_argument("source", help="what `glcic pack` packs, or a packed set")
    parser.add_argument("folder", help="a new folder or URL")
    parser.add_argument(
        "--sets", nargs="+", metavar="NAME", default=[PACKED],
        help=f"{', '.join(MASK_PRESETS)} (256 pixels), or {PACKED}: pack.masks, or the "
        "masks of a packed set (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--split", choices=("train", "val", "all"), default="val", help="%(default)s"
    )
    parser.add_argument("--limit", type=int, default=0, help="images; 0: all (%(default)s)")
    options, config = parse_with_config(parser, arguments, sections=("pack",))
    if options.limit < 0:
        raise ValueError(f"--limit is {options.limit}: at least 0")
    written = write_fixed_files(
        options.source, options.folder, config.pack, options.sets,
        split=options.split, limit=options.limit,
    )  # fmt: skip
    for image in written.refused[:_MAX_LISTED]:
        print(f"refused {image.path}: {image.reason}")
    if written.refused:
        print(f"refused: {len(written.refused)} images")
    sets = ", ".join(options.sets)
    print(f"{written.num_images} images of {written.size} pixels, with masks {sets}")
    folder = options.folder.rstrip("/")
    masks = " ".join(f"{folder}/{name}" for name in options.sets)
    print(f"next: glcic evaluate --images {folder}/{LIST_NAME} --masks {masks} --checkpoint URL")
    return 0


if __name__ == "__main__":
    from launch.command import run

    sys.exit(run("masks", main))
