"""From the reader's ring of uint8 batches to training batches on the device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.config.schema import Config
from pipeline.step.holes import enclosing_hole, patch_corners, rasterize, unpack_masks
from pipeline.step.training_step import TrainingBatch
from shards.keyed_random import uniform
from shards.reading.reader import Batch, ShardReader
from shards.sampling.order import lanes_of


def images_to_device(images: np.ndarray, device: torch.device) -> Tensor:
    """(N, S, S, 3) uint8 -> (N, 3, S, S) float32 in [0, 1], in channels_last order, as it came."""
    pixels = torch.from_numpy(images).to(device, non_blocking=True)
    return pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)


def masks_to_device(batch: Batch, device: torch.device) -> Tensor:
    """(N, 1, S, S) float32, 1 in the hole: of rectangles, or of the free-form masks' own bits."""
    size = batch.images.shape[1]
    if batch.mask_bits.size:
        bits = torch.from_numpy(batch.mask_bits).to(device, non_blocking=True)
        return unpack_masks(bits, size)
    return rasterize(torch.from_numpy(batch.completion_holes).to(device, non_blocking=True), size)


class DeviceFeed:
    """Training batches of one rank, in the order of the steps."""

    def __init__(self, reader: ShardReader, config: Config, rank: int, world_size: int,
                 device: torch.device) -> None:  # fmt: skip
        self._reader = reader
        self._config = config
        self._lanes = lanes_of(config.train.batch_size, rank, world_size)
        self._device = device
        self._pinned = reader.ring_view() if device.type == "cuda" else None
        if self._pinned is not None:
            _pin(self._pinned)

    def close(self) -> None:
        """Unpins the ring; another one may be mapped to the same address later."""
        if self._pinned is not None:
            torch.cuda.synchronize()
            torch.cuda.cudart().cudaHostUnregister(self._pinned.ctypes.data)
            self._pinned = None

    def batches(self) -> Iterator[tuple[Batch, TrainingBatch]]:
        """Each with the reader's batch it came from, whose arrays are valid until the next."""
        in_flight: tuple[Batch, torch.cuda.Event] | None = None
        for batch in self._reader:
            training_batch = self._to_device(batch)
            if self._device.type != "cuda":
                yield batch, training_batch
                batch.release()
                continue
            # The copy runs on while the step is launched; the slot goes back one step later.
            event = torch.cuda.Event()
            event.record()
            yield batch, training_batch
            if in_flight is not None:
                in_flight[1].synchronize()
                in_flight[0].release()
            in_flight = (batch, event)

    def _to_device(self, batch: Batch) -> TrainingBatch:
        size, patch = self._config.crop_size, self._config.discriminator.local_size
        holes = torch.from_numpy(batch.completion_holes).to(self._device, non_blocking=True)
        real_holes = torch.from_numpy(batch.discriminator_holes).to(self._device, non_blocking=True)
        if self._config.loss.real_patch == "same":
            real_holes = holes
        if self._config.discriminator.local_patch == "all_holes":
            holes, real_holes = enclosing_hole(holes), enclosing_hole(real_holes)
        choice = self._chosen_holes(batch)
        images = images_to_device(batch.images, self._device)
        if not self._config.train.channels_last:
            # Convolutions follow the layout of what goes in, also where their weights have another.
            images = images.contiguous()
        return TrainingBatch(
            images=images,
            masks=masks_to_device(batch, self._device),
            hole_corners=patch_corners(holes, choice, patch, size),
            real_corners=patch_corners(real_holes, choice, patch, size),
        )

    def _chosen_holes(self, batch: Batch) -> Tensor:
        """Which of its holes each sample's local patch lies on: drawn by lane, not by rank."""
        if self._config.discriminator.local_patch == "all_holes":
            counts = np.ones(len(self._lanes), dtype=np.int64)  # the box of them all
        else:  # samples of other recipes may have more: what fills their places up has no area
            counts = np.maximum(batch.completion_holes[..., 2:].all(axis=-1).sum(axis=-1), 1)
        shares = uniform(
            self._config.seed, "patch hole", batch.step, count=self._config.train.batch_size
        )
        mine = shares[self._lanes.start : self._lanes.stop]
        choice = torch.from_numpy((mine * counts).astype(np.int64))
        return choice.to(self._device, non_blocking=True)


def _pin(ring: np.ndarray) -> None:
    """Registers the ring with CUDA, so that copies from it run beside the computation."""
    status = torch.cuda.cudart().cudaHostRegister(ring.ctypes.data, ring.nbytes, 0)
    if int(status) != 0:
        raise RuntimeError(
            f"the reader's ring of {ring.nbytes} bytes could not be pinned (CUDA error "
            f"{int(status)}); lower data.prefetch_batches or raise the limit on locked memory"
        )
