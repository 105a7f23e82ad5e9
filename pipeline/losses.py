"""The losses of both networks. All compute in float32, whatever autocast is in force.

Every loss is a mean of per-sample values, so that the mean over equal shares of a batch, one per
worker, is the loss of the whole batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def _region_mean(error: Tensor, region: Tensor) -> Tensor:
    """(N,) mean of `error` (N, 3, H, W) over `region` (N, 1, H, W); 0 where the region is empty."""
    values = region.sum(dim=(1, 2, 3)) * error.shape[1]
    return (error * region).sum(dim=(1, 2, 3)) / values.clamp(min=1)


def reconstruction_loss(
    raw: Tensor, image: Tensor, mask: Tensor, kind: str, known_weight: float
) -> Tensor:
    """Squared error of the raw output (N, 3, H, W) against the image; a scalar.

    `masked`: of the hole, but averaged over all pixels of the image (the paper's form; under a
    mean over the hole the paper's weight of the adversarial term would mean something else).
    `global`: of all pixels. `hole_and_known`: mean over the hole + `known_weight` * mean over the
    rest, each region normalised by its own area.
    """
    with torch.autocast(raw.device.type, enabled=False):
        error = (raw.float() - image.float()).square()
        hole = mask.float()
        if kind == "masked":
            return (error * hole).mean()
        if kind == "global":
            return error.mean()
        if kind == "hole_and_known":
            known = _region_mean(error, 1 - hole)
            return (_region_mean(error, hole) + known_weight * known).mean()
    raise ValueError(f"loss.reconstruction is {kind!r}; allowed: masked, global, hole_and_known")


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Cross-entropy of real as real plus that of fake as fake, each averaged over the batch."""
    real = functional.softplus(-real_logits.float()).mean()
    fake = functional.softplus(fake_logits.float()).mean()
    return real + fake


def adversarial_loss(fake_logits: Tensor) -> Tensor:
    """-log D(fake): the form that does not saturate while the discriminator is ahead."""
    return functional.softplus(-fake_logits.float()).mean()
