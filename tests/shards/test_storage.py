import errno
import os
from functools import partial
from typing import ClassVar

import fsspec
import pytest
from fsspec.exceptions import FSTimeoutError
from fsspec.implementations.memory import MemoryFileSystem

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


class ClientError(Exception):
    """As botocore's: the answer of the server, whose message may be missing."""

    def __init__(self, code):
        super().__init__(f"An error occurred ({code}) when calling an operation: None")
        self.response = {"Error": {"Code": code, "Message": None}}


class EndpointConnectionError(Exception):
    """As botocore's: no OSError."""


class NoCredentialsError(Exception):
    """As botocore's."""


def as_s3fs_says(kind, code):
    error = kind("None")  # what s3fs makes of an answer without a message
    error.__cause__ = ClientError(code)
    return error


class FaultyStore(MemoryFileSystem):
    """Raises the next of `faults` instead of answering; None lets a call through."""

    protocol = "faulty"
    faults: ClassVar[list] = []
    cut_short: ClassVar[list] = []  # numbers of bytes that the next writes store
    keeps = False  # a removal takes nothing away, and says nothing
    calls = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("faulty://", "memory://"))

    def _fail(self):
        type(self).calls += 1
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            raise fault

    def cat_file(self, path, start=None, end=None, **options):
        self._fail()
        return super().cat_file(path, start, end, **options)

    def pipe_file(self, path, value, **options):
        self._fail()
        size = self.cut_short.pop(0) if self.cut_short else len(value)
        super().pipe_file(path, value[:size], **options)

    def ls(self, path, detail=True, **options):
        self._fail()
        return super().ls(path, detail, **options)

    def rm(self, path, recursive=False, maxdepth=None):
        if not self.keeps:
            super().rm(path, recursive, maxdepth)


@pytest.fixture
def store(tmp_path, monkeypatch):
    fsspec.register_implementation("faulty", FaultyStore, clobber=True)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    monkeypatch.setattr(FaultyStore, "faults", [])
    monkeypatch.setattr(FaultyStore, "cut_short", [])
    monkeypatch.setattr(FaultyStore, "keeps", False)
    monkeypatch.setattr(FaultyStore, "calls", 0)
    yield f"faulty://{tmp_path.name}"
    monkeypatch.undo()
    storage.remove_tree(f"faulty://{tmp_path.name}")


@pytest.mark.parametrize(
    "fault",
    [
        EndpointConnectionError("Could not connect"),
        FSTimeoutError(),
        as_s3fs_says(partial(OSError, errno.EBUSY), "SlowDown"),
        as_s3fs_says(partial(OSError, errno.EREMOTEIO), "InternalError"),
        ConnectionResetError("reset"),
    ],
)
def test_a_store_that_fails_for_a_moment_is_asked_again(store, fault):
    storage.write_bytes(f"{store}/key", b"content")
    FaultyStore.faults += [fault, fault, None]
    assert storage.read_bytes(f"{store}/key") == b"content"


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (as_s3fs_says(PermissionError, "SignatureDoesNotMatch"), PermissionError, "secret key"),
        (as_s3fs_says(PermissionError, "AccessDenied"), PermissionError, "AccessDenied"),
        (as_s3fs_says(FileNotFoundError, "NoSuchBucket"), FileNotFoundError, "no such bucket"),
        (as_s3fs_says(partial(OSError, errno.EINVAL), "InvalidArgument"), OSError, "InvalidArg"),
        (NoCredentialsError("Unable to locate credentials"), PermissionError, "locate credentials"),
        (ValueError("Invalid endpoint: localhost"), ValueError, "Invalid endpoint"),
    ],
)
def test_what_no_attempt_mends_is_raised_at_once_with_its_url_and_cause(store, fault, kind, words):
    FaultyStore.faults += [fault]
    with pytest.raises(kind) as raised:
        storage.read_bytes(f"{store}/key")
    assert FaultyStore.calls == 1
    message = str(raised.value)
    assert f"reading {store}/key failed" in message
    assert words in message
    assert "None" not in message
    assert "\n" not in message


def test_a_store_that_stays_away_ends_in_an_oserror_that_names_the_url(store, capsys):
    FaultyStore.faults += [EndpointConnectionError("Could not connect to localhost:1")] * 9
    with pytest.raises(OSError, match=f"listing {store} failed: Could not connect"):
        storage.list_names(store)
    assert FaultyStore.calls == storage.ATTEMPTS
    assert len(capsys.readouterr().err.splitlines()) == storage.ATTEMPTS - 1


def test_a_fault_of_the_program_is_not_taken_for_one_of_the_store(store):
    FaultyStore.faults += [TypeError("no such argument")]
    with pytest.raises(TypeError, match=r"^no such argument$"):
        storage.read_bytes(f"{store}/key")
    assert FaultyStore.calls == 1


def test_a_write_that_arrived_cut_short_is_written_again(store, capsys):
    FaultyStore.cut_short += [3]
    storage.write_bytes(f"{store}/key", b"content")
    assert storage.read_bytes(f"{store}/key") == b"content"
    assert "3 of 7 bytes are stored" in capsys.readouterr().err


def test_a_removal_that_the_store_did_not_carry_out_is_an_error(store, monkeypatch):
    storage.write_bytes(f"{store}/folder/key", b"content")
    monkeypatch.setattr(FaultyStore, "keeps", True)
    with pytest.raises(PermissionError, match=f"removing {store}/folder failed"):
        storage.remove_tree(f"{store}/folder")


@pytest.mark.parametrize("name", ["run[1]", "run*", "run?"])
def test_a_url_that_fsspec_would_take_for_a_pattern_is_refused(store, name):
    storage.write_bytes(f"{store}/run1", b"of another run")
    with pytest.raises(ValueError, match="rename it"):
        storage.remove_tree(f"{store}/{name}")
    assert storage.list_names(store) == ["run1"]


def test_a_local_folder_may_be_named_like_a_pattern(tmp_path):
    storage.write_bytes(f"{tmp_path}/run1/key", b"of another run")
    storage.write_bytes(f"{tmp_path}/run[1]/key", b"content")
    storage.remove_tree(f"{tmp_path}/run[1]")
    assert storage.list_names(str(tmp_path)) == ["run1"]
