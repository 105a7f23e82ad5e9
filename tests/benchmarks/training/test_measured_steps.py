from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.training.measured_steps import REAL, SYNTHETIC, MeasuredSteps
from pipeline.config.schedule import Phase
from pipeline.engines.ddp import Worker
from shards.reading.reader import ShardReader
from tests.shards.pictures import pack_small_set
from tests.small_run import small_config


def test_real_steps_begin_with_an_emptied_ring_and_only_their_own_waits_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(reader: ShardReader) -> Any:
        reader.wait_seconds += 100
        return next_batch(reader)

    next_batch = ShardReader.__next__
    monkeypatch.setattr(ShardReader, "__next__", slow)
    data = {"prefetch_batches": 3}
    config = small_config(pack_small_set(tmp_path), tmp_path, train={"batch_size": 4}, data=data)
    with closing(MeasuredSteps(config, Worker(), (SYNTHETIC, REAL))) as steps:
        assert steps.block(Phase.JOINT, REAL, 2).waiting_s == pytest.approx(100, abs=10)
        assert steps._real is not None
        assert steps._real._reader.batches == 3 + 1 + 2
        assert steps.block(Phase.JOINT, SYNTHETIC, 2).waiting_s == 0


def test_steps_of_a_worker_alone_have_no_exchange_to_leave_out(tmp_path: Path) -> None:
    config = small_config("unread", tmp_path, train={"batch_size": 2})
    assert not MeasuredSteps(config, Worker(), (SYNTHETIC,)).can_skip_all_reduce
