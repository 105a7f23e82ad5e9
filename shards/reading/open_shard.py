"""One shard, opened: its bytes mapped into memory and its index beside it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from zlib_ng.zlib_ng import crc32 as crc32_of

from shards.masks.drawing import decode_masks
from shards.sampling.crops import CropBox, decode_crop


class DamagedSample(ValueError):
    """A sample whose bytes are not those that were packed, or cannot be decoded."""


class OpenShard:
    """Views of it stay valid after `close`, which only ends the claim on a cached file.

    Columns that are read for every sample are kept as lists: their elements are Python's integers.
    """

    def __init__(
        self,
        name: str,
        data: memoryview,
        records: np.ndarray,
        *,
        extension: str = "jpg",
        check_crc: bool = True,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name  # as messages call it
        self.records = records
        self.data = data
        self.close = close
        self._extension = extension
        self._check_crc = check_crc
        self.widths: list[int] = records["image_width"].tolist()
        self.heights: list[int] = records["image_height"].tolist()
        self.labels: list[int] = records["label"].tolist()
        self.completion_holes = records["completion_holes"]
        self.discriminator_holes = records["discriminator_holes"]
        self._image_places = _places(records, "image")
        self._mask_places = _places(records, "mask")

    def image_name(self, image: int) -> str:
        """The image as messages call it: its key and the shard it lies in."""
        number = int(self.records[image]["image_number"])
        return f"{number:08d}.{self._extension} in {self.name}"

    def image_bytes(self, image: int) -> memoryview:
        """The stored image, a view into the shard. DamagedSample if its checksum is wrong."""
        return self._bytes(self._image_places[image], image)

    def mask_bytes(self, image: int) -> memoryview:
        """The masks' PNG, a view into the shard; empty where masks are only rectangles."""
        return self._bytes(self._mask_places[image], image)

    def decode(self, image: int, box: CropBox, out: np.ndarray) -> int:
        """Fills `out` (S, S, 3) with the crop; returns the size of the stored image in bytes."""
        data = self.image_bytes(image)
        try:
            decode_crop(data, box, self.widths[image], self.heights[image], out)
        except ValueError as error:
            raise DamagedSample(
                f"{self.image_name(image)} cannot be decoded ({error}); run `glcic verify`, and "
                "pack the set again"
            ) from error
        return data.nbytes

    def masks(self, image: int, count: int, size: int) -> np.ndarray:
        """(count, size, size) bool, true in the holes, of free-form masks."""
        try:
            return decode_masks(self.mask_bytes(image), count, size)
        except DamagedSample:
            raise
        except ValueError as error:
            raise DamagedSample(
                f"the masks of {self.image_name(image)} cannot be decoded ({error}); run `glcic "
                "verify`, and pack the set again"
            ) from error

    def _bytes(self, place: tuple[int, int, int], image: int) -> memoryview:
        start, size, crc32 = place
        data = self.data[start : start + size]
        if self._check_crc and crc32_of(data) != crc32:
            raise DamagedSample(
                f"{self.image_name(image)} is damaged: its checksum does not match; copy the shard "
                "again from its source, or mend it with `glcic repack`"
            )
        return data


def _places(records: np.ndarray, member: str) -> list[tuple[int, int, int]]:
    """Offset, size and CRC-32 of each record's member."""
    columns = (records[f"{member}_{part}"].tolist() for part in ("offset", "size", "crc32"))
    return list(zip(*columns, strict=True))
