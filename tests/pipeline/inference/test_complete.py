from typing import Any

import cv2
import numpy as np
import pytest
import torch
from skimage import data
from torch import nn

from pipeline.config.schema import CompletionConfig
from pipeline.evaluation.batch_norm_recalibration import recalibrated
from pipeline.inference.complete import Window, complete, predicted, windows_of
from pipeline.networks.glcic import CompletionNetwork
from pipeline.networks.registry import COMPLETION_NETWORKS


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Random weights with the statistics of a photograph, so that every layer is alive."""
    torch.manual_seed(0)
    pixels = torch.from_numpy(photograph(128, 128)).permute(2, 0, 1)[None].float() / 255
    fresh = CompletionNetwork(CompletionConfig(width=8))
    return recalibrated(fresh, [(pixels, torch.zeros(1, 1, 128, 128))])


def photograph(width: int, height: int) -> np.ndarray:
    return cv2.resize(data.astronaut(), (width, height), interpolation=cv2.INTER_AREA)


def mask_of(width: int, height: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    for x, y, box_width, box_height in boxes:
        mask[y : y + box_height, x : x + box_width] = True
    return mask


def test_the_windows_give_what_the_whole_image_gives(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = photograph(703, 598)
    mask = mask_of(703, 598, (333, 281, 38, 20), (690, 580, 13, 18), (0, 0, 9, 7))
    assert len(windows_of(np.pad(mask, ((0, 2), (0, 1))), 152, 4)) == 3
    in_windows = predicted(network, image, mask)
    whole = "pipeline.inference.complete.windows_of"
    monkeypatch.setattr(whole, lambda mask, *_: [Window(0, 0, *mask.shape)])
    at_once = predicted(network, image, mask)
    assert at_once[mask].std() > 0.05
    np.testing.assert_allclose(in_windows, at_once, atol=1e-4)


@pytest.mark.parametrize(
    "kind",
    [
        {"kind": "dam"},
        {"kind": "dam", "attention_kernel": 3},
        {"kind": "dam", "attention_kernel": 3, "attention_maps": "zero"},
        {"kind": "dam", "attention_form": "author"},
        {"kind": "unet"},
        {"kind": "unet", "depth": 5, "channels_max": 64},
    ],
    ids=str,
)
def test_the_windows_of_other_networks_give_what_the_whole_image_gives(
    kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    fresh = COMPLETION_NETWORKS[kind["kind"]](CompletionConfig(width=8, **kind))
    for name, parameter in fresh.named_parameters():
        if "attention" in name and parameter.dim() == 4:
            torch.nn.init.normal_(parameter, std=0.2)  # a fresh block looks at one pixel alone
    pixels = torch.from_numpy(photograph(128, 128)).permute(2, 0, 1)[None].float() / 255
    network = recalibrated(fresh, [(pixels, torch.zeros(1, 1, 128, 128))])
    image, mask = photograph(603, 598), mask_of(603, 598, (283, 281, 38, 20), (0, 0, 9, 7))
    in_windows = predicted(network, image, mask)
    whole = "pipeline.inference.complete.windows_of"
    monkeypatch.setattr(whole, lambda mask, *_: [Window(0, 0, *mask.shape)])
    at_once = predicted(network, image, mask)
    assert at_once[mask].std() > 0.02
    np.testing.assert_allclose(in_windows, at_once, atol=1e-4)


def test_less_context_than_the_receptive_field_would_change_the_result(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask = photograph(600, 400), mask_of(600, 400, (290, 190, 24, 24))
    expected = predicted(network, image, mask)
    monkeypatch.setattr(network, "context_px", network.context_px - 16)
    assert np.abs(predicted(network, image, mask) - expected).max() > 1e-3


def test_windows_are_aligned_to_the_networks_strides_and_cut_at_the_border() -> None:
    windows = windows_of(mask_of(800, 400, (301, 2, 9, 10), (303, 30, 5, 5)), 152, 4)
    assert windows == [Window(top=0, left=148, height=188, width=316)]


def test_distant_holes_have_windows_of_their_own() -> None:
    windows = windows_of(mask_of(1200, 400, (200, 200, 20, 20), (900, 200, 20, 20)), 152, 4)
    assert len(windows) == 2
    assert all(window.width < 400 for window in windows)


@pytest.mark.parametrize("blend", [False, True])
@pytest.mark.parametrize("size", [(96, 64), (97, 61), (33, 31), (5, 40), (2, 3)])
def test_known_pixels_come_back_bit_for_bit_at_any_size(
    network: nn.Module, size: tuple[int, int], blend: bool
) -> None:
    width, height = size
    image = photograph(width, height)
    mask = mask_of(width, height, (width // 2, height // 3, max(1, width // 3), height))
    result = complete(network, image, mask, blend=blend)
    assert result.dtype == np.uint8
    assert result.shape == image.shape
    assert np.array_equal(result[~mask], image[~mask])


def test_what_was_in_the_hole_does_not_change_the_completion(network: nn.Module) -> None:
    image, mask = photograph(90, 70), mask_of(90, 70, (30, 20, 25, 50))
    other = image.copy()
    other[mask] = 255 - other[mask]
    for options in ({"blend": True}, {"longest_side": 45}):
        first = complete(network, image, mask, **options)
        assert np.array_equal(first, complete(network, other, mask, **options))


def test_a_reduced_completion_has_the_full_size_and_exact_known_pixels(network: nn.Module) -> None:
    image, mask = photograph(301, 200), mask_of(301, 200, (101, 51, 120, 90))
    result = complete(network, image, mask, longest_side=100)
    assert np.array_equal(result[~mask], image[~mask])
    assert not np.array_equal(result, complete(network, image, mask))
    assert np.array_equal(
        complete(network, image, mask, longest_side=301), complete(network, image, mask)
    )


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((40, 60), dtype=bool), "the mask is empty"),
        (np.ones((40, 60), dtype=bool), "covers the whole image"),
        (np.ones((60, 40), dtype=bool), r"the mask is 40x60 pixels, the image 60x40"),
    ],
)
def test_a_mask_that_cannot_be_used_is_refused(
    network: nn.Module, mask: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        complete(network, photograph(60, 40), mask)


def test_a_reduction_that_leaves_nothing_known_is_refused(network: nn.Module) -> None:
    mask = np.ones((40, 60), dtype=bool)
    mask[0, 0] = False
    with pytest.raises(ValueError, match="raise --longest-side"):
        complete(network, photograph(60, 40), mask, longest_side=12)
