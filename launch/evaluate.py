"""Evaluate a checkpoint on the validation shards, next to methods without a network."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

if __package__ in (None, ""):  # started as a script: the repository root is not on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console

from launch.support.arguments import parse_with_config
from launch.support.former_names import add_former_name
from pipeline.exports.onnx.file import is_onnx_file
from shards.evaluation_sets.image_mask_pairs import ImageMaskPairs, find_pairs
from shards.format.manifest import load_manifest
from shards.storage.files import join_url, write_bytes


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="glcic evaluate",
        description="Evaluate a completion network on the validation samples of the packed set "
        "data.shards, after re-estimating its batch norm on training images. Alone or under "
        "torchrun, with the same figures.",
    )
    parser.add_argument(
        "--checkpoint", metavar="URL",
        help="a checkpoint, an exported network or ONNX file, or a run's folder (default: the "
        "run's newest checkpoint)",
    )  # fmt: skip
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="JSON to write (default: evaluation.json in the run folder)",
    )
    _add_files(parser)
    options, config = parse_with_config(parser, arguments)
    files = _find_files(options)
    url = options.checkpoint or config.checkpoint_url
    if is_onnx_file(url):  # batch norm is no layer of its own there
        as_it_is = replace(config.evaluation, recalibration_images=0)
        config = replace(config, evaluation=as_it_is)
    if files is None or config.evaluation.recalibration_images:
        load_manifest(config.data.shards)  # before torch, which takes seconds to import

    import torch

    from pipeline.engines.start import start_worker
    from pipeline.evaluation.evaluate import evaluate_network, recalibrate
    from pipeline.evaluation.feature_metrics import PerceptualNetworks
    from pipeline.evaluation.published_results import PUBLISHED_RESULTS
    from pipeline.exports.network_folder import load_completion_network
    from pipeline.exports.onnx.network import OnnxNetwork

    perceptual = PerceptualNetworks.load(options.features, options.lpips)
    weights = config.evaluation.weights
    network = load_completion_network(url, weights, torch.device("cpu"))
    about = {"checkpoint": url, "weights": weights}
    if isinstance(network, OnnxNetwork):
        _require_cpu(url)
        about["precision"] = network.file.precision
    worker = start_worker(config, engine="ddp")  # nothing is trained: any engine would do
    layout = torch.channels_last if config.train.channels_last else torch.contiguous_format
    network = network.to(worker.device, memory_format=layout)  # type: ignore[call-overload]
    evaluation = evaluate_network(
        recalibrate(network, config, worker),
        config,
        worker,
        evaluated={**about, **perceptual.description()},
        files=files,
        perceptual=perceptual,
    )
    if worker.is_main:
        output = options.output or join_url(config.run_folder, "evaluation.json")
        write_bytes(output, evaluation.to_json().encode())
        published = PUBLISHED_RESULTS.get(options.compare_with)
        columns, statement = (published.columns, published.statement) if published else ({}, "")
        console = Console(soft_wrap=True)
        console.print(evaluation.to_table(columns))
        if published:
            console.print(statement, highlight=False)
        if options.markdown:
            text = evaluation.to_markdown(columns) + (f"\n{statement}\n" if published else "")
            write_bytes(options.markdown, text.encode())
        console.print(f"written to {output}", highlight=False)
    worker.close()
    return 0


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images", metavar="LIST",
        help="evaluate on image files instead: a list (`glcic masks` writes one) or a folder",
    )  # fmt: skip
    parser.add_argument(
        "--masks", nargs="+", metavar="FOLDER", default=[],
        help="their masks, one folder a set, NAME=FOLDER to name it; matched by name",
    )  # fmt: skip
    parser.add_argument(
        "--masks-inverted", action="store_true", help="the hole is black, as in MAT's files"
    )
    parser.add_argument(
        "--masks-by-order", action="store_true", help="match sorted masks with the list's order"
    )
    parser.add_argument(
        "--features", metavar="FILE.onnx", default="",
        help="network whose features FID, U-IDS and P-IDS compare",
    )  # fmt: skip
    parser.add_argument(
        "--lpips", metavar="FILE.onnx", default="", help="network that gives LPIPS of two images"
    )
    compare_with = parser.add_argument(
        "--compare-with", choices=("mmagic-places", "mmagic-celeba"),
        help="also show published results",
    )  # fmt: skip
    add_former_name(parser, "--beside", compare_with)
    parser.add_argument("--markdown", metavar="FILE", help="the tables as Markdown")


def _require_cpu(url: str) -> None:
    """Where there is a GPU, the workers take it."""
    import torch

    if torch.cuda.is_available():
        raise ValueError(f"{url} runs on the CPU; hide the GPUs: set CUDA_VISIBLE_DEVICES to ''")


def _find_files(options: argparse.Namespace) -> ImageMaskPairs | None:
    if bool(options.images) != bool(options.masks):
        raise ValueError("--images and --masks belong together: name both, or neither")
    if options.compare_with and len(options.masks) > 1:
        raise ValueError(
            f"--compare-with {options.compare_with}: the published results have one kind of "
            "masks; evaluate on the set mmagic alone"
        )
    if not options.images:
        return None
    return find_pairs(
        options.images, options.masks,
        inverted=options.masks_inverted, by_order=options.masks_by_order,
    )  # fmt: skip


if __name__ == "__main__":
    from launch.command import run

    sys.exit(run("evaluate", main))
