"""Broken bytes, archives and JSON values for the fuzzers, and how many of them are tried."""

from __future__ import annotations

import copy
import os
import struct
import zlib
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

CORPUS = Path(__file__).parent
_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))  # of each fuzzer; 0: few, always the same
_BLOCK = 512


def fuzzed(examples: int) -> settings:
    """The settings of a fuzzer that tries `examples`, or FUZZ_EXAMPLES random ones."""
    return settings(
        max_examples=_EXAMPLES or examples,
        derandomize=not _EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def corpus(name: str) -> list[bytes]:
    """What earlier runs found to be worth keeping, in the order of the file names."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


_EDITS = st.tuples(
    st.sampled_from(["flip", "set", "insert", "delete", "cut", "repeat", "zero"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 255),
    st.integers(1, 64),
)


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes], most_edits: int = 4) -> bytes:
    """One of `seeds` after a few edits of bits and bytes."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for kind, place, value, length in draw(st.lists(_EDITS, min_size=1, max_size=most_edits)):
        _edit(data, kind, int(place * len(data)), value, length)
    return bytes(data)


def _edit(data: bytearray, kind: str, at: int, value: int, length: int) -> None:
    if kind == "insert":
        data[at:at] = bytes([value]) * length
    elif kind == "delete":
        del data[at : at + length]
    elif kind == "cut":
        del data[at:]
    elif kind == "repeat":
        data[at:at] = data[at : at + length]
    elif kind == "zero":
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif at < len(data):
        data[at] = value if kind == "set" else data[at] ^ (1 << value % 8)


_SIZES = st.one_of(
    st.integers(0, 2000).map(lambda size: b"%011o\0" % size),
    st.integers(0, 8**11 - 1).map(lambda size: b"%011o\0" % size),
    st.integers(-(2**40), 2**62).map(lambda size: b"\x80" + (size % 2**88).to_bytes(11, "big")),
    st.integers(-(2**40), -1).map(lambda size: b"\xff" + (size % 2**88).to_bytes(11, "big")),
    st.binary(min_size=12, max_size=12),
)
_PAX = st.dictionaries(
    st.sampled_from(
        ["size", "path", "GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.map", "mtime",
         "GNU.sparse.size", "GNU.sparse.numblocks", "GNU.sparse.realsize", "hdrcharset", "uid"]
    ),
    st.one_of(
        st.integers(-5000, 5000).map(str),
        st.sampled_from(["1", "0", "-512", "-1024", "-1536", "a.jpg", "1,2,3", "BINARY", "9" * 30]),
        st.text(max_size=20),
    ),
    max_size=4,
)  # fmt: skip


def _pax_records(fields: dict[str, str]) -> bytes:
    records = b""
    for name, value in fields.items():
        body = f" {name}={value}\n".encode(errors="surrogatepass")
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length += 1
        records += str(length).encode() + body
    return records


def sealed(header: bytearray) -> bytes:
    """A tar header with the checksum that its other bytes ask for."""
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % (sum(header) % 8**6)
    return bytes(header)


@st.composite
def archives(draw: st.DrawFn, contents: list[bytes]) -> bytes:
    """Tar archives whose checksums are right and whose headers say anything."""
    data = b""
    for _ in range(draw(st.integers(0, 5))):
        header = bytearray(_BLOCK)
        name = draw(
            st.one_of(
                st.sampled_from([b"00000001.jpg", b"00000001.json", b"a.b/c.cls", b"x.jpg", b"."]),
                st.binary(max_size=100),
            )
        )
        kind = draw(st.sampled_from(b"00000\x00xgLKS12567D9V"))
        content = draw(st.one_of(st.sampled_from(contents), st.binary(max_size=600)))
        if kind in b"xg" and draw(st.integers(0, 9)):
            content = _pax_records(draw(_PAX))
        header[: len(name)] = name
        is_honest = draw(st.integers(0, 2))
        header[124:136] = b"%011o\0" % len(content) if is_honest else draw(_SIZES)
        header[156] = kind
        header[257:265] = draw(st.sampled_from([b"ustar\x0000", b"ustar  \0", bytes(8)]))
        if kind == ord("S"):
            header[386:386] = draw(st.binary(max_size=110))
        data += sealed(header[:_BLOCK]) + content + bytes(-len(content) % _BLOCK)
    return data + bytes(draw(st.sampled_from([0, 512, 1024, 1024, 1024, 1500, 10240])))


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70_000),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True),
    st.text(max_size=12),
    st.sampled_from(["\ud800", "\0", "../x", "9" * 50, 10**400, -(10**4000)]),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@st.composite
def edited_json(draw: st.DrawFn, value: Any) -> Any:
    """`value` with a few of its nodes replaced, removed or repeated."""
    whole = [copy.deepcopy(value)]
    for _ in range(draw(st.integers(1, 3))):
        parent: Any = whole
        while True:
            keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(parent[key], (dict, list)) and draw(st.integers(0, 4)):
                parent = parent[key]
                continue
            _replace(draw, parent, key)
            break
        if not whole:
            return None
    return whole[0]


def _replace(draw: st.DrawFn, parent: Any, key: Any) -> None:
    kind = draw(st.sampled_from(["value", "value", "value", "remove", "repeat", "nest"]))
    if kind == "remove":
        del parent[key]
    elif kind == "repeat" and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    elif kind == "nest":
        parent[key] = _nested(draw(st.integers(1, 300)))
    else:
        parent[key] = draw(_VALUES)


def with_png_checksums(data: bytes) -> bytes:
    """The chunks of a PNG that can be found in it, with checksums that are right."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return data
    position, fixed = 8, data[:8]
    while position + 12 <= len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        body = data[position + 4 : position + 8 + length]
        if len(body) < 4 + length:
            break
        fixed += struct.pack(">I", length) + body + struct.pack(">I", zlib.crc32(body))
        position += 12 + length
    return fixed + data[position:]
