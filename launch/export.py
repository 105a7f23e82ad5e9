"""Write a trained completion network for use elsewhere: safetensors, ONNX or torch.export."""

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

    from pipeline.config.schema import Config
    from pipeline.exports.tracing.traced import TracedCompletion

_SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}  # of the formats that are one file
_CALIBRATION_IMAGES = 128


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
    parser.add_argument(
        "--shards", help="packed set to re-estimate and calibrate on (default: the run's)"
    )
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
    parser.add_argument(
        "--precision", choices=("fp32", "int8"), default="fp32",
        help="int8: an ONNX file whose convolutions multiply bytes, for CPUs; calibrated on "
        "training images and compared with the network on others",
    )  # fmt: skip
    parser.add_argument(
        "--calibration-images", type=int, metavar="N",
        help=f"of --precision int8 (default: {_CALIBRATION_IMAGES})",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    _check_output(options)
    _check_precision(options)

    from pipeline.exports.network_folder import save_described_network

    network, description, config = _network(options)
    if options.format == "safetensors":
        save_described_network(options.output, network, description)
    else:
        _write_graph(options, network, description, config)
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


def _check_precision(options: argparse.Namespace) -> None:
    if options.precision != "int8":
        if options.calibration_images is not None:
            raise ValueError("--calibration-images belongs to --precision int8")
        return
    if options.format != "onnx":
        raise ValueError("--precision int8 belongs to --format onnx: no other format here has it")
    if options.calibration_images is not None and options.calibration_images < 1:
        raise ValueError(f"--calibration-images is {options.calibration_images}: at least 1")


def _network(options: argparse.Namespace) -> tuple[nn.Module, dict[str, Any], Config | None]:
    """Return the network, its description, and the configuration of its training data, where it is
    known.

    Raises ValueError for options that do not fit it.
    """
    import torch

    from pipeline.checkpoints.format import read_commitment
    from pipeline.engines.ddp import Worker
    from pipeline.evaluation.evaluate import recalibrate
    from pipeline.exports.network_folder import (
        DESCRIPTION,
        find_checkpoint,
        load_exported,
        load_from_checkpoint,
    )
    from pipeline.exports.onnx.calibration_data import configuration_of
    from pipeline.step.training_data import training_data
    from shards.storage.files import exists, join_url

    if exists(join_url(options.checkpoint, DESCRIPTION)):
        if options.shards and options.precision != "int8":
            raise ValueError(f"{options.checkpoint} is exported already: --shards changes nothing")
        if options.precision == "int8" and not options.shards:
            raise ValueError(
                f"{options.checkpoint} is an exported network, which does not record the "
                "images that it was trained on; name a packed set to calibrate on with --shards"
            )
        network, description = load_exported(options.checkpoint, torch.device("cpu"))
        if not options.shards:
            return network, description, None
        return network, description, configuration_of(description, options.shards)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    url = find_checkpoint(options.checkpoint)
    network, config = load_from_checkpoint(url, options.weights, device)
    if options.shards:
        config = dataclasses.replace(
            config, data=dataclasses.replace(config.data, shards=options.shards)
        )
    data = training_data(config)
    network = recalibrate(network, config, Worker(device=device, precision=config.train.precision))
    description = {
        "step": read_commitment(url)["step"],
        "completion": dataclasses.asdict(config.completion),
        "weights": options.weights,
        "data_fingerprint": data.fingerprint,
    }
    return network, description, config


def _write_graph(
    options: argparse.Namespace,
    network: nn.Module,
    description: dict[str, Any],
    config: Config | None,
) -> None:
    """Compared with the network first: what does not agree is not written."""
    import torch

    from pipeline.exports.onnx.export import onnx_file
    from pipeline.exports.torch_export import exported_program_file
    from pipeline.exports.tracing.traced import TracedCompletion
    from pipeline.networks.base import CompletionBase
    from shards.storage.files import write_bytes

    # Plain NCHW on the CPU: the graph is for any device, and for programs that know no other order.
    network = network.to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    assert isinstance(network, CompletionBase)
    traced = TracedCompletion(network.eval().requires_grad_(False), composite=options.composite)
    make = onnx_file if options.format == "onnx" else exported_program_file
    data, comparison = make(traced, description)
    print(f"compared with the network: {comparison}")
    if options.precision == "int8":
        assert config is not None
        num_images = options.calibration_images or _CALIBRATION_IMAGES
        data = _in_8_bits(traced, data, description, config, num_images)
    write_bytes(options.output, data)


def _in_8_bits(
    traced: TracedCompletion,
    data: bytes,
    description: dict[str, Any],
    config: Config,
    num_images: int,
) -> bytes:
    from pipeline.exports.int8_error import int8_hole_error
    from pipeline.exports.onnx.calibration_data import quantization_samples
    from pipeline.exports.onnx.int8 import quantized_graph
    from pipeline.exports.onnx.runtimes import installed_runtime

    samples = quantization_samples(config, num_images)
    calibration = {
        "images": samples.num_calibration_images,
        "data_fingerprint": samples.data_fingerprint,
    }
    described = {**description, "precision": "int8", "calibration": calibration}
    quantized = quantized_graph(data, samples.calibration, described)
    difference = int8_hole_error(traced, installed_runtime()(quantized), samples.comparison)
    difference.require_near()
    print(
        f"in 8 bits, calibrated on {samples.num_calibration_images} images, compared on "
        f"{samples.num_compared_images} {samples.compared_split} samples: {difference}"
    )
    return quantized


if __name__ == "__main__":
    from launch.command import run

    sys.exit(run("export", main))
