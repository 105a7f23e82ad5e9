"""A completion network as one graph of tensor operations, for any batch and image size."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.networks.base import CompletionBase, completed_by
from pipeline.networks.spectral_norm import without_spectral_norm

INPUT_NAMES = ("image", "mask")
_SMALLEST_SIDE = 2  # in multiples of `size_multiple`
_NOISY_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir")


class TracedCompletion(nn.Module):
    """`image` (N, 3, H, W) in [0, 1] and `mask` (N, 1, H, W), 1 in the hole and 0 elsewhere, both
    float32, to the raw output or, with `composite`, the image with its hole completed; then the
    maps of a network that has them, from coarse to fine.
    """

    def __init__(self, network: CompletionBase, *, composite: bool) -> None:
        super().__init__()
        self.network = without_spectral_norm(network)
        self.composite = composite
        self._program: torch.export.ExportedProgram | None = None

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        raw, maps = completed_by(self.network, image, mask)
        if self.composite:
            raw = torch.where(mask > 0.5, raw, image)
        return (raw, *maps)

    def output_names(self) -> list[str]:
        return ["completed" if self.composite else "raw", *self.network.map_names]

    def dynamic_shapes(self) -> dict[str, Any]:
        multiple = self.network.size_multiple
        batch = torch.export.Dim("batch")
        height = multiple * torch.export.Dim("height", min=_SMALLEST_SIDE)
        width = multiple * torch.export.Dim("width", min=_SMALLEST_SIDE)
        return {name: {0: batch, 2: height, 3: width} for name in INPUT_NAMES}

    def program(self) -> torch.export.ExportedProgram:
        """Trace a network that is on the CPU, in evaluation mode, and does not change
        afterwards.
        """
        if self._program is not None:
            return self._program
        example = sample_inputs(2, 3 * self.network.size_multiple, 5 * self.network.size_multiple)
        with quiet_exporters():
            self._program = torch.export.export(self, example, dynamic_shapes=self.dynamic_shapes())
        return self._program


def sample_inputs(images: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Random images with a hole at the border and one inside; the same numbers every time."""
    generator = torch.Generator().manual_seed(height * 10_007 + width)
    image = torch.rand(images, 3, height, width, generator=generator)
    mask = torch.zeros(images, 1, height, width)
    mask[..., : height // 3, : width // 2] = 1
    mask[..., height // 2 : height * 3 // 4, width // 2 : width * 3 // 4] = 1
    return image, mask


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Without what torch's exporters say of their own internals."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
