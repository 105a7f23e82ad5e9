"""The memory that the reader process fills and the training process reads: a ring of batches."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from dataclasses import dataclass

import numpy as np

_ALIGNMENT = 64  # bytes, of each array inside a slot: a cache line
# Where the images begin in a slot. At a multiple of 32 libjpeg-turbo would write past the caches,
# which costs a decoding thread 2 %, and whoever reads the pixels next.
_IMAGES_START = 16


@dataclass
class BatchArrays:
    """The arrays of one batch of b samples with crops of side S and H holes."""

    images: np.ndarray  # (b, S, S, 3) uint8 RGB
    completion_holes: np.ndarray  # (b, H, 4) int32: x, y, width, height in pixels of the crop
    discriminator_holes: np.ndarray  # (b, H, 4) int32: where the real patch is taken
    samples: np.ndarray  # (b,) int64: number of the sample in its split
    labels: np.ndarray  # (b,) int64: position in the manifest's list of classes
    mask_bits: np.ndarray  # (b, S, ceil(S/8)) uint8: free-form masks, packed as np.packbits does,
    # 1 in the hole; (b, 0, 0) where masks are rectangles, which the holes say all of


@dataclass(frozen=True)
class BatchLayout:
    """Shapes of a batch and where its arrays lie in a slot."""

    batch_size: int
    crop_size: int
    holes_per_mask: int
    has_mask_bits: bool = False

    def _fields(self) -> list[tuple[tuple[int, ...], type]]:
        b, s, h = self.batch_size, self.crop_size, self.holes_per_mask
        holes = ((b, h, 4), np.int32)
        numbers = ((b,), np.int64)
        bits = ((b, s, -(-s // 8)) if self.has_mask_bits else (b, 0, 0), np.uint8)
        return [((b, s, s, 3), np.uint8), holes, holes, numbers, numbers, bits]

    @property
    def slot_bytes(self) -> int:
        """A whole number of pages, so that every slot can be pinned by itself."""
        size = sum(_align_up(_num_bytes(*field), _ALIGNMENT) for field in self._fields())
        return _align_up(_ALIGNMENT + size, mmap.PAGESIZE)

    def arrays(self, memory: np.ndarray, slot: int = 0) -> BatchArrays:
        """Views into a slot of `memory`, which is uint8 and holds whole slots."""
        offset = slot * self.slot_bytes + _IMAGES_START
        views: list[np.ndarray] = []
        for shape, dtype in self._fields():
            size = _num_bytes(shape, dtype)
            views.append(memory[offset : offset + size].view(dtype).reshape(shape))
            offset = _align_up(offset + size, _ALIGNMENT)
        return BatchArrays(*views)

    def allocate(self) -> BatchArrays:
        """Arrays of their own, outside any ring."""
        memory = np.empty(self.slot_bytes + _ALIGNMENT, dtype=np.uint8)
        return self.arrays(memory[-memory.ctypes.data % _ALIGNMENT :])


def create_ring_file(num_bytes: int) -> int:
    """Return a file descriptor of `num_bytes` of memory that no name leads to: it vanishes with its
    last user. RuntimeError if there is no room.
    """
    # The limit of a tmpfs. Nameless memory has none: claiming too much would wake the OOM killer.
    limit = os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE // 2
    if num_bytes > limit:
        raise _no_room(num_bytes, f"half of this machine's memory is {limit} bytes")
    descriptor = _open_nameless()
    try:
        # Claimed now: memory that turns out to be missing later kills the writer with SIGBUS.
        os.posix_fallocate(descriptor, 0, num_bytes)
    except OSError as error:
        os.close(descriptor)
        raise _no_room(num_bytes, str(error.strerror)) from error
    return descriptor


def map_ring(descriptor: int, num_bytes: int) -> np.ndarray:
    """Return the whole ring as writable uint8. The mapping lives as long as any view of it."""
    return np.frombuffer(mmap.mmap(descriptor, num_bytes), dtype=np.uint8)


def _no_room(num_bytes: int, reason: str) -> RuntimeError:
    return RuntimeError(
        f"no room for the reader's ring of {num_bytes} bytes ({reason}); "
        "lower data.prefetch_batches or train.batch_size, or take a machine with more memory"
    )


def _open_nameless() -> int:
    # Not a file in /dev/shm where it can be helped: containers get 64 MB of that by default.
    if hasattr(os, "memfd_create"):
        return os.memfd_create("glcic-ring")
    descriptor, path = tempfile.mkstemp(prefix="glcic-ring-")
    os.unlink(path)
    return descriptor


def _num_bytes(shape: tuple[int, ...], dtype: type) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def _align_up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
