"""What one sample of a shard holds: its image, its description and its masks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from shards.format.finding import Finding, shown
from shards.format.manifest import Manifest
from shards.images.encodings import decode_image, image_size
from shards.masks.drawing import decode_masks

_MAX_SIDE = 65_500  # pixels: libjpeg's limit
_JSON_BYTES = 65_536  # of a description without its masks: names may be long
_HOLE_BYTES = 64  # of one rectangle in a description, more than it can need
_PURPOSES = ("completion", "discriminator")


class SampleCheck:
    """Holds samples of one split against the manifest, and against the index where there is one."""

    def __init__(self, manifest: Manifest, split: str) -> None:
        self._recipe = manifest.recipe
        self._classes = manifest.classes
        self._split = split
        masks = manifest.recipe.masks
        num_holes = len(_PURPOSES) * masks.masks_per_image * masks.holes_per_mask
        self.json_bytes_max = _JSON_BYTES + _HOLE_BYTES * num_holes

    def image_findings(self, place: str, data: bytes, record: np.void | None) -> Iterator[Finding]:
        try:
            width, height = image_size(data)
        except ValueError as error:
            yield Finding(place, "the image cannot be decoded", "", shown(str(error)))
            return
        found = f"{width} x {height}"
        if record is not None:
            indexed = f"{record['image_width']} x {record['image_height']}"
            if found != indexed:
                yield Finding(place, "the size of the image is not the index's", indexed, found)
        size = self._recipe.crop_size
        if self._split == "val" and (width, height) != (size, size):
            expected = f"{size} x {size}"
            yield Finding(place, "a validation image has not the crop's size", expected, found)
        if min(width, height) < size:
            expected = f"at least {size} x {size}"
            yield Finding(place, "the image is smaller than the crop", expected, found)
        # Nothing that was packed is larger, and a few bytes can claim any size.
        if min(width, height) > self._recipe.short_side or max(width, height) > _MAX_SIDE:
            expected = f"a short side of at most {self._recipe.short_side}"
            yield Finding(place, "the image is larger than what is packed", expected, found)
            return
        try:
            decode_image(data, np.empty(width * height * 3, dtype=np.uint8), width, height)
        except ValueError as error:
            yield Finding(place, "the image cannot be decoded", "", shown(str(error)))

    def mask_findings(self, place: str, data: bytes, record: np.void | None) -> Iterator[Finding]:
        """Of free-form masks: their picture, and that its holes lie within the index's boxes."""
        count, size = self._recipe.masks.masks_per_image, self._recipe.crop_size
        try:
            masks = decode_masks(data, count, size)
        except ValueError as error:
            yield Finding(place, "the masks cannot be decoded", "", shown(str(error)))
            return
        for number, mask in enumerate(masks):
            if not mask.any():
                yield Finding(f"{place} mask {number}", "the mask has no hole")
            if record is None:
                continue
            outside = mask.copy()
            for x, y, width, height in record["completion_holes"][number].tolist():
                outside[y : y + height, x : x + width] = False
            if outside.any():
                what = "the mask reaches out of the boxes of its holes"
                yield Finding(f"{place} mask {number}", what, "0 pixels", str(int(outside.sum())))
                continue
            for box in record["completion_holes"][number].tolist():
                if not _touches_all_sides(mask, *box):
                    what = "a box is larger than the hole in it"
                    yield Finding(f"{place} mask {number}", what, "", shown(box))

    def json_findings(self, place: str, text: bytes, record: np.void | None) -> Iterator[Finding]:
        try:
            description = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield Finding(place, "the description is not JSON", "", shown(str(error)))
            return
        if not isinstance(description, dict):
            found = type(description).__name__
            yield Finding(place, "the description is not a JSON object", "dict", found)
            return
        yield from self._label_findings(place, description, record)
        yield from _origin_findings(place, description)
        yield from self._mask_findings(place, description, record)

    def _label_findings(
        self, place: str, description: dict[str, Any], record: np.void | None
    ) -> Iterator[Finding]:
        label, class_name = description.get("label"), description.get("class")
        if type(label) is not int or not 0 <= label < len(self._classes):
            expected = f"0 to {len(self._classes) - 1}"
            yield Finding(place, "the label is that of no class", expected, shown(label))
        elif class_name != self._classes[label]:
            expected = shown(self._classes[label])
            yield Finding(place, "class and label do not agree", expected, shown(class_name))
        if record is not None and label != int(record["label"]):
            yield Finding(place, "the label is not the index's", str(record["label"]), shown(label))

    def _mask_findings(
        self, place: str, description: dict[str, Any], record: np.void | None
    ) -> Iterator[Finding]:
        masks, number = description.get("masks"), self._recipe.masks.masks_per_image
        if not isinstance(masks, list) or len(masks) != number:
            found = str(len(masks)) if isinstance(masks, list) else shown(masks)
            yield Finding(place, "number of masks", str(number), found)
            masks = masks if isinstance(masks, list) else []
        for purpose in _PURPOSES:
            stored = [mask.get(purpose) if isinstance(mask, dict) else mask for mask in masks]
            for position, holes in enumerate(stored):
                yield from self._hole_findings(place, f"mask {position}, {purpose}", holes)
            if record is None:
                continue
            indexed = record[f"{purpose}_holes"].tolist()
            if stored == indexed:
                continue
            what = f"the {purpose} holes are not the index's"
            yield Finding(place, what, shown(indexed), shown(stored))
            for position, holes in enumerate(indexed):
                yield from self._hole_findings(
                    f"{place} (index)", f"mask {position}, {purpose}", holes
                )

    def _hole_findings(self, place: str, which: str, holes: Any) -> Iterator[Finding]:
        number = self._recipe.masks.holes_per_mask
        if not isinstance(holes, list) or len(holes) != number:
            found = str(len(holes)) if isinstance(holes, list) else shown(holes)
            yield Finding(f"{place} {which}", "number of holes", str(number), found)
        for hole in holes if isinstance(holes, list) else []:
            yield from self._rectangle_findings(f"{place} {which}", hole)

    def _rectangle_findings(self, place: str, hole: Any) -> Iterator[Finding]:
        is_list = isinstance(hole, list) and len(hole) == 4
        if not is_list or any(type(value) is not int for value in hole):
            yield Finding(
                place, "a hole is not four integers", "[x, y, width, height]", shown(hole)
            )
            return
        x, y, width, height = hole
        size, masks = self._recipe.crop_size, self._recipe.masks
        low, high = masks.margin, size - masks.margin
        if x < low or y < low or x + width > high or y + height > high:
            expected = f"within {low} to {high}"
            yield Finding(place, "a hole lies outside the frame", expected, shown(hole))
        if width < 1 or height < 1:
            yield Finding(place, "a hole has no area", "sides of at least 1", f"{width} x {height}")
        by_sides = masks.kind == "rectangles" and not masks.area_max
        if by_sides and not all(
            masks.side_min <= side <= masks.side_max for side in (width, height)
        ):
            expected = f"{masks.side_min} to {masks.side_max}"
            yield Finding(place, "a hole's sides are out of range", expected, f"{width} x {height}")


def _touches_all_sides(mask: np.ndarray, x: int, y: int, width: int, height: int) -> bool:
    """Return whether a box fits the hole in it, which other holes of the mask may overlap."""
    hole = mask[y : y + height, x : x + width]
    sides = (hole[:1], hole[-1:], hole[:, :1], hole[:, -1:])
    return all(side.any() for side in sides)


def _origin_findings(place: str, description: dict[str, Any]) -> Iterator[Finding]:
    source, size = description.get("source"), description.get("original_size")
    if not isinstance(source, str) or not source:
        yield Finding(place, "the source is not named", "a path", shown(source))
    sides = size if isinstance(size, list) else []
    if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides):
        yield Finding(place, "the original size is none", "[width, height]", shown(size))
