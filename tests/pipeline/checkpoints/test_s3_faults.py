"""The whole path on the S3 server that AWS_ENDPOINT_URL names, where every fifth request fails.

Between the commands and the server stands a proxy: it answers with 503, resets connections before
and in an answer, stalls, and cuts answers short.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.checkpoints.format import read_checkpoint, step_name
from shards.storage.files import join_url, list_tree, read_bytes
from tests.fault_proxy import FaultProxy
from tests.shards.pictures import write_class_folders
from tests.small_run import assert_identical, small_mapping, write_preset
from tests.torchrun import ROOT, run, torchrun_command

pytestmark = [
    pytest.mark.s3,
    pytest.mark.dist,
    pytest.mark.slow,
    pytest.mark.skipif(
        "AWS_ENDPOINT_URL" not in os.environ, reason="no S3 server: AWS_ENDPOINT_URL is not set"
    ),
]

RATE = 0.2
RECIPE = {"crop_size": 32, "short_side": 48, "images_per_shard": 5, "validation_fraction": 0.25}
RECIPE |= {"masks.side_min": 8, "masks.side_max": 16}
LAST_STEP = 12  # of the small run's schedule


def glcic(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, "-m", "launch.command", *arguments], cwd=ROOT, text=True, timeout=600,
        capture_output=True, env={**os.environ, **environment},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result


def files(url: str) -> dict[str, bytes]:
    return {name: read_bytes(join_url(url, name)) for name, _ in list_tree(url)}


def weights(checkpoints: str) -> dict:
    found = read_checkpoint(join_url(checkpoints, step_name(LAST_STEP)))
    return {f"{s}/{n}": t for s, group in found.tensors.items() for n, t in group.items()}


def test_faults_at_every_fifth_request_change_no_byte_and_no_weight(
    folder: str, tmp_path: Path
) -> None:
    source = write_class_folders(tmp_path / "source", images_per_class=12)
    fields = [word for name, value in RECIPE.items() for word in (f"--pack.{name}", str(value))]
    runs = {"local": tmp_path / "local", "remote": folder}
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], RATE, seed=7) as proxy:
        log = tmp_path / "log"
        for name, root in runs.items():
            environment = {"AWS_ENDPOINT_URL": proxy.url} if name == "remote" else {}
            shards = join_url(str(root), "set")
            glcic("pack", str(source), shards, *fields, "--workers", "2", **environment)
            glcic("verify", shards, **environment)
            mapping = small_mapping(shards, tmp_path, checkpoint={"keep": 2})
            mapping["folder"] = join_url(str(root), "run")
            mapping["data"]["cache"] = str(tmp_path / "cache")
            preset = str(write_preset(tmp_path / f"{name}.yaml", mapping))
            command = torchrun_command(2, "launch/train.py", "--config", preset)
            assert run(command, log, timeout_s=900, **environment) == 0, log.read_text()
            output = join_url(str(root), "evaluated.json")
            glcic("evaluate", "--config", preset, "--output", output, **environment)
    assert proxy.injected.total() > 20
    assert len(proxy.injected) == 5, proxy.injected  # every kind
    assert files(join_url(folder, "set")) == files(str(tmp_path / "local" / "set"))
    checkpoints = [join_url(str(root), "run", "checkpoints") for root in runs.values()]
    assert_identical(*map(weights, checkpoints))
    local, remote = (
        json.loads(read_bytes(join_url(str(root), "evaluated.json"))) for root in runs.values()
    )
    assert local["methods"] == remote["methods"]
    # What was fetched is there once, and whole.
    cached = list((tmp_path / "cache").glob("*.tar"))
    shards_on_the_store = [name for name, _ in list_tree(join_url(folder, "set"))]
    assert len(cached) == sum(name.endswith(".tar") for name in shards_on_the_store)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.endswith(".part")]
