from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
import webdataset
from PIL import Image

from shards.format.manifest import RefusedImage
from shards.indexing.external_shard import ExternalShard, read_external_shard
from tests.shards.pictures import picture


def jpeg(size: tuple[int, int] = (48, 40), seed: int = 0) -> bytes:
    return simplejpeg.encode_jpeg(picture(size, seed), colorsubsampling="420")


def encoded(suffix: str, size: tuple[int, int] = (48, 40), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(size)).convert(mode).save(buffer, suffix)
    return buffer.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]], **options: Any) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def read(path: Path, side_min: int = 1) -> ExternalShard:
    return read_external_shard(path, path.name, side_min)


def labels(shard: ExternalShard) -> list[str]:
    return [image.label for image in shard.images]


def test_images_are_found_where_webdataset_wrote_them(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    images = {f"{number:04d}": jpeg((48 + number, 40), number) for number in range(3)}
    with webdataset.TarWriter(str(path)) as sink:
        for number, (key, data) in enumerate(images.items()):
            sink.write({"__key__": key, "jpg": data, "cls": number * 5})
    shard, content = read(path), path.read_bytes()
    assert (shard.name, shard.size_bytes, shard.refused) == ("a.tar", len(content), [])
    assert labels(shard) == ["0", "5", "10"]
    for image, data in zip(shard.images, images.values(), strict=True):
        assert content[image.offset : image.offset + image.num_bytes] == data
    assert [(image.width, image.height) for image in shard.images] == [
        (48, 40), (49, 40), (50, 40),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("description", "label"),
    [
        ({"label": 3}, "3"),
        ({"label": "cat"}, "cat"),
        ({"class": "cat", "label": 3}, "cat"),
        ({"label": True}, "0"),
        ({"label": None, "caption": "a cat"}, "0"),
        ([1, 2], "0"),
    ],
)
def test_the_label_of_a_description_is_a_word_or_a_number(
    description: object, label: str, tmp_path: Path
) -> None:
    text = json.dumps(description).encode()
    path = write_tar(tmp_path / "a.tar", [("1.png", encoded("png")), ("1.json", text)])
    assert labels(read(path)) == [label]


@pytest.mark.parametrize("text", [b"{", b"[" * 100_000, b"", b"\xff\xfe", b"1" * (1 << 20 | 1)])
def test_a_description_that_says_nothing_leaves_the_one_class_of_all(
    text: bytes, tmp_path: Path
) -> None:
    path = write_tar(tmp_path / "a.tar", [("1.png", encoded("png")), ("1.json", text)])
    assert labels(read(path)) == ["0"]


def test_a_label_file_comes_before_a_description(tmp_path: Path) -> None:
    members = [("1.json", b'{"label": 2}'), ("1.jpg", jpeg()), ("1.cls", b" 7\n")]
    assert labels(read(write_tar(tmp_path / "a.tar", members))) == ["7"]


def test_folders_in_names_keep_samples_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for folder in ("./x", "y.z"):
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            tar.addfile(entry)
            for name, data in (("1.jpg", jpeg()), ("1.cls", folder.encode())):
                member = tarfile.TarInfo(f"{folder}/{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    shard = read(path)
    assert labels(shard) == ["./x", "y.z"]
    assert shard.refused == []


def test_extensions_count_in_any_case_and_only_whole(tmp_path: Path) -> None:
    members = [("1.JPG", jpeg()), ("1.CLS", b"4"), ("1.seg.png", encoded("png"))]
    shard = read(write_tar(tmp_path / "a.tar", members))
    assert labels(shard) == ["4"]
    assert shard.refused == []


@pytest.mark.parametrize("suffix", ["jpeg", "png", "webp"])
def test_every_encoding_is_read(suffix: str, tmp_path: Path) -> None:
    shard = read(write_tar(tmp_path / "a.tar", [(f"1.{suffix}", encoded(suffix))]))
    assert [(image.width, image.height) for image in shard.images] == [(48, 40)]
    (color,) = shard.sampled_colors
    assert np.allclose(color, picture((48, 40)).reshape(-1, 3).mean(axis=0) / 255, atol=0.02)


def test_members_of_one_sample_may_lie_apart(tmp_path: Path) -> None:
    members = [("1.jpg", jpeg()), ("2.jpg", jpeg()), ("1.cls", b"a"), ("2.cls", b"b")]
    assert labels(read(write_tar(tmp_path / "a.tar", members))) == ["a", "b"]


@pytest.mark.parametrize(
    ("members", "name", "reason"),
    [
        ([("1.jpg", b"no image")], "1.jpg", "neither JPEG"),
        ([("1.jpg", b"")], "1.jpg", "neither JPEG"),
        ([("1.jpg", encoded("jpeg", mode="CMYK"))], "1.jpg", "CMYK"),
        ([("1.jpg", jpeg((31, 90)))], "1.jpg", "too small: 31x90, the short side must be at least"),
        ([("1.jpg", jpeg()), ("1.png", encoded("png"))], "1", "several images in one sample"),
        ([("1.txt", b"text"), ("1.cls", b"3")], "1", "no image in the sample"),
    ],
)
def test_a_sample_that_cannot_be_used_is_refused_by_name(
    members: list[tuple[str, bytes]], name: str, reason: str, tmp_path: Path
) -> None:
    shard = read(write_tar(tmp_path / "a.tar", [*members, ("2.jpg", jpeg())]), side_min=32)
    assert len(shard.images) == 1
    (refused,) = shard.refused
    assert refused.path == f"a.tar/{name}"
    assert reason in refused.reason


def test_a_claim_of_many_pixels_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    data = bytearray(cv2.imencode(".png", picture((8, 8)))[1])
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    shard = read(write_tar(tmp_path / "a.tar", [("1.png", bytes(data))]))
    assert shard.refused == [RefusedImage("a.tar/1.png", "too many pixels: 60000x60000")]


def test_a_member_named_twice_is_refused_and_the_first_one_is_taken(tmp_path: Path) -> None:
    members = [("1.jpg", jpeg((48, 40))), ("1.jpg", jpeg((64, 64)))]
    shard = read(write_tar(tmp_path / "a.tar", members))
    assert shard.refused == [RefusedImage("a.tar/1.jpg", "named twice")]
    assert [image.width for image in shard.images] == [48]


@pytest.mark.parametrize("tail", ["folder", "hidden", "link"])
def test_what_is_no_sample_may_end_an_archive(tail: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("1.jpg", ".DS_Store") if tail == "hidden" else ("1.jpg",):
            member = tarfile.TarInfo(name)
            member.size = len(jpeg())
            tar.addfile(member, io.BytesIO(jpeg()))
        if tail != "hidden":
            entry = tarfile.TarInfo("empty.jpg")
            entry.type, entry.linkname = {
                "folder": (tarfile.DIRTYPE, ""), "link": (tarfile.SYMTYPE, "1.jpg")
            }[tail]  # fmt: skip
            tar.addfile(entry)
    shard = read(path)
    assert (len(shard.images), shard.refused) == (1, [])


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_read_in_every_dialect(format: int, tmp_path: Path) -> None:
    folder = "/".join(["a-folder-of-some-length"] * 8)
    members = [(f"{folder}/1.jpg", jpeg()), (f"{folder}/1.cls", b"5")]
    shard = read(write_tar(tmp_path / "a.tar", members, format=format))
    assert labels(shard) == ["5"]


def test_an_archive_without_a_sample_says_so(tmp_path: Path) -> None:
    shard = read(write_tar(tmp_path / "a.tar", []))
    assert shard.images == []
    assert shard.refused == [RefusedImage("a.tar", "no sample in the shard")]


def end_of(path: Path, member: int) -> int:
    with tarfile.open(path) as tar:
        chosen = tar.getmembers()[member]
    return chosen.offset_data + -(-chosen.size // 512) * 512


@pytest.mark.parametrize(
    "length",
    [
        lambda path: 0,
        lambda path: 100,
        lambda path: 700,
        lambda path: end_of(path, 1) - 5_00,
        lambda path: end_of(path, 1),
        lambda path: end_of(path, 1) + 512,
        lambda path: end_of(path, 3),
    ],
    ids=["nothing", "header", "data", "padding", "between", "next header", "without an end"],
)
def test_an_archive_that_is_cut_is_refused_by_name(
    length: Callable[[Path], int], tmp_path: Path
) -> None:
    members = [(f"{number}.jpg", jpeg(seed=number)) for number in range(4)]
    path = write_tar(tmp_path / "a.tar", members)
    path.write_bytes(path.read_bytes()[: length(path)])
    with pytest.raises(ValueError, match=r"^a\.tar .*copy it again from its source"):
        read(path)


def test_a_compressed_archive_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("1.jpg"))
    with pytest.raises(ValueError, match=r"a\.tar is not a whole tar archive"):
        read(path)
