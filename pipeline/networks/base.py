"""What all completion networks share: they erase the hole of an image before they use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.config.schema import CompletionConfig

# The raw output, (N, 3, H, W) float32 in [0, 1], and, from coarse to fine, maps in [0, 1] of where
# the network expects errors, (N, 1, h, w); most networks have none.
Completed = tuple[Tensor, tuple[Tensor, ...]]


class CompletionBase(nn.Module):
    """What lies in the hole is overwritten with `fill_color`, so that nothing of it can leak.

    A subclass computes `completed`; `size_multiple` and `context_px` are facts of its layers.
    """

    fill_color: Tensor  # (3,) float32 RGB, what is written into the hole; saved with the weights
    size_multiple = 4  # sides of the input are multiples of this
    context_px = 152  # how far around a pixel the input has an influence, at most
    has_maps = False  # of where it expects errors
    map_names: tuple[str, ...] = ()  # of these, from coarse to fine

    def __init__(self, config: CompletionConfig) -> None:
        super().__init__()
        self.subtract_fill = config.subtract_fill
        self.input_scale = config.input_scale
        self.register_buffer("fill_color", torch.full((3,), 0.5))

    def set_fill_color(self, color: Sequence[float]) -> None:
        """RGB in [0, 1]."""
        with torch.no_grad():
            self.fill_color.copy_(torch.as_tensor(color, dtype=torch.float32))

    def network_input(self, image: Tensor, mask: Tensor) -> Tensor:
        """(N, 4, H, W): the image with its hole erased, and the mask."""
        fill = self.fill_color.view(1, 3, 1, 1)
        erased = torch.where(mask > 0.5, fill, image)
        if self.subtract_fill:
            erased = erased - fill
        if self.input_scale != 1:
            erased = erased * self.input_scale
        return torch.cat([erased, mask.to(erased.dtype)], dim=1)

    def forward(self, image: Tensor, mask: Tensor, with_maps: bool = False) -> Tensor | Completed:
        """Return the raw output, known region included; `with_maps`: `Completed`.

        `image` (N, 3, H, W) in [0, 1], `mask` (N, 1, H, W) with 1 in the hole. Raises ValueError
        where H or W is not a multiple of `size_multiple`.
        """
        height, width = image.shape[-2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"the completion network halves its input until {self.size_multiple} pixels are "
                f"one, but the image is {width}x{height} pixels; pad both sides to multiples of "
                f"{self.size_multiple}"
            )
        raw, maps = self.completed(self.network_input(image, mask), mask)
        return (raw, maps) if with_maps else raw

    def completed(self, features: Tensor, mask: Tensor) -> Completed:
        """From what `network_input` gives; `mask` as in `forward`."""
        raise NotImplementedError


def completed_by(network: nn.Module, image: Tensor, mask: Tensor) -> Completed:
    """Return what any completion network gives, be it with maps or, as foreign ones, without."""
    if getattr(network, "has_maps", False):
        return cast(Completed, network(image, mask, True))
    return network(image, mask), ()
