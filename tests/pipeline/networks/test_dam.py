import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config.schema import CompletionConfig
from pipeline.networks.dam import PREFIX, AttentionCompletionNetwork, with_new_attention
from pipeline.networks.glcic import CompletionNetwork

NARROW = CompletionConfig(kind="dam", width=8)
AUTHORS = dataclasses.replace(NARROW, attention_form="author")


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
    network = counted(
        parameters, gmac, attention_kernel=kernel, attention_skip=skip, attention_maps=maps
    )
    if (kernel, skip, maps) == (1, "encoder", "learned"):
        blocks = [sum(p.numel() for p in b.parameters()) for b in network.attention.values()]
        assert blocks == [164_353, 41_217, 10_369]


@pytest.mark.parametrize(
    ("skip", "maps", "parameters", "gmac"),
    [
        ("encoder", "learned", 8_826_471, 60.68),
        ("none", "learned", 8_033_895, 52.23),
        ("encoder", "zero", 8_432_387, 56.71),
    ],
)
def test_the_authors_blocks_have_their_parameters_and_operations(
    skip: Any, maps: Any, parameters: int, gmac: float
) -> None:
    network = counted(
        parameters, gmac, attention_form="author", attention_skip=skip, attention_maps=maps
    )
    if (skip, maps) == ("encoder", "learned"):
        blocks = [sum(p.numel() for p in b.parameters()) for b in network.attention.values()]
        assert blocks == [2_066_177, 516_993, 129_473, 41_697]


def counted(parameters: int, gmac: float, **fields: Any) -> AttentionCompletionNetwork:
    config = CompletionConfig(kind="dam", **fields)
    with torch.device("meta"):
        network = AttentionCompletionNetwork(config).eval()
        image, mask = torch.zeros(1, 3, 256, 256), torch.zeros(1, 1, 256, 256)
        with FlopCounterMode(display=False) as counter:
            network(image, mask)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, abs=0.005)
    return network


def pair(width: int = 64) -> tuple[CompletionNetwork, AttentionCompletionNetwork]:
    """A network, and one with blocks that has taken over its weights."""
    torch.manual_seed(0)
    config = CompletionConfig(width=width)
    plain = CompletionNetwork(config)
    attentive = AttentionCompletionNetwork(dataclasses.replace(config, kind="dam"))
    attentive.load_state_dict(with_new_attention(attentive, plain.state_dict()))
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
def test_the_joins_alone_of_the_authors_form_are_its_blocks_with_maps_of_zero(skip: Any) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(AUTHORS, attention_skip=skip)
    attentive = AttentionCompletionNetwork(config)
    for block in attentive.attention.values():
        nn.init.constant_(block.head[1].bias, -1e4)
    joins = AttentionCompletionNetwork(dataclasses.replace(config, attention_maps="zero"))
    tensors = attentive.state_dict()
    joins.load_state_dict({name: t for name, t in tensors.items() if ".head." not in name})
    assert torch.equal(joins(*sample()), attentive(*sample()))
    assert (joins.has_maps, joins(*sample(), True)[1]) == (False, ())


@pytest.mark.parametrize("skip", ["encoder", "none"])
@pytest.mark.parametrize("maps", ["learned", "zero"])
@pytest.mark.parametrize("form", ["report", "author"])
def test_the_output_and_the_maps_teach_every_parameter(form: Any, maps: Any, skip: Any) -> None:
    torch.manual_seed(0)
    network = AttentionCompletionNetwork(
        dataclasses.replace(NARROW, attention_form=form, attention_maps=maps, attention_skip=skip)
    )
    for parameter in network.attention.parameters():
        if parameter.dim() == 4:
            nn.init.normal_(parameter, std=0.2)  # fresh, a map's last layer hides those before it
    raw, found = network(*sample(), True)
    sum(one.square().mean() for one in (raw, *found)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        if name.startswith(PREFIX):
            assert parameter.grad.abs().max() > 0, name
    for name, parameter in network.attention.named_parameters():
        if "fuse" in name and parameter.dim() == 4:  # from both of what it joins
            assert parameter.grad.abs().sum((0, 2, 3)).min() > 0, name


def normed(conv: Any, features: Tensor) -> Tensor:
    """By the singular values of its kernels, instead of by power iteration."""
    weight = conv.parametrizations.weight.original
    norm = torch.linalg.svdvals(weight.flatten(1))[0]
    return functional.conv2d(features, weight / norm, conv.bias, padding=1)


def test_the_authors_block_computes_what_his_code_says() -> None:
    torch.manual_seed(0)
    block = AttentionCompletionNetwork(AUTHORS).attention["2"]
    for conv in (block.fuse, *block.head, block.output):
        for _ in range(300):  # until the power iteration has found the norm
            conv.weight  # noqa: B018
    features, skip = 4 * torch.randn(2, 16, 6, 6), 4 * torch.randn(2, 16, 6, 6)
    fused = functional.elu(normed(block.fuse, torch.cat([features, skip], 1)))
    hidden = functional.elu(normed(block.head[0], fused)).clamp(-1, 1)
    fakeness = torch.sigmoid(normed(block.head[1], hidden))
    raised = fused + fakeness * torch.where(fused > 0, fused, 0.2 * fused)
    expected = functional.elu(normed(block.output, raised)).clamp(-1, 1)
    assert expected.max() == 1, "else the clamp would not show"
    left, found = block.eval()(features, skip)
    torch.testing.assert_close(found, fakeness, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(left, expected, rtol=1e-3, atol=1e-4)


def test_the_authors_form_has_a_fourth_map_at_the_outputs_scale() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        raw, maps = AttentionCompletionNetwork(AUTHORS)(*sample(64), True)
    assert {raw.dtype, *(one.dtype for one in maps)} == {torch.float32}
    assert [one.shape[-1] for one in maps] == [16, 32, 64, 64]


def test_a_network_takes_over_one_without_blocks_and_has_the_authors_to_learn() -> None:
    plain, _ = pair(width=8)
    attentive = AttentionCompletionNetwork(AUTHORS)
    attentive.load_state_dict(with_new_attention(attentive, plain.state_dict()))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(attentive.state_dict()[name], tensor), name
    with torch.no_grad():
        difference = plain(*sample()) - attentive(*sample())
    assert difference.abs().max() > 1e-3, "then the documentation would have to say so"


def test_fresh_joins_without_maps_go_on_where_the_network_was_to_the_bit() -> None:
    plain, _ = pair(width=8)
    config = dataclasses.replace(NARROW, attention_maps="zero")
    joins = AttentionCompletionNetwork(config)
    joins.load_state_dict(with_new_attention(joins, plain.state_dict()))
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
