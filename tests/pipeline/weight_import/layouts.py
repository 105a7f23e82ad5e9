"""Networks as other projects lay them out, written from the facts of their files alone.

They are narrow, with random weights and statistics; what they compute is what an imported one has
to compute.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH = 8
MEAN = (0.2, 0.5, 0.7)
# kernel, stride (-2: transposed), dilation, output channels in widths; the last row gives RGB
_ROWS = [
    (5, 1, 1, 1), (3, 2, 1, 2), (3, 1, 1, 2), (3, 2, 1, 4), (3, 1, 1, 4), (3, 1, 1, 4),
    (3, 1, 2, 4), (3, 1, 4, 4), (3, 1, 8, 4), (3, 1, 16, 4), (3, 1, 1, 4), (3, 1, 1, 4),
    (4, -2, 1, 2), (3, 1, 1, 2), (4, -2, 1, 1), (3, 1, 1, 0.5), (3, 1, 1, 3 / WIDTH),
]  # fmt: skip


def convolutions(bias: bool = True) -> list[nn.Module]:
    made: list[nn.Module] = []
    channels = 4
    for row, (kernel, stride, dilation, multiple) in enumerate(_ROWS, start=1):
        out_channels = int(WIDTH * multiple)
        has_bias = bias or row == len(_ROWS)
        if stride < 0:
            layer: nn.Module = nn.ConvTranspose2d(
                channels, out_channels, kernel, 2, 1, bias=has_bias
            )
        else:
            layer = nn.Conv2d(
                channels, out_channels, kernel, stride, dilation * (kernel // 2), dilation,
                bias=has_bias,
            )  # fmt: skip
        made.append(layer)
        channels = out_channels
    return made


def norms() -> list[nn.BatchNorm2d]:
    return [nn.BatchNorm2d(int(WIDTH * multiple)) for *_, multiple in _ROWS[:-1]]


@torch.no_grad()
def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Every number that a file holds drawn anew, so that none can be left out unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            spread = (2 / layer.weight[0].numel()) ** 0.5
            layer.weight.normal_(0, spread, generator=generator)
            if layer.bias is not None:
                layer.bias.normal_(0, 0.2, generator=generator)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.weight.uniform_(0.5, 1.5, generator=generator)
            layer.bias.normal_(0, 0.2, generator=generator)
            layer.running_mean.normal_(0, 0.3, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
            layer.num_batches_tracked.fill_(7)
    return network.eval().requires_grad_(False)


def sample(height: int = 48, width: int = 64) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and masks, with holes also at the border."""
    generator = torch.Generator().manual_seed(5)
    image = torch.rand(2, 3, height, width, generator=generator)
    mask = torch.zeros(2, 1, height, width)
    mask[0, :, 8:30, 16:40] = 1
    mask[1, :, :20, 40:] = 1
    return image, mask


class AuthorsLayout(nn.Module):
    """A chain of layers without names; the image minus the mean, the hole 0."""

    def __init__(self, *, activates_first: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for convolution, norm in zip(convolutions(), [*norms(), None], strict=True):
            layers.append(convolution)
            if norm is not None:
                layers += [nn.ReLU(), norm] if activates_first else [norm, nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Sigmoid())

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        centred = (image - torch.tensor(MEAN).view(1, 3, 1, 1)) * (1 - mask)
        return self.layers(torch.cat([centred, mask], dim=1))


class OtenimLayout(nn.Module):
    """ReLU before batch norm; the hole is the mean pixel, and nothing is subtracted."""

    def __init__(self) -> None:
        super().__init__()
        self.names = [f"deconv{row}" if row in (13, 15) else f"conv{row}" for row in range(1, 18)]
        for name, layer in zip(self.names, convolutions(), strict=True):
            self.add_module(name, layer)
        for row, norm in enumerate(norms(), start=1):
            self.add_module(f"bn{row}", norm)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        erased = image * (1 - mask) + torch.tensor(MEAN).view(1, 3, 1, 1) * mask
        features = torch.cat([erased, mask], dim=1)
        for row, name in enumerate(self.names[:-1], start=1):
            features = torch.relu(self.get_submodule(name)(features))
            features = self.get_submodule(f"bn{row}")(features)
        return torch.sigmoid(self.get_submodule(self.names[-1])(features))


class MmagicBlock(nn.Module):
    def __init__(self, conv: nn.Module, bn: nn.Module | None) -> None:
        super().__init__()
        self.conv, self.bn = conv, bn

    def forward(self, features: Tensor) -> Tensor:
        features = self.conv(features)
        return features if self.bn is None else torch.relu(self.bn(features))


class MmagicLayout(nn.Module):
    """BGR in [-1, 1], the hole 0, and an output that is clamped to the range."""

    def __init__(self) -> None:
        super().__init__()
        pairs = zip(convolutions(bias=False), [*norms(), None], strict=True)
        blocks = [MmagicBlock(conv, norm) for conv, norm in pairs]
        self.generator = nn.ModuleDict(
            {
                "encoder": _named("enc", blocks[:6]),
                "dilation_neck": nn.ModuleDict({"dilation_convs": nn.Sequential(*blocks[6:10])}),
                "decoder": _named("dec", blocks[10:]),
            }
        )
        self.disc = nn.ModuleDict({"fc": nn.Linear(4, 1)})

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        pixels = image.flip(1) * 255
        features = torch.cat([(pixels - 127.5) / 127.5 * (1 - mask), mask], dim=1)
        blocks = [m for m in self.generator.modules() if isinstance(m, MmagicBlock)]
        for block in blocks:
            features = block(features)
        return (features.clamp(-1, 1) * 127.5 + 127.5).flip(1) / 255


def _named(stem: str, blocks: list[MmagicBlock]) -> nn.ModuleDict:
    return nn.ModuleDict({f"{stem}{k}": block for k, block in enumerate(blocks, start=1)})
