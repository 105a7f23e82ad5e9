"""The losses of both networks. All compute in float32, whatever autocast is in force.

Every loss is a mean of per-sample values, so that the mean over equal shares of a batch, one per
worker, is the loss of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.config.schema import LossConfig


def _region_mean(error: Tensor, region: Tensor) -> Tensor:
    """(N,) mean of `error` (N, C, H, W) over `region` (N, 1, H, W); 0 where the region is empty."""
    values = region.sum(dim=(1, 2, 3)) * error.shape[1]
    return (error * region).sum(dim=(1, 2, 3)) / values.clamp(min=1)


def reconstruction_loss(raw: Tensor, image: Tensor, mask: Tensor, config: LossConfig) -> Tensor:
    """Error of the raw output (N, 3, H, W) against the image; a scalar.

    `masked`: of the hole, averaged over all pixels of the image (the paper's form; under a mean
    over the hole the paper's weight of the adversarial term would mean something else) or, by
    `masked_mean`, over the hole. `global`: of all pixels. `hole_and_known`: mean over the hole +
    `known_weight` * mean over the rest, each region normalised by its own area.
    """
    with torch.autocast(raw.device.type, enabled=False):
        difference = raw.float() - image.float()
        error = difference.square() if config.error == "squared" else difference.abs()
        hole = mask.float()
        if config.reconstruction == "global":
            return error.mean()
        if config.reconstruction == "hole_and_known":
            known = _region_mean(error, 1 - hole)
            return (_region_mean(error, hole) + config.known_weight * known).mean()
        if config.masked_mean == "hole":
            return _region_mean(error, hole).mean()
        return (error * hole).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, real_label: float = 1.0) -> Tensor:
    """Cross-entropy of real as `real_label` plus that of fake as 0, each averaged over the batch.

    A label below 1 is one-sided label smoothing (Salimans et al. 2016).
    """
    real = functional.softplus(-real_logits.float()).mean()
    if real_label != 1:
        real = real + (1 - real_label) * real_logits.float().mean()
    fake = functional.softplus(fake_logits.float()).mean()
    return real + fake


def gradient_penalty(real_logits: Tensor, images: Tensor) -> Tensor:
    """Half the squared norm of the logits' gradient in the real images, averaged over the batch:
    R1 (Mescheder et al. 2018) but for its weight. `images` require gradients.
    """
    (slope,) = torch.autograd.grad(real_logits.sum(), images, create_graph=True)
    return slope.float().square().sum(dim=(1, 2, 3)).mean() / 2


def error_map(completed: Tensor, image: Tensor, scale: float) -> Tensor:
    """Return what the maps of DAM blocks are to show, (N, 1, H, W) in [0, 1], without gradients:
    the mean over the channels of the composite's error, times `scale`, at most 1.
    """
    error = (completed.detach().float() - image.float()).abs().mean(dim=1, keepdim=True)
    return (scale * error).clamp(max=1)


def map_loss(maps: Sequence[Tensor], error: Tensor, mask: Tensor, region: str) -> Tensor:
    """Distance of the maps (N, 1, h, w) from `error` (N, 1, H, W), summed over the maps; a scalar.

    Each map is compared at its own size, with averages over what its pixels cover; `region` "all"
    adds the means over the hole and over the rest, "hole" and "known" are one of them.
    """
    with torch.autocast(error.device.type, enabled=False):
        total = error.new_zeros(())
        for one in maps:
            factor = error.shape[-1] // one.shape[-1]
            target = functional.avg_pool2d(error, factor)
            hole = functional.avg_pool2d(mask.float(), factor)
            distance = (one.float() - target).abs()
            if region in ("all", "hole"):
                total = total + _region_mean(distance, hole).mean()
            if region in ("all", "known"):
                total = total + _region_mean(distance, 1 - hole).mean()
        return total


def adversarial_loss(fake_logits: Tensor, form: str = "non_saturating") -> Tensor:
    """Return what the completion network lowers to be taken for real: a scalar, float32.

    `fake_logits` (N,) are the discriminators' of completed images; D is their sigmoid.
    "non_saturating": -log D, whose gradient stays while the discriminators are ahead.
    "saturating": log(1 - D), the paper's, at most 0, whose gradient vanishes there.
    """
    logits = fake_logits.float()
    if form == "saturating":
        return -functional.softplus(logits).mean()
    return functional.softplus(-logits).mean()


ALPHA = 0.0004  # of the paper
_RATIO_MIN, _RATIO_MAX = 1.0, 10.0


def balanced_alpha(reconstruction_gradient: Tensor, adversarial_gradient: Tensor) -> Tensor:
    """Return the weight of the adversarial term, a scalar: the paper's, moved as little as keeps
    the norm of the reconstruction's gradient at 1 to 10 times that of the weighted adversarial one.

    Both are gradients in the same tensor.
    """
    ratio = reconstruction_gradient.norm() / adversarial_gradient.norm().clamp(min=1e-30)
    return torch.clamp(torch.full_like(ratio, ALPHA), ratio / _RATIO_MAX, ratio / _RATIO_MIN)
