from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.config.schema import CompletionConfig
from pipeline.device import options
from pipeline.device.options import require_usable
from pipeline.networks.folding import folded
from pipeline.networks.glcic import CompletionNetwork, ConvolutionBlock
from pipeline.networks.kernels import winograd
from pipeline.networks.kernels.winograd import WINOGRAD, convolve, fits, suits
from pipeline.networks.unwrapped_copy import unwrapped_copy
from tests.small_run import small_config


def layer(dilation: int = 1, channels: tuple[int, int] = (6, 10)) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(*channels, 3, padding=dilation, dilation=dilation)


def gradients(output: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    slope = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
    return torch.autograd.grad(output, inputs, slope.to(output.dtype))


# The last three leave images of 2x2, 2x1 and 1x1 pixels: one matrix product.
SIDES = {1: (16, 24), 2: (16, 24), 8: (16, 16), 11: (22, 11), 16: (16, 16)}


@pytest.mark.slow
@pytest.mark.parametrize("dilation", SIDES)
def test_outputs_and_all_gradients_are_those_of_the_direct_sum(dilation: int) -> None:
    conv = layer(dilation).double()
    features = torch.randn(2, 6, *SIDES[dilation], dtype=torch.float64).requires_grad_()
    assert fits(conv, features)
    output, expected = convolve(features, conv), conv(features)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    operands = (features, conv.weight, conv.bias)
    for mine, theirs in zip(
        gradients(output, *operands), gradients(expected, *operands), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


@pytest.mark.slow
def test_in_bf16_its_rounding_is_of_the_size_that_the_direct_sum_has() -> None:
    conv = layer(channels=(64, 64))
    features = torch.randn(2, 64, 16, 16).bfloat16().float()
    conv.weight.data = conv.weight.data.bfloat16().float()
    exact = conv(features)
    with torch.autocast("cpu", torch.bfloat16):
        errors = [(one - exact).std() for one in (convolve(features, conv), conv(features))]
    assert 0 < errors[0] < 5 * errors[1]


def test_it_suits_wide_plain_layers_alone() -> None:
    wide = (winograd._CHANNELS_MIN, winograd._CHANNELS_MIN)
    assert suits(layer(1, wide))
    assert suits(layer(16, wide))
    assert not suits(layer(1, (wide[0], wide[0] - 1)))
    assert not suits(nn.Conv2d(*wide, 3, stride=2, padding=1))
    assert not suits(nn.Conv2d(*wide, 5, padding=2))
    assert not suits(nn.Conv2d(*wide, 3)), "without padding"
    assert not suits(nn.ConvTranspose2d(*wide, 4, 2, padding=1))


def test_ten_layers_of_the_papers_network_are_computed_by_it() -> None:
    network = CompletionNetwork(CompletionConfig())
    network.set_convolution(WINOGRAD)
    blocks = {name: m for name, m in network.named_modules() if isinstance(m, ConvolutionBlock)}
    assert [name for name, block in blocks.items() if block.by_winograd] == [
        "encoder.3", "encoder.5", "encoder.6", "middle.7", "middle.8", "middle.9", "middle.10",
        "middle.11", "middle.12", "decoder.14",
    ]  # fmt: skip
    assert not any(
        getattr(module, "by_winograd", False) for module in unwrapped_copy(network).modules()
    )


def test_images_that_divide_into_tiles_or_are_smaller_than_one_fit() -> None:
    features = {side: torch.zeros(1, 1, side, 16) for side in (8, 16, 24, 20)}
    assert fits(layer(8), features[8]), "1x2 pixels"
    assert fits(layer(8), features[16]), "2x2 pixels"
    assert not fits(layer(8), features[24]), "3x2 pixels"
    assert not fits(layer(8), features[20]), "not a multiple of the dilation"


def test_an_image_that_does_not_divide_into_tiles_is_computed_directly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(winograd, "_CHANNELS_MIN", 8)
    monkeypatch.setattr(winograd, "convolve", None)
    network = CompletionNetwork(CompletionConfig(width=8)).eval()
    network.set_convolution(WINOGRAD)
    image, mask = torch.rand(1, 3, 12, 12), torch.zeros(1, 1, 12, 12)
    assert not fits(network.encoder["5"].conv, torch.zeros(1, 1, 3, 3))
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        network(torch.rand(1, 3, 16, 16), torch.zeros(1, 1, 16, 16))
    for block in (network.encoder["3"], network.decoder["14"]):
        block.by_winograd = False  # at half the size, 6 pixels, which does
    network(image, mask)


@pytest.mark.slow
def test_a_folded_network_completes_the_same_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "_CHANNELS_MIN", 8)
    torch.manual_seed(0)
    network = folded(CompletionNetwork(CompletionConfig(width=8)))
    image, mask = torch.rand(2, 3, 64, 64), torch.zeros(2, 1, 64, 64)
    mask[..., 8:30, 20:50] = 1
    with torch.inference_mode():
        expected = network(image, mask)
        network.set_convolution(WINOGRAD)
        torch.testing.assert_close(network(image, mask), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train": {"compile": True}}, "direct with train.compile"),
        ({"train": {"dilation": "space_to_batch"}}, "direct with train.dilation space_to_batch"),
        ({"completion": {"kind": "unet"}}, "direct with completion.kind unet"),
    ],
)
def test_what_it_does_not_go_together_with_is_refused(
    changes: dict[str, dict[str, object]], told: str, tmp_path: Path
) -> None:
    changes = {**changes, "train": {"convolution": WINOGRAD, **changes.get("train", {})}}
    with pytest.raises(ValueError, match=f"train.convolution is 'winograd': {told}"):
        small_config("unread", tmp_path, **changes)


def test_a_gpu_is_refused_and_a_compiler_is_asked_for_before_the_first_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = small_config("unread", tmp_path, train={"convolution": WINOGRAD})
    with pytest.raises(ValueError, match=r"on the CUDA set --train\.convolution direct"):
        require_usable(config, torch.device("cuda"), 1)
    needs = []
    monkeypatch.setattr(options, "require_compiler", lambda *what: needs.append(what))
    require_usable(config, torch.device("cpu"), 1)
    assert needs == [(torch.device("cpu"), "train.convolution winograd", "direct")]
