"""Where the metrics of a process go: a port that Prometheus scrapes, a textfile, a push gateway."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import tenacity
from prometheus_client import generate_latest, push_to_gateway, start_http_server

from pipeline.config.schema import TelemetryConfig
from pipeline.config.telemetry_validation import port_error
from pipeline.monitoring.registry import MetricSet

_PUSH_S = 3.0  # of one attempt
_PUSHES_S = 8.0  # no attempt begins later: a pod that is ended has half a minute in all


class Exporter:
    """While it is entered, the metrics are served; once it is left, their last values stay behind.

    For one process of each node. Entering raises OSError where the port cannot be served; nothing
    that fails later ends the run: it is logged once. `job` names the group at the push gateway.
    """

    def __init__(
        self, metrics: MetricSet, config: TelemetryConfig, job: str, run: str,
        log: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._metrics, self._config, self._job, self._run = metrics, config, job, run
        self._log_message = log
        self._ending = threading.Event()
        self._leaving = ExitStack()
        self._has_failed = False

    def __enter__(self) -> Self:
        if self._config.port:
            self._serve()
        if self._config.textfile_folder:
            thread = threading.Thread(target=self._write_now_and_then, daemon=True, name="textfile")
            thread.start()
            self._leaving.callback(self._end, thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._config.pushgateway and not isinstance(error, KeyboardInterrupt):
            self._push()
        self._leaving.close()

    @property
    def textfile(self) -> Path:
        """One for each run and machine: a folder that machines share holds no series twice."""
        name = f"{self._job}-{self._run}-{socket.gethostname()}.prom"
        return Path(self._config.textfile_folder) / name

    def _serve(self) -> None:
        port, address = self._config.port, self._config.address
        try:
            server, thread = start_http_server(port, address, registry=self._metrics)
        except OSError as error:
            raise OSError(error.errno, port_error(self._config, error)) from error
        self._leaving.callback(thread.join)
        self._leaving.callback(server.server_close)
        self._leaving.callback(server.shutdown)

    def _write_now_and_then(self) -> None:
        while True:
            self._write()
            if self._ending.wait(self._config.write_every_s):
                return

    def _write(self) -> None:
        try:
            part = self.textfile.with_suffix(".part")
            part.write_bytes(_without_help(generate_latest(self._metrics)))
            part.replace(self.textfile)
        except OSError as error:
            if not self._has_failed:
                self._log_message(
                    f"metrics cannot be written to {self.textfile}, it goes on: {error}"
                )
            self._has_failed = True

    def _end(self, thread: threading.Thread) -> None:
        self._ending.set()
        thread.join()
        self._write()

    def _push(self) -> None:
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(OSError),
            wait=tenacity.wait_exponential(multiplier=0.5),
            stop=tenacity.stop_after_delay(_PUSHES_S),
            reraise=True,
        )
        try:
            attempts(
                push_to_gateway, self._config.pushgateway, self._job, self._metrics,
                {"run": self._run, "host": socket.gethostname()}, _PUSH_S,
            )  # fmt: skip
        except Exception as error:
            place = self._config.pushgateway
            self._log_message(f"the last metrics could not be pushed to {place}: {error}")


def _without_help(text: bytes) -> bytes:
    """node-exporter leaves out a series whose help differs from that of another file: of a run of
    another version of this project, for one."""
    lines = text.splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith(b"# HELP "))
