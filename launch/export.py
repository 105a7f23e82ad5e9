"""Writes a trained completion network for use elsewhere: safetensors, ONNX or torch.export."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):  # started as a script: the repository root is not on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

if TYPE_CHECKING:
    from torch import nn

_SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}  # of the formats that are one file


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="glcic export",
        description="Export the completion network of a checkpoint: weights, batch norm's "
        "statistics re-estimated on training images, and a description. An exported or imported "
        "network is written as it is.",
    )
    parser.add_argument(
        "checkpoint", help="a checkpoint, a run's folder for its newest one, or an exported network"
    )
    parser.add_argument("output", help="folder or URL to write to; of onnx and torch-export a file")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema")
    parser.add_argument("--shards", help="packed set to re-estimate on (default: the run's)")
    parser.add_argument(
        "--format", choices=("safetensors", *_SUFFIXES), default="safetensors",
        help="safetensors (default): a folder that glcic reads; onnx, torch-export: one file, "
        ".onnx or .pt2",
    )  # fmt: skip
    parser.add_argument(
        "--composite", action="store_true",
        help="let the exported graph give the image with its hole completed, instead of the raw "
        "output",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    _check_output(options)

    from pipeline.export import save_described_network

    network, description = _network(options)
    if options.format == "safetensors":
        save_described_network(options.output, network, description)
    else:
        _write_graph(options, network, description)
    weights = description.get("weights", "imported")
    print(f"the {weights} weights of step {description['step']} are in {options.output}")
    if "licence" in description:
        print(description["licence"])
    return 0


def _check_output(options: argparse.Namespace) -> None:
    suffix = _SUFFIXES.get(options.format)
    if suffix is not None and not options.output.endswith(suffix):
        raise ValueError(
            f"{options.output}: --format {options.format} writes a file whose name ends in {suffix}"
        )
    if suffix is None and options.output.endswith(tuple(_SUFFIXES.values())):
        raise ValueError(
            f"{options.output}: --format safetensors writes a folder; name one, or choose --format "
            "onnx or torch-export"
        )
    if suffix is None and options.composite:
        raise ValueError("--composite belongs to --format onnx and torch-export: they hold a graph")


def _network(options: argparse.Namespace) -> tuple[nn.Module, dict[str, Any]]:
    import torch

    from pipeline.checkpoint import read_commitment
    from pipeline.evaluation import recalibrate
    from pipeline.export import DESCRIPTION, find_checkpoint, load_exported, load_from_checkpoint
    from pipeline.preflight import training_data
    from pipeline.workers import Worker
    from shards.storage import exists, join_url

    if exists(join_url(options.checkpoint, DESCRIPTION)):
        if options.shards:
            raise ValueError(f"{options.checkpoint} is exported already: --shards changes nothing")
        return load_exported(options.checkpoint, torch.device("cpu"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    url = find_checkpoint(options.checkpoint)
    network, config = load_from_checkpoint(url, options.weights, device)
    if options.shards:
        config = dataclasses.replace(
            config, data=dataclasses.replace(config.data, shards=options.shards)
        )
    data = training_data(config)
    network = recalibrate(network, config, Worker(device=device, precision=config.train.precision))
    return network, {
        "step": read_commitment(url)["step"],
        "completion": dataclasses.asdict(config.completion),
        "weights": options.weights,
        "data_fingerprint": data.fingerprint,
    }


def _write_graph(
    options: argparse.Namespace, network: nn.Module, description: dict[str, Any]
) -> None:
    """Compared with the network first: what does not agree is not written."""
    import torch

    from pipeline.exchange.exported_program import exported_program_file
    from pipeline.exchange.onnx_graph import onnx_file
    from pipeline.exchange.traced import TracedCompletion
    from pipeline.networks.erasing import ErasingNetwork
    from shards.storage import write_bytes

    # Plain NCHW on the CPU: the graph is for any device, and for programs that know no other order.
    network = network.to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    assert isinstance(network, ErasingNetwork)
    traced = TracedCompletion(network.eval().requires_grad_(False), composite=options.composite)
    make = onnx_file if options.format == "onnx" else exported_program_file
    data, agreement = make(traced, description)
    write_bytes(options.output, data)
    print(f"compared with the network: {agreement}")


if __name__ == "__main__":
    from launch.command import run

    sys.exit(run("export", main))
