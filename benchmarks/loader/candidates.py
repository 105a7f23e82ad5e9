"""The loaders that are compared. Each is an iterator that yields how many images it just loaded.

All deliver batches of uint8 RGB crops, with the samples' labels and holes, in a shuffled order;
bare decoding delivers pixels only, and is the limit of the others.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from benchmarks.peers.adapters.stored_images import shards_of_worker
from benchmarks.peers.loading_rate import Batches, LoadCase
from shards.cache.shard_cache import ShardCache
from shards.format.manifest import load_manifest
from shards.reading.batches import BatchAssembler
from shards.reading.open_shard import OpenShard
from shards.reading.packed_set import ShardSet
from shards.reading.reader import ShardReader
from shards.storage.files import is_local, join_url

_EPOCHS = 10_000  # more than any measurement reads
_LAST_STEP = 1_000_000_000
_SHUFFLE_BUFFER = 100  # samples, and shards, of webdataset
_HELD_BYTES = 1 << 30  # of JPEGs in memory, for bare decoding
_CACHED_SHARDS = 4  # of a remote set, for loaders that read files


def bare_decoding(case: LoadCase) -> Batches:
    """The stored JPEGs, whole, one after the other into the same memory."""
    jpegs, buffer = _jpegs_and_buffer(case)
    while True:
        for jpeg in jpegs:
            simplejpeg.decode_jpeg(jpeg, buffer=buffer)
        yield len(jpegs)


def bare_decoding_2_threads(case: LoadCase) -> Batches:
    jpegs, buffer = _jpegs_and_buffer(case)

    def decode(part: list[bytes], into: np.ndarray) -> None:
        for jpeg in part:
            simplejpeg.decode_jpeg(jpeg, buffer=into)

    with ThreadPoolExecutor(2) as pool:
        while True:
            second = pool.submit(decode, jpegs[1::2], buffer.copy())
            pool.submit(decode, jpegs[::2], buffer).result()
            second.result()
            yield len(jpegs)


def _jpegs_and_buffer(case: LoadCase) -> tuple[list[bytes], np.ndarray]:
    """Exactly one buffer's worth for the largest image."""
    shards = ShardSet(case.shards, case.split, case.cache, cache_limit_bytes=case.cache_limit_bytes)
    opened: list[OpenShard] = []
    jpegs: list[bytes] = []
    for number in shards_of_worker(len(shards.entries), case.rank, case.world_size):
        shard = shards.open(number)
        opened.append(shard)
        jpegs += [bytes(shard.image_bytes(image)) for image in range(len(shard.records))]
        if sum(map(len, jpegs)) > _HELD_BYTES:
            break
    pixels = max(
        width * height
        for shard in opened
        for width, height in zip(shard.widths, shard.heights, strict=True)
    )
    shards.close()
    return jpegs, np.empty(pixels * 3, dtype=np.uint8)


def batch_assembler(case: LoadCase) -> Batches:
    """In this process, one decoding thread, into the memory of one batch."""
    assembler = BatchAssembler(case.spec(threads=1))
    arrays = assembler.layout.allocate()
    try:
        for step in range(_LAST_STEP):
            assembler.assemble(step, arrays)
            yield case.batch_size
    finally:
        assembler.close()


def shard_reader(case: LoadCase) -> Batches:
    yield from shard_reader_with(case, threads=1)


def shard_reader_2_threads(case: LoadCase) -> Batches:
    yield from shard_reader_with(case, threads=2)


def shard_reader_with(case: LoadCase, threads: int) -> Batches:
    with ShardReader(case.spec(threads)) as reader:
        reader.start(0, _LAST_STEP)
        for batch in reader:
            batch.release()
            yield case.batch_size


def webdataset_pil(case: LoadCase) -> Batches:
    def pixels(image: Image.Image) -> np.ndarray:
        if case.resamples:
            x, y, side, flip = _random_box(case, *image.size)
            image = image.resize(
                (case.crop_size, case.crop_size),
                Image.Resampling.BILINEAR,
                box=(x, y, x + side, y + side),
            )
            if flip:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(image)

    yield from _webdataset(case, "pil", pixels)


def webdataset_simplejpeg(case: LoadCase) -> Batches:
    import webdataset

    def pixels(image: np.ndarray) -> np.ndarray:
        if not case.resamples:
            return image
        x, y, side, flip = _random_box(case, image.shape[1], image.shape[0])
        method = cv2.INTER_AREA if side > case.crop_size else cv2.INTER_CUBIC
        region = image[y : y + side, x : x + side]
        resized = cv2.resize(region, (case.crop_size, case.crop_size), interpolation=method)
        return cv2.flip(resized, 1) if flip else resized

    decoder = webdataset.handle_extension("jpg", simplejpeg.decode_jpeg)
    yield from _webdataset(case, decoder, pixels)


def _webdataset(case: LoadCase, decoder: Any, pixels: Callable[[Any], np.ndarray]) -> Batches:
    """webdataset's usual pipeline: its own reading, shuffling, decoding and batching."""
    import webdataset

    with ExitStack() as held:
        dataset = (
            # Repeated as a list: batches run on over the ends of epochs, and none is cut short.
            webdataset.WebDataset(_files(case, held) * _EPOCHS, shardshuffle=_SHUFFLE_BUFFER)
            .shuffle(_SHUFFLE_BUFFER)
            .decode(decoder)
            .to_tuple("jpg", "json")
            .map_tuple(pixels, lambda description: description)
            .batched(case.batch_size, partial=False)
        )
        shape = (case.batch_size, case.crop_size, case.crop_size, 3)
        for images, _ in dataset:
            assert np.shape(images) == shape, np.shape(images)
            yield case.batch_size


def _files(case: LoadCase, held: ExitStack) -> list[str]:
    """The worker's shards; of a remote set copies in this project's cache, `held` there."""
    entries = load_manifest(case.shards).splits[case.split]
    own = [entries[n] for n in shards_of_worker(len(entries), case.rank, case.world_size)]
    if is_local(case.shards):
        return [join_url(case.shards, entry.name) for entry in own]
    cache = held.enter_context(closing(ShardCache(case.shards, case.cache, case.cache_limit_bytes)))
    files = [held.enter_context(cache.open(entry)) for entry in own[:_CACHED_SHARDS]]
    return [str(file.path) for file in files]


def _random_box(case: LoadCase, width: int, height: int) -> tuple[int, int, int, bool]:
    """x, y, side and flip, distributed as `shards.sampling.crops.crop_box` draws them."""
    short_side = min(width, height)
    target = random.randint(case.short_side_min, case.short_side_max)
    side = min(short_side, max(1, round(case.crop_size * short_side / target)))
    x, y = random.randint(0, width - side), random.randint(0, height - side)
    return x, y, side, case.flip and random.random() < 0.5
