"""How far a graph in 8 bits is from the network that it was made of, in the holes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.exports.tracing.comparison import Run
from pipeline.exports.tracing.traced import TracedCompletion

LOWEST_PSNR_DB = 30.0  # a root mean square of 8 levels


@dataclass(frozen=True)
class HoleDifference:
    """Over all values of all holes. Levels are of 255."""

    mean_levels: float
    max_levels: float
    psnr_db: float  # of the graph's output against the network's; infinite where they are the same

    def __str__(self) -> str:
        return (
            f"{self.mean_levels:.2f} levels of 255 on average in the hole, at most "
            f"{self.max_levels:.0f}, PSNR {self.psnr_db:.1f} dB"
        )

    def require_near(self) -> None:
        """Raises RuntimeError below LOWEST_PSNR_DB."""
        if not self.psnr_db >= LOWEST_PSNR_DB:
            raise RuntimeError(
                f"in 8 bits the network differs by {self}, where at least {LOWEST_PSNR_DB:.0f} dB "
                "are asked for, so nothing was written; calibrate on more images "
                "(--calibration-images) or on such as it will complete (--shards), or export it "
                "with --precision fp32"
            )


@torch.no_grad()
def int8_hole_error(
    traced: TracedCompletion, run: Run, batches: Iterable[tuple[Tensor, Tensor]]
) -> HoleDifference:
    """Of the first output. Raises ValueError where no batch has a hole."""
    total = squares = largest = 0.0
    count = 0
    for image, mask in batches:
        expected, given = traced(image, mask)[0], run(image, mask)[0]
        hole = (mask > 0.5).expand_as(expected)
        levels = 255 * (given - expected)[hole].double().abs()
        if not levels.numel():
            continue
        total += float(levels.sum())
        squares += float(levels.square().sum())
        largest = max(largest, float(levels.max()))
        count += levels.numel()
    if not count:
        raise ValueError("there is no hole in any sample to compare by")
    root_mean_square = math.sqrt(squares / count)
    psnr_db = 20 * math.log10(255 / root_mean_square) if root_mean_square else math.inf
    return HoleDifference(total / count, largest, psnr_db)
