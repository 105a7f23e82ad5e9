"""An HTTP proxy in front of a server, through which a share of the answers fails.

It forwards requests untouched, Host header included, so that the signatures of S3 clients stay
valid. To stand it before a server by hand:

    python -m tests.fault_proxy --target http://127.0.0.1:9000 --rate 0.2 --seed 1
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from urllib.parse import urlsplit

from tests.http_messages import Cut, Head, copy, copy_body, read_head

SLOW_DOWN = "slow_down"  # 503 with the body that S3 sends; the request is not forwarded
RESET_BEFORE = "reset_before"  # a reset connection; the request is not forwarded
RESET_AMID = "reset_amid"  # a reset after half of the answer's body
STALL = "stall"  # half of the answer's body, then silence
TRUNCATE = "truncate"  # half of the answer's body, then an orderly end
KINDS = (SLOW_DOWN, RESET_BEFORE, RESET_AMID, STALL, TRUNCATE)

_HEAD_BYTES = 1 << 16
_SLOW_DOWN_BODY = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n'
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


class FaultProxy:
    """A context manager that runs the proxy in a thread of its own.

    `injected` counts the faults of each kind. The same seed gives the same sequence of faults over
    the requests in the order of their arrival.
    """

    def __init__(
        self,
        target: str,
        rate: float,
        seed: int = 0,
        kinds: Sequence[str] = KINDS,
        stall_seconds: float = 0.5,
        port: int = 0,
    ) -> None:
        parts = urlsplit(target)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"{target!r} is no http://HOST:PORT")
        self._target = (parts.hostname, parts.port or 80)
        self._rate = rate
        self._kinds = tuple(kinds)
        self._random = random.Random(seed)
        self._stall_seconds = stall_seconds
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.requests = 0
        self.injected: Counter[str] = Counter()
        self.url = ""

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        self._port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        return self

    def __exit__(self, *exception: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(
            self._serve, "127.0.0.1", self._port, limit=_HEAD_BYTES, backlog=256
        )

    async def _stop(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client: requests one after the other until it or a fault ends it."""
        try:
            while (request := await read_head(reader)) is not None:
                self.requests += 1
                fault = self._draw()
                if not await self._answer(request, reader, writer, fault):
                    break
        except (Cut, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def _draw(self) -> str:
        """The kind of fault for the next answer; empty for none."""
        fault = ""
        if self._random.random() < self._rate:
            fault = self._random.choice(self._kinds)
            self.injected[fault] += 1
        return fault

    async def _answer(
        self,
        request: Head,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        fault: str,
    ) -> bool:
        """Whether the connection may be used again."""
        if fault == RESET_BEFORE:
            _reset(writer)
        if fault == SLOW_DOWN:
            await self._slow_down(request, reader, writer)
            return False
        upstream, to_server = await asyncio.open_connection(*self._target, limit=_HEAD_BYTES)
        try:
            to_server.write(request.data)
            sending = asyncio.create_task(copy_body(request, reader, to_server))
            try:
                return await self._relay(request, upstream, writer, fault) and sending.done()
            finally:
                sending.cancel()
        finally:
            to_server.close()

    async def _slow_down(
        self, request: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if "expect" not in request.fields:  # else the client has not sent its body yet
            await copy_body(request, reader, None)
        head = (
            "HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\n"
            f"Content-Length: {len(_SLOW_DOWN_BODY)}\r\n\r\n"
        )
        is_head = request.first_line.startswith("HEAD ")
        writer.write(head.encode() + (b"" if is_head else _SLOW_DOWN_BODY))
        await writer.drain()

    async def _relay(
        self,
        request: Head,
        upstream: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        fault: str,
    ) -> bool:
        while (answer := await read_head(upstream)) is not None:
            if answer.status >= 200:
                break
            writer.write(answer.data)  # 100 Continue: the client now sends its body
            await writer.drain()
        if answer is None:
            return False
        has_body = not request.first_line.startswith("HEAD ") and answer.status not in (204, 304)
        length = answer.length if has_body else 0
        if fault:
            await self._break_off(answer, length, upstream, writer, fault)
        writer.write(answer.data)
        if has_body:
            await copy_body(answer, upstream, writer, until_end=True)
        await writer.drain()
        known_end = not has_body or length is not None or answer.is_chunked
        closing = "close" in (request.fields | answer.fields).get("connection", "").lower()
        return known_end and not closing

    async def _break_off(
        self,
        answer: Head,
        length: int | None,
        upstream: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        fault: str,
    ) -> None:
        """An answer without a body, or of unknown length, is lost as a whole."""
        if length:
            writer.write(answer.data)
            await copy(upstream, writer, length // 2)
            await writer.drain()
        if fault == STALL:
            await asyncio.sleep(self._stall_seconds)
        if fault == RESET_AMID:
            _reset(writer)
        raise Cut


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    raise Cut


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fault_proxy", description=__doc__)
    parser.add_argument("--target", required=True, help="http://HOST:PORT of the server")
    parser.add_argument("--rate", type=float, default=0.2, help="share of the answers that fail")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--stall-seconds", type=float, default=5.0)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    options = parser.parse_args(arguments)
    with FaultProxy(**vars(options)) as proxy:
        print(proxy.url, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print(f"{proxy.requests} requests, {dict(proxy.injected)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
