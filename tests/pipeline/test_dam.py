import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config import CompletionConfig
from pipeline.networks.completion import CompletionNetwork
from pipeline.networks.dam import AttentionCompletionNetwork, with_fresh_attention

NARROW = CompletionConfig(kind="dam", width=8)


def sample(size: int = 64, count: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(count, 3, size, size, generator=generator)
    mask = torch.zeros(count, 1, size, size)
    mask[:, :, 8:32, 16:40] = 1
    return image, mask


@pytest.mark.parametrize(
    ("kernel", "skip", "maps", "parameters", "gmac"),
    [
        (1, "encoder", "learned", 6_288_070, 34.57),
        (1, "none", "learned", 6_202_054, 33.77),
        (3, "encoder", "learned", 8_010_182, 50.71),
        (1, "encoder", "zero", 6_244_611, 34.16),
        (1, "none", "zero", 6_158_595, 33.36),
        (3, "encoder", "zero", 7_620_867, 47.05),
    ],
)
def test_the_blocks_have_their_parameters_and_operations(
    kernel: int, skip: Any, maps: Any, parameters: int, gmac: float
) -> None:
    config = CompletionConfig(
        kind="dam", attention_kernel=kernel, attention_skip=skip, attention_maps=maps
    )
    with torch.device("meta"):
        network = AttentionCompletionNetwork(config).eval()
        image, mask = torch.zeros(1, 3, 256, 256), torch.zeros(1, 1, 256, 256)
        with FlopCounterMode(display=False) as counter:
            network(image, mask)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, abs=0.005)
    if (kernel, skip, maps) == (1, "encoder", "learned"):
        blocks = [sum(p.numel() for p in b.parameters()) for b in network.attention.values()]
        assert blocks == [164_353, 41_217, 10_369]


def pair(width: int = 64) -> tuple[CompletionNetwork, AttentionCompletionNetwork]:
    """A network, and one with blocks that has taken over its weights."""
    torch.manual_seed(0)
    config = CompletionConfig(width=width)
    plain = CompletionNetwork(config)
    attentive = AttentionCompletionNetwork(dataclasses.replace(config, kind="dam"))
    attentive.load_state_dict(with_fresh_attention(attentive, plain.state_dict()))
    return plain, attentive


@pytest.mark.parametrize(("training", "tolerance"), [(False, 5e-5), (True, 2e-6)])
def test_a_network_that_gets_fresh_blocks_goes_on_where_it_was(
    training: bool, tolerance: float
) -> None:
    plain, attentive = (network.train(training) for network in pair())
    with torch.no_grad():
        difference = plain(*sample()) - attentive(*sample())
    assert difference.abs().max() < tolerance


def test_with_maps_of_zero_the_network_is_the_one_without_blocks_to_the_bit() -> None:
    plain, attentive = (network.eval() for network in pair(width=8))
    for block in attentive.attention.values():
        nn.init.constant_(block.head[2].bias, -1e4)
    with torch.no_grad():
        assert torch.equal(plain(*sample()), attentive(*sample()))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("skip", ["encoder", "none"])
@pytest.mark.parametrize("training", [False, True])
def test_the_joins_alone_are_the_blocks_with_maps_of_zero_to_the_bit(
    kernel: int, skip: Any, training: bool
) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(NARROW, attention_kernel=kernel, attention_skip=skip)
    attentive = AttentionCompletionNetwork(config).train(training)
    for block in attentive.attention.values():
        nn.init.normal_(block.fuse.weight, std=0.2)
        nn.init.constant_(block.head[2].bias, -1e4)
    joins = AttentionCompletionNetwork(dataclasses.replace(config, attention_maps="zero"))
    tensors = attentive.state_dict()
    joins.load_state_dict({name: t for name, t in tensors.items() if ".head." not in name})
    raw, maps = joins.train(training)(*sample(), True)
    expected, forced = attentive(*sample(), True)
    assert all((one == 0).all() for one in forced)
    assert torch.equal(raw, expected)
    assert (joins.has_maps, maps) == (False, ())


@pytest.mark.parametrize("skip", ["encoder", "none"])
def test_every_parameter_of_the_joins_alone_learns(skip: Any) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(NARROW, attention_maps="zero", attention_skip=skip)
    network = AttentionCompletionNetwork(config)
    network(*sample()).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        if name.endswith("fuse.weight"):
            assert parameter.grad.abs().sum((0, 2, 3)).min() > 0, name


def test_fresh_joins_without_maps_go_on_where_the_network_was_to_the_bit() -> None:
    plain, _ = pair(width=8)
    config = dataclasses.replace(NARROW, attention_maps="zero")
    joins = AttentionCompletionNetwork(config)
    joins.load_state_dict(with_fresh_attention(joins, plain.state_dict()))
    assert torch.equal(plain(*sample()), joins(*sample()))


def test_the_maps_come_at_a_quarter_half_and_all_of_the_images_size() -> None:
    raw, maps = AttentionCompletionNetwork(NARROW)(*sample(64), True)
    assert raw.shape == (2, 3, 64, 64)
    assert [tuple(one.shape) for one in maps] == [(2, 1, side, side) for side in (16, 32, 64)]
    assert all(((one > 0) & (one < 1)).all() for one in maps)


def test_asked_for_its_output_alone_it_gives_what_other_networks_give() -> None:
    network = AttentionCompletionNetwork(NARROW).eval()
    with torch.no_grad():
        assert torch.equal(network(*sample()), network(*sample(), True)[0])


def test_maps_stay_float32_in_half_precision() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        raw, maps = AttentionCompletionNetwork(NARROW)(*sample(), True)
    assert {raw.dtype, *(one.dtype for one in maps)} == {torch.float32}


@pytest.mark.parametrize("skip", ["encoder", "none"])
def test_a_block_raises_the_features_where_its_map_is_high(skip: str) -> None:
    network = AttentionCompletionNetwork(dataclasses.replace(NARROW, attention_skip=skip))
    block = network.attention["1"]
    features = torch.rand(1, 8, 4, 4)
    partner = torch.rand(1, 8, 4, 4) if skip == "encoder" else None
    nn.init.constant_(block.head[2].bias, 1e4)  # its map is 1 everywhere
    raised, fakeness = block(features, partner)
    assert (fakeness == 1).all()
    torch.testing.assert_close(raised, 2 * features)
