"""The three training steps. Who gets gradients is decided here and can be read in one screen.

    completion      C(x) -> reconstruction                                         updates C
    discriminator   C(x) without gradients -> D(real), D(completed)                updates D
    joint           C(x) once; D(real), D(completed, detached)                     updates D
                    reconstruction + alpha * adversarial, through the updated D    updates C

In the joint phase one forward of the completion network serves both halves. Gradients are freed
after each update, so none can reach the next one.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.config import LossConfig
from pipeline.losses import adversarial_loss, discriminator_loss, reconstruction_loss
from pipeline.masking import composite, cut_patches
from pipeline.schedule import Phase
from pipeline.workers import Worker

Figures = dict[str, Tensor]  # detached scalars on the device; reading one would wait for the GPU


@dataclass(frozen=True)
class TrainingBatch:
    """What one rank trains on in one step, on its device."""

    images: Tensor  # (N, 3, S, S) float32 in [0, 1]
    masks: Tensor  # (N, 1, S, S) float32, 1 inside the hole
    hole_corners: Tensor  # (N, 2) top-left y, x of the local patch around the hole
    real_corners: Tensor  # (N, 2) of the local patch shown as real


class Player:
    """A network, the wrapper that averages its gradients over the ranks, and its optimizer."""

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, worker: Worker):
        self.network = network
        self.optimizer = optimizer
        self.parallel = worker.parallel(network)
        self._worker = worker

    def update_(self, loss: Tensor) -> Tensor:
        """One step of the optimizer down `loss`; returns the gradient's norm. Collective."""
        loss.backward()
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._worker.average_statistics_(self.network)
        return norm.detach()

    def frozen(self, *inputs: Tensor) -> Tensor:
        """A forward that leaves the network as it is: no gradient reaches its parameters, and the
        running statistics of its batch norm do not move (the batch's own are used).
        """
        state = {name: parameter.detach() for name, parameter in self.network.named_parameters()}
        state |= {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        return torch.func.functional_call(self.network, state, inputs)


class TrainingStep:
    """One optimisation step of any phase. Collective: every rank must call, with its own batch."""

    def __init__(
        self, completion: Player, discriminator: Player, loss: LossConfig, patch_size: int,
        autocast: AbstractContextManager,
    ) -> None:  # fmt: skip
        self.completion = completion
        self.discriminator = discriminator
        self._loss = loss
        self._patch_size = patch_size
        self._autocast = autocast

    def __call__(self, phase: Phase, batch: TrainingBatch) -> Figures:
        if phase is Phase.COMPLETION:
            return self.train_completion(batch)
        if phase is Phase.DISCRIMINATOR:
            return self.train_discriminator(batch)
        return self.train_jointly(batch)

    def train_completion(self, batch: TrainingBatch) -> Figures:
        with self._autocast:
            raw = self.completion.parallel(batch.images, batch.masks)
        reconstruction = self._reconstruction(raw, batch)
        norm = self.completion.update_(reconstruction)
        return {"reconstruction": reconstruction.detach(), "completion_gradient_norm": norm}

    def train_discriminator(self, batch: TrainingBatch) -> Figures:
        with torch.no_grad(), self._autocast:
            raw = self.completion.frozen(batch.images, batch.masks)
        return self._update_discriminator(batch, self._shown(raw, batch))

    def train_jointly(self, batch: TrainingBatch) -> Figures:
        with self._autocast:
            raw = self.completion.parallel(batch.images, batch.masks)
        shown = self._shown(raw, batch)
        figures = self._update_discriminator(batch, shown.detach())

        with self._autocast:
            logits = self.discriminator.frozen(shown, self._patches(shown, batch.hole_corners))
        reconstruction = self._reconstruction(raw, batch)
        adversarial = adversarial_loss(logits)
        norm = self.completion.update_(reconstruction + self._loss.alpha * adversarial)
        return figures | {
            "reconstruction": reconstruction.detach(),
            "adversarial": adversarial.detach(),
            "completion_gradient_norm": norm,
        }

    def _update_discriminator(self, batch: TrainingBatch, shown: Tensor) -> Figures:
        with self._autocast:
            real = self.discriminator.parallel(
                batch.images, self._patches(batch.images, batch.real_corners)
            )
            fake = self.discriminator.parallel(shown, self._patches(shown, batch.hole_corners))
        loss = discriminator_loss(real, fake)
        norm = self.discriminator.update_(loss)
        return {
            "discriminator": loss.detach(),
            "accuracy_real": (real.detach() > 0).float().mean(),
            "accuracy_fake": (fake.detach() < 0).float().mean(),
            "discriminator_gradient_norm": norm,
        }

    def _shown(self, raw: Tensor, batch: TrainingBatch) -> Tensor:
        """What the discriminator is shown: the paper restores the known pixels first."""
        if self._loss.discriminator_input == "raw":
            return raw
        return composite(raw, batch.images, batch.masks)

    def _patches(self, images: Tensor, corners: Tensor) -> Tensor:
        return cut_patches(images, corners, self._patch_size)

    def _reconstruction(self, raw: Tensor, batch: TrainingBatch) -> Tensor:
        return reconstruction_loss(
            raw, batch.images, batch.masks, self._loss.reconstruction, self._loss.known_weight
        )
