import errno
import os
import socket

import fsspec
import pytest

from shards.sources import selection
from shards.sources.listing import BROKEN_LINK, HIDDEN, NOT_A_FILE, NOT_AN_IMAGE
from shards.sources.plan import read_source_image
from shards.storage.files import remove_tree, write_bytes
from tests.shards.small_sources import (
    classes_by_name,
    make_files,
    make_remote,
    names_of,
    picture_bytes,
    planned,
    reasons_of,
)


@pytest.fixture
def url(tmp_path):
    yield f"memory://{tmp_path.name}"
    remove_tree(f"memory://{tmp_path.name}")


def test_what_is_no_regular_file_is_never_opened(tmp_path):
    make_files(tmp_path, ["cat/a.jpg"])
    os.mkfifo(tmp_path / "cat/pipe.jpg")
    os.mkfifo(tmp_path / "cat/pipe")
    (tmp_path / "cat/linked.jpg").symlink_to(tmp_path / "cat/pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "cat/s.jpg"))
        plan = planned(tmp_path)
    assert names_of(plan) == ["cat/a.jpg"]
    assert reasons_of(plan) == {
        f"cat/{name}": NOT_A_FILE for name in ("pipe.jpg", "pipe", "linked.jpg", "s.jpg")
    }


def test_a_pipe_that_took_an_images_place_is_refused_and_not_waited_for(tmp_path):
    make_files(tmp_path, ["cat/a.jpg"])
    image = planned(tmp_path).splits["train"][0]
    os.remove(tmp_path / "cat/a.jpg")
    os.mkfifo(tmp_path / "cat/a.jpg")
    with pytest.raises(OSError, match="not a regular file"):
        read_source_image(str(tmp_path), image)


def test_broken_links_are_ignored_with_a_reason(tmp_path):
    make_files(tmp_path, ["cat/a.jpg"])
    (tmp_path / "cat/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "cat/self.jpg").symlink_to(tmp_path / "cat/self.jpg")
    plan = planned(tmp_path)
    assert names_of(plan) == ["cat/a.jpg"]
    assert reasons_of(plan) == {"cat/gone.jpg": BROKEN_LINK, "cat/self.jpg": BROKEN_LINK}


def test_a_folder_that_cannot_be_listed_is_an_error_that_names_it(tmp_path, monkeypatch):
    make_files(tmp_path, ["cat/a.jpg", "secret/b.jpg"])
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("secret"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError, match="secret cannot be listed: Permission denied"):
        planned(tmp_path)


def test_a_tree_deeper_than_the_interpreters_stack_is_listed(tmp_path):
    deep = "/".join(["d"] * 1500)
    for depth in range(1, 1501):
        os.mkdir(f"{tmp_path}/{deep[: 2 * depth - 1]}")
    path = make_files(tmp_path / deep, ["a.jpg"]) / "a.jpg"
    try:
        assert classes_by_name(planned(tmp_path)) == {f"{deep}/a.jpg": "d"}
    finally:  # what removes the folders of tests would go through the stack
        os.remove(path)
        os.removedirs(path.parent)


def test_an_empty_folder_val_still_makes_train_a_split(tmp_path):
    make_files(tmp_path, ["train/cat/a.jpg"])
    (tmp_path / "val").mkdir()
    plan = planned(tmp_path)
    assert plan.classes == ["cat"]
    assert plan.splits["val"] == []


def test_sizes_come_from_the_listing(tmp_path, url):
    make_files(tmp_path, ["cat/abc.jpg"])
    make_remote(url, ["cat/abc.jpg"])
    for source in (tmp_path, url):
        assert planned(source).splits["train"][0].num_bytes == len("cat/abc.jpg")


def test_a_large_file_without_an_images_extension_is_not_looked_into(tmp_path, monkeypatch):
    make_files(tmp_path, ["cat/a.jpg"])
    (tmp_path / "cat/picture").write_bytes(picture_bytes())
    assert names_of(planned(tmp_path)) == ["cat/a.jpg", "cat/picture"]
    monkeypatch.setattr(selection, "MAX_SEARCHED_BYTES", 10)
    plan = planned(tmp_path)
    assert names_of(plan) == ["cat/a.jpg"]
    assert reasons_of(plan) == {"cat/picture": NOT_AN_IMAGE}


def test_a_tree_in_a_store_is_planned_like_one_on_a_disk(url):
    names = ["cat/a.jpg", "cat/deep/b.png", "dog/c.jpg", "top.jpg"]
    make_remote(url, [*names, "cat/notes.txt", ".git/x.jpg", ".git/y/z.jpg", "cat/._a.jpg"])
    write_bytes(f"{url}/dog/picture", picture_bytes())
    plan = planned(url)
    assert names_of(plan) == sorted([*names, "dog/picture"])
    assert classes_by_name(plan)["cat/deep/b.png"] == "cat"
    assert classes_by_name(plan)["top.jpg"] == url.rsplit("/", 1)[-1]
    expected = {".git": HIDDEN, "cat/._a.jpg": HIDDEN, "cat/notes.txt": NOT_AN_IMAGE}
    assert reasons_of(plan) == expected


def test_a_key_of_a_store_cannot_lead_out_of_the_source(url):
    filesystem = fsspec.filesystem("memory")
    root = filesystem._strip_protocol(url)
    make_remote(url, ["cat/a.jpg"])
    filesystem.store[f"{root}/cat/../../secret.jpg"] = filesystem.store[f"{root}/cat/a.jpg"]
    try:
        plan = planned(url)
    finally:
        del filesystem.store[f"{root}/cat/../../secret.jpg"]
    assert names_of(plan) == ["cat/a.jpg"]


def test_a_markers_empty_object_is_no_file(url):
    make_remote(url, ["cat/a.jpg"])
    filesystem = fsspec.filesystem("memory")
    root = filesystem._strip_protocol(url)
    filesystem.pipe_file(f"{root}/dog/x", b"")
    filesystem.store[f"{root}/dog/"] = filesystem.store.pop(f"{root}/dog/x")
    try:
        plan = planned(url)
    finally:
        del filesystem.store[f"{root}/dog/"]
    assert (names_of(plan), plan.ignored) == (["cat/a.jpg"], [])


def test_a_source_in_a_store_that_is_missing_or_a_file_is_refused(url):
    with pytest.raises(ValueError, match=r"missing is not a folder that can be listed"):
        planned(f"{url}/missing")
    make_remote(url, ["a.jpg"])
    with pytest.raises(ValueError, match=r"a\.jpg is a file; name the folder"):
        planned(f"{url}/a.jpg")


def test_a_store_that_fails_for_a_moment_is_asked_again(url, monkeypatch, capsys):
    make_remote(url, ["cat/a.jpg"])
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    kind = type(fsspec.filesystem("memory"))
    for method in ("find", "cat_file"):
        original, faults = getattr(kind, method), [ConnectionError("reset by peer")]

        def failing(self, *values, original=original, faults=faults, **options):
            if faults:
                raise faults.pop()
            return original(self, *values, **options)

        monkeypatch.setattr(kind, method, failing)
    plan = planned(url)
    assert read_source_image(url, plan.splits["train"][0]) == b"cat/a.jpg"
    told = capsys.readouterr().err
    assert f"listing {url}/cat: attempt 1" in told
    assert f"reading {url}/cat/a.jpg: attempt 1" in told
