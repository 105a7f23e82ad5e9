from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.measured_steps import random_batch
from pipeline.feed import DeviceFeed
from pipeline.trainer import reader_spec
from pipeline.workers import Worker
from shards.reader import ShardReader
from tests.shards.pictures import pack_small_set
from tests.small_run import small_config


@pytest.mark.parametrize(
    ("channels_last", "layout"),
    [(True, torch.channels_last), (False, torch.contiguous_format)],
)
def test_images_have_the_layout_of_the_networks_and_so_have_random_ones(
    channels_last: bool, layout: torch.memory_format, tmp_path: Path
) -> None:
    train = {"channels_last": channels_last, "batch_size": 4}
    config, worker = small_config(pack_small_set(tmp_path), tmp_path, train=train), Worker()
    with ShardReader(reader_spec(config, worker)) as reader:
        feed = DeviceFeed(reader, config, 0, 1, worker.device)
        reader.start(0, 1)
        ((_, batch),) = feed.batches()
    for images in (batch.images, random_batch(config, worker).images):
        assert images.is_contiguous(memory_format=layout)
