"""The order of the test files, and a place on the S3 server for the tests marked `s3`."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from shards.storage.files import join_url, remove_tree


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest come first: processes that share the files then end together."""
    tenths: Counter[Path] = Counter()  # of a second, by rough guess
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        tenths[item.path] += 200 if "dist" in marks else 100 if "slow" in marks else 2
    items.sort(key=lambda item: -tenths[item.path])


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    filesystem = fsspec.filesystem("s3")
    name = f"glcic-test-{uuid.uuid4().hex[:12]}"
    filesystem.mkdir(name)
    yield f"s3://{name}"
    filesystem.rm(name, recursive=True)


@pytest.fixture
def folder(bucket: str) -> Iterator[str]:
    url = join_url(bucket, uuid.uuid4().hex[:8])
    yield url
    remove_tree(url)
