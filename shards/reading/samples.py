"""Read single samples into the rows of batches, and handle damaged ones."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass

import numpy as np

from shards.masks.drawing import mask_of_rectangles
from shards.reading.open_shard import DamagedSample, OpenShard
from shards.reading.packed_set import ShardSet
from shards.reading.ring import BatchArrays
from shards.sampling.crops import CropRecipe, crop_box
from shards.sampling.mixture import MixedAddress, MixedOrder, Mixture
from shards.sampling.order import SampleAddress
from shards.storage.counters import Counters

_ATTEMPTS = 64  # substitutes that are tried for one sample before the run is stopped
_ATTEMPTS_INSIDE = 16  # of these in the same shard; from then on every other one
_MAX_LOGGED = 20  # damaged samples that are logged one by one; all are counted


@dataclass
class ReadCounters(Counters):
    """What all threads together have met so far."""

    bytes_read: int = 0  # of stored images
    decode_seconds: float = 0.0
    damaged_samples: int = 0  # wrong checksum, or not to be decoded
    unreadable_shards: int = 0  # of which no sample could be had
    substituted_samples: int = 0  # delivered in the place of others


class SampleReader:
    """Samples of a mixture's sets by their addresses. May be used by several threads.

    What cannot be read ends in the error that names it; with `substitute`, in another sample, which
    depends on nothing but the address, and a count. Without `packed_holes` no hole is written:
    whoever draws them again does it.
    """

    def __init__(
        self,
        mixture: Mixture,
        sets: list[ShardSet],
        order: MixedOrder,
        recipe: CropRecipe,
        substitute: bool,
        packed_holes: bool = True,
    ) -> None:
        self.counters = ReadCounters()
        self._sets = sets
        self._order = order
        self._recipe = recipe
        self._substitute = substitute
        self._packed_holes = packed_holes
        self._labels = mixture.labels
        self._first_samples = [
            mixture.first_sample(number, one.split) for number, one in enumerate(sets)
        ]
        self._unreadable: dict[tuple[int, int], str] = {}  # set and shard: why
        self._lock = threading.Lock()

    def fill(self, located: MixedAddress, arrays: BatchArrays, row: int) -> int:
        """Write one sample into a row; return the size of its stored image in bytes."""
        try:
            return self._read(located, arrays, row)
        except (ValueError, OSError) as error:
            if not self._substitute:
                raise
            return self._read_substitute(located, arrays, row, error)

    def _read(self, located: MixedAddress, arrays: BatchArrays, row: int) -> int:
        number, address = located
        if self._unreadable and (number, address.shard) in self._unreadable:
            raise OSError(self._unreadable[number, address.shard])
        shard_set = self._sets[number]
        shard = shard_set.open(address.shard)
        image, mask = divmod(address.position, shard_set.masks_per_image)
        sample = shard_set.sample_number(address.shard, address.position)
        box = crop_box(
            self._recipe, address.epoch, sample, shard.widths[image], shard.heights[image], number
        )
        num_bytes = shard.decode(image, box, arrays.images[row])
        if self._packed_holes:
            fill_holes(shard_set, shard, image, mask, arrays, row)
        arrays.samples[row] = self._first_samples[number] + sample
        arrays.labels[row] = self._labels[number][shard.labels[image]]
        return num_bytes

    def _read_substitute(
        self, located: MixedAddress, arrays: BatchArrays, row: int, error: Exception
    ) -> int:
        number, first = located
        address, last_error = first, error
        for attempt in range(1, _ATTEMPTS + 1):
            is_sample = isinstance(last_error, DamagedSample)
            self._count(number, address, last_error)
            # All samples of a shard may be damaged, and there may be no other shard.
            elsewhere = not is_sample or (attempt > _ATTEMPTS_INSIDE and attempt % 2 == 1)
            address = self._order.orders[number].substitute(first, attempt, elsewhere)
            try:
                num_bytes = self._read(MixedAddress(number, address), arrays, row)
            except (ValueError, OSError) as another:
                last_error = another
                continue
            self.counters.add(substituted_samples=1)
            return num_bytes
        raise OSError(
            f"no substitute was found for a sample in {_ATTEMPTS} attempts; the first error was: "
            f"{error}"
        )

    def _count(self, number: int, address: SampleAddress, error: Exception) -> None:
        if isinstance(error, DamagedSample):
            self.counters.add(damaged_samples=1)
            if self.counters.damaged_samples <= _MAX_LOGGED:
                _log_damage(f"{error}; another sample takes its place")
            return
        place = (number, address.shard)
        with self._lock:
            if place in self._unreadable:
                return
            self._unreadable[place] = str(error)
        self.counters.add(unreadable_shards=1)
        _log_damage(f"{error}; samples of other shards take its samples' places")


def fill_holes(
    shard_set: ShardSet, shard: OpenShard, image: int, mask: int, arrays: BatchArrays, row: int
) -> None:
    """Write the packed holes of a sample into a row, which may have room for more."""
    holes = shard.completion_holes[image, mask]
    for target, packed in (
        (arrays.completion_holes[row], holes),
        (arrays.discriminator_holes[row], shard.discriminator_holes[image, mask]),
    ):
        target[: len(packed)] = packed
        target[len(packed) :] = 0  # other sets of a mixture have more holes
    if arrays.mask_bits.size == 0:
        return
    recipe = shard_set.manifest.recipe
    size = arrays.images.shape[1]
    if recipe.masks.kind == "strokes":
        pixels = shard.masks(image, recipe.masks.masks_per_image, size)[mask]
    else:  # beside others that are free
        pixels = mask_of_rectangles(holes, size)
    arrays.mask_bits[row] = np.packbits(pixels, axis=-1)


def _log_damage(message: str) -> None:
    print(f"data: {message}", file=sys.stderr, flush=True)
