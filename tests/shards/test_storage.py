import errno
import os

import pytest

from shards import storage


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


def test_a_passing_fault_is_tried_again(monkeypatch, capsys):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    failures = [ConnectionError("reset by peer"), OSError("slow down")]

    def call():
        if failures:
            raise failures.pop()
        return "done"

    assert storage._with_retries(call, "reading s3://bucket/key") == "done"
    output = capsys.readouterr().err
    assert f"reading s3://bucket/key: attempt 1 of {storage.ATTEMPTS} failed (slow down)" in output


def test_the_last_error_is_raised_when_attempts_run_out(monkeypatch):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    calls = []

    def call():
        calls.append(1)
        raise ConnectionError(f"reset {len(calls)}")

    with pytest.raises(ConnectionError, match=f"reset {storage.ATTEMPTS}"):
        storage._with_retries(call, "reading")


def test_an_unknown_protocol_is_refused_by_name():
    with pytest.raises(ValueError, match="nonsense://bucket"):
        storage.read_bytes("nonsense://bucket/key")
