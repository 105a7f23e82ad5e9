"""The two ways of packing that are compared, and the fidelity of what they store.

Both read the same files, scale the short side to the same size and write JPEG of the same quality
into tar shards; what is too small is refused by both.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import simplejpeg

from benchmarks.harness.flushed_writes import seconds_until_on_disk
from benchmarks.peers.adapters.conversion import resized_by_pillow
from shards.format.recipe import PackRecipe
from shards.images.conversion import StoredImage, UnusableImage, convert_image
from shards.masks.drawing import DrawnMasks, draw_masks
from shards.packing.pack import pack_images, pack_slice
from shards.packing.records import planned_shards
from shards.packing.shard_writer import ShardWriter

Submit = Callable[..., Future]  # of a pool of processes

_LUMA = np.array([0.299, 0.587, 0.114])  # weights of R, G, B


def pack_rate(
    source: Path, recipe: PackRecipe, processes: int, number: int = 0, of: int = 1
) -> float:
    """Images per second of `pack_images`: plan, indexes, checksums, flushing and manifest too. Of
    slice `number` of several: of `pack_slice`, as `glcic pack --slice` makes it.
    """
    stored = 0
    with tempfile.TemporaryDirectory(prefix="glcic-benchmark-") as folder:

        def pack() -> None:
            nonlocal stored
            target = f"{folder}/set"
            if of == 1:
                manifest = pack_images(source, target, recipe, workers=processes)
                stored = manifest.num_images("train")
            else:
                stored = pack_slice(source, target, recipe, number, of, workers=processes)

        seconds = seconds_until_on_disk(pack, folder)
    return stored / seconds


def paths_of_slice(paths: list[Path], recipe: PackRecipe, number: int, of: int) -> list[Path]:
    """Return those that `pack_slice` packs, of the plan's."""
    shards = planned_shards({"train": len(paths)}, recipe.images_per_shard)[number::of]
    return [path for shard in shards for path in paths[shard.start : shard.stop]]


def webdataset_rate(submit: Submit, paths: list[Path], recipe: PackRecipe, processes: int) -> float:
    """Images per second of that many processes, started before, with one ShardWriter each."""
    images = 0
    with tempfile.TemporaryDirectory(prefix="glcic-benchmark-") as folder:

        def pack() -> None:
            nonlocal images
            parts = [
                submit(write_with_webdataset, paths[number::processes], folder, number, recipe)
                for number in range(processes)
            ]
            images = sum(part.result() for part in parts)

        seconds = seconds_until_on_disk(pack, folder)
    return images / seconds


def write_with_webdataset(paths: list[Path], folder: str, number: int, recipe: PackRecipe) -> int:
    """Return the images that were written; `number` tells the shards of several processes apart."""
    from webdataset import ShardWriter

    images = 0
    pattern = f"{folder}/part-{number}-%06d.tar"
    with ShardWriter(pattern, maxcount=recipe.images_per_shard, verbose=0) as writer:
        for path in paths:
            image = resized_by_pillow(path, recipe.short_side)
            if image is None:
                continue
            jpeg = io.BytesIO()
            image.save(jpeg, "JPEG", quality=recipe.jpeg_quality)
            description = {"class": path.parent.name, "original_size": image.size}
            key = f"{number:02d}{images:08d}"
            writer.write({"__key__": key, "jpg": jpeg.getvalue(), "json": description})
            images += 1
    return images


Sample = tuple[StoredImage, DrawnMasks]


def stored_samples(paths: list[Path], recipe: PackRecipe) -> list[Sample]:
    """Encoded images and their masks, ready to be written."""
    samples = []
    for number, path in enumerate(paths):
        try:
            image = convert_image(path.read_bytes(), path.name, "train", recipe)
        except UnusableImage:
            continue
        samples.append((image, draw_masks(recipe, number)))
    return samples


def writing_rate(samples: list[Sample], recipe: PackRecipe, count: int) -> float:
    """Samples per second of the shard writer alone: checksums, hash, index and flushing."""
    with tempfile.TemporaryDirectory(prefix="glcic-benchmark-") as folder:

        def write() -> None:
            for shard in range(0, count, recipe.images_per_shard):
                writer = ShardWriter(folder, f"train-{shard:06d}.tar", recipe)
                for number in range(shard, min(shard + recipe.images_per_shard, count)):
                    description = {"class": "some", "label": 0, "original_size": [500, 375]}
                    image, masks = samples[number % len(samples)]
                    writer.add(number, image, 0, description, masks)
                writer.finish()

        return count / seconds_until_on_disk(write, folder)


def webdataset_writing_rate(samples: list[Sample], recipe: PackRecipe, count: int) -> float:
    """Return the same samples through webdataset.ShardWriter, described alike."""
    from webdataset import ShardWriter as PeerWriter

    def write(pattern: str) -> None:
        per_shard = recipe.images_per_shard
        with PeerWriter(pattern, maxcount=per_shard, maxsize=1e12, verbose=0) as writer:
            for number in range(count):
                image, masks = samples[number % len(samples)]
                description = {
                    "class": "some",
                    "label": 0,
                    "original_size": [500, 375],
                    "completion": masks.completion_holes.tolist(),
                    "discriminator": masks.discriminator_holes.tolist(),
                }
                writer.write({"__key__": f"{number:08d}", "jpg": image.data, "json": description})

    with tempfile.TemporaryDirectory(prefix="glcic-benchmark-") as folder:
        return count / seconds_until_on_disk(lambda: write(f"{folder}/train-%06d.tar"), folder)


def fidelity(paths: list[Path], recipe: PackRecipe) -> dict[str, list[float]]:
    """PSNR in dB of each image against Pillow's bicubic pixels before encoding.

    "stored": what pack_images stores. "stored by Pillow": the same pixels through Pillow's JPEG,
    so the loss of the encoding alone. "resize alone": the luma at quality 100, which keeps it to
    well under a level.
    """
    decibels: dict[str, list[float]] = {"stored": [], "stored by Pillow": [], "resize alone": []}
    finest = replace(recipe, jpeg_quality=100)
    for path in paths:
        image = resized_by_pillow(path, recipe.short_side)
        if image is None:
            continue
        try:
            stored, fine = (_decode(path, chosen) for chosen in (recipe, finest))
        except UnusableImage:
            continue
        reference = np.asarray(image, dtype=np.float64)
        jpeg = io.BytesIO()
        image.save(jpeg, "JPEG", quality=recipe.jpeg_quality)
        pillow = simplejpeg.decode_jpeg(jpeg.getvalue())
        decibels["stored"].append(psnr(stored, reference))
        decibels["stored by Pillow"].append(psnr(pillow, reference))
        decibels["resize alone"].append(psnr(fine @ _LUMA, reference @ _LUMA))
    return decibels


def _decode(path: Path, recipe: PackRecipe) -> np.ndarray:
    stored = convert_image(path.read_bytes(), path.name, "train", recipe)
    pixels: np.ndarray = simplejpeg.decode_jpeg(stored.data)
    return pixels


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """In dB, of pixels in [0, 255]; 99 where they are equal."""
    error = float(np.mean((first.astype(np.float64) - second) ** 2))
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))
