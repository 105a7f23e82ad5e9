"""How the C library hands out memory on the CPU."""

from __future__ import annotations

import ctypes

# Of mallopt(3), glibc.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_ARENA_MAX = -8


def keep_freed_memory() -> bool:
    """Freed memory stays with this process, to be given out again; False where that is not offered.

    A training step allocates and frees tensors of tens of megabytes. glibc takes each from the
    system and gives it back: the system clears every page again, at its first touch. With one arena
    the backward's thread uses again what the forward's has freed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # not glibc
        return False
    settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
    return all(mallopt(name, value) == 1 for name, value in settings)
