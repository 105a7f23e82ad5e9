from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pipeline.config.schema import CompletionConfig
from pipeline.networks.glcic import CompletionNetwork
from pipeline.networks.kernels.space_to_batch import (
    SPACE_TO_BATCH,
    by_space_to_batch,
    merge_by,
    split_by,
)


@pytest.fixture
def pair() -> tuple[CompletionNetwork, CompletionNetwork]:
    """Equal networks in float64: dilated layers as they are, and by space to batch."""
    torch.manual_seed(0)
    native = CompletionNetwork(CompletionConfig(width=8)).double()
    for layer in native.dilated_layers():
        nn.init.normal_(layer.norm.weight)
        nn.init.normal_(layer.norm.bias)
    other = copy.deepcopy(native)
    other.dilation = SPACE_TO_BATCH
    return native, other


def features_of(height: int, width: int, layout: torch.memory_format) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    features = torch.randn(2, 32, height, width, generator=generator, dtype=torch.float64)
    return features.to(memory_format=layout).requires_grad_()


def native_output(network: CompletionNetwork, features: Tensor) -> Tensor:
    for layer in network.dilated_layers():
        features = layer(features)
    return features


# Even ones, sides that split only in part (as of 160-pixel crops), an odd one, and tiny ones.
SIDES = [(32, 16), (20, 20), (12, 9), (1, 3)]


@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_outputs_gradients_and_running_statistics_are_those_of_the_dilated_layers(
    pair: tuple[CompletionNetwork, CompletionNetwork],
    sides: tuple[int, int],
    layout: torch.memory_format,
) -> None:
    native, other = pair
    one, two = features_of(*sides, layout), features_of(*sides, layout)
    expected = native_output(native, one)
    found = by_space_to_batch(other.dilated_layers(), two)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    torch.testing.assert_close(two.grad, one.grad, rtol=1e-9, atol=1e-9)
    for (name, theirs), mine in zip(native.named_parameters(), other.parameters(), strict=True):
        assert (theirs.grad is None) == (mine.grad is None), name
        if theirs.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-9, msg=name)
    for name, theirs in native.state_dict().items():
        torch.testing.assert_close(
            other.state_dict()[name], theirs, rtol=1e-12, atol=1e-12, msg=name
        )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("order", ["conv_bn_act", "conv_act_bn"])
def test_the_whole_network_gives_the_same_image_also_of_a_photograph_of_any_size(
    training: bool, order: str
) -> None:
    torch.manual_seed(1)
    native = CompletionNetwork(CompletionConfig(width=8, block_order=order)).double()
    native.train(training)
    other = copy.deepcopy(native)
    other.dilation = SPACE_TO_BATCH
    image, mask = torch.rand(1, 3, 52, 132).double(), torch.zeros(1, 1, 52, 132).double()
    mask[..., 8:30, 20:60] = 1
    torch.testing.assert_close(other(image, mask), native(image, mask), rtol=1e-10, atol=1e-10)
    assert other.state_dict().keys() == native.state_dict().keys()


def test_sides_that_split_evenly_are_never_put_back_between_the_layers(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[CompletionNetwork, CompletionNetwork]
) -> None:
    merges = []

    def watching(features: Tensor, split: int, factor: int) -> Tensor:
        merges.append((split, factor))
        return merge_by(features, split, factor)

    monkeypatch.setattr("pipeline.networks.kernels.space_to_batch.merge_by", watching)
    by_space_to_batch(pair[1].dilated_layers(), features_of(32, 16, torch.channels_last))
    assert merges == [(16, 16)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_split_in_steps_is_the_split_at_once_and_keeps_the_memory_format(
    layout: torch.memory_format,
) -> None:
    features = features_of(32, 16, layout).detach()
    steps = split_by(split_by(features, 1, 2), 2, 4)
    assert torch.equal(steps, split_by(features, 1, 8))
    assert torch.equal(steps[8 * 3 * 2 + 5 * 2 + 1], features[1, :, 3::8, 5::8])
    assert steps.is_contiguous(memory_format=layout)
    back = merge_by(steps, 8, 8)
    assert torch.equal(back, features)
    assert back.is_contiguous(memory_format=layout)
