"""`glcic samples DESTINATION`: photographs that ship with the dependencies, as image classes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # started as a script: the repository root is not on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from shards.sources.free_photographs import find_photographs, read_photographs
from shards.sources.sample_photographs import (
    CREDITS_NAME,
    SAMPLE_PHOTOGRAPHS,
    available_photographs,
    write_samples,
)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="glcic samples",
        description="Cut freely licensed photographs into tiles: DESTINATION/train/NAME/ and "
        "DESTINATION/val/NAME/, each of whole photographs of its own. Nothing is downloaded.",
    )
    parser.add_argument("destination", type=Path, help="a new folder, or an earlier set of samples")
    parser.add_argument(
        "--photographs", type=Path, nargs="+", default=[], metavar="FOLDER",
        help="add large photographs that Debian packages install, see docs/photographs.md: "
        "/usr/share, or folders that packages were unpacked into",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    found = find_photographs(options.photographs) if options.photographs else {}
    counts = write_samples(options.destination, read_photographs(found, print))
    available = available_photographs()
    print(
        f"{counts['train']} training and {counts['val']} validation tiles of "
        f"{len(available) + len(found)} photographs in {options.destination}; credits in "
        f"{CREDITS_NAME}"
    )
    missing = [photo.name for photo in SAMPLE_PHOTOGRAPHS if photo not in available]
    if missing:
        print(
            f"left out: {', '.join(missing)} (they ship with scikit-learn; "
            "pip install 'glcic-pipeline[samples]')"
        )
    print(f"next: glcic pack {options.destination} SHARDS --config quickstart")
    return 0


if __name__ == "__main__":
    from launch.command import run

    sys.exit(run("samples", main))
