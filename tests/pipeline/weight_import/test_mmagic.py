from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.weight_import.mmagic import import_mmagic
from tests.pipeline.weight_import.layouts import MmagicLayout, randomised, sample

TOLERANCE = 1e-5  # of pixels in [0, 1]
PATH = Path("gl.pth")


def made() -> torch.nn.Module:
    network = randomised(MmagicLayout())
    with torch.no_grad():  # so strong that the range of the output is reached
        network.get_parameter("generator.decoder.dec7.conv.weight").mul_(5)
    return network


def test_an_imported_network_gives_what_mmagic_s_does_clamped_values_included() -> None:
    network = made()
    imported = import_mmagic(PATH, network.state_dict(), "bgr").network()
    image, mask = sample()
    expected = network(image, mask)
    torch.testing.assert_close(imported(image, mask), expected, rtol=0, atol=TOLERANCE)
    at_the_ends = ((expected <= 0) | (expected >= 1)).float().mean()
    assert 0.01 < float(at_the_ends) < 0.99


def test_a_network_of_rgb_images_keeps_its_channels() -> None:
    network = made()
    imported = import_mmagic(PATH, network.state_dict(), "rgb").network()
    image, mask = sample()
    torch.testing.assert_close(
        imported(image.flip(1), mask).flip(1), network(image, mask), rtol=0, atol=TOLERANCE
    )


def test_the_hole_is_grey_and_the_range_that_of_mmagic() -> None:
    imported = import_mmagic(PATH, made().state_dict(), "bgr")
    assert imported.fill_color == (0.5, 0.5, 0.5)
    fed = imported.network().network_input(*sample())
    image, mask = sample()
    torch.testing.assert_close(fed[:, :3], (2 * image - 1) * (1 - mask))


def test_discriminators_are_left_out_and_said_to_be() -> None:
    imported = import_mmagic(PATH, made().state_dict(), "bgr")
    assert any("2 tensors of its discriminators" in note for note in imported.notes)


def test_biases_that_a_checkpoint_has_are_taken() -> None:
    tensors = made().state_dict()
    bias = torch.linspace(-1, 1, 16)
    tensors["generator.encoder.enc2.conv.bias"] = bias
    assert torch.equal(import_mmagic(PATH, tensors, "bgr").tensors["encoder.2.conv.bias"], bias)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("generator.decoder.dec7.conv.bias", "is missing"),
        ("generator.dilation_neck.dilation_convs.2.bn.running_mean", "is missing"),
    ],
)
def test_what_is_missing_is_named(name: str, message: str) -> None:
    tensors = made().state_dict()
    del tensors[name]
    with pytest.raises(ValueError, match=rf"{name} .*{message}"):
        import_mmagic(PATH, tensors, "bgr")


def test_an_unknown_part_of_the_generator_is_refused() -> None:
    tensors = {**made().state_dict(), "generator.refiner.conv.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"generator\.refiner\.conv\.weight is not part of it"):
        import_mmagic(PATH, tensors, "bgr")
