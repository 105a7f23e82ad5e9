"""Headers of the archives that are written here: plain ustar, the same bytes for the same member.

Nothing of the machine or the hour goes into them: owner, mode and time are constants.
"""

from __future__ import annotations

BLOCK = 512  # bytes of a header; members are padded to a multiple of it
END = bytes(2 * BLOCK)  # closes an archive

_NAME_BYTES = 100
_SIZE_MAX = 8**11 - 1
_CHECKSUM = slice(148, 156)
_OWNER = b"glcic"


def _template() -> bytes:
    header = bytearray(BLOCK)
    header[100:108] = b"0000444\0"  # mode
    header[108:116] = header[116:124] = b"0000000\0"  # numbers of the owner and the group
    header[136:148] = b"00000000000\0"  # time of modification
    header[156:157] = b"0"  # a regular file
    header[257:265] = b"ustar\x0000"
    header[265 : 265 + len(_OWNER)] = header[297 : 297 + len(_OWNER)] = _OWNER
    header[329:337] = header[337:345] = b"0000000\0"  # device
    return bytes(header)


_TEMPLATE = _template()
# The checksum is summed with its own eight bytes taken for spaces.
_TEMPLATE_SUM = sum(_TEMPLATE) + 8 * ord(" ")


def member_header(name: bytes, size: int) -> bytes:
    """The header of a regular file. `name` is ASCII, at most 100 bytes; `size` below 8 GiB."""
    assert 0 < len(name) <= _NAME_BYTES, name
    assert 0 <= size <= _SIZE_MAX, size
    digits = b"%011o" % size
    checksum = _TEMPLATE_SUM + sum(name) + sum(digits)
    header = bytearray(_TEMPLATE)
    header[: len(name)] = name
    header[124:135] = digits
    header[_CHECKSUM] = b"%06o\0 " % checksum
    return bytes(header)


def padding(size: int) -> bytes:
    """The zeros that follow a member of `size` bytes."""
    return bytes(-size % BLOCK)
