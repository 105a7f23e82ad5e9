"""`glcic preview SHARDS`: a picture of packed samples, to see what training will see."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # started as a script: the repository root is not on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from shards.preview import draw_preview


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="glcic preview",
        description="Draw packed samples, one row each: original, masked image, mask.",
    )
    parser.add_argument("shards", help="folder or URL of the packed set")
    parser.add_argument(
        "--output", type=Path, default=Path("preview.png"), help="PNG or JPEG (%(default)s)"
    )
    parser.add_argument("--split", choices=("train", "val"), default="train")
    parser.add_argument("--count", type=int, default=4, help="samples (%(default)s)")
    parser.add_argument(
        "--fill",
        choices=("gray", "mean"),
        default="gray",
        help="colour of the holes: 0.5 or the set's mean colour (%(default)s)",
    )
    options = parser.parse_args(arguments)
    sheet = draw_preview(options.shards, options.split, options.count, options.fill)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(options.output)
    print(f"{options.output}: {sheet.width}x{sheet.height} pixels, split {options.split}")
    return 0


if __name__ == "__main__":
    from launch.command import run

    sys.exit(run("preview", main))
