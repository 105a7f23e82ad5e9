"""Verifying sets of every encoding and kind of masks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shards.format.recipe import MaskRecipe, PackRecipe, StrokeRecipe
from shards.masks.drawing import decode_masks, encode_masks
from shards.packing.pack import pack_images
from tests.shards.damage import INDEX, SHARD, Edited, findings_of, rehash
from tests.shards.pictures import small_recipe, write_class_folders

STROKES = MaskRecipe(
    kind="strokes", masks_per_image=2, holes_per_mask=2, margin=2,
    strokes=StrokeRecipe(length_min=4, length_max=12, width_min=3, width_max=6, strokes_max=2),
)  # fmt: skip
ENCODINGS: dict[str, PackRecipe] = {
    **{name: replace(small_recipe(), encoding=name) for name in ("png", "webp", "raw")},
    "areas": replace(small_recipe(), masks=MaskRecipe(area_min=0.1, area_max=0.3, aspect_max=3)),
    "strokes": replace(small_recipe(), masks=STROKES),
    "strokes of areas": replace(
        small_recipe(), encoding="png", masks=replace(STROKES, area_min=0.1, area_max=0.4)
    ),
}


@pytest.mark.parametrize("kind", ENCODINGS)
def test_a_sound_set_of_every_encoding_has_no_fault_and_a_flipped_bit_is_one(
    kind: str, tmp_path: Path
) -> None:
    source = write_class_folders(tmp_path / "source", 3, 8)
    (source / "class-1" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")  # leaves a gap
    folder = tmp_path / "set"
    manifest = pack_images(source, str(folder), ENCODINGS[kind], workers=1)
    assert len(manifest.refused) == 1
    assert findings_of(folder) == []
    edited = Edited(folder)
    key = int(edited.records["image_number"][2])
    name = f"{key:08d}.{manifest.recipe.extension}"
    data = bytearray(edited.members[edited.place(name)][1])
    data[len(data) // 2] ^= 1
    edited.replace(name, bytes(data))
    index = (folder / INDEX).read_bytes()
    edited.save()
    (folder / INDEX).write_bytes(index)
    rehash(folder)
    assert f"{SHARD} {name}: CRC-32 is not the index's" in "\n".join(map(str, findings_of(folder)))


@pytest.fixture(scope="module")
def free_form(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("free-form")
    source = write_class_folders(folder / "source", 3, 8)
    pack_images(source, str(folder / "set"), ENCODINGS["strokes"], workers=1)
    return folder / "set"


def flip_mask_bit(edited: Edited) -> None:
    place = edited.place("00000007.masks.png")
    data = bytearray(edited.members[place][1])
    data[-30] ^= 1
    edited.members[place] = (edited.members[place][0], bytes(data))


def masks_of_another(edited: Edited) -> None:
    edited.replace("00000007.masks.png", edited.members[edited.place("00000008.masks.png")][1])


def hole_outside_its_box(edited: Edited) -> None:
    masks = decode_masks(edited.members[edited.place("00000007.masks.png")][1], 2, 32).copy()
    masks[1, 0, 0] = True  # the margin keeps every hole away from there
    edited.replace("00000007.masks.png", encode_masks(masks))


def half_a_hole(edited: Edited) -> None:
    masks = decode_masks(edited.members[edited.place("00000007.masks.png")][1], 2, 32).copy()
    _, y, _, _ = edited.record()["completion_holes"][0, 1, 0].tolist()
    masks[1, y, :] = False
    edited.replace("00000007.masks.png", encode_masks(masks))


def no_hole(edited: Edited) -> None:
    masks = decode_masks(edited.members[edited.place("00000007.masks.png")][1], 2, 32).copy()
    masks[0] = False
    edited.replace("00000007.masks.png", encode_masks(masks))


def missing_member(edited: Edited) -> None:
    del edited.members[edited.place("00000007.masks.png")]


MASK_DAMAGES: dict[str, tuple[Callable[[Edited], None], str]] = {
    "flipped bit": (flip_mask_bit, "00000007.masks.png: the masks cannot be decoded"),
    "another image's": (masks_of_another, "00000007.masks.png mask 0: "),
    "outside": (hole_outside_its_box, "mask 1: the mask reaches out of the boxes of its holes"),
    "half a hole": (half_a_hole, "00000007.masks.png mask 1: a box is larger than the hole in it"),
    "no hole": (no_hole, "00000007.masks.png mask 0: the mask has no hole"),
    "missing": (missing_member, "00000008.jpg: the member is out of order: expected 00000007.mas"),
}


@pytest.mark.parametrize("kind", MASK_DAMAGES)
def test_a_damage_of_free_form_masks_that_no_hash_can_show_is_named(
    kind: str, free_form: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(free_form, tmp_path / "copy"))
    damage, message = MASK_DAMAGES[kind]
    edited = Edited(folder)
    damage(edited)
    edited.save()
    found = "\n".join(map(str, findings_of(folder)))
    assert f"{SHARD} {message}" in found or message in found, found
    assert "SHA-256" not in found
    assert "CRC-32" not in found or kind == "missing"
