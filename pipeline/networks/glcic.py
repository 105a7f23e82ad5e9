"""The completion network of GLCIC (Iizuka et al. 2017, table 1): 17 convolutions.

Layers carry the number of their row in the paper's table: `encoder.1` to `encoder.6`, `middle.7` to
`middle.12` (7 to 10 are dilated), `decoder.13` to `decoder.17`. Each holds `conv` and, but for the
last, `norm`.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from pipeline.config.schema import CompletionConfig
from pipeline.networks.base import Completed, CompletionBase
from pipeline.networks.kernels import winograd
from pipeline.networks.kernels.space_to_batch import NATIVE, SPACE_TO_BATCH, by_space_to_batch
from pipeline.networks.kernels.transposed_convolution import convolve_transposed

# row: (kernel, dilation, stride, output channels in units of width). A stride of -2 is the paper's
# 1/2: a transposed convolution that doubles the side. The last row's channels are RGB.
_ENCODER = {
    1: (5, 1, 1, 1.0),
    2: (3, 1, 2, 2.0),
    3: (3, 1, 1, 2.0),
    4: (3, 1, 2, 4.0),
    5: (3, 1, 1, 4.0),
    6: (3, 1, 1, 4.0),
}
_MIDDLE = {
    7: (3, 2, 1, 4.0),
    8: (3, 4, 1, 4.0),
    9: (3, 8, 1, 4.0),
    10: (3, 16, 1, 4.0),
    11: (3, 1, 1, 4.0),
    12: (3, 1, 1, 4.0),
}
_DECODER = {
    13: (4, 1, -2, 2.0),
    14: (3, 1, 1, 2.0),
    15: (4, 1, -2, 1.0),
    16: (3, 1, 1, 0.5),
}


class ConvolutionBlock(nn.Module):
    """Convolution, batch norm and ReLU, in either order of the last two; "same" padding."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, dilation: int, stride: int,
        block_order: str,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv: nn.Module
        if stride < 0:
            self.conv = nn.ConvTranspose2d(in_channels, out_channels, kernel, -stride, padding=1)
        else:
            padding = dilation * (kernel - 1) // 2
            self.conv = nn.Conv2d(
                in_channels, out_channels, kernel, stride, padding, dilation=dilation
            )
        self.norm = nn.BatchNorm2d(out_channels)
        self.activates_first = block_order == "conv_act_bn"
        self.by_winograd = False  # set where `winograd.suits` the layer alone

    def forward(self, features: Tensor) -> Tensor:
        return self.activate(self.convolve(features))

    def convolve(self, features: Tensor) -> Tensor:
        """`conv`, in the way that is fastest here."""
        if isinstance(self.conv, nn.ConvTranspose2d):
            return convolve_transposed(self.conv, features)
        if self.by_winograd and winograd.fits(cast(nn.Conv2d, self.conv), features):
            return winograd.convolve(features, cast(nn.Conv2d, self.conv))
        return self.conv(features)

    def activate(self, features: Tensor) -> Tensor:
        """Batch norm and ReLU, in the block's order."""
        if self.activates_first:
            return self.norm(torch.relu(features))
        return torch.relu(self.norm(features))


class OutputLayer(nn.Module):
    """To RGB in [0, 1], without batch norm: row 17 of the table."""

    def __init__(self, in_channels: int, kernel: int = 3, activation: str = "sigmoid") -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 3, kernel, padding=kernel // 2)
        self.activation = activation

    def forward(self, features: Tensor) -> Tensor:
        # In half precision a sigmoid has fewer levels near 1 than an 8-bit image.
        values = self.conv(features).float()
        if self.activation == "clamp":
            return values.clamp(-1, 1) / 2 + 0.5
        return torch.sigmoid(values)


class CompletionNetwork(CompletionBase):
    """Completes the hole of an image."""

    def __init__(self, config: CompletionConfig) -> None:
        super().__init__(config)
        self.dilation = NATIVE  # or SPACE_TO_BATCH: how the dilated layers are computed
        channels = 4
        stages = []
        for rows in (_ENCODER, _MIDDLE, _DECODER):
            stage = nn.ModuleDict()
            for row, (kernel, dilation, stride, multiple) in rows.items():
                out_channels = int(config.width * multiple)
                stage[str(row)] = ConvolutionBlock(
                    channels, out_channels, kernel, dilation, stride, config.block_order
                )
                channels = out_channels
            stages.append(stage)
        self.encoder, self.middle, self.decoder = stages
        self.decoder["17"] = OutputLayer(channels, activation=config.output)

    def completed(self, features: Tensor, mask: Tensor) -> Completed:
        for layer in self.encoder.values():
            features = layer(features)
        features = self.middle_features(features)
        for layer in self.decoder.values():
            features = layer(features)
        return features, ()

    def middle_features(self, features: Tensor) -> Tensor:
        """Rows 7 to 12, at a quarter of the image's size."""
        layers = list(self.middle.values())
        if self.dilation == SPACE_TO_BATCH:
            features = by_space_to_batch(self.dilated_layers(), features)
            layers = layers[len(self.dilated_layers()) :]
        for layer in layers:
            features = layer(features)
        return features

    def set_convolution(self, convolution: str) -> None:
        """DIRECT, or WINOGRAD where that wins: how plain 3x3 convolutions are computed."""
        for module in self.modules():
            if isinstance(module, ConvolutionBlock):
                module.by_winograd = convolution == winograd.WINOGRAD and winograd.suits(
                    module.conv
                )

    def dilated_layers(self) -> list[ConvolutionBlock]:
        """Rows 7 to 10, the first of the middle ones."""
        rows = [row for row, (_, dilation, *_) in _MIDDLE.items() if dilation > 1]
        return [cast(ConvolutionBlock, self.middle[str(row)]) for row in rows]
