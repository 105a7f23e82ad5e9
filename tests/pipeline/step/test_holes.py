import numpy as np
import pytest
import torch

from pipeline.step.holes import (
    composite,
    cut_patches,
    enclosing_hole,
    patch_corners,
    rasterize,
    unpack_masks,
)


def holes_of(*samples: list[list[int]]) -> torch.Tensor:
    return torch.tensor(samples)


def test_the_mask_is_the_union_of_a_samples_holes() -> None:
    holes = holes_of([[2, 3, 4, 5], [4, 6, 6, 3]], [[0, 0, 16, 16], [1, 1, 2, 2]])
    mask = rasterize(holes, 16)
    expected = np.zeros((2, 1, 16, 16), dtype=np.float32)
    expected[0, 0, 3:8, 2:6] = 1
    expected[0, 0, 6:9, 4:10] = 1
    expected[1] = 1
    assert mask.dtype == torch.float32
    assert np.array_equal(mask.numpy(), expected)


@pytest.mark.parametrize("empty", [[5, 5, 0, 4], [5, 5, 4, 0], [0, 0, 0, 0]])
def test_an_empty_rectangle_is_no_hole(empty: list[int]) -> None:
    assert rasterize(holes_of([empty, [1, 2, 3, 4]]), 16).sum() == 12


def test_holes_may_come_in_the_type_of_the_index() -> None:
    holes = torch.from_numpy(np.array([[[1, 2, 3, 4]]], dtype="<u2"))
    assert rasterize(holes, 8).sum() == 12
    assert patch_corners(holes, torch.zeros(1), 4, 8).tolist() == [[2, 0]]


@pytest.mark.parametrize("size", [8, 20, 32, 33])
def test_packed_bits_become_the_pixels_that_they_stand_for(size: int) -> None:
    pixels = np.random.default_rng(size).random((3, size, size)) < 0.3
    mask = unpack_masks(torch.from_numpy(np.packbits(pixels, axis=-1)), size)
    assert mask.dtype == torch.float32
    assert np.array_equal(mask.numpy(), pixels[:, None].astype(np.float32))


def test_known_pixels_of_the_composite_are_bit_exact() -> None:
    image, raw = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    raw[:, :, 0, 0] = float("nan")
    mask = rasterize(holes_of([[4, 4, 8, 8]], [[2, 1, 3, 3]]), 16)
    result = composite(raw, image, mask)
    hole = (mask > 0).expand_as(image)
    assert torch.equal(result[hole], raw[hole])
    assert torch.equal(result[~hole], image[~hole])


def test_no_gradient_of_the_composite_reaches_known_pixels() -> None:
    raw = torch.rand(1, 3, 16, 16, requires_grad=True)
    mask = rasterize(holes_of([[4, 4, 8, 8]]), 16)
    composite(raw, torch.rand(1, 3, 16, 16), mask).sum().backward()
    assert torch.equal(raw.grad, mask.expand(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("hole", "corner"),
    [
        ([30, 20, 10, 10], [17, 27]),  # centred: (20 + 5 - 8, 30 + 5 - 8)
        ([0, 0, 10, 10], [0, 0]),
        ([54, 50, 10, 14], [48, 48]),
        ([10, 10, 40, 40], [22, 22]),  # larger than the patch: its middle
    ],
)
def test_the_patch_is_centred_on_the_hole_and_stays_in_the_image(
    hole: list[int], corner: list[int]
) -> None:
    assert patch_corners(holes_of([hole]), torch.tensor([0]), 16, 64).tolist() == [corner]


def test_each_sample_takes_the_hole_of_its_choice() -> None:
    holes = holes_of([[0, 0, 4, 4], [40, 20, 4, 4]], [[0, 0, 4, 4], [40, 20, 4, 4]])
    assert patch_corners(holes, torch.tensor([1, 0]), 8, 64).tolist() == [[18, 38], [0, 0]]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_patch_equals_the_slice_at_its_corner(memory_format: torch.memory_format) -> None:
    images = torch.rand(3, 3, 20, 20).to(memory_format=memory_format)
    corners = torch.tensor([[0, 0], [12, 3], [5, 12]])
    patches = cut_patches(images, corners, 8)
    for image, patch, (y, x) in zip(images, patches, corners.tolist(), strict=True):
        assert torch.equal(patch, image[:, y : y + 8, x : x + 8])


def test_the_gradient_of_a_patch_lands_where_it_was_cut() -> None:
    images = torch.rand(2, 3, 20, 20, requires_grad=True)
    weights = torch.rand(2, 3, 8, 8)
    (cut_patches(images, torch.tensor([[12, 0], [3, 7]]), 8) * weights).sum().backward()
    expected = torch.zeros(2, 3, 20, 20)
    expected[0, :, 12:20, 0:8] = weights[0]
    expected[1, :, 3:11, 7:15] = weights[1]
    assert torch.equal(images.grad, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_backward_pass_of_a_patch_is_deterministic_on_the_gpu() -> None:
    weights = torch.rand(64, 3, 128, 128, device="cuda")
    corners = torch.randint(0, 128, (64, 2), device="cuda")
    gradients = []
    for _ in range(3):
        images = torch.ones(64, 3, 256, 256, device="cuda", requires_grad=True)
        (cut_patches(images, corners, 128) * weights).sum().backward()
        gradients.append(images.grad)
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


def test_the_box_around_all_holes_leaves_out_those_without_an_area() -> None:
    holes = holes_of([[4, 6, 10, 8], [20, 1, 8, 12], [31, 31, 0, 5]], [[0, 0, 9, 9]] * 3)
    assert enclosing_hole(holes).tolist() == [[[4, 1, 24, 13]], [[0, 0, 9, 9]]]
