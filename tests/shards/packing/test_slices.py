"""Packing by several processes and machines, and packing that is killed and started again."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import shards.packing.merge
from shards.format.manifest import RECORDS
from shards.inspection.verify import verify_set
from shards.packing.merge import merge_if_last, merge_slices
from shards.packing.pack import pack_images, pack_slice
from tests.shards.packing.test_pack import contents
from tests.shards.pictures import small_recipe, write_class_folders

ROOT = Path(__file__).resolve().parents[3]
RECIPE = small_recipe(images_per_shard=4, masks_per_image=2)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_class_folders(tmp_path_factory.mktemp("source") / "photographs", 3, 14)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "set"
    pack_images(source, str(folder), RECIPE, workers=1)
    return contents(folder)


@pytest.mark.parametrize("of", [1, 2, 4, 40])
def test_slices_in_any_order_give_the_bytes_of_one_go(tmp_path, source, whole, of):
    url = str(tmp_path / "set")
    stored = [pack_slice(source, url, RECIPE, n, of, workers=1) for n in reversed(range(of))]
    manifest = merge_slices(url)
    assert sum(stored) == sum(manifest.num_images(split) for split in manifest.splits) == 42
    assert contents(url) == whole


def test_slices_of_a_store_give_the_same_bytes(source, whole, tmp_path):
    import fsspec

    url = f"memory://{tmp_path.name}"
    for number in range(3):
        pack_slice(source, url, RECIPE, number, 3, workers=1)
    merge_slices(url)
    filesystem = fsspec.filesystem("memory")
    found = {name.rsplit("/", 1)[-1]: filesystem.cat_file(name) for name in filesystem.find(url)}
    filesystem.rm(url, recursive=True)
    assert found == whole


def test_a_slice_that_is_packed_twice_keeps_its_shards(tmp_path, source):
    url = str(tmp_path / "set")
    pack_slice(source, url, RECIPE, 0, 2, workers=1)
    times = {path.name: path.stat().st_mtime_ns for path in Path(url).glob("*.tar")}
    pack_slice(source, url, RECIPE, 0, 2, workers=1)
    assert times == {path.name: path.stat().st_mtime_ns for path in Path(url).glob("*.tar")}


def test_packers_that_end_at_once_may_all_merge(tmp_path, source, whole, monkeypatch):
    url = str(tmp_path / "set")
    for number in range(2):
        assert merge_if_last(url, 2) is None
        pack_slice(source, url, RECIPE, number, 2, workers=1)
    read = shards.packing.merge.read_shard_records

    def overtaken(*arguments):
        monkeypatch.setattr(shards.packing.merge, "read_shard_records", read)
        merge_slices(url)  # by another packer, which removes the records
        return read(*arguments)

    monkeypatch.setattr(shards.packing.merge, "read_shard_records", overtaken)
    assert merge_if_last(url, 2) == merge_slices(url)
    assert contents(url) == whole


def test_the_last_packer_says_what_is_wrong_with_the_slices(tmp_path, source):
    url = str(tmp_path / "set")
    for number in range(2):
        pack_slice(source, url, RECIPE, number, 2, workers=1)
    next(Path(url).glob("train-*.tar")).unlink()
    with pytest.raises(ValueError, match="the file is missing"):
        merge_if_last(url, 2)


def test_merging_twice_is_merging_once(tmp_path, source, whole):
    url = str(tmp_path / "set")
    for number in range(2):
        pack_slice(source, url, RECIPE, number, 2, workers=1)
    assert merge_slices(url) == merge_slices(url)
    assert pack_slice(source, url, RECIPE, 1, 2, workers=1) == 0
    assert contents(url) == whole


def test_a_missing_slice_is_named(tmp_path, source):
    url = str(tmp_path / "set")
    for number in (0, 3):
        pack_slice(source, url, RECIPE, number, 4, workers=1)
    with pytest.raises(ValueError, match="2 of 4 slices are not packed: 1/4, 2/4"):
        merge_slices(url)


def test_slices_of_different_divisions_are_refused(tmp_path, source):
    url = str(tmp_path / "set")
    pack_slice(source, url, RECIPE, 0, 2, workers=1)
    pack_slice(source, url, RECIPE, 1, 3, workers=1)
    with pytest.raises(ValueError, match=r"of 2 and of 3, which overlap"):
        merge_slices(url)


def test_a_slice_of_another_source_is_refused_before_it_is_packed(tmp_path, source):
    url = str(tmp_path / "set")
    pack_slice(source, url, RECIPE, 0, 2, workers=1)
    before = contents(url)
    with pytest.raises(ValueError, match="unfinished pack of another source or recipe"):
        pack_slice(source, url, replace(RECIPE, seed=1), 1, 2, workers=1)
    assert contents(url) == before


def test_slices_of_different_recipes_do_not_merge(tmp_path, source):
    one, two = tmp_path / "one", tmp_path / "two"
    pack_slice(source, str(one), RECIPE, 0, 2, workers=1)
    pack_slice(source, str(two), replace(RECIPE, seed=1), 1, 2, workers=1)
    for path in two.rglob("*"):  # as if both had been packed at the same moment
        target = one / path.relative_to(two)
        if path.is_file() and not target.exists():
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="not packed from the same source by the same recipe"):
        merge_slices(str(one))


@pytest.mark.parametrize("damage", ["remove", "cut", "record"])
def test_a_shard_that_is_gone_before_the_merge_is_named(tmp_path, source, damage):
    url = tmp_path / "set"
    for number in range(2):
        pack_slice(source, str(url), RECIPE, number, 2, workers=1)
    shard, record = url / "train-000002.tar", url / RECORDS / "train-000002.json"
    if damage == "remove":
        shard.unlink()
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-512])
    else:
        record.unlink()
    with pytest.raises(ValueError, match=r"train-000002\.tar"):
        merge_slices(str(url))
    assert not (url / "manifest.json").exists()


def test_a_record_that_is_not_one_is_named(tmp_path, source):
    url = tmp_path / "set"
    pack_slice(source, str(url), RECIPE, 0, 1, workers=1)
    (url / RECORDS / "train-000001.json").write_text(json.dumps({"name": "train-000001.tar"}))
    with pytest.raises(ValueError, match=r"train-000001\.json is not the record of a packer"):
        merge_slices(str(url))


def pack_command(source, url, *more):
    recipe = {"crop_size": 32, "short_side": 48, "images_per_shard": 4, "validation_fraction": 0.25}
    recipe |= {"masks.side_min": 8, "masks.side_max": 16, "masks.masks_per_image": 2}
    fields = [word for name, value in recipe.items() for word in (f"--pack.{name}", str(value))]
    return [sys.executable, "-m", "launch.command", "pack", str(source), str(url), *fields, *more]


KILL_AT = """
import os, signal, sys
import shards.storage.files, shards.packing.shard_writer
from launch import pack

