"""Compute the three training steps: this file alone decides which network gets gradients.

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
from pipeline.distributed.trainable import TrainableNetwork
from pipeline.engines.ddp import Worker
from pipeline.networks.base import Completed
from pipeline.step.holes import composite, cut_patches
from pipeline.step.losses import (
    adversarial_loss,
    balanced_alpha,
    discriminator_loss,
    error_map,
    gradient_penalty,
    map_loss,
    reconstruction_loss,
)

# Detached scalars on the device; reading one would wait for the GPU.
StepMetrics = dict[str, Tensor]


@dataclass(frozen=True)
class TrainingBatch:
    """The share of one rank in the batch of one step, on its device."""

    images: Tensor  # (N, 3, S, S) float32 in [0, 1]
    masks: Tensor  # (N, 1, S, S) float32, 1 inside the hole
    hole_corners: Tensor  # (N, 2) top-left y, x of the local patch around the hole
    real_corners: Tensor  # (N, 2) of the local patch that the discriminator gets as real

    def split(self, size: int) -> list[TrainingBatch]:
        """Return parts of `size` samples, which divides the batch; 0: the batch itself."""
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
        self, completion: TrainableNetwork, discriminator: TrainableNetwork, loss: LossConfig,
        patch_size: int, worker: Worker, micro_batch_size: int = 0,
    ) -> None:  # fmt: skip
        self.completion = completion
        self.discriminator = discriminator
        self._loss = loss
        self._patch_size = patch_size
        self._worker = worker
        self._micro_batch_size = micro_batch_size
        self._autocast = worker.autocast()
        self._has_maps = bool(getattr(completion.network, "has_maps", False))

    def __call__(self, phase: Phase, batch: TrainingBatch) -> StepMetrics:
        parts = batch.split(self._micro_batch_size)
        if phase is Phase.COMPLETION:
            metrics = self.train_completion(parts)
        elif phase is Phase.DISCRIMINATOR:
            metrics = self.train_discriminator(parts)
        else:
            metrics = self.train_jointly(parts)
        self._worker.end_step_()
        return metrics

    def train_completion(self, parts: list[TrainingBatch]) -> StepMetrics:
        metrics = []
        for part in self.completion.micro_batches(parts):
            loss, losses = self._reconstruction_losses(self._complete(part), part)
            self.completion.backward_(loss)
            metrics.append(losses)
        return _mean(metrics) | self.completion.update_()

    def train_discriminator(self, parts: list[TrainingBatch]) -> StepMetrics:
        return self._update_discriminator(
            parts, (self._discriminator_input_frozen(part) for part in parts)
        )

    def train_jointly(self, parts: list[TrainingBatch]) -> StepMetrics:
        if len(parts) > 1:
            # Between the halves the graphs of all parts would have to be kept, which is what parts
            # are there to avoid: the completion network computes its output a second time.
            return self.train_discriminator(parts) | self._update_completion(parts)
        for part in self.completion.micro_batches(parts):
            completed = self._complete(part)
            generated = self._discriminator_input(completed[0], part)
            metrics = self._update_discriminator(parts, [generated.detach()])
            metrics |= self._completion_backward(part, completed, generated)
        return metrics | self.completion.update_()

    def _update_discriminator(
        self, parts: list[TrainingBatch], all_generated: Iterable[Tensor]
    ) -> StepMetrics:
        metrics = [
            self._discriminator_backward(part, generated)
            for part, generated in zip(
                self.discriminator.micro_batches(parts), all_generated, strict=True
            )
        ]
        return _mean(metrics) | self.discriminator.update_()

    def _update_completion(self, parts: list[TrainingBatch]) -> StepMetrics:
        metrics = []
        for part in self.completion.micro_batches(parts):
            completed = self._complete(part)
            generated = self._discriminator_input(completed[0], part)
            metrics.append(self._completion_backward(part, completed, generated))
        return _mean(metrics) | self.completion.update_()

    def _complete(self, part: TrainingBatch) -> Completed:
        with self._autocast:
            if self._has_maps:
                return self.completion(part.images, part.masks, True)
            return self.completion(part.images, part.masks), ()

    def _discriminator_backward(self, part: TrainingBatch, generated: Tensor) -> StepMetrics:
        """Add gradients to the discriminators alone: `generated` comes without a graph."""
        images = part.images
        if self._loss.r1_weight:
            images = images.detach().requires_grad_()
        with self._autocast:
            real = self.discriminator(images, self._patches(images, part.real_corners))
            fake = self.discriminator(generated, self._patches(generated, part.hole_corners))
        loss = discriminator_loss(real, fake, self._loss.real_label)
        metrics = {
            "discriminator": loss.detach(),
            "accuracy_real": (real.detach() > 0).float().mean(),
            "accuracy_fake": (fake.detach() < 0).float().mean(),
        }
        if self._loss.r1_weight:
            penalty = gradient_penalty(real, images)
            loss = loss + self._loss.r1_weight * penalty
            metrics["discriminator_slope"] = penalty.detach()
        self.discriminator.backward_(loss)
        return metrics

    def _completion_backward(
        self, part: TrainingBatch, completed: Completed, generated: Tensor
    ) -> StepMetrics:
        """Add gradients to the completion network alone, through fixed discriminators."""
        with self._autocast:
            logits = self.discriminator.frozen(
                generated, self._patches(generated, part.hole_corners)
            )
        adversarial = adversarial_loss(logits, self._loss.adversarial)
        loss, metrics = self._reconstruction_losses(completed, part)
        if self._loss.alpha == "auto":
            loss, more = _balance(completed[0], loss, adversarial)
        else:
            loss, more = loss + self._loss.alpha * adversarial, {}
        self.completion.backward_(loss)
        return metrics | {"adversarial": adversarial.detach()} | more

    def _reconstruction_losses(
        self, completed: Completed, part: TrainingBatch
    ) -> tuple[Tensor, StepMetrics]:
        """Return the loss of the completion network without the discriminators, and its parts."""
        raw, maps = completed
        loss = reconstruction_loss(raw, part.images, part.masks, self._loss)
        metrics = {"reconstruction": loss.detach()}
        if maps:
            error = error_map(
                composite(raw, part.images, part.masks), part.images, self._loss.map_scale
            )
            distance = map_loss(maps, error, part.masks, self._loss.map_region)
            loss = loss + self._loss.map_weight * distance
            metrics["map_distance"] = distance.detach()
        return loss, metrics

    def _discriminator_input_frozen(self, part: TrainingBatch) -> Tensor:
        with torch.no_grad(), self._autocast:
            raw = self.completion.frozen(part.images, part.masks)
        return self._discriminator_input(raw, part)

    def _discriminator_input(self, raw: Tensor, batch: TrainingBatch) -> Tensor:
        """Return the input of the discriminators: the paper restores the known pixels first."""
        if self._loss.discriminator_input == "raw":
            return raw
        return composite(raw, batch.images, batch.masks)

    def _patches(self, images: Tensor, corners: Tensor) -> Tensor:
        return cut_patches(images, corners, self._patch_size)


def _balance(raw: Tensor, loss: Tensor, adversarial: Tensor) -> tuple[Tensor, StepMetrics]:
    """Add both losses, weighted by their gradients in `raw`, through which both pass.

    Replace the adversarial loss by a linear surrogate with the same gradient in `raw`, so that the
    discriminators are back-propagated once, as with a fixed weight.
    """
    (gradient_reconstruction,) = torch.autograd.grad(loss, raw, retain_graph=True)
    (gradient_adversarial,) = torch.autograd.grad(adversarial, raw)
    alpha = balanced_alpha(gradient_reconstruction, gradient_adversarial)
    ratio = gradient_reconstruction.norm() / (alpha * gradient_adversarial.norm()).clamp(min=1e-30)
    metrics = {"alpha": alpha.detach(), "gradient_ratio": ratio.detach()}
    return loss + alpha * (raw * gradient_adversarial).sum(), metrics


def _mean(metrics: list[StepMetrics]) -> StepMetrics:
    """Return the mean over micro-batches of the same size."""
    if len(metrics) == 1:
        return metrics[0]
    return {name: torch.stack([one[name] for one in metrics]).mean() for name in metrics[0]}
