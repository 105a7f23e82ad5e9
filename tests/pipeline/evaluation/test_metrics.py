import cv2
import numpy as np
import pytest
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from pipeline.evaluation.map_metrics import MAP_METRICS
from pipeline.evaluation.metrics import PSNR_LIMIT_DB, SAMPLE_METRICS, image_metrics, known_mse
from pipeline.inference.photograph import quantized


def sample() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Original, completed and mask: a quarter of the image is hole, off by 51 of 255 levels."""
    original = np.random.default_rng(0).integers(0, 200, (32, 32, 3), dtype=np.uint8)
    mask = np.zeros((32, 32), dtype=bool)
    mask[8:24, 8:24] = True
    completed = original.copy()
    completed[mask] += 51
    return original, completed, mask


def test_errors_are_averaged_over_the_region_that_their_name_says() -> None:
    figures = image_metrics(*sample())
    assert figures["hole_mse"] == pytest.approx(0.04)
    assert figures["hole_l1_percent"] == pytest.approx(20)
    assert figures["mse_masked_over_image"] == pytest.approx(0.01)


def test_psnr_and_ssim_are_those_of_scikit_image() -> None:
    original, completed, mask = sample()
    figures = image_metrics(original, completed, mask)
    ssim = structural_similarity(
        original, completed, channel_axis=2, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, data_range=255,
    )  # fmt: skip
    assert figures["psnr_db"] == pytest.approx(peak_signal_noise_ratio(original, completed))
    assert figures["hole_psnr_db"] == pytest.approx(-10 * np.log10(0.04))
    assert figures["ssim_without_border"] == pytest.approx(ssim)
    # `ssim` has the outermost 5 pixels too, which are exact copies here.
    assert figures["ssim"] == pytest.approx((ssim * 22**2 + 32**2 - 22**2) / 32**2, abs=0.02)
    assert figures["hole_ssim"] < figures["ssim"]


def ssim_where_the_window_fits(original: np.ndarray, completed: np.ndarray) -> float:
    """As mmagic's `SSIM` describes itself: each channel for itself, weights from a Gaussian of 11
    pixels, no padding, and then the mean of the channels. Window by window, in plain sums."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(weights, weights) / weights.sum() ** 2
    constants = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    height, width, channels = original.shape
    values = []
    for channel in range(channels):
        for y in range(height - 10):
            for x in range(width - 10):
                first, second = (
                    image[y : y + 11, x : x + 11, channel].astype(np.float64)
                    for image in (original, completed)
                )
                means = np.sum(window * first), np.sum(window * second)
                variances = (
                    np.sum(window * (first - means[0]) ** 2),
                    np.sum(window * (second - means[1]) ** 2),
                )
                covariance = np.sum(window * (first - means[0]) * (second - means[1]))
                values.append(
                    (2 * means[0] * means[1] + constants[0]) * (2 * covariance + constants[1])
                    / (means[0] ** 2 + means[1] ** 2 + constants[0])
                    / (sum(variances) + constants[1])
                )  # fmt: skip
    return float(np.mean(values))


def test_the_ssim_without_the_border_is_that_of_mmagic() -> None:
    original = cv2.resize(data.astronaut(), (40, 40), interpolation=cv2.INTER_AREA)
    mask = np.zeros((40, 40), dtype=bool)
    mask[10:30, 0:18] = True  # up to the border, where the two definitions differ
    completed = np.where(mask[..., None], cv2.GaussianBlur(original, (0, 0), 4), original)
    figures = image_metrics(original, completed, mask)
    expected = ssim_where_the_window_fits(original, completed)
    assert figures["ssim_without_border"] == pytest.approx(expected, abs=1e-9)
    assert abs(figures["ssim"] - expected) > 0.001


def test_a_blurred_hole_is_less_sharp_than_the_original_and_an_exact_one_as_sharp() -> None:
    original, _, mask = sample()
    blurred = cv2.GaussianBlur(original, (0, 0), 1.5)
    blurred[~mask] = original[~mask]
    assert image_metrics(original, original, mask)["hole_sharpness"] == pytest.approx(1)
    assert 0 < image_metrics(original, blurred, mask)["hole_sharpness"] < 0.6


