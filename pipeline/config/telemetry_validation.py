"""Check the settings of telemetry, alone and on this machine: one sentence per error."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.config.schema import TelemetryConfig


def telemetry_errors(config: TelemetryConfig) -> list[str]:
    """Return what the settings alone do not allow: one sentence per error."""
    errors = []
    if not 0 <= config.port <= 65535:
        errors.append(f"telemetry.port is {config.port}: 0 for none, or 1 to 65535")
    if config.write_every_s < 1:
        errors.append(f"telemetry.write_every_s is {config.write_every_s}: at least 1")
    if config.pushgateway:
        place = urlsplit(config.pushgateway)
        if place.scheme not in ("http", "https") or not place.hostname:
            errors.append(
                f"telemetry.pushgateway is {config.pushgateway!r}: a URL such as http://HOST:9091"
            )
        elif place.username or place.password:
            errors.append(
                "telemetry.pushgateway holds a name or password, which the run would print with "
                "its configuration; name a gateway that needs none"
            )
    return errors


def local_telemetry_errors(config: TelemetryConfig) -> list[str]:
    """Return what this machine does not allow, tried out by the process that would export."""
    if int(os.environ.get("LOCAL_RANK", "0")) != 0:
        return []
    errors = []
    if config.port:
        family = socket.AF_INET6 if ":" in config.address else socket.AF_INET
        with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            try:
                probe.bind((config.address, config.port))
            except OSError as error:
                errors.append(port_error(config, error))
    if config.textfile_folder:
        folder = Path(config.textfile_folder)
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            errors.append(
                f"telemetry.textfile_folder is {config.textfile_folder}: it cannot be written here"
            )
    return errors


def require_telemetry(config: TelemetryConfig) -> None:
    """Raises ValueError where this machine does not allow what is asked for."""
    errors = local_telemetry_errors(config)
    if errors:
        raise ValueError("\n  ".join(errors))


def port_error(config: TelemetryConfig, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"telemetry.port is {config.port}, on which something listens on this machine already, "
            "perhaps another run; name a free one, or 0 to export nothing"
        )
    return (
        f"telemetry.port is {config.port} and telemetry.address {config.address}: they cannot be "
        f"served on this machine: {error.strerror or error}"
    )
