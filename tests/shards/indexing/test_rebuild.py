from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shards.format.index import index_name
from shards.format.manifest import Manifest, load_manifest
from shards.format.recipe import MaskRecipe, PackRecipe, StrokeRecipe
from shards.indexing.rebuild import rebuild_index
from shards.packing.pack import pack_images
from tests.shards.pictures import small_recipe, write_class_folders

SHARD = "train-000001.tar"
STROKES = MaskRecipe(
    kind="strokes", masks_per_image=2,
    strokes=StrokeRecipe(length_min=4, length_max=12, width_min=3, width_max=6),
)  # fmt: skip
RECIPES = {
    "jpeg": small_recipe(masks_per_image=2, holes_per_mask=2),
    "png": replace(small_recipe(), encoding="png"),
    "raw": replace(small_recipe(), encoding="raw"),
    "strokes": replace(small_recipe(), encoding="webp", masks=STROKES),
}


def pack(folder: Path, recipe: PackRecipe) -> tuple[Path, Manifest]:
    source = write_class_folders(folder / "source", 3, 8)
    (source / "class-0" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")  # leaves a gap
    return folder / "set", pack_images(source, str(folder / "set"), recipe, workers=1)


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(tmp_path_factory.mktemp("set"), RECIPES["jpeg"])[0]


@pytest.mark.parametrize("kind", RECIPES)
def test_the_index_made_anew_is_the_packed_one_byte_for_byte(kind: str, tmp_path: Path) -> None:
    folder, manifest = pack(tmp_path, RECIPES[kind])
    for entry in [entry for entries in manifest.splits.values() for entry in entries]:
        data = memoryview((folder / entry.name).read_bytes())
        anew = rebuild_index(data, manifest.recipe, entry.name)
        assert anew == (folder / index_name(entry.name)).read_bytes()


def with_members(change: Callable[[dict[str, bytes]], object]) -> Callable[[bytes], bytes]:
    def rewrite(data: bytes) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        change(members)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return buffer.getvalue()

    return rewrite


def describe(**values: object) -> Callable[[bytes], bytes]:
    def change(members: dict[str, bytes]) -> None:
        name = next(name for name in members if name.endswith(".json"))
        members[name] = json.dumps({**json.loads(members[name]), **values}).encode()

    return with_members(change)


def remove_first(suffix: str) -> Callable[[bytes], bytes]:
    def change(members: dict[str, bytes]) -> None:
        del members[next(name for name in members if name.endswith(suffix))]

    return with_members(change)


def replace_first(suffix: str, content: bytes) -> Callable[[bytes], bytes]:
    def change(members: dict[str, bytes]) -> None:
        members[next(name for name in members if name.endswith(suffix))] = content

    return with_members(change)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "no archive": lambda data: b"x" * 4096,
    "cut in a member": lambda data: data[:1500],
    "no image": remove_first(".jpg"),
    "no description": remove_first(".json"),
    "no picture": replace_first(".jpg", b"x" * 99),
    "no JSON": replace_first(".json", b"{"),
    "deep JSON": replace_first(".json", b"[" * 100_000),
    "list for JSON": replace_first(".json", b"[]"),
    "large JSON": replace_first(".json", b" " * ((1 << 24) + 1)),
    "strange name": with_members(lambda members: members.update({"notes.jpg": b"", "notes.json":
                                                                 b"{}"})),
    "negative label": describe(label=-1),
    "label of words": describe(label="cat"),
    "no masks": describe(masks=None),
    "a mask too few": describe(masks=[]),
    "large hole": describe(masks=[{"completion": [[0, 0, 70_000, 1]] * 2,
                                   "discriminator": [[0, 0, 1, 1]] * 2}] * 2),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_shard_that_is_none_of_ours_is_refused_by_name(kind: str, jpegs: Path) -> None:
    data = DAMAGES[kind]((jpegs / SHARD).read_bytes())
    recipe = load_manifest(str(jpegs)).recipe
    with pytest.raises(ValueError, match=rf"^{SHARD} (cannot be indexed|is not a whole archive)"):
        rebuild_index(memoryview(data), recipe, SHARD)


def test_a_shard_of_others_is_told_with_the_command_that_indexes_it(jpegs: Path) -> None:
    data = DAMAGES["no description"]((jpegs / SHARD).read_bytes())
    recipe = load_manifest(str(jpegs)).recipe
    with pytest.raises(ValueError, match=r"has no \.json.*or run `glcic index` if others have"):
        rebuild_index(memoryview(data), recipe, SHARD)
