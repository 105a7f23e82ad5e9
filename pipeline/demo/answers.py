"""What the page answers to each thing that can be done on it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.demo.examples import examples
from pipeline.demo.hole import bounding_rectangles, painted_mask
from pipeline.demo.picture import Picture, read_picture
from pipeline.demo.stages import Stages, completion_stages

START = "Open a picture, or choose one of those below; paint the hole; press **Complete**."


@dataclass(frozen=True)
class Answer:
    """`notice` is Markdown. Without `stages` there is nothing to be seen but the notice."""

    notice: str
    stages: Stages | None = None


class Answers:
    """`network` is in eval mode and on `device`. Larger pictures are scaled to `longest_side`."""

    def __init__(
        self, network: nn.Module, device: torch.device | str = "cpu", longest_side: int = 512
    ) -> None:
        self.network = network
        self.device = device
        self.longest_side = longest_side
        self.examples = examples(longest_side)

    @property
    def has_maps(self) -> bool:
        return bool(getattr(self.network, "has_maps", False))

    @property
    def map_names(self) -> tuple[str, ...]:
        """From coarse to fine."""
        names: tuple[str, ...] = getattr(self.network, "map_names", ())
        return names

    def opened(self, path: Path) -> tuple[Picture | None, Answer]:
        try:
            picture = read_picture(path, self.longest_side)
        except ValueError as error:
            return None, Answer(f"**Not opened:** {html.escape(str(error))}.")
        height, width = picture.photograph.size
        notice = f"**{html.escape(picture.name)}**, {width} × {height} pixels"
        if picture.is_scaled:
            original_height, original_width = picture.original_size
            notice += f", scaled down from {original_width} × {original_height}"
        return picture, Answer(f"{notice}. Paint the hole, then press **Complete**.")

    def example(self, number: int) -> Answer:
        example = self.examples[number]
        return self._complete(example.picture, example.mask, f"<br>{example.credit}")

    def completed(
        self,
        picture: Picture | None,
        layers: Sequence[np.ndarray],
        mask: np.ndarray | None = None,
        as_rectangles: bool = False,
    ) -> Answer:
        """`layers` as `painted_mask` takes them; `mask` is a hole that the picture has already."""
        if picture is None:
            return Answer("**Nothing to complete yet.** Open a picture first.")
        painted = painted_mask(layers, picture.photograph.size)
        mask = painted if mask is None else painted | mask
        if not mask.any():
            return Answer("**Nothing is painted.** Paint over what is to be completed.")
        if as_rectangles:
            mask = bounding_rectangles(mask)
        if mask.all():
            return Answer(
                "**Nothing is left to complete it from.** The hole is the whole picture: erase "
                "some of it, or clear it."
            )
        return self._complete(picture, mask)

    def _complete(self, picture: Picture, mask: np.ndarray, remark: str = "") -> Answer:
        stages = completion_stages(self.network, picture.photograph, mask, self.device)
        height, width = mask.shape
        notice = (
            f"**{stages.seconds:.2f} s** on {self.device} for {width} × {height} pixels, of which "
            f"{np.count_nonzero(mask):,} in the hole ({100 * mask.mean():.1f}\u00a0%)."
        )
        if stages.maps:
            notice += f" Maps: black is 0, the brightest {stages.map_maximum:.2f}."
        return Answer(notice + remark, stages)
