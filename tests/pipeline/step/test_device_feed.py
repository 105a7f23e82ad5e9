from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.training.measured_steps import random_batch
from pipeline.config.schema import Config
from pipeline.engines.ddp import Worker
from pipeline.evaluation.evaluate import training_batches
from pipeline.step.device_feed import DeviceFeed
from pipeline.step.training_data import reader_spec
from pipeline.step.training_step import TrainingBatch
from shards.reading.reader import Batch, ShardReader
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


def small_holes(config: Config, worker: Worker) -> list[tuple[Batch, TrainingBatch]]:
    """The first batches of a reader and what the feed makes of them, the arrays copied."""
    with ShardReader(reader_spec(config, worker)) as reader:
        feed = DeviceFeed(reader, config, worker.rank, worker.world_size, worker.device)
        reader.start(0, 12)
        return [
            (replace(batch, completion_holes=batch.completion_holes.copy()), training_batch)
            for batch, training_batch in feed.batches()
        ]


def test_the_local_patch_never_lies_on_the_empty_place_of_a_hole(tmp_path: Path) -> None:
    """Sets of one and of three holes: a place of no hole has its corner at 0, 0."""
    one = pack_small_set(tmp_path, name="one", seed=1)
    three = pack_small_set(tmp_path, holes_per_mask=3, name="three")
    config = small_config(one, tmp_path, data={"mixture": [{"shards": three}]})
    chosen_of_three = set()
    for batch, training_batch in small_holes(config, Worker()):
        centred = batch.completion_holes[..., :2] + (batch.completion_holes[..., 2:] - 16) // 2
        possible = np.clip(centred, 0, 32 - 16)[..., ::-1]
        for row, corner in enumerate(training_batch.hole_corners.numpy()):
            count = 1 if batch.completion_holes[row, 1, 2] == 0 else 3
            matches = (possible[row, :count] == corner).all(axis=-1)
            assert matches.any()
            if count == 3:
                chosen_of_three.add(int(matches.argmax()))
    assert chosen_of_three == {0, 1, 2}


@pytest.mark.parametrize("local_patch", ["random_hole", "all_holes"])
@pytest.mark.parametrize("real_patch", ["random", "same"])
def test_fresh_holes_reach_the_step_with_the_patches_on_them(
    local_patch: str, real_patch: str, tmp_path: Path
) -> None:
    recipes = [
        {"masks": {"side_min": 4, "side_max": 6}},
        {"masks": {"kind": "strokes", "holes_per_mask": 2,
                   "strokes": {"length_max": 12, "width_min": 3, "width_max": 6}}},
    ]  # fmt: skip
    config = small_config(
        pack_small_set(tmp_path), tmp_path, data={"holes": "fresh", "fresh_masks": recipes},
        discriminator={"local_patch": local_patch}, loss={"real_patch": real_patch},
    )  # fmt: skip
    kinds = set()
    for batch, training_batch in small_holes(config, Worker()):
        assert training_batch.masks.shape == (12, 1, 32, 32)
        same = (training_batch.hole_corners == training_batch.real_corners).all()
        assert bool(same) == (real_patch == "same")
        for row, holes in enumerate(batch.completion_holes):
            kinds.add(bool(holes[1, 2]))
            mask = training_batch.masks[row, 0]
            y, x = training_batch.hole_corners[row].tolist()
            if not holes[1, 2]:  # one box: it lies in the patch as a whole
                assert mask[y : y + 16, x : x + 16].sum() == mask.sum()
                assert mask.sum() == holes[0, 2] * holes[0, 3]
    assert kinds == {False, True}


def test_recalibration_sees_the_holes_of_training(tmp_path: Path) -> None:
    recipes = [{"masks": {"side_min": 4, "side_max": 6}}]
    config = small_config(
        pack_small_set(tmp_path), tmp_path, data={"holes": "fresh", "fresh_masks": recipes}
    )
    (_, masks), *others = training_batches(config, Worker(), 32)
    assert len(others) == 1
    assert masks.sum(dim=(1, 2, 3)).min() >= 16
    assert masks.sum(dim=(1, 2, 3)).max() <= 36
    ((_, training_batch), *_) = small_holes(config, Worker())
    assert torch.equal(masks[:12], training_batch.masks)
