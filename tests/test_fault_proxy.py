"""The proxy whose faults the storage tests rely on, before a server of the standard library."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.fault_proxy import (
    KINDS,
    RESET_AMID,
    RESET_BEFORE,
    SLOW_DOWN,
    STALL,
    TRUNCATE,
    FaultProxy,
)

BODY = bytes(range(256)) * 4000


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    received = 0  # requests that came through

    def do_GET(self) -> None:
        self._answer(BODY, self.headers["Host"])

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(hashlib.sha256(data).hexdigest().encode(), self.headers["Host"])

    def do_DELETE(self) -> None:
        type(self).received += 1
        self.send_response(204)
        self.end_headers()

    def _answer(self, body: bytes, host: str) -> None:
        type(self).received += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Host", host)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def target() -> Iterator[str]:
    Handler.received = 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read()


def test_without_faults_requests_pass_untouched_on_one_connection(target: str) -> None:
    with FaultProxy(target, rate=0) as proxy:
        connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=20)
        for _ in range(2):
            connection.request("GET", "/file")
            answer = connection.getresponse()
            assert answer.read() == BODY
            assert f"http://{answer.headers['X-Host']}" == proxy.url, "signatures cover the Host"
        connection.request("PUT", "/file", BODY)
        assert connection.getresponse().read().decode() == hashlib.sha256(BODY).hexdigest()
        connection.request("DELETE", "/file")
        assert connection.getresponse().status == 204
        connection.close()
        assert (proxy.requests, proxy.injected) == (4, {})


def test_a_request_to_slow_down_never_reaches_the_server(target: str) -> None:
    with FaultProxy(target, rate=1, kinds=[SLOW_DOWN]) as proxy:
        with pytest.raises(urllib.error.HTTPError) as raised:
            read(proxy.url)
        assert raised.value.code == 503
        assert b"<Code>SlowDown</Code>" in raised.value.read()
        assert proxy.injected == {SLOW_DOWN: 1}
    assert Handler.received == 0


def test_a_reset_before_the_answer_never_reaches_the_server(target: str) -> None:
    with FaultProxy(target, rate=1, kinds=[RESET_BEFORE]) as proxy:
        with pytest.raises(ConnectionResetError):
            read(proxy.url)
        assert proxy.injected == {RESET_BEFORE: 1}
    assert Handler.received == 0


def test_a_reset_amid_the_answer_is_a_reset_for_the_client(target: str) -> None:
    with FaultProxy(target, rate=1, kinds=[RESET_AMID]) as proxy:
        with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
            read(proxy.url)
        assert proxy.injected == {RESET_AMID: 1}
    assert Handler.received == 1


@pytest.mark.parametrize("kind", [TRUNCATE, STALL])
def test_half_of_the_body_comes(target: str, kind: str) -> None:
    with FaultProxy(target, rate=1, kinds=[kind], stall_seconds=0.1) as proxy:
        with pytest.raises(http.client.IncompleteRead) as raised:
            read(proxy.url)
        assert raised.value.partial == BODY[: len(BODY) // 2]
        assert proxy.injected == {kind: 1}


def test_an_upload_may_be_done_and_its_answer_lost(target: str) -> None:
    with FaultProxy(target, rate=1, kinds=[TRUNCATE]) as proxy:
        request = urllib.request.Request(proxy.url, method="DELETE")
        with pytest.raises(http.client.RemoteDisconnected):
            urllib.request.urlopen(request, timeout=20)
    assert Handler.received == 1


def test_the_seed_says_which_answers_fail(target: str) -> None:
    def outcomes(seed: int) -> list[bool]:
        results = []
        with FaultProxy(target, rate=0.5, seed=seed, stall_seconds=0) as proxy:
            for _ in range(20):
                try:
                    results.append(read(proxy.url) == BODY)
                except (OSError, http.client.HTTPException):
                    results.append(False)
            assert sum(proxy.injected.values()) == results.count(False)
            assert set(proxy.injected) <= set(KINDS)
        return results

    assert outcomes(1) == outcomes(1)
    assert outcomes(1) != outcomes(2)


def test_only_plain_http_is_forwarded() -> None:
    with pytest.raises(ValueError, match="https://somewhere"):
        FaultProxy("https://somewhere", rate=0.1)