calls = int(sys.argv.pop(1))
def counted(function):
    def call(*arguments, **more):
        global calls
        calls -= 1
        if calls == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **more)
    return call

os.replace, os.fsync = counted(os.replace), counted(os.fsync)
sys.exit(pack.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_pack_that_is_killed_anywhere_goes_on_to_the_same_bytes(tmp_path, source, whole):
    arguments = pack_command(source, tmp_path / "set", "--workers", "1")[4:]
    killed = 0
    for moment in (1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13):
        script = [sys.executable, "-c", KILL_AT, str(moment), *arguments]
        code = subprocess.run(script, cwd=ROOT, capture_output=True).returncode
        assert code in (-signal.SIGKILL, 0), code
        killed += code != 0
        for path in (tmp_path / "set").glob("*.tar"):
            assert path.read_bytes() == whole[path.name]
        if code == 0:
            break
    assert killed >= 8
    assert subprocess.run([*pack_command(source, tmp_path / "set")], cwd=ROOT).returncode == 0
    assert contents(tmp_path / "set") == whole
    assert list(verify_set(str(tmp_path / "set"))) == []


@pytest.mark.slow
def test_killing_a_pack_with_its_processes_loses_only_what_was_being_packed(tmp_path, source):
    many = write_class_folders(tmp_path / "many", 2, 60, size=(640, 480))
    url = tmp_path / "set"
    command = pack_command(many, url, "--workers", "2")
    for wanted in (2, 6, 12):
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True
        )
        deadline = time.monotonic() + 60
        while len(list(url.glob("*.tar"))) < wanted and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    kept = {path: path.stat().st_mtime_ns for path in url.glob("*.tar")}
    recorded = {path.stem for path in (url / RECORDS).glob("train-*.json")}
    assert subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE).returncode == 0
    for path, time_ns in kept.items():
        if path.stem in recorded:
            assert path.stat().st_mtime_ns == time_ns
    pack_images(many, str(tmp_path / "fresh"), small_recipe(images_per_shard=4, masks_per_image=2))
    assert contents(url) == contents(tmp_path / "fresh")


def test_a_packing_process_that_is_killed_is_told_and_its_work_can_be_gone_on_with(
    tmp_path, source, whole
):
    url = str(tmp_path / "set")
    victims = []

    def kill(done, total):
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        packers = [int(pid) for pid in children if b"packing.processes" in _command_line(pid)]
        if packers and not victims:
            victims.append(packers[0])
            os.kill(packers[0], signal.SIGKILL)

    with pytest.raises(RuntimeError, match=r"a packing process died \(killed by SIGKILL"):
        pack_images(source, url, RECIPE, workers=2, progress=kill)
    assert victims
    pack_images(source, url, RECIPE, workers=2)
    assert contents(url) == whole


def _command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
