"""A real Prometheus server on the loopback, with the rules that are shipped."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.pipeline.monitoring.ports import free_port

_READY_S = 30.0


class PrometheusServer:
    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self._log = log
        self.moment: float | None = None  # of queries, Unix time; None: now

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of a query at the moment. AssertionError where it is no query."""
        moment = {} if self.moment is None else {"time": self.moment}
        return self._ask("query", query=expression, **moment)["data"]["result"]

    def query_range(
        self, expression: str, start: float, stop: float, step: float
    ) -> list[dict[str, Any]]:
        asked = {"start": start, "end": stop, "step": step}
        return self._ask("query_range", query=expression, **asked)["data"]["result"]

    def firing(self) -> set[tuple[str, str]]:
        """Alerts and the runs they are of."""
        found = self._ask("alerts")["data"]["alerts"]
        return {
            (alert["labels"]["alertname"], alert["labels"].get("run", ""))
            for alert in found
            if alert["state"] == "firing"
        }

    def is_ready(self) -> bool:
        try:
            return urllib.request.urlopen(f"{self.url}/-/ready", timeout=5).status == 200
        except OSError:
            return False

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """AssertionError if it does not come true in time."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, (
                f"not within {timeout_s} s:\n{self._log.read_text()}"
            )
            time.sleep(0.25)

    def _ask(self, what: str, **parameters: object) -> dict[str, Any]:
        address = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error


@contextmanager
def prometheus(
    folder: Path, rules: Path, targets: dict[str, list[int]], interval_s: int = 1
) -> Iterator[PrometheusServer]:
    """Scrapes the ports of the loopback that `targets` names for each job, and ends afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    configuration = {
        "global": {"scrape_interval": f"{interval_s}s", "evaluation_interval": f"{interval_s}s"},
        "rule_files": [str(rules)],
        "scrape_configs": [
            {
                "job_name": job,
                "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}],
            }
            for job, ports in targets.items()
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    port, log = free_port(), folder / "log"
    command = [
        "prometheus", f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        server = PrometheusServer(f"http://127.0.0.1:{port}", log)
        server.wait_for(server.is_ready, _READY_S)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
