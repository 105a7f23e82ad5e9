from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.exports.onnx.calibration_data import Batches, configuration_of, quantization_samples
from tests.shards.pictures import pack_small_set
from tests.small_run import small_config


def images_of(batches: Batches) -> set[bytes]:
    """What tells the pictures of a small set from each other, whatever was cropped from them."""
    return {image.numpy().tobytes() for images, _ in batches for image in images}


def test_a_network_is_compared_on_validation_samples_where_there_are_any(tmp_path: Path) -> None:
    config = small_config(pack_small_set(tmp_path, images=48), tmp_path)
    samples = quantization_samples(config, 16)
    assert (samples.num_calibration_images, samples.compared_split) == (16, "validation")
    assert 0 < samples.num_compared_images <= 12
    for image, mask in samples.calibration + samples.comparison:
        assert image.shape[1:] == (3, 32, 32)
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        assert 0 <= image.min() <= image.max() <= 1


def test_without_them_it_is_compared_on_training_samples_that_were_left_out(
    tmp_path: Path,
) -> None:
    shards = pack_small_set(tmp_path, images=48, validation_fraction=0.0)
    whole = {"short_side_min": 48, "short_side_max": 48, "horizontal_flip": False}
    config = small_config(shards, tmp_path, data=whole)
    samples = quantization_samples(config, 128)
    assert samples.compared_split == "training"
    found = [images_of(batches) for batches in (samples.calibration, samples.comparison)]
    assert [len(one) for one in found] == [39, 9], "of 48 a fifth is held back"
    assert not found[0] & found[1]
    assert quantization_samples(config, 20).num_calibration_images == 20


def test_a_set_too_small_for_both_is_refused(tmp_path: Path) -> None:
    shards = pack_small_set(tmp_path, images=3, validation_fraction=0.0)
    assert quantization_samples(small_config(shards, tmp_path), 128).num_compared_images == 1
    alone = pack_small_set(tmp_path, images=1, classes=1, validation_fraction=0.0, name="alone")
    with pytest.raises(ValueError, match=r"alone has 1 samples, too few .*--shards"):
        quantization_samples(small_config(alone, tmp_path), 128)


def test_an_exported_network_is_calibrated_on_any_set(tmp_path: Path) -> None:
    shards = pack_small_set(tmp_path, images=48)
    config = configuration_of({"completion": {"kind": "unet", "width": 8}}, shards)
    assert (config.data.short_side_min, config.data.short_side_max) == (32, 48)
    assert config.completion.kind == "unet"
    first, again = (quantization_samples(config, 20).calibration for _ in range(2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
