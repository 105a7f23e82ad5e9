"""A file that is written from front to back, once, and hashed on the way to the disk."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
from pathlib import Path

_PIECE_BYTES = 1 << 20
_START_WRITING = 2  # SYNC_FILE_RANGE_WRITE, of linux/fs.h


class GrowingFile:
    """Locked as long as it is open: whoever finds it unlocked knows its writer dead.

    Each piece goes on to the disk as soon as it is full, so that little is left for the flush at
    the end.
    """

    def __init__(self, path: Path) -> None:
        self.size_bytes = 0  # of what was appended
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._digest = hashlib.sha256()
        self._piece = memoryview(bytearray(_PIECE_BYTES))
        self._filled = 0  # bytes of the piece
        self._written = 0

    def append(self, data: bytes) -> None:
        self.size_bytes += len(data)
        stop = self._filled + len(data)
        if stop > _PIECE_BYTES:
            self._pass_on()
            stop = len(data)
        if stop > _PIECE_BYTES:
            self._write(memoryview(data))
            return
        self._piece[self._filled : stop] = data
        self._filled = stop

    def flush(self) -> str:
        """Everything is on the disk when it returns the SHA-256, in hexadecimal."""
        self._pass_on()
        os.fsync(self._file.fileno())
        return self._digest.hexdigest()

    def close(self) -> None:
        self._file.close()

    def _pass_on(self) -> None:
        if self._filled:
            self._write(self._piece[: self._filled])
            self._filled = 0

    def _write(self, data: memoryview) -> None:
        start, stop = self._written, self._written + len(data)
        while self._written < stop:
            self._written += self._file.write(data[self._written - start :]) or 0
        if _sync_file_range is not None:
            _sync_file_range(self._file.fileno(), start, len(data), _START_WRITING)
        self._digest.update(data)


# Of Linux: has the system begin with what it would leave to the flush, and waits for nothing. What
# it answers is not needed: the flush reports what goes wrong.
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
