"""A store of shards that counts what it is asked for and can be held up in the middle of a body."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections import Counter

from shards.format.manifest import ShardEntry


class ShardServer:
    """Plain HTTP in threads of this process. `finished` counts the bodies sent to their end.

    While `gate` is closed, bodies stop at their middle.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.begun: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.gate = threading.Event()
        self.gate.set()
        self.at_gate = threading.Semaphore(0)  # released by each body that reaches its middle
        self._counting = threading.Lock()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> ShardServer:
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, name: str, data: bytes) -> ShardEntry:
        self.files[name] = data
        return ShardEntry(name, 1, len(data), hashlib.sha256(data).hexdigest(), index_sha256="")

    def count(self, counter: Counter[str], name: str) -> None:
        with self._counting:
            counter[name] += 1

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        store = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._head(self.path.strip("/"))

            def do_GET(self) -> None:
                name = self.path.strip("/")
                data = self._head(name)
                store.count(store.begun, name)
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                store.at_gate.release()
                store.gate.wait()
                self.wfile.write(data[len(data) // 2 :])
                store.count(store.finished, name)

            def _head(self, name: str) -> bytes:
                data = store.files.get(name)
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                return data or b""

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        return Handler
