"""A file that is written from front to back, once, and hashed on the way to the disk."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

_PIECE_BYTES = 1 << 19  # small enough to be still in a core's cache when it is hashed
_START_WRITING = 2  # SYNC_FILE_RANGE_WRITE, of linux/fs.h


class GrowingFile:
    """Locked as long as it is open: whoever finds it unlocked knows its writer dead.

    Each piece goes to the system as it fills, and on to the disk at once, so that little is left
    for the flush at the end. A thread hashes it meanwhile: SHA-256 alone takes longer than all the
    rest.
    """

    def __init__(self, path: Path) -> None:
        self.size_bytes = 0  # of what was appended
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._digest = hashlib.sha256()
        self._hashing = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._hashed: deque[Future[None]] = deque()
        # One that is filled while the other is hashed.
        self._pieces = [memoryview(bytearray(_PIECE_BYTES)) for _ in range(2)]
        self._filled = 0  # bytes of the first piece
        self._written = 0

    def append(self, data: bytes) -> None:
        stop = self._filled + len(data)
        if stop > _PIECE_BYTES:
            self._pass_on()
            stop = len(data)
        if stop > _PIECE_BYTES:
            self._write(memoryview(data))
        else:
            self._pieces[0][self._filled : stop] = data
            self._filled = stop
        self.size_bytes += len(data)

    def flush(self) -> str:
        """Everything is on the disk when it returns the SHA-256, in hexadecimal."""
        self._pass_on()
        os.fsync(self._file.fileno())
        self._hashing.shutdown()
        return self._digest.hexdigest()

    def close(self) -> None:
        self._hashing.shutdown(cancel_futures=True)
        self._file.close()

    def _pass_on(self) -> None:
        """What was gathered; then another piece is there to be filled."""
        if self._filled:
            self._write(self._pieces[0][: self._filled])
            self._pieces.reverse()
            self._filled = 0

    def _write(self, data: memoryview) -> None:
        self._hashed.append(self._hashing.submit(self._digest.update, data))
        start, written = self._written, 0
        while written < len(data):
            written += self._file.write(data[written:]) or 0
        self._written += written
        _start_writing(self._file.fileno(), start, written)
        if len(self._hashed) == len(self._pieces):  # the oldest is the one that is filled next
            self._hashed.popleft().result()


def _start_writing(descriptor: int, start: int, num_bytes: int) -> None:
    """Has the system begin with what it would otherwise leave to the flush. Waits for nothing."""
    if _sync_file_range is not None:
        _sync_file_range(descriptor, start, num_bytes, _START_WRITING)


# Of Linux. What it answers is not needed: the flush reports what goes wrong.
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
