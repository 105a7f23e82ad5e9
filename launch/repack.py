"""`glcic repack SOURCE SET`: mends the damaged shards of a set from what it was packed from."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # started as a script: the repository root is not on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from shards.packing.repack import repack_damaged


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="glcic repack",
        description="Pack the damaged or missing shards of a set again, bit for bit as its "
        "manifest says. Without --shard the set is verified first.",
    )
    parser.add_argument("source", help="what the set was packed from")
    parser.add_argument("shards", metavar="SET", help="folder or URL of the packed set")
    parser.add_argument(
        "--shard", action="append", metavar="NAME", help="only this one; may be repeated"
    )
    options = parser.parse_args(arguments)
    mended = repack_damaged(options.source, options.shards, options.shard)
    if not mended.names:
        print(f"{options.shards}: {mended.num_checked} shards verified, none is damaged")
        return 0
    print(f"{options.shards}: {len(mended.names)} shards packed again: {', '.join(mended.names)}")
    return 0


if __name__ == "__main__":
    from launch.command import run

    sys.exit(run("repack", main))
