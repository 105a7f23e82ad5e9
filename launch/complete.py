"""Completes holes in photographs with a trained network."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):  # started as a script: the repository root is not on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from launch.command import EXIT_DATA
from pipeline.inference.photograph import Photograph, read_mask, read_photograph, rectangle_mask

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
Hole = tuple[int, int, int, int]  # x, y, width, height


@dataclass(frozen=True)
class Job:
    image: Path
    mask: Path | None  # None: the holes of the command line
    output: Path


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    jobs = list(_jobs(options))
    if options.longest_side and options.longest_side < 4:
        raise ValueError(f"--longest-side is {options.longest_side}: at least 4 pixels")

    import torch

    from pipeline.exports.network_folder import device_for, load_completion_network
    from pipeline.exports.onnx.file import is_onnx_file
    from pipeline.inference.complete import complete
    from pipeline.networks.folding import folded

    is_graph = is_onnx_file(options.checkpoint)
    if is_graph and options.precision:
        raise ValueError(
            f"--precision {options.precision}: {options.checkpoint} is computed in the precision "
            "that it was exported in; leave --precision out"
        )
    device = device_for(options.checkpoint, options.device)
    network = load_completion_network(options.checkpoint, options.weights, device)
    if not is_graph:
        network = folded(network, options.precision or "fp32")
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16")
    refused = 0
    for job in jobs:
        try:
            photograph = read_photograph(job.image)
            mask = _mask(job, options.hole, photograph)
            with autocast:
                completed = complete(
                    network, photograph.rgb(), mask, device=device,
                    longest_side=options.longest_side, blend=options.blend,
                )  # fmt: skip
        except (ValueError, OSError) as error:
            if len(jobs) == 1:
                raise
            refused += 1
            print(f"glcic complete: skipped {job.image}: {error}", file=sys.stderr)
            continue
        photograph.with_hole(completed, mask).save(job.output)
        print(job.output)
    if refused:
        print(f"glcic complete: {refused} of {len(jobs)} images were skipped", file=sys.stderr)
    return EXIT_DATA if refused else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="glcic complete",
        description="Fill the holes of photographs of any size. Known pixels are not changed; the "
        "result is a PNG of the same size.",
        allow_abbrev=False,
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="files or folders")
    parser.add_argument(
        "--checkpoint", required=True, metavar="URL",
        help="an exported network or ONNX file, a run's folder, or a checkpoint",
    )  # fmt: skip
    hole = parser.add_mutually_exclusive_group(required=True)
    hole.add_argument(
        "--mask", type=Path, metavar="FILE",
        help="image of the photograph's size, 128 and brighter where the hole is; or a folder of "
        "such, named as the photographs are",
    )  # fmt: skip
    hole.add_argument(
        "--hole", type=_hole, action="append", metavar="X,Y,W,H",
        help="rectangle in pixels; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, metavar="PATH",
        help="a .png file for one image, else a folder (default: NAME-completed.png beside it)",
    )  # fmt: skip
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema")
    parser.add_argument(
        "--blend", action="store_true", help="fit the hole's colours to its surroundings (Poisson)"
    )
    parser.add_argument(
        "--longest-side", type=int, default=0, metavar="PIXELS",
        help="show the network a reduced image: for holes of more than about 150 pixels",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"),
        help="(default: fp32) bf16 takes half the time where the processor multiplies it, for "
        "differences in the hole of less than one level of 255 on average; an ONNX file has its "
        "own",
    )  # fmt: skip
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")
    return parser


def _hole(text: str) -> Hole:
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not four whole numbers X,Y,W,H such as 96,80,64,64"
        ) from None
    return x, y, width, height


def _jobs(options: argparse.Namespace) -> Iterator[Job]:
    """What to complete, from what and to where; raises before any work is done."""
    images = [image for path in options.images for image in _images(path)]
    masks: dict[str, Path] | None = None
    if options.mask is not None and options.mask.is_dir():
        masks = {path.stem: path for path in _images(options.mask)}
    taken: dict[Path, Path] = {}
    for image in images:
        mask = options.mask if masks is None else masks.get(image.stem)
        if masks is not None and mask is None:
            raise ValueError(f"{image} has no mask: {options.mask} holds no {image.stem}.*")
        output = _output(image, options.output, len(images))
        if output.resolve() in {path.resolve() for path in images}:
            raise ValueError(f"{output} would be overwritten, an input; choose another --output")
        if output in taken:
            raise ValueError(f"{taken[output]} and {image} would both be written to {output}")
        taken[output] = image
        yield Job(image, mask, output)


def _images(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    images = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not images:
        raise ValueError(f"{path} holds no images ({', '.join(sorted(_SUFFIXES))})")
    return images


def _output(image: Path, output: Path | None, num_images: int) -> Path:
    if output is None:
        return image.with_name(f"{image.stem}-completed.png")
    if output.suffix and not output.is_dir():
        if output.suffix.lower() != ".png":
            raise ValueError(f"--output {output}: results are PNG files; end the name with .png")
        if num_images > 1:
            raise ValueError(f"--output {output} is one file, but there are {num_images} images")
        return output
    return output / f"{image.stem}.png"


def _mask(job: Job, holes: list[Hole] | None, photograph: Photograph) -> np.ndarray:
    if job.mask is not None:
        return read_mask(job.mask)
    return rectangle_mask(holes or [], photograph.size)


if __name__ == "__main__":
    from launch.command import run

    sys.exit(run("complete", main))
