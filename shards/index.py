"""The index beside each shard: where every member lies, its checksum, and the sample's masks.

`train-000000.tar` has `train-000000.idx`: one NumPy record per image. With it a reader seeks
straight to a sample, checks its bytes, and never parses a tar header or a line of JSON.
"""

from __future__ import annotations

import io

import numpy as np


def index_dtype(masks_per_image: int, holes_per_mask: int) -> np.dtype:
    """The record of one image. Holes are (x, y, width, height) in pixels of the training crop."""
    holes = (masks_per_image, holes_per_mask, 4)
    return np.dtype(
        [
            ("image_offset", "<u8"),  # of the member's bytes in the tar, past its header
            ("image_size", "<u4"),
            ("image_crc32", "<u4"),
            ("json_offset", "<u8"),
            ("json_size", "<u4"),
            ("json_crc32", "<u4"),
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
    """The records of an index file. Raises ValueError, naming the file, if it is not one."""
    try:
        records = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{name} is not a shard index ({error}); pack the set again") from error
    if records.ndim != 1 or records.dtype.names is None or "image_crc32" not in records.dtype.names:
        raise ValueError(f"{name} is not a shard index (it holds {records.dtype}); pack again")
    return records