def test_a_flat_hole_has_no_sharpness_whatever_surrounds_it() -> None:
    original, flat, mask = sample()
    flat[mask] = 255
    assert image_metrics(original, flat, mask)["hole_sharpness"] == 0


def test_sharpness_is_measured_in_the_hole_alone() -> None:
    original, _, mask = sample()
    other = original.copy()
    other[~mask] = 255 - other[~mask]
    expected = image_metrics(original, original, mask)["hole_sharpness"]
    assert image_metrics(original, other, mask)["hole_sharpness"] == expected


def test_the_seam_is_the_step_across_the_border_against_the_original_s() -> None:
    ramp = np.repeat(np.arange(0, 128, 8, dtype=np.uint8)[None, :, None], 16, axis=0)
    ramp = np.repeat(ramp, 3, axis=2)
    mask = np.zeros((16, 16), dtype=bool)
    mask[:, 8:] = True  # one border of 16 pairs, across which the original has steps of 8 levels
    assert image_metrics(ramp, ramp, mask)["seam"] == pytest.approx(1)
    raised = np.where(mask[..., None], ramp + 16, ramp)
    assert image_metrics(ramp, raised, mask)["seam"] == pytest.approx(3)
    assert image_metrics(ramp, raised, mask)["hole_sharpness"] == pytest.approx(1)
    level = np.where(mask[..., None], np.uint8(56), ramp)
    assert image_metrics(ramp, level, mask)["seam"] == 0


def test_the_seam_is_measured_at_the_border_alone() -> None:
    original, _, mask = sample()
    other = original.copy()
    other[10:22, 10:22] = 255 - other[10:22, 10:22]
    assert image_metrics(original, other, mask)["seam"] == pytest.approx(1)


def test_a_hole_without_neighbours_has_no_such_figure() -> None:
    original, completed, mask = sample()
    everything = image_metrics(original, completed, np.ones_like(mask))
    assert np.isnan(everything["seam"])
    assert np.isfinite(everything["hole_sharpness"])
    pixels = np.zeros_like(mask)
    pixels[4, 4] = pixels[0, 31] = True
    single = image_metrics(original, completed, pixels)
    assert np.isnan(single["hole_sharpness"])
    assert np.isfinite(single["seam"])


def test_the_sharpness_beside_a_flat_original_stays_small() -> None:
    flat = np.full((16, 16, 3), 90, dtype=np.uint8)
    mask = np.zeros((16, 16), dtype=bool)
    mask[4:12, 4:12] = True
    noisy = flat.copy()
    noisy[5, 5] += 1
    assert image_metrics(flat, noisy, mask)["hole_sharpness"] < 1


def test_an_exact_copy_has_finite_figures() -> None:
    original, _, mask = sample()
    figures = image_metrics(original, original, mask)
    assert figures["hole_mse"] == 0
    assert figures["psnr_db"] == figures["hole_psnr_db"] == PSNR_LIMIT_DB
    assert figures["ssim"] == pytest.approx(1)
    assert figures["hole_ssim"] == pytest.approx(1)


def test_an_empty_mask_is_refused() -> None:
    original, completed, mask = sample()
    with pytest.raises(ValueError, match="the mask is empty"):
        image_metrics(original, completed, np.zeros_like(mask))


def test_the_error_of_known_pixels_ignores_the_hole() -> None:
    original, _, mask = sample()
    raw = original.astype(np.float32) / 255
    raw[mask] = 0.9
    assert known_mse(original, raw, mask) == pytest.approx(0, abs=1e-12)
    raw[~mask] += 0.1
    assert known_mse(original, raw, mask) == pytest.approx(0.01, rel=1e-4)
    assert known_mse(original, raw, np.ones_like(mask)) == 0


def test_every_figure_has_a_heading() -> None:
    assert {*image_metrics(*sample()), "known_mse_of_raw", *MAP_METRICS, "lpips"} == set(
        SAMPLE_METRICS
    )


def test_levels_survive_the_way_through_floats() -> None:
    levels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(quantized(levels.astype(np.float32) / 255), levels)
    assert quantized(np.array([-0.1, 1.2, 0.4999 / 255])).tolist() == [0, 255, 0]
