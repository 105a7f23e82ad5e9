"""Quality figures of one completed image against its original.

All but one compare 8-bit composites, as they would be saved and as the field reports them: the
known pixels are the original's. Computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from skimage.metrics import structural_similarity

# name -> (heading with the unit, decimals shown)
METRICS: dict[str, tuple[str, int]] = {
    "hole_mse": ("MSE in the hole", 5),
    "hole_l1_percent": ("L1 in the hole, %", 3),
    "mse_masked_over_image": ("masked MSE per image", 6),
    "psnr_db": ("PSNR, dB", 3),
    "hole_psnr_db": ("PSNR in the hole, dB", 3),
    "ssim": ("SSIM, up to the image's border", 4),
    "ssim_without_border": ("SSIM without the outermost 5 pixels", 4),
    "hole_ssim": ("SSIM in the hole", 4),
    "hole_sharpness": ("sharpness of the hole, original: 1", 3),
    "seam": ("steps across the hole's border, original: 1", 3),
    "known_mse_of_raw": ("raw MSE of known pixels", 6),
    # of networks with maps alone, see `pipeline.evaluation.map_metrics`
    "map_mae": ("map: MAE from the true error", 4),
    "map_error_correlation": ("map: rank correlation with the error in the hole", 3),
    "map_hole_auroc": ("map: AUROC of hole against known", 3),
    # where networks for them are given, see `pipeline.evaluation.feature_metrics`
    "lpips": ("perceptual distance (--lpips)", 4),
    "fid": ("FID", 2),
    "kid": ("KID", 5),
    "u_ids_percent": ("U-IDS, %", 2),
    "p_ids_percent": ("P-IDS, %", 2),
}
OF_ALL_SAMPLES = ("fid", "kid", "u_ids_percent", "p_ids_percent")  # together; the others are means
SAMPLE_METRICS = tuple(name for name in METRICS if name not in OF_ALL_SAMPLES)
_ONE_LEVEL = 1 / 255  # below that an original is flat, and its steps are nothing to divide by
SSIM_BORDER_PX = 5  # nearer to the image's border the window of 11 pixels reaches beyond it
PSNR_LIMIT_DB = 100.0  # of an exact copy, whose PSNR is infinite and would spoil the mean


def psnr_db(mse: float) -> float:
    """Peak signal-to-noise ratio for values in [0, 1]; at most PSNR_LIMIT_DB."""
    return float(min(-10 * np.log10(max(mse, 1e-300)), PSNR_LIMIT_DB))


def ssim_map(original: np.ndarray, completed: np.ndarray) -> np.ndarray:
    """(H, W, 3) float64, with the Gaussian window of the SSIM paper (Wang et al. 2004).

    11 pixels wide, of standard deviation 1.5, each channel for itself; beyond its border the image
    is continued by reflection.
    """
    _, values = structural_similarity(
        original,
        completed,
        channel_axis=2,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return values


def image_metrics(
    original: np.ndarray, completed: np.ndarray, mask: np.ndarray
) -> dict[str, float]:
    """Metrics of a composite: uint8 (H, W, 3) twice, and bool (H, W), True in the hole.

    `hole_mse` and `hole_l1_percent` average over the hole, `mse_masked_over_image` divides the same
    squared error by the whole image's area. `ssim` is the mean over the whole image, whose border
    is known in most samples and raises it; `ssim_without_border` that of the SSIM paper's code, of
    scikit-image and of mmagic. `hole_sharpness` and `seam` are relative to the
    original, and NaN where the hole has no two neighbouring pixels, or no known neighbour. Raises
    ValueError for an empty mask.
    """
    if not mask.any():
        raise ValueError("the mask is empty: there is no hole whose completion could be measured")
    difference = (completed.astype(np.float64) - original.astype(np.float64)) / 255
    in_hole = difference[mask]
    image_mse, hole_mse = float(np.mean(difference**2)), float(np.mean(in_hole**2))
    similarity = ssim_map(original, completed)
    inner = slice(SSIM_BORDER_PX, -SSIM_BORDER_PX)
    return {
        "hole_mse": hole_mse,
        "hole_l1_percent": float(np.mean(np.abs(in_hole)) * 100),
        "mse_masked_over_image": float(np.sum(in_hole**2) / difference.size),
        "psnr_db": psnr_db(image_mse),
        "hole_psnr_db": psnr_db(hole_mse),
        "ssim": float(np.mean(similarity)),
        "ssim_without_border": float(np.mean(similarity[inner, inner])),
        "hole_ssim": float(np.mean(similarity[mask])),
        "hole_sharpness": _relative(sharpness, original, completed, mask),
        "seam": _relative(border_steps, original, completed, mask),
    }


def sharpness(image: np.ndarray, mask: np.ndarray) -> float:
    """Return the root mean square of the steps between neighbouring pixels of the hole.

    `image` uint8 (H, W, 3), `mask` bool (H, W); steps of values in [0, 1], over all pairs of
    horizontal and vertical neighbours that both lie in the hole. A flat hole has 0, a blurred one
    less than the original. NaN where there is no such pair.
    """
    return _root_mean_square_step(image, mask, lambda first, second: first & second)


def border_steps(image: np.ndarray, mask: np.ndarray) -> float:
    """Return the root mean square of the steps from a known pixel to its neighbour in the hole.

    As `sharpness`, over the pairs of which one pixel is known and the other is not. A visible seam
    has more than the original, a border that runs smoothly into the hole has less. NaN where there
    is no such pair: nothing is known, or nothing is missing.
    """
    return _root_mean_square_step(image, mask, lambda first, second: first != second)


def _root_mean_square_step(
    image: np.ndarray,
    mask: np.ndarray,
    counts: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> float:
    """`counts` chooses pairs by the mask's values at their first and at their second pixel."""
    values = image.astype(np.float64) / 255
    total, num_steps = 0.0, 0
    for axis in (0, 1):
        size = mask.shape[axis]
        first, second = (np.take(mask, range(n, size - 1 + n), axis=axis) for n in (0, 1))
        steps = np.diff(values, axis=axis)[counts(first, second)]
        total += float(np.sum(steps**2))
        num_steps += steps.size
    return float(np.sqrt(total / num_steps)) if num_steps else float("nan")


def _relative(
    metric: Callable[[np.ndarray, np.ndarray], float],
    original: np.ndarray,
    completed: np.ndarray,
    mask: np.ndarray,
) -> float:
    return metric(completed, mask) / max(metric(original, mask), _ONE_LEVEL)


def known_mse(original: np.ndarray, raw: np.ndarray, mask: np.ndarray) -> float:
    """Error of the raw output, float (H, W, 3) in [0, 1], where the image was known.

    It shows whether the network reproduces its input or leaves the known region to chance; 0 if
    nothing is known.
    """
    difference = raw[~mask].astype(np.float64) - original[~mask].astype(np.float64) / 255
    return float(np.mean(difference**2)) if difference.size else 0.0
