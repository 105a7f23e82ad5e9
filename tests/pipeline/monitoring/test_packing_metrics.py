from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.schema import TelemetryConfig
from pipeline.monitoring.packing_metrics import PackingMetrics, run_label
from shards.packing.pack import pack_images
from tests.shards.pictures import small_recipe, write_class_folders


def values(metrics: PackingMetrics) -> dict[str, float]:
    """By name and the value of its own label, if it has one."""
    found = {}
    for family in metrics.set.collect():
        for sample in family.samples:
            own = [v for k, v in sample.labels.items() if k not in ("run", "host")]
            found[" ".join([sample.name.removeprefix("glcic_pack_"), *own])] = sample.value
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_a_pack_counts_its_images_samples_shards_and_bytes(tmp_path: Path, workers: int) -> None:
    source = write_class_folders(tmp_path / "source", classes=2, images_per_class=8)
    (source / "class-0" / "broken.jpg").write_bytes(b"no picture")
    metrics = PackingMetrics(str(tmp_path / "set"))
    recipe = small_recipe(images_per_shard=4, masks_per_image=2)
    with metrics.exported(TelemetryConfig(), print):
        manifest = pack_images(
            source, str(tmp_path / "set"), recipe, workers=workers, watch=metrics
        )
    found = values(metrics)
    shards = [shard for split in manifest.splits.values() for shard in split]
    assert found["images_total stored"] == found["samples_total"] / 2 == 16
    assert found["images_total refused"] == 1
    assert found["planned_images"] == found["done_images"] == 17
    assert found["shards_total"] == found["done_shards"] == len(shards)
    assert found["written_bytes_total"] == sum(shard.size_bytes for shard in shards)
    assert found["state finished"] == 1


def test_what_an_earlier_attempt_has_packed_is_done_but_not_counted_again(tmp_path: Path) -> None:
    source = write_class_folders(tmp_path / "source", classes=2, images_per_class=8)
    recipe = small_recipe(images_per_shard=4)

    class Interrupted(PackingMetrics):
        def shard_done(self, *arguments: object, **more: object) -> None:
            super().shard_done(*arguments, **more)
            raise KeyboardInterrupt

    first = Interrupted(str(tmp_path / "set"))
    with pytest.raises(KeyboardInterrupt), first.exported(TelemetryConfig(), print):
        pack_images(source, str(tmp_path / "set"), recipe, workers=1, watch=first)
    assert values(first)["state failed"] == 1
    second = PackingMetrics(str(tmp_path / "set"))
    pack_images(source, str(tmp_path / "set"), recipe, workers=1, watch=second)
    found = values(second)
    assert found["done_shards"] == found["planned_shards"]
    assert found["shards_total"] == found["planned_shards"] - 1
    assert values(first)["images_total stored"] + found["images_total stored"] == 16


@pytest.mark.parametrize(
    ("destination", "label"),
    [
        ("/data/places2/", "places2"),
        ("s3://key:secret@bucket/sets/places2", "places2"),
        ("s3://key:secret@bucket", "bucket"),
        ("https://host/places2?token=secret", "places2"),
    ],
)
def test_the_label_of_a_pack_holds_no_secret(destination: str, label: str) -> None:
    assert run_label(destination) == label
