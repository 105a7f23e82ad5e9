import numpy as np
import pytest

from pipeline.baselines import classic_baselines, telea


def ramp_with_hole() -> tuple[np.ndarray, np.ndarray]:
    image = np.repeat(np.linspace(20, 220, 48).astype(np.uint8)[None], 48, axis=0)
    mask = np.zeros((48, 48), dtype=bool)
    mask[16:32, 18:30] = True
    return np.stack([image] * 3, axis=2), mask


@pytest.mark.parametrize("name", ["mean colour", "Telea", "Navier-Stokes"])
def test_known_pixels_are_kept_and_the_hole_does_not_leak(name: str) -> None:
    method = classic_baselines((0.2, 0.4, 0.6))[name]
    image, mask = ramp_with_hole()
    other = image.copy()
    other[mask] = 255
    completed = method(image, mask)
    assert completed.dtype == np.uint8
    assert np.array_equal(completed[~mask], image[~mask])
    assert np.array_equal(completed, method(other, mask))


def test_the_mean_colour_is_rounded_to_8_bits() -> None:
    image, mask = ramp_with_hole()
    completed = classic_baselines((0.2, 0.4, 0.6))["mean colour"](image, mask)
    assert (completed[mask] == (51, 102, 153)).all()


@pytest.mark.parametrize("name", ["Telea", "Navier-Stokes"])
def test_the_classic_methods_continue_a_ramp_better_than_a_flat_colour(name: str) -> None:
    image, mask = ramp_with_hole()
    methods = classic_baselines((0.47, 0.47, 0.47))

    def error(method: str) -> float:
        return float(np.abs(methods[method](image, mask).astype(int) - image).mean())

    assert error(name) < 0.8 * error("mean colour")


def test_a_mask_over_everything_is_refused() -> None:
    image, mask = ramp_with_hole()
    with pytest.raises(ValueError, match="covers the whole image"):
        telea(image, np.ones_like(mask))
