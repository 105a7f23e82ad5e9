"""Completion of images of any size: only what a hole can see is run, known pixels come back exact.

The output at a pixel depends on the input in a limited distance only (GLCIC's: 151 pixels). A
window of the image that leaves this much room around a hole, and that starts where the network's
strides do, therefore gives what the whole image would give.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import nn

from pipeline.inference.photograph import quantized
from pipeline.inference.poisson_blending import blended
from pipeline.networks.base import CompletionBase, completed_by


@dataclass(frozen=True)
class Window:
    """A rectangle of the image; all four numbers are multiples of the network's `size_multiple`."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return (
            slice(self.top, self.top + self.height),
            slice(self.left, self.left + self.width),
        )


def check_mask(mask: np.ndarray, image_size: tuple[int, int]) -> None:
    """Raises ValueError for a mask of another size than the image (height, width), an empty one,
    and one that leaves nothing known.
    """
    if mask.shape != image_size:
        raise ValueError(
            f"the mask is {mask.shape[1]}x{mask.shape[0]} pixels, the image {image_size[1]}x"
            f"{image_size[0]}; give a mask of the image's size"
        )
    if not mask.any():
        raise ValueError(
            "the mask is empty, so there is nothing to complete; pixels of 128 and above are holes"
        )
    if mask.all():
        raise ValueError(
            "the mask covers the whole image, so there is nothing to complete it from; pixels of "
            "128 and above are holes: is it inverted?"
        )


def complete(
    network: nn.Module,
    image: np.ndarray,
    mask: np.ndarray,
    *,
    device: torch.device | str = "cpu",
    longest_side: int = 0,
    blend: bool = False,
) -> np.ndarray:
    """Return the image, uint8 (H, W, 3), with its hole completed where `mask`, bool (H, W), is
    True.

    Known pixels are the input's, bit for bit. With `longest_side` the network sees the image at no
    more than that size, for holes that are larger than its receptive field; what it puts into the
    hole is enlarged again. Raises ValueError as `check_mask` does.
    """
    check_mask(mask, image.shape[:2])
    scale = longest_side / max(image.shape[:2]) if longest_side else 1.0
    if scale < 1:
        values = _predicted_at_scale(network, image, mask, scale, device)
    else:
        values = predicted(network, image, mask, device=device)
    result = np.where(mask[..., None], quantized(values), image)
    return blended(result, mask) if blend else result


def predicted(
    network: nn.Module, image: np.ndarray, mask: np.ndarray, *, device: torch.device | str = "cpu"
) -> np.ndarray:
    """float32 (H, W, 3) in [0, 1]: the network's output in the hole, the image elsewhere.

    `network` is in eval mode and on `device`.
    """
    height, width = mask.shape
    context_px, multiple = _geometry(network)
    image = _pad(image, multiple)
    mask = _pad(mask.astype(np.uint8), multiple).astype(bool)
    result = image.astype(np.float32) / 255
    for window in windows_of(mask, context_px, multiple):
        hole = mask[window.slices]
        raw = _raw_output(network, image[window.slices], hole, device)
        result[window.slices][hole] = raw[hole]
    return result[:height, :width]


def output_and_maps(
    network: nn.Module, image: np.ndarray, mask: np.ndarray, *, device: torch.device | str = "cpu"
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Return the raw output, known region included, and the maps of where the network expects
    errors.

    float32 (H, W, 3) and each (H, W), in [0, 1]. The whole image is run at once, so its size is
    bound by memory. A map's values are repeated up to the image's size; most networks have none.
    """
    height, width = mask.shape
    _, multiple = _geometry(network)
    padded_mask = _pad(mask.astype(np.uint8), multiple)
    pixels, hole = _tensors(_pad(image, multiple), padded_mask, device)
    with torch.inference_mode():
        raw, maps = completed_by(network, pixels, hole)
    full = padded_mask.shape
    enlarged = [
        nn.functional.interpolate(one.float(), full)[0, 0, :height, :width].cpu().numpy()
        for one in maps
    ]
    return raw[0].permute(1, 2, 0).cpu().numpy()[:height, :width], tuple(enlarged)


def _geometry(network: nn.Module) -> tuple[int, int]:
    """Return how far it sees and what its input's sides are multiples of; GLCIC's, if it does not
    say.
    """
    return (
        getattr(network, "context_px", CompletionBase.context_px),
        getattr(network, "size_multiple", CompletionBase.size_multiple),
    )


def windows_of(mask: np.ndarray, context_px: int, multiple: int) -> list[Window]:
    """Windows that hold every hole with its context; holes that share context share a window.

    `mask` bool (H, W), both sides multiples of `multiple`, as the windows' are.
    """
    reach = np.ones(2 * [2 * context_px + 1], dtype=np.uint8)
    visible = cv2.dilate(mask.astype(np.uint8), reach, borderValue=0)
    _, _, boxes, _ = cv2.connectedComponentsWithStats(visible, connectivity=8)
    windows = []
    for box in boxes[1:]:  # the first is the background
        x, y, width, height = (int(value) for value in box[:4])
        top, left = y // multiple * multiple, x // multiple * multiple
        bottom, right = _ceil(y + height, multiple), _ceil(x + width, multiple)
        windows.append(Window(top, left, bottom - top, right - left))
    return windows


def _raw_output(
    network: nn.Module, image: np.ndarray, mask: np.ndarray, device: torch.device | str
) -> np.ndarray:
    with torch.inference_mode():
        raw = network(*_tensors(image, mask, device))
    return raw[0].permute(1, 2, 0).cpu().numpy()


def _tensors(
    image: np.ndarray, mask: np.ndarray, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device)
    hole = torch.from_numpy(np.ascontiguousarray(mask)).to(device)
    return pixels.permute(2, 0, 1)[None].float() / 255, hole[None, None].float()


def _predicted_at_scale(
    network: nn.Module,
    image: np.ndarray,
    mask: np.ndarray,
    scale: float,
    device: torch.device | str,
) -> np.ndarray:
    height, width = mask.shape
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    # A reduced pixel that any pixel of the hole went into is not known.
    small_mask = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
    if small_mask.all():
        raise ValueError(
            f"at {size[0]}x{size[1]} pixels the hole covers the whole image; raise --longest-side"
        )
    values = predicted(network, small, small_mask, device=device)
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_CUBIC)


def _ceil(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _pad(array: np.ndarray, multiple: int) -> np.ndarray:
    """Right and bottom sides continued by reflection to multiples of `multiple`."""
    height, width = array.shape[:2]
    bottom, right = _ceil(height, multiple) - height, _ceil(width, multiple) - width
    return cv2.copyMakeBorder(array, 0, bottom, 0, right, cv2.BORDER_REFLECT_101)
