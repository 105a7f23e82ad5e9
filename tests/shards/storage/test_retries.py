"""A store that fails for a moment, for good, or without a word."""

import errno
import os
from functools import partial
from typing import ClassVar

import fsspec
import pytest
from fsspec.exceptions import FSTimeoutError
from fsspec.implementations.memory import MemoryFileSystem

from shards.storage import files as storage


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
    came_short: ClassVar[list] = []  # numbers of bytes that the next reads get
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
        data = super().cat_file(path, start, end, **options)
        return data[: self.came_short.pop(0)] if self.came_short else data

    def pipe_file(self, path, value, **options):
        self._fail()
        size = self.cut_short.pop(0) if self.cut_short else len(value)
        super().pipe_file(path, value[:size], **options)

    def get_file(self, path, target, **options):
        self._fail()
        super().get_file(path, target, **options)
        if self.came_short:
            os.truncate(target, self.came_short.pop(0))

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
    monkeypatch.setattr(FaultyStore, "came_short", [])
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


def test_a_body_that_was_cut_short_without_a_word_is_read_again(store, tmp_path, capsys):
    storage.write_bytes(f"{store}/key", b"0123456789")
    FaultyStore.came_short += [4]
    assert storage.read_range(f"{store}/key", 2, 6) == b"234567"
    assert "4 of 6 bytes came" in capsys.readouterr().err
    FaultyStore.came_short += [4, 0]
    storage.download_file(f"{store}/key", tmp_path / "file", size_bytes=10)
    assert (tmp_path / "file").read_bytes() == b"0123456789"
    output = capsys.readouterr().err
    assert "4 of 10 bytes came" in output
    assert "0 of 10 bytes came" in output


def test_a_stored_file_that_is_shorter_than_expected_is_not_fetched_twice(store, tmp_path):
    storage.write_bytes(f"{store}/key", b"0123")
    storage.download_file(f"{store}/key", tmp_path / "file", size_bytes=10)
    assert (tmp_path / "file").read_bytes() == b"0123"
    assert FaultyStore.calls == 2


def test_a_download_that_fails_leaves_no_part_of_itself(store, tmp_path):
    storage.write_bytes(f"{store}/key", b"0123456789")
    FaultyStore.came_short += [4] * storage.ATTEMPTS
    with pytest.raises(OSError, match="4 of 10 bytes came"):
        storage.download_file(f"{store}/key", tmp_path / "file", size_bytes=10)
    assert os.listdir(tmp_path) == []


def test_retries_failures_and_bytes_are_counted(store, monkeypatch):
    counters = storage.StorageCounters()
    monkeypatch.setattr(storage, "storage_counters", counters)
    storage.write_bytes(f"{store}/key", b"0123456789")
    FaultyStore.faults += [ConnectionResetError("reset"), None]
    storage.read_bytes(f"{store}/key")
    FaultyStore.faults += [ConnectionResetError("reset")] * storage.ATTEMPTS
    with pytest.raises(ConnectionError):
        storage.read_bytes(f"{store}/key")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{store}/missing")
    assert counters.snapshot() == {
        "retries": storage.ATTEMPTS, "failures": 1, "bytes_read": 10, "bytes_written": 10,
    }  # fmt: skip


def test_a_removal_that_the_store_did_not_carry_out_is_an_error(store, monkeypatch):
    storage.write_bytes(f"{store}/folder/key", b"content")
    monkeypatch.setattr(FaultyStore, "keeps", True)
    with pytest.raises(PermissionError, match=f"removing {store}/folder failed"):
        storage.remove_tree(f"{store}/folder")
