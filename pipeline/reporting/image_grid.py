"""A grid of pictures with headings: rows are samples, columns what is shown of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SMALLEST_TILE_PX = 128
_GAP_PX = 8
_BACKGROUND, _INK = "white", "black"


def tile_grid(
    columns: Sequence[tuple[str, Tensor]],
    title: str = "",
    *,
    notes: Sequence[str] = (),
    notes_column: int = 0,
    smallest_px: int = SMALLEST_TILE_PX,
) -> Image.Image:
    """RGB. Columns are (heading, (N, 3 or 1, S, S) in [0, 1]); small samples are enlarged.

    `notes`, one for each row, stand below it, from the column `notes_column` on.
    """
    side = max(smallest_px, columns[0][1].shape[-1])
    step, text_px = side + _GAP_PX, max(12, side // 11)
    row_step = step + 2 * text_px if notes else step
    font, line = ImageFont.load_default(size=text_px), 2 * text_px
    lines = max(len(heading.split("\n")) for heading, _ in columns)
    top = (line if title else 0) + line + (lines - 1) * text_px * 5 // 4
    size = (_GAP_PX + len(columns) * step, top + len(columns[0][1]) * row_step + _GAP_PX)
    grid = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(grid)
    draw.text((_GAP_PX, line // 2), title, _INK, font, anchor="lm")
    for number, (heading, tensor) in enumerate(columns):
        x = _GAP_PX + number * step
        middle = top - (line + (lines - 1) * text_px * 5 // 4) // 2
        draw.multiline_text(
            (x + side // 2, middle), heading, _INK, font, anchor="mm", align="center"
        )
        for row, values in enumerate(tensor):
            grid.paste(_tile(values, side), (x, top + _GAP_PX + row * row_step))
    for row, note in enumerate(notes):
        below = top + _GAP_PX + row * row_step + side + text_px
        draw.text((_GAP_PX + notes_column * step, below), note, _INK, font, anchor="lm")
    return grid


def _tile(values: Tensor, side: int) -> Image.Image:
    pixels = (values.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = pixels.expand(3, -1, -1).permute(1, 2, 0)
    tile = Image.fromarray(pixels.cpu().contiguous().numpy())
    if tile.width == side:
        return tile
    # Masks and maps keep their pixels' edges.
    method = Image.Resampling.NEAREST if values.shape[0] == 1 else Image.Resampling.BICUBIC
    return tile.resize((side, side), method)
