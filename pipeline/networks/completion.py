"""The completion network of GLCIC (Iizuka et al. 2017, table 1): 17 convolutions.

Layers carry the number of their row in the paper's table: `encoder.1` to `encoder.6`, `middle.7` to
`middle.12` (7 to 10 are dilated), `decoder.13` to `decoder.17`. Each holds `conv` and, but for the
last, `norm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.config import CompletionConfig
from pipeline.networks.dilation import NATIVE, SPACE_TO_BATCH, by_space_to_batch

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
SIZE_MULTIPLE = 4  # two halvings: sides of the input are multiples of this


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

    def forward(self, features: Tensor) -> Tensor:
        return self.activate(self.conv(features))

    def activate(self, features: Tensor) -> Tensor:
        """Batch norm and ReLU, in the block's order."""
        if self.activates_first:
            return self.norm(torch.relu(features))
        return torch.relu(self.norm(features))


class OutputLayer(nn.Module):
    """Row 17: to RGB, without batch norm."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 3, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        # In half precision a sigmoid has fewer levels near 1 than an 8-bit image.
        return torch.sigmoid(self.conv(features).float())


class CompletionNetwork(nn.Module):
    """Completes the hole of an image, which it erases itself: what lay in it cannot leak."""

    fill_color: Tensor  # (3,) float32 RGB, what is written into the hole

    def __init__(self, config: CompletionConfig) -> None:
        super().__init__()
        self.dilation = NATIVE  # or SPACE_TO_BATCH: how the dilated layers are computed
        self.subtract_fill = config.subtract_fill
        self.register_buffer("fill_color", torch.full((3,), 0.5))
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
        self.decoder["17"] = OutputLayer(channels)

    def set_fill_color(self, color: Sequence[float]) -> None:
        """RGB in [0, 1]; saved with the weights."""
        with torch.no_grad():
            self.fill_color.copy_(torch.as_tensor(color, dtype=torch.float32))

    def network_input(self, image: Tensor, mask: Tensor) -> Tensor:
        """(N, 4, H, W): the image with its hole erased, and the mask."""
        fill = self.fill_color.view(1, 3, 1, 1)
        erased = torch.where(mask > 0.5, fill, image)
        if self.subtract_fill:
            erased = erased - fill
        return torch.cat([erased, mask.to(erased.dtype)], dim=1)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """The raw output, (N, 3, H, W) float32 in [0, 1], known region included.

        `image` (N, 3, H, W) in [0, 1], `mask` (N, 1, H, W) with 1 in the hole. Raises ValueError
        where H or W is not a multiple of 4.
        """
        height, width = image.shape[-2:]
        if height % SIZE_MULTIPLE or width % SIZE_MULTIPLE:
            raise ValueError(
                f"the completion network halves its input twice, but the image is {width}x{height} "
                f"pixels; pad both sides to multiples of {SIZE_MULTIPLE}"
            )
        features = self.network_input(image, mask)
        for layer in self.encoder.values():
            features = layer(features)
        layers = list(self.middle.values())
        if self.dilation == SPACE_TO_BATCH:
            features = by_space_to_batch(self.dilated_layers(), features)
            layers = layers[len(self.dilated_layers()) :]
        for layer in (*layers, *self.decoder.values()):
            features = layer(features)
        return features

    def dilated_layers(self) -> list[ConvolutionBlock]:
        """Rows 7 to 10, the first of the middle ones."""
        rows = [row for row, (_, dilation, *_) in _MIDDLE.items() if dilation > 1]
        return [cast(ConvolutionBlock, self.middle[str(row)]) for row in rows]
