"""Images, masks, descriptions and manifests of any bytes: a result, or the documented error."""

from __future__ import annotations

import json
import os
import resource
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.format.finding import Finding
from shards.format.index import index_dtype
from shards.format.manifest import Manifest, ShardEntry, load_manifest, parse_manifest
from shards.format.recipe import MaskRecipe, PackRecipe
from shards.images.encodings import decode_image, encode_image
from shards.inspection.sample_check import SampleCheck
from shards.inspection.verify import verify_set
from shards.masks.drawing import decode_masks, encode_masks
from tests.fuzz.mutations import corpus, edited_json, fuzzed, mutated, with_png_checksums
from tests.shards.pictures import picture

WIDTH, HEIGHT = 37, 33
ENCODINGS = ("jpeg", "png", "webp", "raw")
GUARD = 4096  # bytes around the memory that is to be filled, in which nothing may change
ROOM = 512 << 20  # bytes that may be asked for beyond what the process has
RECIPE = PackRecipe(
    crop_size=32, short_side=32, masks=MaskRecipe(masks_per_image=2, side_min=8, side_max=16)
)
DESCRIPTION = {
    "class": "b",
    "label": 1,
    "source": "b/x.jpg",
    "original_size": [40, 36],
    "masks": [
        {"completion": [[1, 2, 9, 10]], "discriminator": [[3, 4, 11, 12]]},
        {"completion": [[5, 6, 13, 14]], "discriminator": [[7, 8, 15, 16]]},
    ],
}
MANIFEST = Manifest(
    recipe=RECIPE,
    classes=["a", "b"],
    mean_color=(0.25, 0.5, 0.75),
    splits={"train": [ShardEntry("train-000000.tar", 1, 2048, "0" * 64, "1" * 64)], "val": []},
    plan_sha256="2" * 64,
)


