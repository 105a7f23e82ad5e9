"""A completion network that another project has trained, as one of ours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from pipeline.config.loading import parse_config
from pipeline.config.schema import CompletionConfig
from pipeline.networks.base import CompletionBase
from pipeline.networks.registry import build_completion

Color = tuple[float, float, float]  # RGB in [0, 1]


@dataclass(frozen=True)
class Imported:
    """`tensors` by our names, without the fill colour; `notes` are for whoever asked for it."""

    layout: str
    config: CompletionConfig
    tensors: dict[str, Tensor]
    fill_color: Color
    licence: str = ""  # where what the weights were released under restricts their use
    notes: tuple[str, ...] = ()

    def network(self) -> CompletionBase:
        """In evaluation mode."""
        network = build_completion(parse_config({"completion": vars(self.config)}))
        network.load_state_dict({**self.tensors, "fill_color": network.fill_color})
        network.set_fill_color(self.fill_color)
        return network.eval().requires_grad_(False)


def checked_color(values: Sequence[float], source: str) -> Color:
    """Raises ValueError for anything but three numbers in [0, 1]."""
    if len(values) != 3 or not all(math.isfinite(v) and 0 <= v <= 1 for v in values):
        raise ValueError(
            f"{source} is {', '.join(map(str, values)) or 'empty'}: three numbers from 0 to 1 are "
            "expected, red, green and blue"
        )
    red, green, blue = (float(value) for value in values)
    return red, green, blue
