"""Sheets of samples to look at: one row a sample, one column a stage of its completion."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from pipeline.evaluation import evaluated_samples, sample_tensors
from pipeline.losses import error_map
from pipeline.map_figures import rank_correlation
from pipeline.masking import composite
from pipeline.networks.erasing import completed_by
from shards.batches import read_in_order
from shards.manifest import load_manifest

HEADINGS = ("input", "mask", "raw output", "completion", "original")
MAP_HEADINGS = ("map", "true error")  # of networks with maps, on one scale: black 0, white 1
_SMALLEST_TILE_PX = 128
_GAP_PX = 8
_BACKGROUND, _INK = "white", "black"


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

    `title` stands above the headings; `fill_color` is shown in the hole of the input. Samples below
    128 pixels are enlarged. `fakeness` (N, 1, S, S), the finest maps, is shown beside the error
    times `map_scale`, with their rank correlation inside the hole below.
    """
    fill = torch.as_tensor(fill_color, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    columns = [
        torch.where(masks > 0.5, fill, images),
        masks.expand_as(images),
        raw,
        completed,
        images,
    ]
    headings, notes = list(HEADINGS), [""] * len(images)
    if fakeness is not None:
        error = error_map(completed, images, map_scale)
        columns += [one.expand_as(images) for one in (fakeness, error)]
        headings += MAP_HEADINGS
        notes = _correlations(fakeness, completed, images, masks)
    side = max(_SMALLEST_TILE_PX, images.shape[-1])
    step = side + _GAP_PX
    text_px = max(12, side // 11)
    row_step = step if fakeness is None else step + 2 * text_px  # room for a note
    font = ImageFont.load_default(size=text_px)
    line = 2 * text_px
    top = 2 * line if title else line
    size = (_GAP_PX + len(columns) * step, top + len(images) * row_step + _GAP_PX)
    sheet = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP_PX, line // 2), title, _INK, font, anchor="lm")
    for number, (heading, tensor) in enumerate(zip(headings, columns, strict=True)):
        x = _GAP_PX + number * step
        draw.text((x + side // 2, top - line // 2), heading, _INK, font, anchor="mm")
        enlarging = Image.Resampling.NEAREST if heading == "mask" else Image.Resampling.BICUBIC
        for row, values in enumerate(tensor):
            sheet.paste(_tile(values, side, enlarging), (x, top + _GAP_PX + row * row_step))
    for row, note in enumerate(notes):
        below = top + _GAP_PX + row * row_step + side + text_px
        corner = (_GAP_PX + len(HEADINGS) * step, below)
        draw.text(corner, note, _INK, font, anchor="lm")
    return sheet


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
    """The sheet of `count` validation samples, spread evenly, and the same as a PNG file.

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


def _tile(values: Tensor, side: int, enlarging: Image.Resampling) -> Image.Image:
    pixels = (values.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    tile = Image.fromarray(pixels.cpu().contiguous().numpy())
    return tile if tile.width == side else tile.resize((side, side), enlarging)
