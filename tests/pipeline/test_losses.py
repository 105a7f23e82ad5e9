import pytest
import torch
from torch.nn import functional

from pipeline.losses import adversarial_loss, discriminator_loss, reconstruction_loss

KINDS = ["masked", "global", "hole_and_known"]


def sample(count: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(count, 3, 16, 16, generator=generator)
    raw = torch.rand(count, 3, 16, 16, generator=generator)
    mask = torch.zeros(count, 1, 16, 16)
    for number in range(count):
        mask[number, :, 2 : 6 + 2 * number, 3:9] = 1
    return raw, image, mask


def test_each_kind_averages_over_the_pixels_that_it_names() -> None:
    image, mask = torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    mask[:, :, :8, :8] = 1  # a quarter of the image
    raw = torch.where(mask > 0, 0.4, 0.2).expand(1, 3, 16, 16)
    values = {kind: float(reconstruction_loss(raw, image, mask, kind, 0.5)) for kind in KINDS}
    assert values["masked"] == pytest.approx(0.16 / 4)
    assert values["global"] == pytest.approx(0.16 / 4 + 0.04 * 3 / 4)
    assert values["hole_and_known"] == pytest.approx(0.16 + 0.5 * 0.04)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_over_equal_shares_is_the_loss_of_the_batch(kind: str) -> None:
    raw, image, mask = sample(4)
    whole = reconstruction_loss(raw, image, mask, kind, 0.3)
    shares = [
        reconstruction_loss(raw[part], image[part], mask[part], kind, 0.3)
        for part in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(torch.stack(shares).mean(), whole)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_region_gives_neither_nan_nor_a_gradient_of_nan(kind: str, value: float) -> None:
    raw, image, mask = sample(2)
    raw.requires_grad_()
    loss = reconstruction_loss(raw, image, torch.full_like(mask, value), kind, 0.3)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(raw.grad).all()


def test_the_masked_loss_leaves_the_known_region_free() -> None:
    raw, image, mask = sample()
    raw.requires_grad_()
    reconstruction_loss(raw, image, mask, "masked", 0.3).backward()
    touched = raw.grad.abs().amax(dim=1, keepdim=True) > 0
    assert torch.equal(touched, mask > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_stay_float32_under_autocast(kind: str) -> None:
    raw, image, mask = sample()
    expected = reconstruction_loss(raw, image, mask, kind, 0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = reconstruction_loss(raw, image, mask, kind, 0.3)
        adversarial = adversarial_loss(torch.randn(4, dtype=torch.bfloat16))
    assert inside.dtype == adversarial.dtype == torch.float32
    assert torch.equal(inside, expected)


def test_an_unknown_kind_is_refused() -> None:
    raw, image, mask = sample()
    with pytest.raises(ValueError, match=r"'l1'.*masked, global, hole_and_known"):
        reconstruction_loss(raw, image, mask, "l1", 0.3)


def test_the_adversarial_losses_are_cross_entropies_with_logits() -> None:
    real, fake = torch.tensor([2.0, -1.0, 80.0]), torch.tensor([0.5, -3.0, 90.0])
    cross_entropy = functional.binary_cross_entropy_with_logits
    expected = cross_entropy(real, torch.ones(3)) + cross_entropy(fake, torch.zeros(3))
    torch.testing.assert_close(discriminator_loss(real, fake), expected)
    torch.testing.assert_close(adversarial_loss(fake), cross_entropy(fake, torch.ones(3)))


def test_the_adversarial_gradient_does_not_vanish_while_the_fake_is_recognised() -> None:
    logits = torch.full((2,), -20.0, requires_grad=True)
    adversarial_loss(logits).backward()
    assert (logits.grad < -0.49).all()
