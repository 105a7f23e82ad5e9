"""Pack one shard of a plan, from its images' bytes to its record, without regard to others."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from shards.format.manifest import RefusedImage
from shards.format.recipe import PackRecipe
from shards.images.conversion import StoredImage, UnusableImage, convert_image
from shards.masks.drawing import draw_masks
from shards.packing.records import PlannedShard, ShardRecord, save_record
from shards.packing.shard_writer import ShardWriter
from shards.sources.plan import SourceImage, read_source_image
from shards.storage.files import is_local

READ_AHEAD = 16  # images asked for at once of a remote source: its latency is what costs
_LOG_EVERY = 16  # images

Advance = Callable[[int], None]  # images done since the last call


@dataclass(frozen=True)
class ShardTask:
    location: str  # of the source
    destination: str
    recipe: PackRecipe
    plan_sha256: str
    shard: PlannedShard
    images: list[SourceImage]
    labels: dict[str, int]  # of the classes that occur in it
    threads: int = 1  # that convert its images: more where there are fewer shards than cores


def pack_shard(task: ShardTask, advance: Advance) -> ShardRecord:
    """Write the shard, its index and, last of all, its record.

    Images that cannot be stored are refused in the record. OSError if the destination cannot be
    written or a remote source cannot be reached.
    """
    shard, recipe = task.shard, task.recipe
    writer: ShardWriter | None = None
    refused: list[RefusedImage] = []
    converted: Counter[str] = Counter()
    color_sum, num_pixels = np.zeros(3), 0
    try:
        for position, result in enumerate(_convert_images(task)):
            if position % _LOG_EVERY == _LOG_EVERY - 1:
                advance(_LOG_EVERY)
            image = task.images[position]
            if isinstance(result, UnusableImage):
                refused.append(RefusedImage(image.name, str(result)))
                continue
            writer = writer or ShardWriter(task.destination, shard.name, recipe)
            number, label = shard.first_image_number + position, task.labels[image.class_name]
            description = {
                "class": image.class_name,
                "label": label,
                "source": image.name,
                "original_size": list(result.original_size),
            }
            writer.add(number, result, label, description, draw_masks(recipe, number))
            converted.update(result.conversions)
            color_sum += result.color_sum
            num_pixels += result.width * result.height
        entry = writer.finish() if writer is not None else None
    except BaseException:
        if writer is not None:
            writer.abandon()
        raise
    advance(len(task.images) % _LOG_EVERY)
    red, green, blue = (int(channel) for channel in color_sum)
    record = ShardRecord(
        plan_sha256=task.plan_sha256,
        split=shard.split,
        name=shard.name,
        entry=entry,
        color_sum=(red, green, blue),
        num_pixels=num_pixels,
        converted=dict(sorted(converted.items())),
        refused=refused,
    )
    save_record(task.destination, record)
    return record


def _convert_images(task: ShardTask) -> Iterator[StoredImage | UnusableImage]:
    """In the order of the task, whichever thread is first."""
    reading = zip(task.images, _contents(task), strict=True)
    if task.threads == 1:
        for image, read in reading:
            yield _convert(task, image, read)
        return
    with ThreadPoolExecutor(task.threads, thread_name_prefix="convert") as pool:
        waiting: deque[Future[StoredImage | UnusableImage]] = deque()
        for image, read in reading:
            waiting.append(pool.submit(_convert, task, image, read))
            if len(waiting) > 4 * task.threads:  # bounds the memory
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _convert(
    task: ShardTask, image: SourceImage, read: Callable[[], bytes]
) -> StoredImage | UnusableImage:
    try:
        data = read()
    except OSError as error:
        # What lies on a remote store may only be out of reach for now: leaving it out would lose
        # it.
        is_remote = not is_local(image.name) or not is_local(task.location)
        if is_remote and not isinstance(error, FileNotFoundError):
            raise
        return UnusableImage(f"cannot be read: {error.strerror or error}")
    try:
        return convert_image(data, image.name, task.shard.split, task.recipe)
    except UnusableImage as error:
        return error


def _contents(task: ShardTask) -> Iterator[Callable[[], bytes]]:
    """Yield the reading of each image, in order; those of a remote source are asked for ahead."""
    if is_local(task.location) and all(is_local(image.name) for image in task.images):
        for image in task.images:
            yield lambda image=image: read_source_image(task.location, image)  # type: ignore[misc]
        return
    with ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="read") as pool:
        waiting: deque[Future[bytes]] = deque()
        for image in task.images:
            waiting.append(pool.submit(read_source_image, task.location, image))
            if len(waiting) >= READ_AHEAD:
                yield waiting.popleft().result
        while waiting:
            yield waiting.popleft().result


def usable_image(task: ShardTask) -> bool:
    """Return whether any image of the task can be stored. Writes nothing."""
    return any(isinstance(result, StoredImage) for result in _convert_images(task))
