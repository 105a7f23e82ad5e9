"""HTTP messages as they stand on a connection: read, and copied from one to another."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

_PIECE_BYTES = 1 << 16


class Cut(Exception):
    """The rest of the answer is not sent."""


@dataclass(frozen=True)
class Head:
    """Of a request or an answer."""

    data: bytes
    first_line: str
    fields: dict[str, str]

    @property
    def status(self) -> int:
        return int(self.first_line.split()[1])

    @property
    def is_chunked(self) -> bool:
        return "chunked" in self.fields.get("transfer-encoding", "").lower()

    @property
    def length(self) -> int | None:
        text = self.fields.get("content-length")
        return None if text is None else int(text)


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """None where the connection ends before another one."""
    try:
        data = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first_line, *lines = data.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return Head(data, first_line, {name.lower(): value.strip() for name, _, value in pairs})


async def copy_body(
    head: Head,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter | None,
    until_end: bool = False,
) -> None:
    """`until_end`: what has neither a length nor chunks ends with the connection."""
    if head.is_chunked:
        await _copy_chunks(reader, writer)
    elif head.length is not None:
        await copy(reader, writer, head.length)
    elif until_end:
        while piece := await reader.read(_PIECE_BYTES):
            await _send(writer, piece)


async def _copy_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None) -> None:
    while True:
        line = await reader.readline()
        await _send(writer, line)
        size = int(line.split(b";")[0], 16)
        if size == 0:
            break
        await copy(reader, writer, size + len(b"\r\n"))
    while line := await reader.readline():  # trailing fields, up to an empty line
        await _send(writer, line)
        if line == b"\r\n":
            return


async def copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None, size: int
) -> None:
    while size > 0:
        piece = await reader.read(min(size, _PIECE_BYTES))
        if not piece:
            raise Cut
        size -= len(piece)
        await _send(writer, piece)


async def _send(writer: asyncio.StreamWriter | None, data: bytes) -> None:
    if writer is not None:
        writer.write(data)
        await writer.drain()
