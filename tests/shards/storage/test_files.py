import errno
import os

import pytest

from shards.storage import files as storage


@pytest.fixture(params=["local", "file", "memory"])
def url(request, tmp_path):
    if request.param == "memory":
        yield f"memory://{tmp_path.name}"
        storage.remove_tree(f"memory://{tmp_path.name}")
    else:
        yield f"file://{tmp_path}/a" if request.param == "file" else f"{tmp_path}/a"


def test_bytes_are_read_as_they_were_written(url):
    path = storage.join_url(url, "deep", "name.bin")
    storage.write_bytes(path, b"first")
    storage.write_bytes(path, memoryview(b"second"))
    assert storage.read_bytes(path) == b"second"
    assert storage.size_bytes(path) == 6
    assert storage.exists(path)


def test_names_are_listed_without_their_folder(url):
    for name in ("b", "a"):
        storage.write_bytes(storage.join_url(url, name), b"x")
    storage.write_bytes(storage.join_url(url, "folder", "c"), b"x")
    assert storage.list_names(url) == ["a", "b", "folder"]


def test_a_missing_folder_has_no_names_and_can_be_removed(url):
    missing = storage.join_url(url, "missing")
    assert storage.list_names(missing) == []
    assert not storage.exists(missing)
    storage.remove_tree(missing)


def test_a_single_file_or_a_whole_tree_is_removed(url):
    storage.write_bytes(storage.join_url(url, "one"), b"x")
    storage.write_bytes(storage.join_url(url, "two"), b"x")
    storage.remove_tree(storage.join_url(url, "one"))
    assert storage.list_names(url) == ["two"]
    storage.remove_tree(url)
    assert storage.list_names(url) == []


def test_files_travel_up_and_down(url, tmp_path):
    (tmp_path / "source").write_bytes(b"content")
    storage.write_bytes(storage.join_url(url, "other"), b"")
    storage.upload_file(tmp_path / "source", storage.join_url(url, "stored"))
    storage.download_file(storage.join_url(url, "stored"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"content"


def test_a_range_is_read_exactly(url):
    storage.write_bytes(storage.join_url(url, "file"), b"0123456789")
    assert storage.read_range(storage.join_url(url, "file"), 3, 4) == b"3456"
    assert storage.read_range(storage.join_url(url, "file"), 0, 10) == b"0123456789"


def test_a_range_beyond_the_end_is_refused_at_once_with_the_size(url, capsys):
    storage.write_bytes(storage.join_url(url, "file"), b"0123456789")
    with pytest.raises(OSError, match=r"reading bytes 8 to 12 of .*file failed.* only 10 bytes"):
        storage.read_range(storage.join_url(url, "file"), 8, 4)
    assert capsys.readouterr().err == ""


def test_a_tree_is_listed_with_relative_names_and_sizes(url):
    for name, size in (("b", 2), ("a/deep/c", 0), ("a/d", 1)):
        storage.write_bytes(storage.join_url(url, *name.split("/")), b"x" * size)
    assert storage.list_tree(url) == [("a/d", 1), ("a/deep/c", 0), ("b", 2)]
    assert storage.list_tree(storage.join_url(url, "a") + "/") == [("d", 1), ("deep/c", 0)]
    assert storage.list_tree(storage.join_url(url, "missing")) == []


def test_linked_folders_are_listed_and_circles_are_not(tmp_path):
    storage.write_bytes(f"{tmp_path}/elsewhere/file", b"x")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "tree" / "broken").symlink_to(tmp_path / "nowhere")
    assert storage.list_tree(f"{tmp_path}/tree") == [("link/file", 1)]


def test_a_missing_file_is_not_asked_for_twice(url, capsys):
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join_url(url, "missing"))
    assert capsys.readouterr().err == ""


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "file"
    storage.write_bytes(str(path), b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        storage.write_bytes(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_unknown_protocol_is_refused_by_name():
    with pytest.raises(ValueError, match="nonsense://bucket"):
        storage.read_bytes("nonsense://bucket/key")


@pytest.mark.parametrize("name", ["run[1]", "run*", "run?"])
def test_a_url_that_fsspec_would_take_for_a_pattern_is_refused(tmp_path, name):
    storage.write_bytes(f"memory://{tmp_path.name}/run1", b"of another run")
    with pytest.raises(ValueError, match="rename it"):
        storage.remove_tree(f"memory://{tmp_path.name}/{name}")
    assert storage.list_names(f"memory://{tmp_path.name}") == ["run1"]
    storage.remove_tree(f"memory://{tmp_path.name}")


def test_a_local_folder_may_be_named_like_a_pattern(tmp_path):
    storage.write_bytes(f"{tmp_path}/run1/key", b"of another run")
    storage.write_bytes(f"{tmp_path}/run[1]/key", b"content")
    storage.remove_tree(f"{tmp_path}/run[1]")
    assert storage.list_names(str(tmp_path)) == ["run1"]
