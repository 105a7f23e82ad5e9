from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

import shards.inspection.verify
from shards.format.finding import Finding
from shards.format.manifest import load_manifest, save_manifest
from shards.inspection.verify import verify_set
from shards.storage.files import download_file, upload_file
from tests.shards.damage import (
    INDEX,
    SHARD,
    Edited,
    damage_bytes,
    edit_manifest,
    findings_of,
    swap_members,
    with_member,
)

REMOTE = "memory://verify-tests"


def test_a_sound_set_has_no_fault(packed: Path) -> None:
    assert findings_of(packed) == []


def test_an_edited_shard_that_is_sound_again_has_no_fault(copy: Path) -> None:
    Edited(copy).save()
    assert findings_of(copy) == []


@pytest.mark.parametrize("threads", [1, 2])
def test_a_remote_set_is_fetched_by_turns_and_leaves_nothing_behind(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    damage_bytes(copy / SHARD, lambda data: data.reverse())
    filesystem = fsspec.filesystem("memory")
    if filesystem.exists(REMOTE):
        filesystem.rm(REMOTE, recursive=True)
    for path in copy.iterdir():
        upload_file(path, f"{REMOTE}/{path.name}")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    copies: list[int] = []
    lock = threading.Lock()

    def counted_download(url: str, target: Path) -> None:
        with lock:
            download_file(url, target)
            copies.append(len([path for path in temporary.rglob("*") if path.is_file()]))

    monkeypatch.setattr(shards.inspection.verify, "download_file", counted_download)
    findings = list(verify_set(REMOTE, threads=threads))
    assert findings == findings_of(copy)
    assert {finding.place.split()[0] for finding in findings} == {SHARD}
    manifest = load_manifest(str(copy))
    assert len(copies) == sum(map(len, manifest.splits.values()))
    assert max(copies) <= threads
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("name", [SHARD, INDEX])
def test_a_missing_file_is_named_and_what_is_left_of_the_pair_is_checked(
    copy: Path, name: str
) -> None:
    swap_members(copy)
    (copy / name).unlink()
    found = findings_of(copy)
    assert Finding(name, "the file is missing although the manifest lists it") in found
    assert any("out of order" in finding.what for finding in found) is (name == INDEX)


@pytest.mark.parametrize("name", [SHARD, INDEX])
def test_a_file_that_cannot_be_read_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    (copy / name).mkdir()
    found = [finding for finding in findings_of(copy) if finding.what == "the file cannot be read"]
    assert [finding.place for finding in found] == [name]


@pytest.mark.parametrize(
    "name", ["train-000009.tar", "train-000009.idx", ".train-000002.tar.part", "other.tar"]
)
def test_a_shard_file_that_is_not_listed_is_named(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"")
    assert findings_of(copy) == [Finding(name, "the manifest does not list this file")]


def test_other_files_may_lie_in_the_folder(copy: Path) -> None:
    (copy / "README").write_text("about this set")
    assert findings_of(copy) == []


def test_an_altered_manifest_is_named_and_the_files_are_checked_all_the_same(copy: Path) -> None:
    edit_manifest(copy, lambda content: content["splits"]["train"][1].update(sha256="0" * 64))
    found = findings_of(copy)
    assert [finding.place for finding in found] == ["manifest.json", SHARD]
    assert found[0].what == "the fingerprint is not that of the content"
    assert found[1].what == "SHA-256 is not the manifest's"
    assert found[1].expected == "0" * 64


def test_a_count_that_the_fingerprint_does_not_cover_is_checked_too(copy: Path) -> None:
    edit_manifest(copy, lambda content: content["num_images"].update(train=17))
    (finding,) = findings_of(copy)
    assert "num_images is not what the rest of it says: expected {'train': 18" in str(finding)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["splits"]["train"][0].update(num_images="5"),
        lambda content: content["recipe"].update(crop_size=None),
        lambda content: content["classes"].append(3),
        lambda content: content.update(splits=[]),
        lambda content: content.update(version=3),
        lambda content: content.clear(),
    ],
)
def test_a_manifest_of_other_values_is_a_fault_and_no_traceback(
    copy: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    edit_manifest(copy, change)
    found = findings_of(copy)
    assert found
    assert all(finding.place.startswith("manifest.json") for finding in found)


def test_a_recipe_that_cannot_be_is_a_fault(copy: Path) -> None:
    manifest = load_manifest(str(copy))
    masks = replace(manifest.recipe.masks, side_max=64)
    save_manifest(str(copy), replace(manifest, recipe=replace(manifest.recipe, masks=masks)))
    assert any("side_min and side_max is 8 and 64" in str(finding) for finding in findings_of(copy))


@pytest.mark.parametrize("name", ["../other/train-000000.tar", "/etc/passwd", "train.tar"])
def test_a_shard_name_that_leads_elsewhere_is_refused_and_never_opened(
    copy: Path, name: str
) -> None:
    shutil.copytree(copy, copy.parent / "other")
    manifest = load_manifest(str(copy))
    entries = manifest.splits["train"]
    entries[0] = replace(entries[0], name=name)
    save_manifest(str(copy), manifest)
    checked: list[str] = []
    found = list(verify_set(str(copy), progress=lambda shard, *_: checked.append(shard.entry.name)))
    assert any("the name is not that of a shard" in finding.what for finding in found)
    assert name not in checked


def test_a_shard_that_is_listed_twice_is_named(copy: Path) -> None:
    manifest = load_manifest(str(copy))
    manifest.splits["train"].append(manifest.splits["train"][1])
    save_manifest(str(copy), manifest)
    kinds = {finding.what for finding in findings_of(copy)}
    assert kinds == {"the shard is listed repeatedly", "the key is not unique"}


def damage_everywhere(folder: Path) -> None:
    with_member("00000007.jpg", b"no image")(folder)
    with_member("00000019.json", b"[]")(folder)
    (folder / "train-000002.idx").unlink()
    (folder / "val-000001.tar").write_bytes((folder / "val-000001.tar").read_bytes()[:700])
    (folder / "train-000007.tar").write_bytes(b"")
    edit_manifest(folder, lambda content: content["num_samples"].update(val=1))


def test_several_damages_are_all_told(copy: Path) -> None:
    damage_everywhere(copy)
    text = "\n".join(map(str, findings_of(copy)))
    for place in (
        "manifest.json: num_samples",
        "train-000007.tar: the manifest does not list",
        f"{SHARD} 00000007.jpg: the image cannot be decoded",
        "train-000002.idx: the file is missing",
        "val-000000.tar 00000019.json: the description is not a JSON object",
        "val-000001.tar: size is not the manifest's",
        "val-000001.tar: SHA-256 is not the manifest's",
        "val-000001.tar: the end of the archive is missing",
    ):
        assert place in text, text


def test_the_order_of_faults_does_not_depend_on_the_threads(copy: Path) -> None:
    damage_everywhere(copy)
    assert findings_of(copy, threads=1) == findings_of(copy, threads=5)


def test_one_split_can_be_verified_alone(copy: Path) -> None:
    damage_bytes(copy / SHARD, lambda data: data.reverse())
    assert findings_of(copy, "val") == []
    assert findings_of(copy, "train") != []


def test_a_split_that_is_not_there_is_refused(packed: Path) -> None:
    with pytest.raises(ValueError, match="no split 'test'; it has train, val"):
        findings_of(packed, "test")


def test_a_folder_without_a_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no packed set"):
        findings_of(tmp_path)
