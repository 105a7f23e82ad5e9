"""Random numbers that depend on nothing but what they are drawn for.

Every number is a pure function of (seed, purpose, indices): there is no generator whose state could
be lost, and any process can draw any number at any time. Arrays come from Philox's raw stream,
which NumPy keeps stable between versions, unlike the distributions built upon it; four numbers for
one sample from a keyed BLAKE2b (RFC 7693), which has no set-up that would cost more than they do.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

_STEP = 2.0**-53  # between neighbouring numbers of 53 bits


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
    return (raw(seed, purpose, *indices, count=count) >> np.uint64(11)) * _STEP


@lru_cache(maxsize=64)
def _keyed_hash(seed: int, purpose: str) -> hashlib.blake2b:
    key = hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=32).digest()
    return hashlib.blake2b(key=key, digest_size=32)


def four_uniform(seed: int, purpose: str, first: int, second: int) -> tuple[float, ...]:
    """Four numbers in [0, 1) for two indices, each non-negative and below 2**64."""
    hashed = _keyed_hash(seed, purpose).copy()
    hashed.update(struct.pack("<QQ", first, second))
    a, b, c, d = struct.unpack("<4Q", hashed.digest())
    return (a >> 11) * _STEP, (b >> 11) * _STEP, (c >> 11) * _STEP, (d >> 11) * _STEP


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


def chosen_by_weight(weights: Sequence[float], shares: np.ndarray) -> np.ndarray:
    """int64, the shape of `shares`: for each uniform share in [0, 1) the position of a weight, each
    as often as its weight, which must be finite and above 0, says."""
    relative = np.asarray(weights, dtype=np.float64)
    relative = relative / relative.max()  # so that no sum leaves the range of floats
    ends = np.cumsum(relative / relative.sum())
    return np.minimum(np.searchsorted(ends, shares, side="right"), len(ends) - 1)


def permutation(seed: int, purpose: str, *indices: int, count: int) -> np.ndarray:
    """A permutation of `range(count)`, int64."""
    return np.argsort(raw(seed, purpose, *indices, count=count), kind="stable")
