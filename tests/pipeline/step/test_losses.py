from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from pipeline.config.schema import LossConfig
from pipeline.step.losses import (
    adversarial_loss,
    balanced_alpha,
    discriminator_loss,
    error_map,
    gradient_penalty,
    map_loss,
    reconstruction_loss,
)

KINDS = ["masked", "global", "hole_and_known"]


def loss_of(kind: str, known_weight: float = 0.3, **further: Any) -> LossConfig:
    return LossConfig(reconstruction=kind, known_weight=known_weight, **further)


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
    values = {
        kind: float(reconstruction_loss(raw, image, mask, loss_of(kind, 0.5))) for kind in KINDS
    }
    assert values["masked"] == pytest.approx(0.16 / 4)
    assert values["global"] == pytest.approx(0.16 / 4 + 0.04 * 3 / 4)
    assert values["hole_and_known"] == pytest.approx(0.16 + 0.5 * 0.04)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_over_equal_shares_is_the_loss_of_the_batch(kind: str) -> None:
    raw, image, mask = sample(4)
    whole = reconstruction_loss(raw, image, mask, loss_of(kind))
    shares = [
        reconstruction_loss(raw[part], image[part], mask[part], loss_of(kind))
        for part in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(torch.stack(shares).mean(), whole)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_region_gives_neither_nan_nor_a_gradient_of_nan(kind: str, value: float) -> None:
    raw, image, mask = sample(2)
    raw.requires_grad_()
    loss = reconstruction_loss(raw, image, torch.full_like(mask, value), loss_of(kind))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(raw.grad).all()


def test_the_masked_loss_leaves_the_known_region_free() -> None:
    raw, image, mask = sample()
    raw.requires_grad_()
    reconstruction_loss(raw, image, mask, loss_of("masked")).backward()
    touched = raw.grad.abs().amax(dim=1, keepdim=True) > 0
    assert torch.equal(touched, mask > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_stay_float32_under_autocast(kind: str) -> None:
    raw, image, mask = sample()
    expected = reconstruction_loss(raw, image, mask, loss_of(kind))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = reconstruction_loss(raw, image, mask, loss_of(kind))
        adversarial = adversarial_loss(torch.randn(4, dtype=torch.bfloat16))
    assert inside.dtype == adversarial.dtype == torch.float32
    assert torch.equal(inside, expected)


def test_masked_may_be_averaged_over_the_hole_instead_of_the_image() -> None:
    raw, image, mask = sample(1)
    error = (raw - image).square()
    by_hole = reconstruction_loss(raw, image, mask, loss_of("masked", masked_mean="hole"))
    torch.testing.assert_close(by_hole, error[mask.expand_as(error) > 0].mean())
    alone = reconstruction_loss(raw, image, mask, loss_of("hole_and_known", known_weight=0))
    torch.testing.assert_close(by_hole, alone)


def test_an_absolute_error_takes_the_place_of_the_squared_one() -> None:
    raw, image, mask = sample()
    loss = reconstruction_loss(raw, image, mask, loss_of("global", error="absolute"))
    torch.testing.assert_close(loss, (raw - image).abs().mean())


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


@pytest.mark.parametrize(
    ("form", "formula"),
    [
        ("non_saturating", lambda logits: -torch.log(torch.sigmoid(logits))),
        ("saturating", lambda logits: torch.log(1 - torch.sigmoid(logits))),  # the paper's
    ],
)
def test_both_adversarial_forms_have_the_gradients_of_their_formulas(
    form: str, formula: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    logits = torch.linspace(-12, 12, 49, dtype=torch.float64, requires_grad=True)
    expected = formula(logits).mean()
    (slope,) = torch.autograd.grad(expected, logits)

    ours = logits.detach().float().requires_grad_()
    loss = adversarial_loss(ours, form)
    loss.backward()
    torch.testing.assert_close(loss.double(), expected)
    torch.testing.assert_close(ours.grad.double(), slope, rtol=1e-5, atol=0)


@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_the_saturating_form_is_finite_where_its_formula_overflows(logit: float) -> None:
    logits = torch.tensor([logit], requires_grad=True)
    loss = adversarial_loss(logits, "saturating")
    loss.backward()
    assert float(loss.detach()) == min(0.0, -logit)
    assert float(logits.grad) == (-1.0 if logit > 0 else 0.0)


def test_a_smoothed_label_is_cross_entropy_against_that_label() -> None:
    real, fake = torch.tensor([2.0, -1.0, 8.0]), torch.tensor([0.5, -3.0, 9.0])
    cross_entropy = functional.binary_cross_entropy_with_logits
    expected = cross_entropy(real, torch.full((3,), 0.9)) + cross_entropy(fake, torch.zeros(3))
    torch.testing.assert_close(discriminator_loss(real, fake, 0.9), expected)


def test_the_slope_penalty_is_half_the_squared_slope_at_the_real_images() -> None:
    images = torch.rand(4, 3, 2, 2, requires_grad=True)
    weight = torch.rand(3, 2, 2, requires_grad=True)
    penalty = gradient_penalty((images * weight).sum(dim=(1, 2, 3)), images)
    torch.testing.assert_close(penalty, weight.square().sum() / 2)
    penalty.backward()
    torch.testing.assert_close(weight.grad, weight.detach())


def test_the_true_error_is_a_map_between_0_and_1_that_no_gradient_passes() -> None:
    raw, image, _ = sample()
    raw.requires_grad_()
    error = error_map(raw, image, scale=2.0)
    assert not error.requires_grad
    assert error.shape == (4, 1, 16, 16)
    expected = (2 * (raw.detach() - image).abs().mean(dim=1, keepdim=True)).clamp(max=1)
    torch.testing.assert_close(error, expected)
    assert error.max() == 1


@pytest.mark.parametrize(
    ("region", "expected"), [("hole", 0.25), ("known", 0.5), ("all", 0.25 + 0.5)]
)
def test_maps_are_compared_where_the_region_says_each_by_its_own_area(
    region: str, expected: float
) -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[:, :, :4, :8] = 1
    error = 0.75 * mask
    # At both sizes: 0.25 too low in the hole, 0.5 too high elsewhere.
    maps = [functional.avg_pool2d(torch.where(mask > 0, 0.5, 0.5), factor) for factor in (4, 1)]
    loss = map_loss(maps, error, mask, region)
    torch.testing.assert_close(loss, torch.tensor(2 * expected))


@pytest.mark.parametrize(
    ("reconstruction", "adversarial", "expected"),
    [
        (1.0, 500.0, 0.0004),  # 5 to 1 as it is
        (1.0, 50.0, 0.002),  # 50 to 1: raised until it is 10 to 1
        (1.0, 10_000.0, 0.0001),  # 0.25 to 1: lowered until it is 1 to 1
    ],
)
def test_alpha_is_moved_as_little_as_keeps_both_gradients_in_proportion(
    reconstruction: float, adversarial: float, expected: float
) -> None:
    alpha = balanced_alpha(torch.tensor([reconstruction]), torch.tensor([adversarial]))
    assert float(alpha) == pytest.approx(expected)


def test_alpha_stays_finite_where_a_gradient_vanishes() -> None:
    none, some = torch.zeros(3), torch.ones(3)
    for pair in ((none, some), (some, none), (none, none)):
        assert torch.isfinite(balanced_alpha(*pair))
