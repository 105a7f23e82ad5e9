from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

import shards.packing.repack
from shards.format.manifest import load_manifest
from shards.format.recipe import MaskRecipe, PackRecipe, StrokeRecipe
from shards.inspection.verify import verify_set
from shards.packing.pack import pack_images
from shards.packing.repack import repack_damaged
from shards.storage.files import list_names, read_bytes, upload_file, write_bytes
from tests.shards.pictures import small_recipe, write_class_folders

ROOT = Path(__file__).resolve().parents[3]
SHARD, INDEX = "train-000001.tar", "train-000001.idx"
REMOTE = "memory://repack-tests"
RECIPE = small_recipe(masks_per_image=2)
STROKES = replace(
    RECIPE, encoding="png", masks=MaskRecipe(kind="strokes", strokes=StrokeRecipe(
        length_min=4, length_max=12, width_min=3, width_max=6)),
)  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("source") / "images", 3, 8)


@pytest.fixture(scope="module")
def sound(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A broken picture leaves a gap in the keys of one shard."""
    (source / "class-1" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    folder = tmp_path_factory.mktemp("packed") / "set"
    pack_images(source, str(folder), RECIPE, workers=1)
    return folder


@pytest.fixture
def packed(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "set"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def quiet(message: str) -> None:
    """In place of print."""


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "flipped bit": (SHARD, flip),
    "cut shard": (SHARD, cut),
    "empty shard": (SHARD, lambda path: path.write_bytes(b"")),
    "missing shard": (SHARD, Path.unlink),
    "missing index": (INDEX, Path.unlink),
    "altered index": (INDEX, flip),
    "validation shard": ("val-000000.tar", flip),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damage_is_mended_bit_for_bit(kind: str, packed: Path, sound: Path, source: Path) -> None:
    name, damage = DAMAGES[kind]
    damage(packed / name)
    mended = repack_damaged(str(source), str(packed), log=quiet)
    assert mended.names == [name.replace(".idx", ".tar")]
    assert mended.num_checked == len(list(sound.glob("*.tar")))
    assert contents(packed) == contents(sound)
    assert list(verify_set(str(packed))) == []


def test_several_damages_are_mended_at_once_and_told(
    packed: Path, sound: Path, source: Path
) -> None:
    flip(packed / SHARD)
    (packed / INDEX).unlink()
    (packed / "train-000003.tar").unlink()
    cut(packed / "val-000000.idx")
    told: list[str] = []
    mended = repack_damaged(str(source), str(packed), log=told.append)
    assert mended.names == [SHARD, "train-000003.tar", "val-000000.tar"]
    assert told == [f"packing {name} again" for name in mended.names]
    assert contents(packed) == contents(sound)


def test_nothing_is_written_where_nothing_is_damaged(packed: Path, source: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in packed.iterdir()}
    assert repack_damaged(str(source), str(packed), log=quiet).names == []
    assert {path: path.stat().st_mtime_ns for path in packed.iterdir()} == before


def test_shards_that_are_named_are_packed_without_a_search_and_once(
    packed: Path, sound: Path, source: Path
) -> None:
    flip(packed / SHARD)
    flip(packed / "train-000002.tar")
    mended = repack_damaged(str(source), str(packed), [SHARD, SHARD], log=quiet)
    assert (mended.names, mended.num_checked) == ([SHARD], 1)
    assert (packed / SHARD).read_bytes() == (sound / SHARD).read_bytes()
    assert (packed / "train-000002.tar").read_bytes() != (sound / "train-000002.tar").read_bytes()


def test_a_shard_that_the_set_has_not_is_refused(packed: Path, source: Path) -> None:
    flip(packed / SHARD)
    before = contents(packed)
    with pytest.raises(ValueError, match=r"has no shard train-000009\.tar; it has train-000000"):
        repack_damaged(str(source), str(packed), [SHARD, "train-000009.tar"], log=quiet)
    assert contents(packed) == before


def test_a_set_of_a_store_is_mended_from_a_source_of_a_store(sound: Path, source: Path) -> None:
    filesystem = fsspec.filesystem("memory")
    if filesystem.exists(REMOTE):
        filesystem.rm(REMOTE, recursive=True)
    for path in sound.iterdir():
        upload_file(path, f"{REMOTE}/set/{path.name}")
    for path in source.rglob("*.*"):
        upload_file(path, f"{REMOTE}/images/{path.relative_to(source)}")
    write_bytes(f"{REMOTE}/set/{SHARD}", b"damaged")
    filesystem.rm(f"{REMOTE}/set/val-000000.tar")
    mended = repack_damaged(f"{REMOTE}/images", f"{REMOTE}/set", log=quiet)
    assert mended.names == [SHARD, "val-000000.tar"]
    names = list_names(f"{REMOTE}/set")
    assert {name: read_bytes(f"{REMOTE}/set/{name}") for name in names} == contents(sound)


@pytest.mark.parametrize("recipe", [STROKES, replace(RECIPE, encoding="raw"),
                                    replace(RECIPE, encoding="webp")])  # fmt: skip
def test_every_encoding_and_free_form_masks_come_out_the_same(
    recipe: PackRecipe, source: Path, tmp_path: Path
) -> None:
    url = tmp_path / "set"
    pack_images(source, str(url), recipe, workers=1)
    before = contents(url)
    flip(url / SHARD)
    assert repack_damaged(str(source), str(url), log=quiet).names == [SHARD]
    assert contents(url) == before


def add_file(folder: Path) -> None:
    write_class_folders(folder, 4, 1)


def remove_file(folder: Path) -> None:
    (folder / "class-0" / "picture-0.jpg").unlink()


def grow_file(folder: Path) -> None:
    with open(folder / "class-0" / "picture-0.jpg", "ab") as file:
        file.write(b"\0")


@pytest.mark.parametrize("change", [add_file, remove_file, grow_file])
def test_a_source_that_is_another_is_refused_and_nothing_is_touched(
    change: Callable[[Path], None], packed: Path, source: Path, tmp_path: Path
) -> None:
    changed = Path(shutil.copytree(source, tmp_path / "changed"))
    change(changed)
    flip(packed / SHARD)
    before = contents(packed)
    with pytest.raises(ValueError, match=r"changed is not what .*set was packed from"):
        repack_damaged(str(changed), str(packed), log=quiet)
    assert contents(packed) == before


def test_a_source_that_lies_elsewhere_is_the_same(
    packed: Path, sound: Path, source: Path, tmp_path: Path
) -> None:
    flip(packed / SHARD)
    moved = shutil.copytree(source, tmp_path / "elsewhere" / "pictures")
    assert repack_damaged(str(moved), str(packed), log=quiet).names == [SHARD]
    assert contents(packed) == contents(sound)


def test_content_that_changed_at_equal_sizes_replaces_nothing(
    packed: Path, source: Path, tmp_path: Path
) -> None:
    changed = Path(shutil.copytree(source, tmp_path / "changed"))
    for path in changed.rglob("*.jpg"):
        flip(path)
    flip(packed / SHARD)
    before = contents(packed)
    with pytest.raises(ValueError, match=rf"{SHARD} comes out otherwise.*it was not replaced"):
        repack_damaged(str(changed), str(packed), log=quiet)
    assert contents(packed) == before


def test_a_source_that_cannot_be_read_any_more_replaces_nothing(
    packed: Path, source: Path, tmp_path: Path
) -> None:
    changed = Path(shutil.copytree(source, tmp_path / "changed"))
    for path in changed.rglob("*.jpg"):
        path.write_bytes(bytes(path.stat().st_size))
    for path in changed.rglob("*.png"):
        path.write_bytes(bytes(path.stat().st_size))
    flip(packed / SHARD)
    before = contents(packed)
    with pytest.raises(ValueError, match="SHA-256 no image"):
        repack_damaged(str(changed), str(packed), log=quiet)
    assert contents(packed) == before


def test_a_manifest_that_was_altered_is_no_ground_for_mending(packed: Path, source: Path) -> None:
    text = (packed / "manifest.json").read_text()
    (packed / "manifest.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(ValueError, match="was altered"):
        repack_damaged(str(source), str(packed), log=quiet)


def test_a_fault_while_publishing_leaves_the_old_shard_and_no_rest(
    packed: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(packed / SHARD)
    before = contents(packed)

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        repack_damaged(str(source), str(packed), log=quiet)
    assert contents(packed) == before


KILLED = """
import os, signal, sys
import shards.storage.files
replace = os.replace
def killed(source, target):
    if str(target) == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = killed
from shards.packing.repack import repack_damaged
repack_damaged(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("at", [SHARD, INDEX])
def test_a_killed_repack_leaves_the_old_shard_or_the_new_one_and_the_next_ends_it(
    at: str, packed: Path, sound: Path, source: Path
) -> None:
    flip(packed / SHARD)
    flip(packed / INDEX)
    before = contents(packed)
    command = [sys.executable, "-c", KILLED, str(source), str(packed), str(packed / at)]
    killed = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    after = {name: data for name, data in contents(packed).items() if not name.startswith(".")}
    expected = before if at == SHARD else {**before, SHARD: (sound / SHARD).read_bytes()}
    assert after == expected
    assert repack_damaged(str(source), str(packed), log=quiet).names == [SHARD]
    assert contents(packed) == contents(sound)
    assert list(verify_set(str(packed))) == []


def test_shards_of_others_cannot_be_packed_again(packed: Path, source: Path) -> None:
    manifest = replace(load_manifest(str(packed)), plan_sha256="")
    shards.packing.repack.write_bytes(f"{packed}/manifest.json", manifest.to_json().encode())
    with pytest.raises(ValueError, match=r"set was packed by others and only indexed here: copy"):
        repack_damaged(str(source), str(packed), log=quiet)
