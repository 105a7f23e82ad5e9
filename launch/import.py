"""Make an exported network of the weights of another project, for every verb that takes one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # started as a script: the repository root is not on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)

    from pipeline.exports.network_folder import save_completion_network
    from pipeline.weight_import.detect import import_file, sha256_of

    mean = _mean(options.mean) if options.mean else None
    imported = import_file(
        options.file, options.format, mean=mean, channel_order=options.channel_order
    )
    facts: dict[str, Any] = {
        "source": {
            "layout": imported.layout,
            "file": options.file.name,
            "sha256": sha256_of(options.file),
        }
    }
    if imported.licence:
        facts["licence"] = imported.licence
    save_completion_network(options.folder, imported.network(), imported.config, 0, facts)
    color = ", ".join(f"{value:.4f}" for value in imported.fill_color)
    print(
        f"{options.file}: the layout of {imported.layout}, {len(imported.tensors)} tensors, all fit"
    )
    print(f"holes are filled with RGB {color}")
    for note in imported.notes:
        print(note)
    print(f"written to {options.folder}; to train on: {_flags(options.folder, imported.config)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="glcic import",
        description="Import a completion network: the authors' Torch7 files, otenim's model_cn or "
        "a checkpoint of mmagic's GLInpaintor. Nothing in the file is executed.",
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, help="a .t7 or .pth file")
    parser.add_argument("folder", help="folder or URL to write the network to")
    parser.add_argument(
        "--format", choices=("authors", "otenim", "mmagic"),
        help="whose layout the file has (default: found by its content)",
    )  # fmt: skip
    parser.add_argument(
        "--mean", metavar="R,G,B",
        help="mean colour of the training set, each from 0 to 1 (default: the file's, or mpv in "
        "otenim's config.json beside it)",
    )  # fmt: skip
    parser.add_argument(
        "--channel-order", choices=("bgr", "rgb"),
        help="of the images that mmagic has trained on (default: bgr, as its configurations have)",
    )  # fmt: skip
    return parser


def _mean(text: str) -> tuple[float, float, float]:
    from pipeline.weight_import.imported import checked_color

    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--mean {text}: three numbers R,G,B such as 0.456,0.447,0.416") from None
    return checked_color(values, "--mean")


def _flags(folder: str, config: object) -> str:
    """Return the flags for a run that starts from the network."""
    default = type(config)()
    changed = [
        f"--completion.{name} {str(value).lower() if isinstance(value, bool) else value}"
        for name, value in vars(config).items()
        if value != getattr(default, name)
    ]
    return " ".join([f"--start.checkpoint {folder} --start.take completion", *changed])


if __name__ == "__main__":
    from launch.command import run

    sys.exit(run("import", main))
