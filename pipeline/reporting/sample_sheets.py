"""Sheets of samples to look at: one row a sample, one column a stage of its completion."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.evaluation.baselines import Baseline, membrane
from pipeline.evaluation.evaluate import evaluated_samples, sample_tensors
from pipeline.evaluation.map_metrics import rank_correlation
from pipeline.inference.photograph import quantized
from pipeline.inference.poisson_blending import blended
from pipeline.networks.base import completed_by
from pipeline.reporting.image_grid import tile_grid
from pipeline.step.device_feed import images_to_device
from pipeline.step.holes import composite
from pipeline.step.losses import error_map
from shards.format.manifest import load_manifest
from shards.reading.in_order import read_in_order

HEADINGS = ("input", "mask", "raw output", "completion", "blended", "membrane", "original")
MAP_HEADINGS = ("map", "true error")  # of networks with maps, on one scale: black 0, white 1


def sample_sheet(
    images: Tensor,
    masks: Tensor,
    raw: Tensor,
    completed: Tensor,
    title: str = "",
    fill_color: Sequence[float] = (0.5, 0.5, 0.5),
    fakeness: Tensor | None = None,
    map_scale: float = 2.0,
) -> Image.Image:
    """RGB image. Images (N, 3, S, S) in [0, 1], masks (N, 1, S, S) with 1 in the hole.

    "blended" is the completion after the paper's post-processing
    (`pipeline.inference.poisson_blending`), "membrane" a grey fill after the same: what the
    blending gives without any network. `title` stands above the headings; `fill_color` is shown in
    the hole of the input. Samples below 128 pixels are enlarged. `fakeness` (N, 1, S, S), the
    finest maps, is shown beside the error times `map_scale`, with their rank correlation inside the
    hole below.
    """
    fill = torch.as_tensor(fill_color, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    hidden = torch.where(masks > 0.5, fill, images)
    filled = [blended_images(completed, masks), membranes(images, masks)]
    stages = [hidden, masks, raw, completed, *filled, images]
    columns = list(zip(HEADINGS, stages, strict=True))
    if fakeness is None:
        return tile_grid(columns, title)
    maps = (fakeness, error_map(completed, images, map_scale))
    return tile_grid(
        [*columns, *zip(MAP_HEADINGS, maps, strict=True)], title,
        notes=_correlations(fakeness, completed, images, masks), notes_column=len(columns),
    )  # fmt: skip


def validation_sheet(
    network: nn.Module,
    shards_url: str,
    *,
    count: int,
    device: torch.device,
    map_scale: float = 2.0,
    caption: str = "",
    cache: str = "",
    cache_limit_bytes: int = 0,
) -> tuple[Image.Image, bytes]:
    """Return the sheet of `count` validation samples, spread evenly, and the same as a PNG file.

    `network` is in eval mode and on `device`. Raises ValueError if there are no such samples.
    """
    samples = evaluated_samples(load_manifest(shards_url).num_samples("val"), count)
    rows = []
    for batch in read_in_order(
        shards_url, "val", samples, batch_size=8, cache=cache, cache_limit_bytes=cache_limit_bytes
    ):
        images, masks = sample_tensors(batch, device)
        with torch.inference_mode():
            raw, maps = completed_by(network, images, masks)
        rows.append((images, masks, raw, composite(raw, images, masks), *maps[-1:]))
    title = f"{caption}: validation samples {', '.join(map(str, samples))}".lstrip(": ")
    fill = getattr(network, "fill_color", torch.full((3,), 0.5))
    images, masks, raw, completed, *finest = map(torch.cat, zip(*rows, strict=True))
    fakeness = finest[0] if finest else None
    sheet = sample_sheet(images, masks, raw, completed, title, fill.tolist(), fakeness, map_scale)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return sheet, buffer.getvalue()


def blended_images(completed: Tensor, masks: Tensor) -> Tensor:
    """Return the completions after the paper's post-processing, float32 (N, 3, S, S), on the CPU.

    `completed` (N, 3, S, S) in [0, 1], `masks` (N, 1, S, S) with 1 in the hole.
    """
    return _filled(blended, completed, masks)


def membranes(images: Tensor, masks: Tensor) -> Tensor:
    """Return the images with a membrane in the hole, float32 (N, 3, S, S), on the CPU."""
    return _filled(membrane, images, masks)


def _filled(fill: Baseline, images: Tensor, masks: Tensor) -> Tensor:
    """Return what `fill` makes of each image, in 8 bits, and of its mask."""
    pairs = zip(
        quantized(images.permute(0, 2, 3, 1).float().cpu().numpy()),
        masks[:, 0].cpu().numpy() > 0.5,
        strict=True,
    )
    filled = np.stack([fill(image, hole) for image, hole in pairs])
    return images_to_device(filled, torch.device("cpu"))


def _correlations(fakeness: Tensor, completed: Tensor, images: Tensor, masks: Tensor) -> list[str]:
    error = (completed - images).abs().mean(dim=1, keepdim=True).float().cpu()
    values, holes = fakeness.float().cpu(), masks.cpu() > 0.5
    found = [
        rank_correlation(one[hole].numpy(), its_error[hole].numpy())
        for one, its_error, hole in zip(values, error, holes, strict=True)
    ]
    return [
        "no correlation: constant" if math.isnan(r) else f"rank correlation in the hole {r:.2f}"
        for r in found
    ]
