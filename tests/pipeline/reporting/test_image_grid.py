import numpy as np
import torch

from pipeline.reporting.image_grid import tile_grid


def test_small_samples_are_enlarged_and_large_ones_left_as_they_are() -> None:
    small, large = (torch.full((1, 3, side, side), 0.5) for side in (16, 200))
    assert tile_grid([("a", small)]).width == 8 + 128 + 8
    assert tile_grid([("a", small)], smallest_px=64).width == 8 + 64 + 8
    assert tile_grid([("a", large)]).width == 8 + 200 + 8


def test_rows_are_samples_and_columns_keep_their_order() -> None:
    black, white = torch.zeros(2, 3, 128, 128), torch.ones(2, 3, 128, 128)
    pixels = np.asarray(tile_grid([("black", black), ("map", white[:, :1])]))
    tiles = pixels[-(2 * 136 + 8) :]
    for row in (0, 1):
        middle = 8 + row * 136 + 64
        assert tiles[middle, 8 + 64].tolist() == [0, 0, 0]
        assert tiles[middle, 8 + 136 + 64].tolist() == [255, 255, 255]


def test_a_heading_of_several_lines_gets_the_room_it_needs() -> None:
    image = torch.zeros(1, 3, 128, 128)
    one, two = (tile_grid([(text, image)]) for text in ("a", "a\nb"))
    assert two.height > one.height


def test_maps_keep_the_edges_of_their_pixels_and_pictures_are_smoothed() -> None:
    pattern = torch.zeros(1, 1, 8, 8)
    pattern[..., ::2] = 1
    levels = [
        len(np.unique(np.asarray(tile_grid([("", one)]))[-100:-20, 20:100]))
        for one in (pattern, pattern.expand(1, 3, 8, 8))
    ]
    assert levels[0] == 2
    assert levels[1] > 2
