"""The index beside each shard: where every member lies, its checksum, and the sample's masks.

`train-000000.tar` has `train-000000.idx`: one NumPy record per image. With it a reader seeks
straight to a sample, checks its bytes, and never parses a tar header or a line of JSON.
"""

from __future__ import annotations

import io
import re

import numpy as np

_MAGIC = b"\x93NUMPY\x01\x00"  # of version 1.0 of the format
_PREFIX = len(_MAGIC) + 2  # with the length of the header


def index_dtype(masks_per_image: int, holes_per_mask: int) -> np.dtype:
    """Return the record of one image. Holes are (x, y, width, height) in pixels of the training
    crop.
    """
    holes = (masks_per_image, holes_per_mask, 4)
    return np.dtype(
        [
            ("image_offset", "<u8"),  # of the member's bytes in the tar, past its header
            ("image_size", "<u4"),
            ("image_crc32", "<u4"),
            ("json_offset", "<u8"),
            ("json_size", "<u4"),
            ("json_crc32", "<u4"),
            ("mask_offset", "<u8"),  # of the masks' pixels, where they are more than rectangles;
            ("mask_size", "<u4"),  # else 0
            ("mask_crc32", "<u4"),
            ("image_number", "<u8"),  # the key of the sample, as a number
            ("image_width", "<u2"),
            ("image_height", "<u2"),
            ("label", "<u4"),  # position of the class in the manifest's list
            ("completion_holes", "<u2", holes),
            ("discriminator_holes", "<u2", holes),  # where the real patch is taken
        ]
    )


def index_name(shard_name: str) -> str:
    """`train-000000.tar` -> `train-000000.idx`"""
    return shard_name.removesuffix(".tar") + ".idx"


def encode_index(records: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, records, allow_pickle=False)
    return buffer.getvalue()


def decode_index(data: bytes, name: str) -> np.ndarray:
    """Return the records of an index file. Raises ValueError, naming the file, if it is not one."""
    try:
        return _decode_records(data)
    except ValueError as error:
        raise ValueError(f"{name} is not a shard index ({error}); pack the set again") from error


def _decode_records(data: bytes) -> np.ndarray:
    # Not by numpy.load: it evaluates headers, unpacks archives, and allocates what they ask for.
    if data[: len(_MAGIC)] != _MAGIC:
        raise ValueError("it does not begin like one")
    length = int.from_bytes(data[len(_MAGIC) : _PREFIX], "little")
    header, records = data[_PREFIX : _PREFIX + length], memoryview(data)[_PREFIX + length :]
    dtype, count = _layout(header)
    if header.split() != _header(dtype, count).split():  # the padding is free
        raise ValueError("its header is damaged")
    if len(records) < count * dtype.itemsize:
        raise ValueError(f"{len(records)} of {count * dtype.itemsize} bytes of records are there")
    return np.frombuffer(records, dtype, count).copy()


def _layout(header: bytes) -> tuple[np.dtype, int]:
    """Return what the records are, and how many, from the only two things that differ between
    headers.
    """
    holes = re.search(rb"\('completion_holes', '<u2', \((\d{1,6}), (\d{1,6}), 4\)\)", header)
    shape = re.search(rb"'shape': \((\d{1,15}),\)", header)
    if holes is None or shape is None:
        raise ValueError("its header describes other records")
    return index_dtype(int(holes[1]), int(holes[2])), int(shape[1])


def _header(dtype: np.dtype, count: int) -> bytes:
    buffer = io.BytesIO()
    description = {"descr": dtype.descr, "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()[_PREFIX:]


def sample_key(image_number: int) -> str:
    """Return the WebDataset key: eight digits, no dots, which would split it."""
    return f"{image_number:08d}"
