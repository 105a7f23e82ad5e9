"""The context discriminators of GLCIC: one sees the whole crop, one the patch around the hole."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.config.schema import DiscriminatorConfig

_LAST_SIDE = 5  # a branch halves its input until the side is at most this (paper: 4, faces: 5)


class DiscriminatorBranch(nn.Module):
    """(N, 3, S, S) to (N, num_features): strided convolutions, then one full connection."""

    def __init__(self, width: int, image_size: int, num_features: int) -> None:
        super().__init__()
        self.image_size = image_size
        layers: list[nn.Module] = []
        channels, side = 3, image_size
        while side > _LAST_SIDE:
            out_channels = width * min(2 ** (len(layers) // 3), 8)
            layers += [
                nn.Conv2d(channels, out_channels, 5, stride=2, padding=2),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(),
            ]
            channels, side = out_channels, (side + 1) // 2
        self.convolutions = nn.Sequential(*layers)
        self.full = nn.Linear(channels * side * side, num_features)

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[-2:] == (self.image_size, self.image_size), images.shape
        return torch.relu(self.full(self.convolutions(images).flatten(1)))


class ContextDiscriminator(nn.Module):
    """Both branches and their fusion. It returns logits: no sigmoid at the end."""

    def __init__(self, config: DiscriminatorConfig, image_size: int) -> None:
        super().__init__()
        width, features = config.width, config.num_features
        self.global_branch = DiscriminatorBranch(width, image_size, features)
        self.local_branch = DiscriminatorBranch(width, config.local_size, features)
        self.fusion = nn.Linear(2 * features, 1)

    def forward(self, image: Tensor, patch: Tensor) -> Tensor:
        """Logits (N,) float32, high for real; `image` (N, 3, S, S), `patch` (N, 3, L, L)."""
        features = torch.cat([self.global_branch(image), self.local_branch(patch)], dim=1)
        return self.fusion(features).squeeze(1).float()
