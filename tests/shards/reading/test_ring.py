from __future__ import annotations

import numpy as np
import pytest

from shards.reading.ring import BatchLayout


@pytest.mark.parametrize("has_mask_bits", [False, True])
@pytest.mark.parametrize("crop_size", [16, 17, 256])
def test_the_arrays_of_neighbouring_slots_never_overlap(
    crop_size: int, has_mask_bits: bool
) -> None:
    layout = BatchLayout(3, crop_size, 2, has_mask_bits)
    memory = np.zeros(2 * layout.slot_bytes, dtype=np.uint8)
    slots = [layout.arrays(memory, slot) for slot in range(2)]
    arrays = [array for slot in slots for array in vars(slot).values()]
    for number, array in enumerate(arrays, start=1):
        array[...] = number
    for number, array in enumerate(arrays, start=1):
        assert (array == number).all()


@pytest.mark.parametrize("slot", [0, 1])
def test_images_lie_where_the_jpeg_decoder_does_not_write_past_the_caches(slot: int) -> None:
    layout = BatchLayout(batch_size=3, crop_size=256, holes_per_mask=1)
    page = 4096  # where a ring begins
    memory = np.zeros(2 * layout.slot_bytes + page, dtype=np.uint8)
    ring = memory[-memory.ctypes.data % page :]
    for batch in (layout.arrays(ring, slot), layout.allocate()):
        assert batch.images[0].ctypes.data % 32 != 0
