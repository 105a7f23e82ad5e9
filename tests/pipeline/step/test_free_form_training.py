"""Free-form masks on their way from the shards through training, evaluation and pictures."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from launch import preview
from pipeline.config.schema import Config
from pipeline.engines.ddp import Worker
from pipeline.evaluation.evaluate import evaluate, recalibrate, sample_tensors
from pipeline.evaluation.per_sample import EvaluationContext
from pipeline.networks.glcic import CompletionNetwork
from pipeline.reporting.sample_sheets import validation_sheet
from pipeline.step.device_feed import DeviceFeed, masks_to_device
from pipeline.step.training_data import reader_spec
from pipeline.training.trainer import train
from shards.format.recipe import MaskRecipe, StrokeRecipe
from shards.masks.drawing import decode_masks
from shards.packing.pack import pack_images
from shards.reading.batches import BatchAssembler
from shards.reading.in_order import read_in_order
from shards.reading.packed_set import ShardSet
from shards.reading.reader import ShardReader
from tests.shards.pictures import small_recipe, write_class_folders
from tests.small_run import small_config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """18 training and 6 validation images, two masks of strokes for each."""
    return pack_free_form(tmp_path_factory.mktemp("free-form"), crop_size=32)


def pack_free_form(folder: Path, crop_size: int) -> str:
    strokes = StrokeRecipe(length_min=4, length_max=12, width_min=3, width_max=6)
    masks = MaskRecipe(kind="strokes", masks_per_image=2, holes_per_mask=2, strokes=strokes)
    source = write_class_folders(folder / "source", 3, 8)
    recipe = replace(small_recipe(crop_size=crop_size), masks=masks)
    pack_images(source, str(folder / "set"), recipe, workers=1)
    return str(folder / "set")


@pytest.fixture
def config(shards: str, tmp_path: Path) -> Config:
    return small_config(
        shards, tmp_path / "run", schedule={"completion": 2, "discriminator": 1, "joint": 2},
        log={"sheet_every_steps": 2}, checkpoint={"every_steps": 5},
    )  # fmt: skip


def packed_masks(shards: str, split: str, size: int = 32) -> np.ndarray:
    """(samples, S, S) bool: all masks of a split, straight from the members of the shards."""
    shard_set = ShardSet(shards, split)
    with closing(shard_set):
        return np.concatenate(
            [
                decode_masks(shard_set.mask_bytes(shard, image), 2, size)
                for shard, entry in enumerate(shard_set.entries)
                for image in range(entry.num_images)
            ]
        )


def network() -> CompletionNetwork:
    torch.manual_seed(0)
    return CompletionNetwork(small_config("", Path()).completion).eval()


def test_masks_on_the_device_are_those_of_the_shards_and_no_boxes(
    shards: str, config: Config
) -> None:
    expected = packed_masks(shards, "train")
    with closing(BatchAssembler(reader_spec(config, Worker()))) as assembler:
        batches = [assembler.assemble(step) for step in range(3)]
    for batch in batches:
        masks = masks_to_device(batch, CPU)
        assert masks.shape == (12, 1, 32, 32)
        assert np.array_equal(masks[:, 0].numpy() > 0.5, expected[batch.samples])
        boxes = np.zeros((12, 32, 32), dtype=bool)
        for row, holes in enumerate(batch.completion_holes):
            for x, y, width, height in holes:
                boxes[row, y : y + height, x : x + width] = True
        assert not (expected[batch.samples] & ~boxes).any()
        assert (expected[batch.samples].sum() / boxes.sum()) < 0.95


def test_the_feed_gives_the_trainer_the_same_masks_and_patches_inside_the_image(
    shards: str, config: Config
) -> None:
    expected = packed_masks(shards, "train")
    with ShardReader(reader_spec(config, Worker()), timeout_s=60) as reader:
        feed = DeviceFeed(reader, config, 0, 1, CPU)
        reader.start(0, 4)
        for source, batch in feed.batches():
            assert np.array_equal(batch.masks[:, 0].numpy() > 0.5, expected[source.samples])
            assert int(batch.hole_corners.min()) >= 0
            assert int(batch.hole_corners.max()) <= 32 - 16
        feed.close()


def test_a_crop_that_fills_no_whole_bytes_keeps_its_last_columns(tmp_path: Path) -> None:
    shards = pack_free_form(tmp_path, crop_size=36)
    config = small_config(
        shards, tmp_path / "run", pack={"crop_size": 36}, data={"short_side_min": 36}
    )
    trained, validated = (packed_masks(shards, split, 36) for split in ("train", "val"))
    with closing(BatchAssembler(reader_spec(config, Worker()))) as assembler:
        batches = [assembler.assemble(step) for step in range(3)]
    for batch in batches:
        masks = masks_to_device(batch, CPU)[:, 0].numpy() > 0.5
        assert np.array_equal(masks, trained[batch.samples])
    assert any(trained[batch.samples][:, :, 32:].any() for batch in batches)
    for batch in read_in_order(shards, "val", range(12), batch_size=12):
        masks = masks_to_device(batch, CPU)[:, 0].numpy() > 0.5
        assert np.array_equal(masks, validated[batch.samples])


def test_validation_reads_the_same_masks(shards: str) -> None:
    expected = packed_masks(shards, "val")
    for batch in read_in_order(shards, "val", range(12), batch_size=5):
        _, masks = sample_tensors(batch, CPU)
        assert np.array_equal(masks[:, 0].numpy() > 0.5, expected[batch.samples])


@pytest.mark.slow
def test_a_small_run_trains_evaluates_and_draws(shards: str, config: Config) -> None:
    outcome = train(config, Worker())
    assert outcome.finished
    assert outcome.evaluation is not None
    assert outcome.evaluation.num_samples == 4
    assert outcome.evaluation.methods["glcic"]["hole_mse"] > 0
    sheets = sorted(path.name for path in Path(config.folder, "sheets").iterdir())
    assert sheets == ["step-000000002.png", "step-000000004.png", "step-000000005.png"]


def test_figures_count_the_pixels_of_the_mask_and_not_of_its_boxes(shards: str) -> None:
    class WrongInTheMask(torch.nn.Module):
        def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return torch.where(mask > 0.5, 1 - image, image)

    metrics = evaluate(
        WrongInTheMask(), shards, EvaluationContext(CPU), baselines=(), blend=False
    ).methods["glcic"]
    errors = []
    expected = packed_masks(shards, "val")
    for batch in read_in_order(shards, "val", range(12), batch_size=12):
        images = batch.images.astype(np.float64) / 255
        for image, mask in zip(images, expected[batch.samples], strict=True):
            errors.append(((1 - 2 * image[mask]) ** 2).mean())
    assert metrics["hole_mse"] == pytest.approx(np.mean(errors), rel=1e-3)
    assert metrics["known_mse_of_raw"] == pytest.approx(0, abs=1e-12)


def test_recalibration_reads_them_too(config: Config) -> None:
    result = recalibrate(network(), config, Worker())
    assert torch.isfinite(result.encoder["1"].norm.running_mean).all()


def test_the_validation_sheet_shows_the_masks_themselves(shards: str) -> None:
    sheet, _ = validation_sheet(network(), shards, count=2, device=CPU)
    expected = packed_masks(shards, "val")
    pixels = np.asarray(sheet)[:, :, 0]
    for row, sample in ((0, 0), (1, 6)):
        top = sheet.height - (2 - row) * 136
        tile = pixels[top : top + 128, 8 + 136 : 8 + 136 + 128]
        assert np.array_equal(tile[2::4, 2::4] > 127, expected[sample])


def test_the_preview_shows_the_masks_themselves(shards: str, tmp_path: Path) -> None:
    output = tmp_path / "preview.png"
    assert preview.main([shards, "--split", "val", "--output", str(output), "--count", "2"]) == 0
    pixels = np.asarray(Image.open(output).convert("L")) > 127
    mask = packed_masks(shards, "val")[0].repeat(4, axis=0).repeat(4, axis=1)  # drawn enlarged
    width = pixels.shape[1]
    tile = pixels[20 : 20 + 128, width - 136 : width - 8]
    assert np.array_equal(tile, mask)
