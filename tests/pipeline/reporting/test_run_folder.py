from __future__ import annotations

import os
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.config.schedule import Schedule, resolve_schedule
from pipeline.config.schema import Config
from pipeline.reporting.run_folder import RunFiles
from shards.storage.files import write_local
from tests.small_run import small_config


def test_what_a_killed_generation_left_unfinished_is_gone_once_the_next_one_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as during_the_write:
        during_the_write.setattr(os, "replace", killed)
        during_the_write.setattr(Path, "unlink", killed)  # a killed process cleans nothing up
        for name in ("metrics.jsonl", "samples/rank-0.jsonl"):
            with pytest.raises(SystemExit):
                write_local(tmp_path / name, b"half")
    (tmp_path / "notes.part").write_text("not ours")
    assert len(list(tmp_path.rglob(".*.part"))) == 2
    config = small_config("unused", tmp_path)
    RunFiles(config, schedule(config), start=0, console=Console(quiet=True)).close(60)
    assert [path.name for path in tmp_path.rglob("*.part")] == ["notes.part"]


def schedule(config: Config) -> Schedule:
    return resolve_schedule(config.schedule, steps_per_epoch=1)
