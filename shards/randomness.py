"""Random numbers that depend on nothing but what they are drawn for.

Every number is a pure function of (seed, purpose, indices): there is no generator whose state could
be lost, and any process can draw any number at any time. Only Philox's raw stream is used, which
NumPy keeps stable between versions, unlike the distributions built upon it.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=64)
def _key(seed: int, purpose: str) -> np.ndarray:
    sequence = np.random.SeedSequence([seed, zlib.crc32(purpose.encode())])
    key = sequence.generate_state(2, np.uint64)
    key.setflags(write=False)
    return key


def raw(seed: int, purpose: str, *indices: int, count: int) -> np.ndarray:
    """`count` uint64 numbers for at most three `indices`, each non-negative and below 2**64."""
    assert len(indices) <= 3
    # The first counter word is left to Philox itself: it advances through the `count` numbers.
    counter = np.array([0, *indices, *[0] * (3 - len(indices))], dtype=np.uint64)
    return np.random.Philox(key=_key(seed, purpose), counter=counter).random_raw(count)


def uniform(seed: int, purpose: str, *indices: int, count: int) -> np.ndarray:
    """`count` float64 numbers in [0, 1)."""
    return (raw(seed, purpose, *indices, count=count) >> np.uint64(11)) * 2.0**-53


def integers(
    seed: int,
    purpose: str,
    *indices: int,
    low: np.ndarray | int,
    high: np.ndarray | int,
    count: int,
) -> np.ndarray:
    """`count` int64 numbers, each in [low, high]: both ends belong to the range."""
    span = np.asarray(high, dtype=np.int64) - np.asarray(low, dtype=np.int64) + 1
    return low + (uniform(seed, purpose, *indices, count=count) * span).astype(np.int64)


def permutation(seed: int, purpose: str, *indices: int, count: int) -> np.ndarray:
    """A permutation of `range(count)`, int64."""
    return np.argsort(raw(seed, purpose, *indices, count=count), kind="stable")
