"""A file that is written from front to back, once, and hashed on the way to the disk."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
from pathlib import Path

_PIECE_BYTES = 1 << 20  # of whole pages: none is changed again while it is on its way to the disk
_START_WRITING = 2  # SYNC_FILE_RANGE_WRITE, of linux/fs.h


class HashedFileWriter:
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
        self._written = 0  # bytes of the file

    def append(self, data: bytes) -> None:
        self.size_bytes += len(data)
        rest = memoryview(data)
        while rest:
            taken = min(len(rest), _PIECE_BYTES - self._filled)
            self._piece[self._filled : self._filled + taken] = rest[:taken]
            rest = rest[taken:]
            self._filled += taken
            if self._filled == _PIECE_BYTES:
                self._pass_on()

    def flush(self) -> str:
        """Everything is on the disk when it returns the SHA-256, in hexadecimal."""
        self._pass_on()
        os.fsync(self._file.fileno())
        return self._digest.hexdigest()

    def close(self) -> None:
        self._file.close()

    def _pass_on(self) -> None:
        piece, self._filled = self._piece[: self._filled], 0
        written = 0
        while written < len(piece):
            written += self._file.write(piece[written:]) or 0
        if _sync_file_range is not None:
            _sync_file_range(self._file.fileno(), self._written, written, _START_WRITING)
        self._written += written
        self._digest.update(piece)


# Of Linux: has the system begin with what it would leave to the flush, and waits for nothing. What
# it answers is not needed: the flush reports what goes wrong.
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
