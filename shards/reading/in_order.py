"""Read the samples of a split one after the other, for evaluation."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from shards.format.manifest import Manifest
from shards.reading.batches import Batch
from shards.reading.open_shard import OpenShard
from shards.reading.packed_set import ShardSet
from shards.reading.ring import BatchLayout
from shards.reading.samples import fill_holes
from shards.sampling.crops import CropBox


def read_in_order(
    shards_url: str,
    split: str,
    samples: Iterable[int],
    batch_size: int,
    cache: str = "",
    cache_limit_bytes: int = 0,
) -> Iterator[Batch]:
    """The given samples of a split as they are stored, without resampling; the last batch may be
    smaller. Raises ValueError where an image is not stored at the size of the crop; only of shards
    that others have packed the centre square is taken, scaled to that size."""
    shard_set = ShardSet(shards_url, split, cache, cache_limit_bytes=cache_limit_bytes)
    recipe = shard_set.manifest.recipe
    remaining = iter(samples)
    try:
        for step in itertools.count():
            chosen = list(itertools.islice(remaining, batch_size))
            if not chosen:
                return
            layout = BatchLayout(
                len(chosen),
                recipe.crop_size,
                recipe.masks.holes_per_mask,
                recipe.masks.kind == "strokes",
            )
            arrays = layout.allocate()
            for row, sample in enumerate(chosen):
                number, position = shard_set.locate(sample)
                shard = shard_set.open(number)
                image, mask = divmod(position, shard_set.masks_per_image)
                box = _stored_square(shard, image, shard_set.manifest)
                shard.decode(image, box, arrays.images[row])
                fill_holes(shard_set, shard, image, mask, arrays, row)
                arrays.samples[row], arrays.labels[row] = sample, shard.labels[image]
            yield Batch.over(arrays, step)
    finally:
        shard_set.close()


def _stored_square(shard: OpenShard, image: int, manifest: Manifest) -> CropBox:
    width, height, size = shard.widths[image], shard.heights[image], manifest.recipe.crop_size
    if manifest.plan_sha256 and (width, height) != (size, size):
        raise ValueError(
            f"{shard.image_name(image)} has {width} x {height} pixels, not the crop's {size} x "
            f"{size}: only validation images can be read without resampling"
        )
    side = min(width, height)
    return CropBox(x=(width - side) // 2, y=(height - side) // 2, side=side, flip=False)
