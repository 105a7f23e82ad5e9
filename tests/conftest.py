"""A place on the S3 server that AWS_ENDPOINT_URL names, for the tests marked `s3`."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import fsspec
import pytest

from shards.storage import join_url, remove_tree


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
