import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config.schema import CompletionConfig
from pipeline.networks.unet import UNet

NARROW = CompletionConfig(kind="unet", width=8, depth=3)


def sample(size: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(2, 1, size, size)
    mask[:, :, 8:16, 8:20] = 1
    return torch.rand(2, 3, size, size, generator=generator), mask


@pytest.mark.parametrize(
    ("width", "depth", "channels_max", "parameters", "gmac"),
    [
        (64, 4, 1024, 31_038_339, 48.21),
        (52, 4, 1024, 20_492_475, 31.85),
        (28, 4, 1024, 5_944_683, 9.27),
        (64, 5, 512, 33_400_195, 47.71),
    ],
)
def test_the_four_sizes_have_their_parameters_and_operations(
    width: int, depth: int, channels_max: int, parameters: int, gmac: float
) -> None:
    config = CompletionConfig(kind="unet", width=width, depth=depth, channels_max=channels_max)
    with torch.device("meta"):
        network = UNet(config).eval()
        image, mask = torch.zeros(1, 3, 256, 256), torch.zeros(1, 1, 256, 256)
        with FlopCounterMode(display=False) as counter:
            output = network(image, mask)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, abs=0.005)
    assert output.shape == (1, 3, 256, 256)


def test_it_takes_the_place_of_the_completion_network() -> None:
    network = UNet(NARROW)
    image, mask = sample()
    output = network(image, mask)
    assert output.shape == image.shape
    assert output.dtype == torch.float32
    assert 0 <= float(output.min()) <= float(output.max()) <= 1
    raw, maps = network(image, mask, True)
    assert raw.shape == image.shape
    assert maps == ()


@pytest.mark.parametrize("gate", [False, True])
def test_what_lies_in_the_hole_does_not_change_the_output(gate: bool) -> None:
    torch.manual_seed(0)
    network = UNet(CompletionConfig(kind="unet", width=8, depth=2, gate_skips=gate)).eval()
    image, mask = sample()
    with torch.no_grad():
        assert torch.equal(network(image, mask), network(image * (1 - mask), mask))


def test_gated_skips_keep_the_colour_of_the_hole_out_of_the_decoder() -> None:
    """Of the finest scale: deeper ones know the fill from the encoder's own path."""

    def skip_in_hole(gate: bool) -> Tensor:
        torch.manual_seed(0)
        network = UNet(CompletionConfig(kind="unet", width=8, depth=2, gate_skips=gate)).eval()
        seen = []
        network.decoder[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        image, mask = sample()
        network(image, mask)
        return (seen[0][:, :8] * mask).abs().max()

    assert skip_in_hole(gate=True) == 0
    assert skip_in_hole(gate=False) > 0


def test_a_side_that_cannot_be_halved_so_often_is_refused() -> None:
    with pytest.raises(ValueError, match=r"36x32 pixels; pad both sides to multiples of 8"):
        UNet(NARROW)(torch.zeros(1, 3, 32, 36), torch.zeros(1, 1, 32, 36))
