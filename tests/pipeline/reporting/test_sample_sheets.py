import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config.schema import CompletionConfig
from pipeline.networks.dam import AttentionCompletionNetwork
from pipeline.networks.glcic import CompletionNetwork
from pipeline.reporting.sample_sheets import HEADINGS, MAP_HEADINGS, sample_sheet, validation_sheet
from tests.shards.pictures import pack_small_set

COLUMNS = len(HEADINGS)


def sample(side: int, count: int = 2) -> dict[str, torch.Tensor]:
    masks = torch.zeros(count, 1, side, side)
    masks[:, :, side // 4 : side // 2, side // 4 : side // 2] = 1
    images, raw = (torch.full((count, 3, side, side), shade) for shade in (0.2, 0.6))
    completed = torch.where(masks > 0.5, 0.8, images)  # flat, so that blending finds the 0.2 again
    return {"images": images, "raw": raw, "completed": completed, "masks": masks}


def tile_centres(sheet: Image.Image, side: int, row_top: int, columns: int = COLUMNS) -> list[int]:
    """The red value in the middle of the hole of each tile of a row."""
    step = (sheet.width - 8) // columns
    hole = side * 3 // 8
    pixels = np.asarray(sheet)
    return [int(pixels[row_top + hole, 8 + column * step + hole, 0]) for column in range(columns)]


@pytest.mark.parametrize(("side", "shown"), [(32, 128), (128, 128), (160, 160)])
def test_every_column_shows_its_stage_at_128_pixels_or_more(side: int, shown: int) -> None:
    sheet = sample_sheet(**sample(side), fill_color=(0.4, 0.4, 0.4))
    assert sheet.width == 8 + COLUMNS * (shown + 8)
    row_height = shown + 8
    last_row = sheet.height - 8 - row_height
    for top in (last_row, last_row - row_height):
        centres = tile_centres(sheet, shown, top)
        # Blended, a flat completion follows its surroundings, as the membrane does.
        assert centres == pytest.approx([102, 255, 153, 204, 51, 51, 51], abs=1)


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


def test_maps_are_shown_beside_the_true_error_with_a_note_of_their_correlation() -> None:
    fakeness = torch.linspace(0, 0.5, 128 * 128).view(1, 1, 128, 128).repeat(2, 1, 1, 1)
    values = sample(128)
    values["completed"] = values["completed"] + values["masks"] * fakeness * 0.1
    sheet = sample_sheet(**values, fakeness=fakeness, map_scale=0.5)
    columns = COLUMNS + len(MAP_HEADINGS)
    assert sheet.width == 8 + columns * 136
    pixels = np.asarray(sheet)
    first_row = sheet.height - 2 * (136 + 24)
    shown = tile_centres(sheet, 128, first_row, columns)
    true_error = 255 * 0.5 * float((values["completed"] - values["images"])[0, 0, 48, 48])
    assert shown[-2:] == [round(255 * float(fakeness[0, 0, 48, 48])), round(true_error)]
    below = pixels[first_row + 128 : first_row + 152]
    assert (below[:, 8 + COLUMNS * 136 :] < 128).any()
    assert (below[:, : 8 + COLUMNS * 136] == 255).all()


def test_a_network_with_maps_has_them_on_its_validation_sheet(tmp_path: Path) -> None:
    shards_url = pack_small_set(tmp_path, images=24)
    sheets = [
        validation_sheet(network.eval(), shards_url, count=3, device=torch.device("cpu"))[0]
        for network in (
            CompletionNetwork(CompletionConfig(width=8)),
            AttentionCompletionNetwork(CompletionConfig(kind="dam", width=8)),
            AttentionCompletionNetwork(
                CompletionConfig(kind="dam", width=8, attention_maps="zero")
            ),
        )
    ]
    assert sheets[2].size == sheets[0].size
    assert sheets[1].width - sheets[0].width == len(MAP_HEADINGS) * 136
    assert sheets[1].height > sheets[0].height
