"""What a network makes of a picture with a hole, stage by stage: arrays in, arrays out."""

from __future__ import annotations

import time
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import nn

from pipeline.inference.complete import check_mask, output_and_maps
from pipeline.inference.photograph import Photograph, quantized
from pipeline.inference.poisson_blending import blended


@dataclass(frozen=True)
class Stages:
    """Images are uint8 (H, W, 3), as large as the picture."""

    erased: np.ndarray  # what the network is given
    raw: np.ndarray
    completed: Photograph  # known pixels are the picture's, bit for bit, in its own mode
    blended: np.ndarray
    maps: tuple[np.ndarray, ...]  # float32 (H, W) in [0, 1], from coarse to fine
    seconds: float  # that the network took

    @property
    def map_maximum(self) -> float:
        """Of all maps; at least 0.1, so that maps without anything in them do not look alarming."""
        return max([0.1, *(float(one.max()) for one in self.maps)])


def completion_stages(
    network: nn.Module,
    photograph: Photograph,
    mask: np.ndarray,
    device: torch.device | str = "cpu",
) -> Stages:
    """`mask` bool (H, W), True in the hole. ValueError for one that is empty, leaves nothing known
    or has another size. The network, in eval mode and on `device`, sees the whole picture at once.
    """
    check_mask(mask, photograph.size)
    image, hole = photograph.rgb(), mask[..., None]
    start = time.perf_counter()
    output, maps = output_and_maps(network, image, mask, device=device)
    seconds = time.perf_counter() - start
    raw = quantized(output)
    completed = np.where(hole, raw, image)
    fill = getattr(network, "fill_color", torch.full((3,), 0.5)).cpu().numpy()
    return Stages(
        erased=np.where(hole, quantized(fill), image),
        raw=raw,
        completed=photograph.with_hole(completed, mask),
        blended=blended(completed, mask),
        maps=maps,
        seconds=seconds,
    )


def heat(values: np.ndarray, maximum: float) -> np.ndarray:
    """uint8 (H, W, 3): black at 0, bright yellow at `maximum`."""
    levels = np.clip(values / maximum * 255, 0, 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
