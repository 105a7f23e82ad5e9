"""The blocks that predict where a decoder's output looks fake, and raise its features there."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.networks.spectral_norm import SpectralConvolution

_MAP_BIAS = -4.0  # of a fresh block's last layer: its map is 0.018 everywhere
_LEAKY_SLOPE = 0.2


class AttentionBlock(nn.Module):
    """(N, C, h, w), with (N, E, h, w) from the encoder if E > 0, to (N, C, h, w) and its map.

    The map is (N, 1, h, w) float32 in [0, 1]. Without a map the block is its join alone, T = F: it
    has no parameters for one, and gives None in its place.
    """

    def __init__(
        self, channels: int, skip_channels: int, kernel: int, has_map: bool = True
    ) -> None:
        super().__init__()
        padding = kernel // 2
        self.fuse = nn.Conv2d(channels + skip_channels, channels, kernel, padding=padding)
        self.head: nn.Sequential | None = None
        if has_map:
            self.head = nn.Sequential(
                nn.Conv2d(channels, channels // 2, kernel, padding=padding),
                nn.ReLU(),
                nn.Conv2d(channels // 2, 1, kernel, padding=padding),
            )
        self._start_as_identity_()

    @torch.no_grad()
    def _start_as_identity_(self) -> None:
        nn.init.zeros_(self.fuse.weight)
        nn.init.zeros_(self.fuse.bias)  # type: ignore[arg-type]
        middle = self.fuse.kernel_size[0] // 2
        for channel in range(self.fuse.out_channels):
            self.fuse.weight[channel, channel, middle, middle] = 1
        if self.head is not None:
            last = self.head[-1]
            assert isinstance(last, nn.Conv2d)
            nn.init.zeros_(last.weight)
            nn.init.constant_(last.bias, _MAP_BIAS)  # type: ignore[arg-type]

    def forward(self, features: Tensor, skip: Tensor | None) -> tuple[Tensor, Tensor | None]:
        joined = features if skip is None else torch.cat([features, skip], dim=1)
        fused = torch.relu(self.fuse(joined))
        if self.head is None:
            return fused, None
        fakeness = torch.sigmoid(self.head(fused).float())
        return fused + fakeness.to(fused.dtype) * fused, fakeness


class AuthorAttentionBlock(nn.Module):
    """The block of the first author's released code; inputs and outputs as of `AttentionBlock`.

    All convolutions are 3x3 with spectral norm; e is ELU, l is LeakyReLU of slope 0.2, clamps are
    to [-1, 1]:

        F = e(fuse([features, skip]))    M = sigmoid(conv(clamp(e(conv(F)))))
        T = clamp(e(conv(F + M * l(F))))

    It cannot start as the identity: norm, ELU and clamp change whatever passes.
    """

    def __init__(self, channels: int, skip_channels: int, has_map: bool = True) -> None:
        super().__init__()
        self.fuse = SpectralConvolution(channels + skip_channels, channels)
        self.head: nn.ModuleList | None = None
        if has_map:
            self.head = nn.ModuleList(
                [
                    SpectralConvolution(channels, channels // 2),
                    SpectralConvolution(channels // 2, 1),
                ]
            )
        self.output = SpectralConvolution(channels, channels)

    def forward(self, features: Tensor, skip: Tensor | None) -> tuple[Tensor, Tensor | None]:
        joined = features if skip is None else torch.cat([features, skip], dim=1)
        fused = functional.elu(self.fuse(joined))
        if self.head is None:
            return self._result(fused), None
        first, last = self.head
        hidden = functional.elu(first(fused)).clamp(-1, 1)
        fakeness = torch.sigmoid(last(hidden).float())
        raised = fakeness.to(fused.dtype) * functional.leaky_relu(fused, _LEAKY_SLOPE)
        return self._result(fused + raised), fakeness

    def _result(self, features: Tensor) -> Tensor:
        return functional.elu(self.output(features)).clamp(-1, 1)