@pytest.fixture
def little_room() -> Iterator[None]:
    """What is allocated for a size that a few bytes claim would not fit."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def stored_images() -> list[bytes]:
    pixels = picture((WIDTH, HEIGHT))
    return [encode_image(pixels, replace(RECIPE, encoding=one)) for one in ENCODINGS]


def check_image(data: bytes) -> None:
    size = WIDTH * HEIGHT * 3
    memory = np.full(GUARD + size + GUARD, 0xA5, np.uint8)
    view = memory[GUARD : GUARD + size]
    try:
        pixels = decode_image(memoryview(data), view, WIDTH, HEIGHT)
    except ValueError:
        pixels = None
    assert (memory[:GUARD] == 0xA5).all()
    assert (memory[-GUARD:] == 0xA5).all()
    assert pixels is None or (pixels.shape == (HEIGHT, WIDTH, 3) and np.shares_memory(pixels, view))


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_mutated_image_is_decoded_into_its_memory_or_refused(encoding: str) -> None:
    whole = stored_images()[ENCODINGS.index(encoding)]

    @fuzzed(400)
    @given(data=mutated([whole]))
    def check(data: bytes) -> None:
        check_image(data)
        check_image(with_png_checksums(data))

    check()


@pytest.mark.usefixtures("little_room")
@fuzzed(200)
@given(
    start=st.sampled_from([b"", *(one[:n] for one in stored_images() for n in (2, 12, 30, 130))]),
    rest=st.binary(max_size=300),
)
def test_any_bytes_as_an_image_are_decoded_or_refused(start: bytes, rest: bytes) -> None:
    check_image(start + rest)


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize("data", corpus("images"), ids=len)
def test_images_that_were_once_found_are_decoded_or_refused(data: bytes) -> None:
    check_image(data)


def free_form(count: int, size: int) -> bytes:
    return encode_masks(np.random.default_rng(0).random((count, size, size)) < 0.5)


@pytest.mark.usefixtures("little_room")
@fuzzed(400)
@given(data=st.one_of(mutated([free_form(2, 37), free_form(1, 8)]), st.binary(max_size=200)))
def test_mutated_masks_are_decoded_or_refused(data: bytes) -> None:
    for fixed in (data, with_png_checksums(data)):
        try:
            masks = decode_masks(memoryview(fixed), 2, 37)
        except ValueError:
            continue
        assert masks.shape == (2, 37, 37)
        assert masks.dtype == bool
        assert set(np.unique(masks.view(np.uint8))) <= {0, 1}


def record_of(description: dict[str, Any]) -> np.void:
    records = np.zeros(1, index_dtype(2, 1))
    records[0]["label"] = description["label"]
    for purpose in ("completion", "discriminator"):
        records[0][f"{purpose}_holes"] = [mask[purpose] for mask in description["masks"]]
    return records[0]


def check_description(text: bytes) -> list[Finding]:
    check = SampleCheck(MANIFEST, "train")
    found = list(check.json_findings("00000001.json", text, record_of(DESCRIPTION)))
    assert all(str(finding).isprintable() and len(str(finding)) < 1000 for finding in found)
    return found


def test_the_description_that_is_mutated_has_no_fault() -> None:
    assert check_description(json.dumps(DESCRIPTION).encode()) == []


@fuzzed(400)
@given(edited=edited_json(DESCRIPTION))
def test_an_edited_description_is_a_fault_or_the_same(edited: Any) -> None:
    findings = check_description(json.dumps(edited).encode())
    needed = ("label", "class", "masks")
    is_same = isinstance(edited, dict) and all(
        _same(edited.get(name), DESCRIPTION[name]) for name in needed
    )
    assert findings or is_same


def _same(found: Any, expected: Any) -> bool:
    """Equal where it is read: a further key does no harm."""
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(_same(found.get(k), v) for k, v in expected.items())
    if isinstance(expected, list) and isinstance(found, list):
        return len(found) == len(expected) and all(map(_same, found, expected))
    return bool(found == expected)


@fuzzed(300)
@given(text=st.one_of(st.binary(max_size=300), mutated([json.dumps(DESCRIPTION).encode()])))
def test_any_bytes_as_a_description_give_faults_at_most(text: bytes) -> None:
    check_description(text)


@pytest.mark.parametrize("depth", [50, *range(900, 1000, 7), 20_000])
def test_a_deeply_nested_description_is_a_fault(depth: int) -> None:
    for name in ("masks", "label", "source", "original_size"):
        value = "[" * depth + "]" * depth
        assert check_description(
            json.dumps(DESCRIPTION | {name: "@"}).replace('"@"', value).encode()
        )


def check_manifest(data: bytes) -> None:
    try:
        parse_manifest(data, "set/manifest.json")
    except ValueError as error:
        assert "set/manifest.json" in str(error)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "manifest.json").write_bytes(data)
        try:
            assert load_manifest(folder) is not None
        except ValueError as error:
            assert "manifest.json" in str(error)
        findings = list(verify_set(folder, threads=1))
        assert findings
        assert all(str(finding).isprintable() for finding in findings)


@fuzzed(60)
@given(data=st.one_of(st.binary(max_size=300), mutated([MANIFEST.to_json().encode()])))
def test_any_bytes_as_a_manifest_are_read_or_refused(data: bytes) -> None:
    check_manifest(data)


@fuzzed(200)
@given(edited=edited_json(json.loads(MANIFEST.to_json())))
def test_an_edited_manifest_is_read_or_refused(edited: Any) -> None:
    check_manifest(json.dumps(edited).encode())


def test_a_control_code_in_a_recipe_is_told_in_printable_characters() -> None:
    content = json.loads(MANIFEST.to_json())
    content["recipe"]["encoding"] = "\x1f"
    check_manifest(json.dumps(content).encode())


@pytest.mark.parametrize("place", ["classes", "recipe", "mean_color", "converted", "plan_sha256"])
@pytest.mark.parametrize("depth", [*range(100, 1000, 100), 20_000])
def test_a_deeply_nested_manifest_is_refused(place: str, depth: int) -> None:
    content = json.loads(MANIFEST.to_json()) | {place: "@"}
    text = json.dumps(content).replace('"@"', "[" * depth + "]" * depth)
    check_manifest(text.encode())


def test_a_manifest_of_absurd_size_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "manifest.json", "wb") as file:
        file.truncate(50 << 30)  # nothing but a hole: it takes no room
    with pytest.raises(ValueError, match=r"manifest\.json has 53687091200 bytes, more than the"):
        load_manifest(str(tmp_path))
    assert any("more than the" in str(finding) for finding in verify_set(str(tmp_path)))


def test_a_description_of_absurd_size_is_not_looked_into() -> None:
    check = SampleCheck(MANIFEST, "train")
    assert check.json_bytes_max < 1 << 20
    assert asdict(RECIPE)["masks"]["masks_per_image"] == 2
