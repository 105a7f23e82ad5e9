"""Which fsspec filesystem stands behind a URL, and with which options it is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0  # without a single byte
EXTRAS = {
    "s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure",
    "abfss": "azure", "hf": "hub",
}  # fmt: skip
_PATTERN_CHARACTERS = set("*?[")


def join_url(url: str, *parts: str) -> str:
    """`url` with the names of `parts` below it."""
    return "/".join([url.rstrip("/"), *parts])


def is_local(url: str) -> bool:
    return "://" not in url or url.startswith("file://")


def local_path(url: str) -> Path:
    """The path of a local URL."""
    assert is_local(url), url
    return Path(url.removeprefix("file://"))


def open_filesystem(url: str) -> tuple[Any, str]:
    """The filesystem of `url` and the path in it. RuntimeError if its extra is not installed."""
    protocol = url.split("://")[0]
    extra = EXTRAS.get(protocol)
    if not is_local(url) and _PATTERN_CHARACTERS & set(url):
        # fsspec would take the name for a pattern, and remove what else matches it.
        raise ValueError(f"{url} holds one of {' '.join(sorted(_PATTERN_CHARACTERS))}; rename it")
    try:
        return fsspec.core.url_to_fs(url, **_filesystem_options(protocol))
    except ImportError as error:
        remedy = f"; pip install 'glcic-pipeline[{extra}]'" if extra else ""
        raise RuntimeError(f"cannot reach {url}: {error}{remedy}") from error
    except ValueError as error:
        raise ValueError(f"cannot reach {url}: {error}") from error


def _filesystem_options(protocol: str) -> dict[str, Any]:
    if protocol in ("http", "https"):
        import aiohttp  # which fsspec needs for these anyway

        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S
        )
        return {"client_kwargs": {"timeout": timeout}}
    extra = EXTRAS.get(protocol)
    # A listing kept from before says nothing about what other processes have written since.
    options: dict[str, Any] = {"use_listings_cache": False} if extra not in (None, "hub") else {}
    if extra == "s3":
        ours = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            # s3fs tries again by itself: a third loop inside would multiply the time-outs.
            "retries": {"total_max_attempts": 1},
        }
        theirs = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        options["config_kwargs"] = {**ours, **theirs}
    return options
