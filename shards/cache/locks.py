"""Locks between the processes of one machine: flock, which a killed process cannot keep."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class FileLock:
    """An exclusive lock on a file that is there only while somebody holds the lock.

    Threads of one process exclude each other as well as processes do.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def try_acquire(self) -> bool:
        """False if somebody else holds it."""
        assert self._descriptor < 0, self.path
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if not try_lock(descriptor):
                os.close(descriptor)
                return False
            # Whoever held it may have removed the file after it was opened here.
            if is_file_at(descriptor, self.path):
                self._descriptor = descriptor
                return True
            os.close(descriptor)

    def release(self) -> None:
        """Removes the file."""
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1

    def state_size(self, size_bytes: int) -> None:
        """Others see `size_bytes` as the size of the file, which takes no space on the disk."""
        os.ftruncate(self._descriptor, size_bytes)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits for the exclusive lock on a file that stays. For short work only."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Takes the exclusive lock unless somebody holds any lock on the same file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_shared(path: Path) -> int | None:
    """A descriptor, for reading, with a shared lock on the file; None if there is no such file."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if is_file_at(descriptor, path):
            return descriptor
        os.close(descriptor)


def is_file_at(descriptor: int, path: Path) -> bool:
    """Whether the opened file still has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
