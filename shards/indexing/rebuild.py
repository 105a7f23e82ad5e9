"""Rebuild the index of one of our shards from nothing but the shard's own bytes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from shards.format.index import encode_index, index_dtype
from shards.format.recipe import PackRecipe
from shards.format.tar_reader import archive_members
from shards.images.encodings import image_size

_JSON_BYTES = 1 << 24  # of one description; what is larger is not one of ours
_Place = tuple[str, int, int]  # extension of a member, its offset and its size


def rebuild_index(data: memoryview, recipe: PackRecipe, name: str) -> bytes:
    """Return the bytes of the index file. ValueError, naming the shard, where it is not one of
    ours.
    """
    masks = recipe.masks
    dtype = index_dtype(masks.masks_per_image, masks.holes_per_mask)
    try:
        rows = [_row(data, key, members, recipe) for key, members in _samples(data)]
        return encode_index(np.array(rows, dtype=dtype))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{name} cannot be indexed: {error!r}; copy it again from its source, or run `glcic "
            "index` if others have packed it"
        ) from error


def _samples(data: memoryview) -> Iterator[tuple[str, dict[str, _Place]]]:
    """Key and members of each sample, in the order in which they lie."""
    samples: dict[str, dict[str, _Place]] = {}
    for member in archive_members(data):
        key, _, extension = member.name.partition(".")
        end = member.offset_data + member.size
        if not member.isreg() or end > data.nbytes:
            raise ValueError(f"{member.name!r} is no whole file")
        samples.setdefault(key, {})[extension] = (extension, member.offset_data, member.size)
    yield from samples.items()


def _row(
    data: memoryview, key: str, members: dict[str, _Place], recipe: PackRecipe
) -> tuple[Any, ...]:
    for extension in (recipe.extension, "json"):
        if extension not in members:
            raise ValueError(f"sample {key} has no .{extension}")
    image, text = members[recipe.extension], members["json"]
    if text[2] > _JSON_BYTES:
        raise ValueError(f"the description of {key} has {text[2]} bytes")
    description = json.loads(bytes(_view(data, text)))
    width, height = image_size(_view(data, image))
    pairs = description["masks"]
    return (
        *_record(data, image),
        *_record(data, text),
        *(_record(data, members["masks.png"]) if "masks.png" in members else (0, 0, 0)),
        int(key),
        width,
        height,
        description["label"],
        [pair["completion"] for pair in pairs],
        [pair["discriminator"] for pair in pairs],
    )


def _view(data: memoryview, place: _Place) -> memoryview:
    return data[place[1] : place[1] + place[2]]


def _record(data: memoryview, place: _Place) -> tuple[int, int, int]:
    return place[1], place[2], zlib.crc32(_view(data, place))
