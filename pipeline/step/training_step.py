"""The three training steps. Who gets gradients is decided here and can be read in one screen.

    completion      C(x) -> reconstruction                                         updates C
    discriminator   C(x) without gradients -> D(real), D(completed)                updates D
    joint           C(x) once; D(real), D(completed, detached)                     updates D
                    reconstruction + alpha * adversarial, through the updated D    updates C

In the joint phase one forward of the completion network serves both halves. Gradients are freed
after each update, so none can reach the next one. A batch may be computed in micro-batches, whose
gradients are added up: the result is that of as many ranks with a micro-batch each.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.config.schedule import Phase
from pipeline.config.schema import LossConfig
from pipeline.distributed.trainable import Player
from pipeline.engines.ddp import Worker
from pipeline.networks.base import Completed
from pipeline.step.holes import composite, cut_patches
from pipeline.step.losses import (
    adversarial_loss,
    balanced_alpha,
    discriminator_loss,
    error_map,
    map_loss,
    reconstruction_loss,
    slope_penalty,
)

Figures = dict[str, Tensor]  # detached scalars on the device; reading one would wait for the GPU


@dataclass(frozen=True)
class TrainingBatch:
    """What one rank trains on in one step, on its device."""

    images: Tensor  # (N, 3, S, S) float32 in [0, 1]
    masks: Tensor  # (N, 1, S, S) float32, 1 inside the hole
    hole_corners: Tensor  # (N, 2) top-left y, x of the local patch around the hole
    real_corners: Tensor  # (N, 2) of the local patch shown as real

    def split(self, size: int) -> list[TrainingBatch]:
        """Parts of `size` samples, which divides the batch; 0: the batch itself."""
        if not size or size == len(self.images):
            return [self]
        tensors = (self.images, self.masks, self.hole_corners, self.real_corners)
        assert len(self.images) % size == 0, (len(self.images), size)
        return [
            TrainingBatch(*part) for part in zip(*(t.split(size) for t in tensors), strict=True)
        ]


class TrainingStep:
    """One optimisation step of any phase. Collective: every rank must call, with its own batch.

    `micro_batch_size` samples are computed at a time; 0: the whole batch.
    """

    def __init__(
        self, completion: Player, discriminator: Player, loss: LossConfig, patch_size: int,
        worker: Worker, micro_batch_size: int = 0,
    ) -> None:  # fmt: skip
        self.completion = completion
        self.discriminator = discriminator
        self._loss = loss
        self._patch_size = patch_size
        self._worker = worker
        self._micro_batch_size = micro_batch_size
        self._autocast = worker.autocast()
        self._has_maps = bool(getattr(completion.network, "has_maps", False))

    def __call__(self, phase: Phase, batch: TrainingBatch) -> Figures:
        parts = batch.split(self._micro_batch_size)
        if phase is Phase.COMPLETION:
            figures = self.train_completion(parts)
        elif phase is Phase.DISCRIMINATOR:
            figures = self.train_discriminator(parts)
        else:
            figures = self.train_jointly(parts)
        self._worker.end_step_()
        return figures

    def train_completion(self, parts: list[TrainingBatch]) -> Figures:
        figures = []
        for part in self.completion.micro_batches(parts):
            loss, losses = self._own_losses(self._completed(part), part)
            self.completion.backward_(loss)
            figures.append(losses)
        return _mean(figures) | self.completion.update_()

    def train_discriminator(self, parts: list[TrainingBatch]) -> Figures:
        return self._update_discriminator(parts, (self._shown_frozen(part) for part in parts))

    def train_jointly(self, parts: list[TrainingBatch]) -> Figures:
        if len(parts) > 1:
            # Between the halves the graphs of all parts would have to be kept, which is what parts
            # are there to avoid: the completion network computes its output a second time.
            return self.train_discriminator(parts) | self._update_completion(parts)
        for part in self.completion.micro_batches(parts):
            completed = self._completed(part)
            shown = self._shown(completed[0], part)
            figures = self._update_discriminator(parts, [shown.detach()])
            figures |= self._teach_completion(part, completed, shown)
        return figures | self.completion.update_()

    def _update_discriminator(
        self, parts: list[TrainingBatch], all_shown: Iterable[Tensor]
    ) -> Figures:
        figures = [
            self._teach_discriminator(part, shown)
            for part, shown in zip(self.discriminator.micro_batches(parts), all_shown, strict=True)
        ]
        return _mean(figures) | self.discriminator.update_()

    def _update_completion(self, parts: list[TrainingBatch]) -> Figures:
        figures = []
        for part in self.completion.micro_batches(parts):
            completed = self._completed(part)
            shown = self._shown(completed[0], part)
            figures.append(self._teach_completion(part, completed, shown))
        return _mean(figures) | self.completion.update_()

    def _completed(self, part: TrainingBatch) -> Completed:
        with self._autocast:
            if self._has_maps:
                return self.completion(part.images, part.masks, True)
            return self.completion(part.images, part.masks), ()

    def _teach_discriminator(self, part: TrainingBatch, shown: Tensor) -> Figures:
        """Gradients of the discriminators alone: `shown` comes without a graph."""
        images = part.images
        if self._loss.r1_weight:
            images = images.detach().requires_grad_()
        with self._autocast:
            real = self.discriminator(images, self._patches(images, part.real_corners))
            fake = self.discriminator(shown, self._patches(shown, part.hole_corners))
        loss = discriminator_loss(real, fake, self._loss.real_label)
        figures = {
            "discriminator": loss.detach(),
            "accuracy_real": (real.detach() > 0).float().mean(),
            "accuracy_fake": (fake.detach() < 0).float().mean(),
        }
        if self._loss.r1_weight:
            slope = slope_penalty(real, images)
            loss = loss + self._loss.r1_weight * slope
            figures["discriminator_slope"] = slope.detach()
        self.discriminator.backward_(loss)
        return figures

    def _teach_completion(
        self, part: TrainingBatch, completed: Completed, shown: Tensor
    ) -> Figures:
        """Gradients of the completion network alone: the discriminators it goes through stay."""
        with self._autocast:
            logits = self.discriminator.frozen(shown, self._patches(shown, part.hole_corners))
        adversarial = adversarial_loss(logits, self._loss.adversarial)
        loss, figures = self._own_losses(completed, part)
        if self._loss.alpha == "auto":
            loss, more = _balanced(completed[0], loss, adversarial)
        else:
            loss, more = loss + self._loss.alpha * adversarial, {}
        self.completion.backward_(loss)
        return figures | {"adversarial": adversarial.detach()} | more

    def _own_losses(self, completed: Completed, part: TrainingBatch) -> tuple[Tensor, Figures]:
        """What the completion network is taught without the discriminators."""
        raw, maps = completed
        loss = reconstruction_loss(raw, part.images, part.masks, self._loss)
        figures = {"reconstruction": loss.detach()}
        if maps:
            error = error_map(
                composite(raw, part.images, part.masks), part.images, self._loss.map_scale
            )
            distance = map_loss(maps, error, part.masks, self._loss.map_region)
            loss = loss + self._loss.map_weight * distance
            figures["map_distance"] = distance.detach()
        return loss, figures

    def _shown_frozen(self, part: TrainingBatch) -> Tensor:
        with torch.no_grad(), self._autocast:
            raw = self.completion.frozen(part.images, part.masks)
        return self._shown(raw, part)

    def _shown(self, raw: Tensor, batch: TrainingBatch) -> Tensor:
        """What the discriminator is shown: the paper restores the known pixels first."""
        if self._loss.discriminator_input == "raw":
            return raw
        return composite(raw, batch.images, batch.masks)

    def _patches(self, images: Tensor, corners: Tensor) -> Tensor:
        return cut_patches(images, corners, self._patch_size)


def _balanced(raw: Tensor, loss: Tensor, adversarial: Tensor) -> tuple[Tensor, Figures]:
    """Both losses in one, weighted by their gradients in `raw`, through which both pass.

    The adversarial one comes in as what has the same gradient in `raw`: so the discriminators are
    gone through backwards once, as with a fixed weight.
    """
    (own,) = torch.autograd.grad(loss, raw, retain_graph=True)
    (adversarys,) = torch.autograd.grad(adversarial, raw)
    alpha = balanced_alpha(own, adversarys)
    ratio = own.norm() / (alpha * adversarys.norm()).clamp(min=1e-30)
    figures = {"alpha": alpha.detach(), "gradient_ratio": ratio.detach()}
    return loss + alpha * (raw * adversarys).sum(), figures


def _mean(figures: list[Figures]) -> Figures:
    """Of micro-batches of the same size."""
    if len(figures) == 1:
        return figures[0]
    return {name: torch.stack([one[name] for one in figures]).mean() for name in figures[0]}
