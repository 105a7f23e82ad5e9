from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from shards.format.finding import Finding
from shards.format.index import encode_index, index_dtype
from tests.shards.damage import (
    INDEX,
    SHARD,
    Edited,
    damage_bytes,
    findings_of,
    records_of,
    rehash,
    swap_members,
    with_member,
)
from tests.shards.pictures import picture


def jpeg(width: int, height: int) -> bytes:
    return simplejpeg.encode_jpeg(picture((width, height)), colorsubsampling="420")


def claiming(width: int, height: int) -> bytes:
    """A small JPEG whose header names another size."""
    data = bytearray(jpeg(72, 48))
    frame = data.index(b"\xff\xc0") + 5
    data[frame : frame + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


def test_a_flipped_bit_is_found_wherever_it_lies(copy: Path) -> None:
    sound = (copy / SHARD).read_bytes()
    for position in np.random.default_rng(0).choice(len(sound), 60, replace=False).tolist():
        damage_bytes(copy / SHARD, lambda data, at=position: data.__setitem__(at, data[at] ^ 0x10))
        found = findings_of(copy, "train", threads=1)
        assert any("SHA-256" in finding.what for finding in found)
        assert {finding.place.split()[0] for finding in found} == {SHARD}, position
        (copy / SHARD).write_bytes(sound)


def test_a_flipped_bit_is_found_without_the_hash_of_the_file(copy: Path) -> None:
    """Headers, members, padding and end each have a check of their own."""
    sound = (copy / SHARD).read_bytes()
    for position in np.random.default_rng(1).choice(len(sound), 60, replace=False).tolist():
        bit = 1 << position % 8
        damage_bytes(copy / SHARD, lambda data, p=position, b=bit: data.__setitem__(p, data[p] ^ b))
        rehash(copy)
        found = findings_of(copy, "train", threads=1)
        assert found, position
        assert {finding.place.split()[0] for finding in found} == {SHARD}, position
        (copy / SHARD).write_bytes(sound)


@pytest.mark.parametrize("is_rehashed", [False, True])
def test_a_cut_is_found_wherever_it_is(copy: Path, is_rehashed: bool) -> None:
    sound = (copy / SHARD).read_bytes()
    end = int(records_of(copy)[-1]["json_offset"]) + 1024  # behind it lies only the end's padding
    for length in np.random.default_rng(2).integers(0, end, 30).tolist():
        (copy / SHARD).write_bytes(sound[:length])
        if is_rehashed:
            rehash(copy)
        found = findings_of(copy, "train", threads=1)
        assert any("end of the archive" in finding.what for finding in found), length
        assert any("size is not" in finding.what for finding in found) is not is_rehashed
        (copy / SHARD).write_bytes(sound)


@pytest.mark.parametrize("has_end", [False, True])
def test_a_cut_between_samples_is_found_and_the_lost_ones_are_named(
    copy: Path, has_end: bool
) -> None:
    cut = int(records_of(copy)[3]["image_offset"]) - 512
    end = bytes(1024) if has_end else b""
    (copy / SHARD).write_bytes((copy / SHARD).read_bytes()[:cut] + end)
    rehash(copy)
    found = findings_of(copy)
    assert any("end of the archive is missing" in finding.what for finding in found) is not has_end
    lost = {f"{key:08d}.{kind}" for key in (8, 9) for kind in ("jpg", "json")}
    gone = [
        finding.place for finding in found if finding.what == "no member lies where the index says"
    ]
    assert set(gone) == {f"{SHARD} {name}" for name in lost}
    number = "number of images is not the manifest's"
    assert Finding(SHARD, number, "5", "3") in found


def exchange_contents(folder: Path) -> None:
    """The archive is in order, and the index says what it said: only its places are wrong."""
    index = (folder / INDEX).read_bytes()
    edited = Edited(folder)
    one, other = (edited.members[edited.place(f"0000000{key}.jpg")][1] for key in (7, 8))
    edited.replace("00000007.jpg", other)
    edited.replace("00000008.jpg", one)
    edited.save()
    (folder / INDEX).write_bytes(index)
    rehash(folder)


def add_member(name: str, kind: bytes = tarfile.REGTYPE) -> Callable[[Path], None]:
    def add(folder: Path) -> None:
        edited = Edited(folder)
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd" if kind != tarfile.REGTYPE else ""
        edited.members.insert(4, (member, b""))
        edited.save()

    return add


def link_image(folder: Path) -> None:
    edited = Edited(folder)
    member = edited.members[edited.place("00000007.jpg")][0]
    member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/passwd", 0
    edited.save()


def duplicate_key(folder: Path) -> None:
    """The second shard's image takes the number of one in the first."""
    edited = Edited(folder)
    for name in ("00000007.jpg", "00000007.json"):
        edited.members[edited.place(name)][0].name = name.replace("7", "2")
    edited.record()["image_number"] = 2
    edited.save()


def describing(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def describe(folder: Path) -> None:
        edited = Edited(folder)
        edited.describe(change)
        edited.save()

    return describe


def with_hole(*hole: int) -> Callable[[Path], None]:
    """The same in the description and in the index: they agree with each other."""

    def place(folder: Path) -> None:
        edited = Edited(folder)
        edited.describe(lambda text: text["masks"][1]["completion"].__setitem__(0, list(hole)))
        edited.record()["completion_holes"][0, 1, 0] = hole
        edited.save()

    return place


def with_label(folder: Path) -> None:
    edited = Edited(folder)
    edited.record()["label"] = 99
    edited.describe(lambda text: text.update(label=99))
    edited.save()


def with_index(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        (folder / INDEX).write_bytes(encode_index(change(records_of(folder).copy())))
        rehash(folder)

    return put


def with_index_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        (folder / INDEX).write_bytes(change((folder / INDEX).read_bytes()))
        rehash(folder)

    return put


def shifted(records: np.ndarray) -> np.ndarray:
    records["image_offset"][2] += 512
    return records


def beyond(records: np.ndarray) -> np.ndarray:
    records["image_offset"][2] = 2**40
    return records


INSIDE = {
    "swapped members": (
        swap_members,
        "00000007.json: the member is out of order: expected 00000008.json",
    ),
    "exchanged members": (exchange_contents, "00000007.jpg: CRC-32 is not the index's"),
    "symbolic link": (
        add_member("00000007.txt", tarfile.SYMTYPE),
        "00000007.txt: the member is not a regular file: expected regular file, found symbolic",
    ),
    "image that is a link": (link_image, "00000007.jpg: the member is not a regular file"),
    "device": (add_member("null", tarfile.CHRTYPE), "null: the member is not a regular file"),
    "escaping name": (add_member("../evil.jpg"), "../evil.jpg: the name leads out of the folder"),
    "absolute name": (add_member("/evil.jpg"), "/evil.jpg: the name leads out of the folder"),
    "strange name": (add_member("7.jpg"), "7.jpg: the name is not that of a sample"),
    "third member": (add_member("notes.txt"), "notes.txt: the member is not in the index"),
    "duplicated key": (
        duplicate_key,
        "00000002: the key is not unique: also in train-000000.tar",
    ),
    "wrong label": (
        describing(lambda text: text.update(label=(text["label"] + 1) % 3)),
        "00000007.json: the label is not the index's",
    ),
    "wrong class": (
        describing(lambda text: text.update({"class": "\x1b[31m"})),
        "00000007.json: class and label do not agree",
    ),
    "no such label": (with_label, "the label is that of no class: expected 0 to 2, found 99"),
    "hole past the right": (
        with_hole(25, 0, 8, 8),
        "mask 1, completion: a hole lies outside the frame: expected within 0 to 32, found [25",
    ),
    "hole past the bottom": (with_hole(0, 25, 8, 8), "a hole lies outside the frame"),
    "large hole": (with_hole(0, 0, 17, 8), "sides are out of range: expected 8 to 16, found 17 x"),
    "small hole": (with_hole(0, 0, 16, 7), "a hole's sides are out of range"),
    "other holes": (
        describing(lambda text: text["masks"][0]["discriminator"][0].__setitem__(0, 33)),
        "the discriminator holes are not the index's",
    ),
    "negative hole": (
        describing(lambda text: text["masks"][0]["completion"][0].__setitem__(0, -1)),
        "mask 0, completion: a hole lies outside the frame",
    ),
    "half a pixel": (
        describing(lambda text: text["masks"][0]["completion"][0].__setitem__(0, 0.5)),
        "a hole is not four integers",
    ),
    "a mask too few": (
        describing(lambda text: text["masks"].pop()),
        "00000007.json: number of masks: expected 2, found 1",
    ),
    "a hole too many": (
        describing(lambda text: text["masks"][0]["completion"].append([0, 0, 8, 8])),
        "mask 0, completion: number of holes: expected 2, found 3",
    ),
    "masks of another kind": (describing(lambda text: text.update(masks=7)), "number of masks"),
    "no source": (describing(lambda text: text.pop("source")), "the source is not named"),
    "no original size": (
        describing(lambda text: text.update(original_size=[0, 5])),
        "the original size is none",
    ),
    "no JSON": (with_member("00000007.json", b"{"), "00000007.json: the description is not JSON"),
    "deep JSON": (with_member("00000007.json", b"[" * 50_000), "the description is not JSON"),
    "list for JSON": (with_member("00000007.json", b"[]"), "the description is not a JSON object"),
    "large JSON": (
        with_member("00000007.json", b" " * 70_000 + b"{}"),
        "the description is too large",
    ),
    "no image": (with_member("00000007.jpg", b"x" * 99), "00000007.jpg: the image cannot be"),
    "half an image": (
        with_member("00000007.jpg", jpeg(64, 48)[:-700]),
        "00000007.jpg: the image cannot be decoded: Premature end",
    ),
    "other size": (
        with_member("00000007.jpg", jpeg(48, 64)),
        "the size of the image is not the index's: expected 64 x 48, found 48 x 64",
    ),
    "small image": (
        with_member("00000007.jpg", jpeg(72, 31), image_width=72, image_height=31),
        "the image is smaller than the crop: expected at least 32 x 32, found 72 x 31",
    ),
    "bomb": (
        with_member(
            "00000007.jpg", claiming(65_000, 65_000), image_width=65_000, image_height=65_000
        ),
        "the image is larger than what is packed: expected a short side of at most 48",
    ),
    "validation image": (
        with_member("00000019.jpg", jpeg(36, 32), image_width=36),
        "00000019.jpg: a validation image has not the crop's size: expected 32 x 32, found 36",
    ),
    "record too few": (
        with_index(lambda records: records[:-1]),
        f"{INDEX}: number of records is not the manifest's: expected 5, found 4",
    ),
    "wrong offset": (
        with_index(shifted),
        "00000007.jpg: no member lies where the index says",
    ),
    "offset beyond": (with_index(beyond), "00000007.jpg: the member's bytes are missing"),
    "unordered index": (
        with_index(lambda records: records[::-1]),
        f"{INDEX} record 1: the keys do not rise: expected above 9, found 8",
    ),
    "layout": (
        with_index(lambda records: np.zeros(5, index_dtype(1, 1))),
        f"{INDEX}: the records have another layout",
    ),
    "no index": (with_index_bytes(lambda data: b"PK\x03\x04"), "the index cannot be parsed"),
    "empty index": (with_index_bytes(lambda data: b""), "the index cannot be parsed"),
    "longer index": (
        with_index_bytes(lambda data: data + b"x"),
        "the file holds more than its records",
    ),
}


@pytest.mark.parametrize("kind", INSIDE)
def test_a_damage_that_no_hash_can_show_is_named(copy: Path, kind: str) -> None:
    damage, message = INSIDE[kind]
    damage(copy)
    found = findings_of(copy)
    assert any(message in str(finding) for finding in found), "\n".join(map(str, found))
    assert not any("SHA-256" in finding.what for finding in found)
    assert all(str(finding).isprintable() for finding in found)


def test_two_faults_in_one_sample_are_both_told(copy: Path) -> None:
    edited = Edited(copy)
    edited.describe(lambda text: text.update(label=7, masks=[]))
    edited.save()
    kinds = {finding.what for finding in findings_of(copy)}
    assert {"the label is that of no class", "number of masks"} <= kinds


def test_what_follows_a_destroyed_header_is_still_checked(copy: Path) -> None:
    edited = Edited(copy)
    edited.replace("00000009.jpg", b"no image")
    edited.save()
    header = int(edited.record(7)["image_offset"][0]) - 512
    damage_bytes(
        copy / SHARD, lambda data: data.__setitem__(slice(header, header + 512), bytes(512))
    )
    rehash(copy)
    text = "\n".join(map(str, findings_of(copy)))
    assert f"{SHARD} at byte {header}: the archive ends, but data follow" in text
    assert "00000007.jpg: no member lies where the index says" in text
    assert "00000008.jpg: no member lies" not in text
    assert "00000009.jpg: the image cannot be decoded" in text
