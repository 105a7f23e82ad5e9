"""A U-Net (Ronneberger et al. 2015) as completion network, with padding and batch norm.

Each scale is two 3x3 convolutions; 2x2 max-pooling halves, 2x2 up-convolutions double, and what the
encoder had at a scale is laid beside what the decoder has there.

| width | depth | channels_max | parameters | |
| --- | --- | --- | --- | --- |
| 64 | 4 | 1024 | 31,038,339 | the original plan |
| 52 | 4 | 1024 | 20,492,475 | as many operations as GLCIC, 31.85 GMAC at 256 pixels |
| 28 | 4 | 1024 | 5,944,683 | as many parameters as GLCIC |
| 64 | 5 | 512 | 33,400,195 | sees further |
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config.schema import CompletionConfig
from pipeline.networks.base import Completed, CompletionBase
from pipeline.networks.glcic import OutputLayer


class DoubleConvolution(nn.Sequential):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers += [
                nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(),
            ]
        super().__init__(*layers)


class UNet(CompletionBase):
    """Completes the hole of an image.

    With `gate_skips` the output of the encoder is multiplied by the share of known pixels, so
    that the colour the hole was filled with does not reach the decoder.
    """

    def __init__(self, config: CompletionConfig) -> None:
        super().__init__(config)
        depth = config.depth
        self.size_multiple = 2**depth
        self.context_px = _context_px(depth)
        self.gate_skips = config.gate_skips
        widths = [min(config.width * 2**scale, config.channels_max) for scale in range(depth + 1)]
        self.encoder = nn.ModuleList(
            DoubleConvolution(before, after)
            for before, after in zip([4, *widths[:-1]], widths, strict=True)
        )
        steps = list(zip(widths[1:], widths[:-1], strict=True))[::-1]  # from coarse to fine
        self.up = nn.ModuleList(nn.ConvTranspose2d(below, here, 2, 2) for below, here in steps)
        self.decoder = nn.ModuleList(DoubleConvolution(2 * here, here) for _, here in steps)
        self.output = OutputLayer(widths[0], kernel=1, activation=config.output)

    def completed(self, features: Tensor, mask: Tensor) -> Completed:
        known = 1 - mask
        skips: list[Tensor] = []
        for scale, layer in enumerate(self.encoder):
            if scale:
                skips.append(features * known.to(features.dtype) if self.gate_skips else features)
                features = functional.max_pool2d(features, 2)
                known = functional.avg_pool2d(known, 2)
            features = layer(features)
        for up, layer in zip(self.up, self.decoder, strict=True):
            features = layer(torch.cat([skips.pop(), up(features)], dim=1))
        return self.output(features), ()


def _context_px(depth: int) -> int:
    """Two 3x3 convolutions see 2 pixels of their scale to each side, pooling one; all scales but
    the coarsest are passed twice. Up to a multiple of what the coarsest scale's pixel covers.
    """
    coarsest = 2**depth
    reach = sum((2 + 1 + 2) * 2**scale for scale in range(depth)) + 2 * coarsest
    return -(-reach // coarsest) * coarsest
