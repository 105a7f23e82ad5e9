import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config import CompletionConfig
from pipeline.networks.completion import CompletionNetwork
from pipeline.sheets import HEADINGS, sample_sheet, validation_sheet
from tests.shards.pictures import pack_small_set

COLUMNS = len(HEADINGS)


def sample(side: int, count: int = 2) -> dict[str, torch.Tensor]:
    masks = torch.zeros(count, 1, side, side)
    masks[:, :, side // 4 : side // 2, side // 4 : side // 2] = 1
    shades = {"images": 0.2, "raw": 0.6, "completed": 0.8}
    return {name: torch.full((count, 3, side, side), shade) for name, shade in shades.items()} | {
        "masks": masks
    }


def tile_centres(sheet: Image.Image, side: int, row_top: int) -> list[int]:
    """The red value in the middle of the hole of each tile of a row."""
    step = (sheet.width - 8) // COLUMNS
    hole = side * 3 // 8
    pixels = np.asarray(sheet)
    return [int(pixels[row_top + hole, 8 + column * step + hole, 0]) for column in range(COLUMNS)]


@pytest.mark.parametrize(("side", "shown"), [(32, 128), (128, 128), (160, 160)])
def test_every_column_shows_its_stage_at_128_pixels_or_more(side: int, shown: int) -> None:
    sheet = sample_sheet(**sample(side), fill_color=(0.4, 0.4, 0.4))
    assert sheet.width == 8 + COLUMNS * (shown + 8)
    row_height = shown + 8
    last_row = sheet.height - 8 - row_height
    assert tile_centres(sheet, shown, last_row) == [102, 255, 153, 204, 51]
    assert tile_centres(sheet, shown, last_row - row_height) == [102, 255, 153, 204, 51]


def test_headings_and_title_are_written_in_room_of_their_own() -> None:
    plain = sample_sheet(**sample(64))
    titled = sample_sheet(**sample(64), title="a run")
    assert titled.height > plain.height
    heading = np.asarray(plain)[: plain.height - 2 * 136 - 8]
    step = (plain.width - 8) // COLUMNS
    for column in range(COLUMNS):
        assert (heading[:, 8 + column * step : column * step + step] < 128).any(), HEADINGS[column]


def test_the_validation_sheet_is_a_png_of_the_set(tmp_path: Path) -> None:
    shards_url = pack_small_set(tmp_path, images=24)
    network = CompletionNetwork(CompletionConfig(width=8)).eval()
    sheet, png = validation_sheet(
        network, shards_url, count=3, device=torch.device("cpu"), caption="run, step 7"
    )
    decoded = Image.open(io.BytesIO(png))
    assert decoded.format == "PNG"
    assert np.array_equal(np.asarray(decoded), np.asarray(sheet))
    fewer, _ = validation_sheet(network, shards_url, count=2, device=torch.device("cpu"))
    assert sheet.height > fewer.height > 2 * 128
