"""What an exported graph gives, compared with the network that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.exports.tracing.traced import TracedCompletion, sample_inputs

TOLERANCE = 1e-4  # of values in [0, 1]; an 8-bit level is 0.004
_SHAPES = ((1, 2, 2), (2, 3, 5), (3, 4, 2))  # images, sides in multiples of `size_multiple`
_LARGER_SIDES = (160, 96)  # more than the dilated layers see to one side

Run = Callable[[Tensor, Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class ExportComparison:
    """`shapes` are (images, height, width)."""

    max_difference: float
    shapes: tuple[tuple[int, int, int], ...]

    def __str__(self) -> str:
        shapes = ", ".join(f"{n} x {width}x{height}" for n, height, width in self.shapes)
        return f"largest difference {self.max_difference:.1e} of values in [0, 1] at {shapes}"


def compare_export(traced: TracedCompletion, run: Run) -> ExportComparison:
    """Over inputs of several shapes. Raises RuntimeError above TOLERANCE, or for another shape."""
    multiple = traced.network.size_multiple
    shapes = [(images, height * multiple, width * multiple) for images, height, width in _SHAPES]
    if all(side % multiple == 0 for side in _LARGER_SIDES):
        shapes.append((1, *_LARGER_SIDES))
    found = ExportComparison(
        max(_difference(traced, run, shape) for shape in shapes), tuple(shapes)
    )
    if not found.max_difference <= TOLERANCE:
        raise RuntimeError(
            f"the exported graph does not give what the network gives, so nothing was written: "
            f"{found}, allowed is {TOLERANCE:.0e}"
        )
    return found


@torch.no_grad()
def _difference(traced: TracedCompletion, run: Run, shape: tuple[int, int, int]) -> float:
    image, mask = sample_inputs(*shape)
    expected, given = traced(image, mask), run(image, mask)
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (given, expected)]
    if shapes[0] != shapes[1]:
        raise RuntimeError(
            f"the exported graph gives shapes {shapes[0]} where the network gives {shapes[1]}, so "
            "nothing was written"
        )
    return max(
        float((ours - theirs).abs().max()) for ours, theirs in zip(expected, given, strict=True)
    )
