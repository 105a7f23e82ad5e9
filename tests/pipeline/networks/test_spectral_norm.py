from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.config.schema import OptimizerConfig
from pipeline.distributed.trainable import TrainableNetwork
from pipeline.engines.ddp import Worker
from pipeline.networks.spectral_norm import SpectralConvolution, without_spectral_norm


def convolution() -> SpectralConvolution:
    torch.manual_seed(0)
    return SpectralConvolution(6, 8)


def largest_singular_value(conv: SpectralConvolution) -> float:
    return float(torch.linalg.svdvals(conv.eval().weight.detach().flatten(1))[0])


def vectors(conv: SpectralConvolution) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in conv.named_buffers()}


def features(count: int = 2) -> Tensor:
    return torch.rand(count, 6, 5, 7, generator=torch.Generator().manual_seed(1))


def player_of(conv: SpectralConvolution) -> TrainableNetwork:
    return Worker().trainable("completion", conv, OptimizerConfig())


def train_a_step(trainable: TrainableNetwork, parts: list[Tensor]) -> None:
    for part in trainable.micro_batches(parts):
        trainable.backward_(trainable(part).square().mean())
    trainable.update_()


def test_forwards_that_train_bring_the_kernels_norm_to_one() -> None:
    conv = convolution()
    with torch.no_grad():
        conv.parametrizations.weight.original.mul_(50)
        for _ in range(100):
            conv(features())
    assert largest_singular_value(conv) == pytest.approx(1, abs=1e-4)


def test_in_evaluation_nothing_moves() -> None:
    conv = convolution().eval()
    before = vectors(conv)
    assert torch.equal(conv(features()), conv(features()))
    assert all(torch.equal(before[name], tensor) for name, tensor in vectors(conv).items())


def test_the_norm_is_found_in_float32_under_autocast() -> None:
    exact, half = convolution(), convolution()
    exact(features())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = half(features())
    assert output.dtype == torch.bfloat16
    found = vectors(half)
    assert all(torch.equal(tensor, found[name]) for name, tensor in vectors(exact).items())


def test_the_vectors_move_once_a_step_however_many_micro_batches_it_has() -> None:
    whole, parted, fresh = convolution(), convolution(), convolution()
    train_a_step(player_of(whole), [features(4)])
    train_a_step(player_of(parted), list(features(4).split(1)))
    for name, tensor in vectors(whole).items():
        torch.testing.assert_close(vectors(parted)[name], tensor, rtol=1e-6, atol=1e-7)
        assert not torch.equal(tensor, vectors(fresh)[name])


def test_an_update_that_is_left_out_leaves_the_vectors() -> None:
    conv = convolution()
    before = vectors(conv)
    train_a_step(player_of(conv), [features() * torch.nan])
    assert all(torch.equal(before[name], tensor) for name, tensor in vectors(conv).items())


def test_a_forward_that_leaves_the_network_as_it_is_leaves_the_vectors() -> None:
    conv = convolution()
    before = vectors(conv)
    player_of(conv).frozen(features())
    assert all(torch.equal(before[name], tensor) for name, tensor in vectors(conv).items())


def test_folded_it_is_a_plain_convolution_of_the_same_function() -> None:
    network = torch.nn.Sequential(convolution(), torch.nn.ReLU())
    expected_state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    plain = without_spectral_norm(network)
    assert type(plain[0]) is torch.nn.Conv2d
    assert list(plain.state_dict()) == ["0.weight", "0.bias"]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, expected_state[name])
    assert torch.equal(plain(features()), network.eval()(features()))
    assert without_spectral_norm(plain) is plain
