from __future__ import annotations

import socket
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from launch import pack
from pipeline.config.loading import parse_config
from pipeline.config.schema import TelemetryConfig
from pipeline.config.telemetry_validation import local_telemetry_errors
from pipeline.monitoring.exporter import Exporter
from pipeline.monitoring.metric_definitions import TRAINING
from pipeline.monitoring.registry import MetricSet
from pipeline.training.preflight import check_run
from tests.pipeline.monitoring.ports import free_port
from tests.shards.pictures import pack_small_set, write_class_folders
from tests.small_run import small_config


def exporter(config: TelemetryConfig, said: list[str] | None = None) -> Exporter:
    metrics = MetricSet(TRAINING, "small")
    metrics.set("glcic_train_step", 7)
    return Exporter(metrics, config, "glcic_train", "small", [].append if said is None else
                    said.append)  # fmt: skip


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_the_port_is_served_while_the_run_lasts_and_free_afterwards() -> None:
    config = TelemetryConfig(port=free_port(), address="127.0.0.1")
    url = f"http://127.0.0.1:{config.port}/metrics"
    with exporter(config):
        text = urllib.request.urlopen(url, timeout=10).read().decode()
    assert "glcic_train_step{" in text
    assert not local_telemetry_errors(config)


def test_a_port_in_use_is_refused_by_the_name_of_its_setting(taken_port: int) -> None:
    config = TelemetryConfig(port=taken_port, address="127.0.0.1")
    (fault,) = local_telemetry_errors(config)
    assert fault.startswith(f"telemetry.port is {taken_port}")
    with pytest.raises(OSError, match=rf"telemetry\.port is {taken_port}"), exporter(config):
        pass


def test_only_the_first_worker_of_a_node_tries_the_port(
    taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not local_telemetry_errors(TelemetryConfig(port=taken_port, address="127.0.0.1"))


def test_a_textfile_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (fault,) = local_telemetry_errors(TelemetryConfig(textfile_folder=str(tmp_path / "file")))
    assert fault.startswith("telemetry.textfile_folder is")


def test_the_textfile_has_the_last_values_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    export = exporter(TelemetryConfig(textfile_folder=str(tmp_path), write_every_s=3600))
    with export:
        export._metrics.set("glcic_train_step", 9)
    assert [path.name for path in tmp_path.iterdir()] == [export.textfile.name]
    assert any(
        line.startswith("glcic_train_step{") and line.endswith(" 9.0")
        for line in export.textfile.read_text().splitlines()
    )


def test_a_textfile_can_lie_beside_one_of_another_version(tmp_path: Path) -> None:
    """node-exporter refuses a metric whose help differs between two files."""
    export = exporter(TelemetryConfig(textfile_folder=str(tmp_path)))
    with export:
        pass
    text = export.textfile.read_text()
    assert "# TYPE glcic_train_step gauge" in text
    assert "# HELP" not in text


def test_a_folder_that_is_lost_later_is_told_once_and_ends_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    said: list[str] = []
    export = exporter(TelemetryConfig(textfile_folder=str(folder), write_every_s=3600), said)
    with export:
        pass
    export.textfile.unlink()
    folder.rmdir()
    with export:
        export._write()
    assert len(said) == 1


@pytest.mark.parametrize("refused_first", [0, 2])
def test_the_gateway_is_told_the_last_values_also_if_it_refuses_at_first(
    refused_first: int,
) -> None:
    pushed: list[tuple[str, bytes]] = []

    class Gateway(BaseHTTPRequestHandler):
        asked = 0

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            Gateway.asked += 1
            if Gateway.asked > refused_first:
                pushed.append((self.path, body))
            self.send_response(200 if Gateway.asked > refused_first else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Gateway)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with exporter(TelemetryConfig(pushgateway=f"http://127.0.0.1:{server.server_port}")):
            assert not pushed  # only at the end
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    ((path, body),) = pushed
    assert path.startswith("/metrics/job/glcic_train/")
    assert "/run/small" in path
    assert b"glcic_train_step{" in body


def test_a_gateway_that_is_not_there_is_told_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.monitoring.exporter._PUSHES_S", 0.1)
    said: list[str] = []
    with exporter(TelemetryConfig(pushgateway=f"http://127.0.0.1:{free_port()}"), said):
        pass
    (message,) = said
    assert "could not be pushed" in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", 70000),
        ("port", -1),
        ("write_every_s", 0),
        ("pushgateway", "gateway:9091"),
        ("pushgateway", "http://name:password@gateway:9091"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"telemetry\.{field}"):
        parse_config({"telemetry": {field: value}}, ("telemetry",))


def test_a_password_in_the_gateways_url_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="pushgateway") as raised:
        parse_config({"telemetry": {"pushgateway": "http://name:hidden@gateway"}}, ("telemetry",))
    assert "hidden" not in str(raised.value)


def test_a_training_is_refused_before_its_workers_meet(taken_port: int, tmp_path: Path) -> None:
    shards = pack_small_set(tmp_path)
    telemetry = {"port": taken_port, "address": "127.0.0.1"}
    config = small_config(shards, tmp_path / "run", telemetry=telemetry)
    with pytest.raises(ValueError, match=rf"telemetry\.port is {taken_port}"):
        check_run(config, world_size=1)


def test_a_pack_is_refused_before_it_begins(taken_port: int, tmp_path: Path) -> None:
    source = write_class_folders(tmp_path / "source")
    telemetry = ["--telemetry.port", str(taken_port), "--telemetry.address", "127.0.0.1"]
    with pytest.raises(ValueError, match=rf"telemetry\.port is {taken_port}"):
        pack.main([str(source), str(tmp_path / "set"), *telemetry])
    assert not (tmp_path / "set").exists()
