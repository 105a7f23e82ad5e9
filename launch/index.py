"""`glcic index SHARDS`: makes a set of WebDataset shards that others have packed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # started as a script: the repository root is not on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from launch.support.arguments import parse_with_config
from launch.support.progress import PlainProgress
from shards.indexing.external_set import index_external_shards


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="glcic index",
        description="Write an index beside each .tar of SHARDS and a manifest with masks, so that "
        "they can be trained on. The shards themselves are not changed. Training does this by "
        "itself where it finds shards without a manifest.",
    )
    parser.add_argument("shards", help="folder or URL of WebDataset shards")
    options, config = parse_with_config(parser, arguments, sections=("pack",))
    manifest = index_external_shards(
        options.shards, config.pack, PlainProgress("indexed", "shards")
    )
    for split, entries in manifest.splits.items():
        print(f"{split}: {manifest.num_images(split):,} images in {len(entries):,} shards")
    print(f"{len(manifest.classes):,} classes, fingerprint {manifest.fingerprint[:12]}")
    for image in manifest.refused[:20]:
        print(f"refused: {image.path}: {image.reason}".encode(errors="replace").decode())
    if len(manifest.refused) > 20:
        print(f"and {len(manifest.refused) - 20:,} more, all in the manifest")
    return 0


if __name__ == "__main__":
    from launch.command import run

    sys.exit(run("index", main))
