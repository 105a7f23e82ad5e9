import numpy as np
import pytest
import simplejpeg

from benchmarks.harness.photographs import pack_both_ways
from benchmarks.peers import loading
from benchmarks.peers.adapters.stored_images import StoredImages
from tests.shards.pictures import write_class_folders


@pytest.fixture
def stored(tmp_path):
    source = write_class_folders(tmp_path / "source")
    shards, _ = pack_both_ways(source, tmp_path, crop_size=32)
    return {
        "shards": shards,
        "split": "val",
        "folder": str(tmp_path / "peers"),
        "crop_size": 32,
        "batch_size": 4,
    }


def use_library(monkeypatch, batch):
    class Library:
        @staticmethod
        def batches(images, folder, decoder, workers):
            while True:
                yield batch

    monkeypatch.setattr(loading, "_library", lambda name: Library)


def pixels(stored):
    jpegs = StoredImages(**stored).jpegs()[: stored["batch_size"]]
    return np.stack([simplejpeg.decode_jpeg(jpeg) for jpeg in jpegs])


def test_right_pixels_pass_in_either_order_of_axes(monkeypatch, stored):
    batch = pixels(stored)
    for given in (batch, batch.transpose(0, 3, 1, 2)):
        use_library(monkeypatch, given)
        assert loading.check_pixels("fake", "simplejpeg", 0, stored) == 0
    assert loading.rate("fake", "own", 0, stored, 0.01) > 0


def test_one_level_off_is_another_decoder_and_not_simplejpeg(monkeypatch, stored):
    batch = np.clip(pixels(stored), 1, 255) - np.uint8(1)
    use_library(monkeypatch, batch)
    assert 0 < loading.check_pixels("fake", "own", 0, stored) <= 1
    with pytest.raises(ValueError, match="pixels differ"):
        loading.check_pixels("fake", "simplejpeg", 0, stored)


def test_other_images_and_one_image_all_over_are_refused(monkeypatch, stored):
    batch = pixels(stored)
    use_library(monkeypatch, 255 - batch)
    with pytest.raises(ValueError, match="pixels differ"):
        loading.check_pixels("fake", "own", 0, stored)
    use_library(monkeypatch, np.repeat(batch[:1], 4, axis=0))
    with pytest.raises(ValueError, match="are the same"):
        loading.check_pixels("fake", "own", 0, stored)


@pytest.mark.parametrize("wrong", [np.zeros((4, 16, 16, 3), np.uint8), np.zeros((4, 32, 32, 3))])
def test_a_batch_of_another_shape_or_type_is_refused(monkeypatch, stored, wrong):
    use_library(monkeypatch, wrong)
    with pytest.raises(ValueError, match="a batch is"):
        loading.rate("fake", "own", 0, stored, 0.01)
