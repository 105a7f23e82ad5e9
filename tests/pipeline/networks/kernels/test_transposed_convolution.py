from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pipeline.config.schema import CompletionConfig
from pipeline.networks.glcic import CompletionNetwork
from pipeline.networks.kernels.transposed_convolution import convolve_transposed


def layer_and_features(dtype: torch.dtype) -> tuple[nn.ConvTranspose2d, Tensor]:
    torch.manual_seed(0)
    conv = nn.ConvTranspose2d(6, 5, 4, 2, padding=1).to(dtype)
    return conv, torch.randn(3, 6, 8, 12, dtype=dtype).requires_grad_()


def slopes(output: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    slope = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
    return torch.autograd.grad(output, inputs, slope.to(output.dtype))


def test_outputs_are_equal_and_so_are_gradients_but_for_rounding() -> None:
    conv, features = layer_and_features(torch.float64)
    output, expected = convolve_transposed(conv, features), conv(features)
    assert torch.equal(output, expected)
    operands = (features, conv.weight, conv.bias)
    for mine, theirs in zip(slopes(output, *operands), slopes(expected, *operands), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_in_bf16_the_sum_is_rounded_less_than_the_librarys() -> None:
    conv, features = layer_and_features(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output, expected = convolve_transposed(conv, features), conv(features)
    (mine,), (theirs,) = slopes(output, conv.bias), slopes(expected, conv.bias)
    exact = slopes(output.double(), output)[0].double().sum((0, 2, 3))
    assert mine.dtype == torch.float32
    assert (mine - exact).abs().max() < 1e-4 < (theirs - exact).abs().max()


def test_a_frozen_bias_has_no_gradient_and_its_layer_is_computed_as_it_is() -> None:
    conv, features = layer_and_features(torch.float32)
    conv.bias.requires_grad_(False)
    convolve_transposed(conv, features).sum().backward()
    assert conv.bias.grad is None
    assert torch.equal(convolve_transposed(conv, features), conv(features))


@pytest.mark.parametrize("training", [True, False])
def test_the_networks_transposed_layers_are_computed_so_where_they_train(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied = []
    kind = "pipeline.networks.kernels.transposed_convolution._BiasGradient"
    monkeypatch.setattr(f"{kind}.apply", lambda output, bias: applied.append(bias) or output)
    network = CompletionNetwork(CompletionConfig(width=8))
    with torch.set_grad_enabled(training):
        copy.deepcopy(network)(torch.rand(1, 3, 16, 16), torch.zeros(1, 1, 16, 16))
    assert [len(bias) for bias in applied] == ([16, 8] if training else [])
