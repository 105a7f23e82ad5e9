import cv2
import numpy as np
import pytest
from skimage import data

from pipeline.config.baseline_names import BASELINE_NAMES, baseline_name_errors
from pipeline.evaluation.baselines import baselines_left_out, classic_baselines, membrane

AVAILABLE = list(classic_baselines((0.2, 0.4, 0.6)))
CONTINUING = [name for name in AVAILABLE if name != "mean colour"]


def ramp_with_hole() -> tuple[np.ndarray, np.ndarray]:
    image = np.repeat(np.linspace(20, 220, 48).astype(np.uint8)[None], 48, axis=0)
    mask = np.zeros((48, 48), dtype=bool)
    mask[16:32, 18:30] = True
    return np.stack([image] * 3, axis=2), mask


def box(x: int, y: int, width: int, height: int) -> np.ndarray:
    mask = np.zeros((48, 48), dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask


def strokes() -> np.ndarray:
    canvas = np.zeros((48, 48), np.uint8)
    for start, end, width in (((0, 3), (40, 30), 1), ((8, 47), (30, 2), 5)):
        cv2.line(canvas, start, end, 1, width)
    return canvas > 0


MASKS = {
    "one pixel": box(20, 20, 1, 1),
    "one pixel in the corner": box(0, 0, 1, 1),
    "along the border": box(0, 10, 20, 38),
    "several": box(3, 3, 8, 8) | box(30, 25, 10, 12) | box(46, 46, 2, 2),
    "free-form": strokes(),
    "all but one pixel": ~box(3, 4, 1, 1),
    "everything": box(0, 0, 48, 48),
}


@pytest.mark.parametrize("name", AVAILABLE)
@pytest.mark.parametrize("shape", MASKS)
def test_any_hole_is_filled_from_its_surroundings_alone(name: str, shape: str) -> None:
    method = classic_baselines((0.2, 0.4, 0.6))[name]
    image, _ = ramp_with_hole()
    mask = MASKS[shape]
    other = image.copy()
    other[mask] = 255
    completed = method(image, mask)
    assert completed.dtype == np.uint8
    assert completed.shape == image.shape
    assert np.array_equal(completed[~mask], image[~mask])
    assert np.array_equal(completed, method(other, mask))


def test_the_mean_colour_is_rounded_to_8_bits() -> None:
    image, mask = ramp_with_hole()
    completed = classic_baselines((0.2, 0.4, 0.6))["mean colour"](image, mask)
    assert (completed[mask] == (51, 102, 153)).all()


@pytest.mark.parametrize("name", CONTINUING)
def test_the_other_methods_continue_a_ramp_better_than_a_flat_colour(name: str) -> None:
    image, mask = ramp_with_hole()
    methods = classic_baselines((0.47, 0.47, 0.47))

    def error(method: str) -> float:
        return float(np.abs(methods[method](image, mask).astype(int) - image).mean())

    assert error(name) < 0.8 * error("mean colour")


def test_the_biharmonic_surface_continues_a_ramp_to_the_level() -> None:
    image, mask = ramp_with_hole()
    completed = classic_baselines((0.5, 0.5, 0.5))["biharmonic"](image, mask)
    assert np.abs(completed.astype(int) - image).max() <= 1


def test_the_membrane_has_no_structure_of_its_own_in_a_photograph() -> None:
    """Inside, each pixel is the mean of its four neighbours, up to the rounding."""
    image = cv2.resize(data.astronaut(), (96, 96), interpolation=cv2.INTER_AREA)
    mask = np.zeros((96, 96), dtype=bool)
    mask[30:70, 24:60] = True
    inside = np.s_[36:64, 30:54]
    values = membrane(image, mask).astype(float)
    curvature = [cv2.Laplacian(one, cv2.CV_64F)[inside] for one in (values, image.astype(float))]
    assert np.abs(curvature[0]).mean() < 0.1 * np.abs(curvature[1]).mean()


def test_the_membrane_leaves_no_grey_in_holes_too_thin_for_an_inside() -> None:
    white = np.full((48, 48, 3), 255, np.uint8)
    for mask in (box(20, 20, 1, 1), box(5, 5, 30, 2), box(0, 0, 1, 1)):
        assert (membrane(white, mask) == 255).all()


def test_methods_that_are_not_asked_for_are_left_out() -> None:
    assert classic_baselines((0.5, 0.5, 0.5), []) == {}
    assert list(classic_baselines((0.5, 0.5, 0.5), ["Telea", "membrane"])) == ["membrane", "Telea"]


def test_fsr_runs_where_opencv_has_it_and_is_named_where_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(cv2, "xphoto", raising=False)
    assert "opencv-contrib" in baselines_left_out(["FSR", "Telea"])["FSR"]
    assert "FSR" not in classic_baselines((0.5, 0.5, 0.5))
    assert baselines_left_out(["Telea"]) == {}
    monkeypatch.setattr(cv2, "xphoto", Xphoto, raising=False)
    image, mask = ramp_with_hole()
    completed = classic_baselines((0.5, 0.5, 0.5))["FSR"](image, mask)
    assert (completed[mask] == (10, 20, 30)).all()  # red first again
    assert np.array_equal(completed[~mask], image[~mask])


class Xphoto:
    """Fills with a colour, blue first, where the mask is 0, as OpenCV's module reads it."""

    INPAINT_FSR_FAST = 2

    @staticmethod
    def inpaint(image: np.ndarray, known: np.ndarray, result: np.ndarray, method: int) -> None:
        result[:] = np.where(known[..., None] == 0, (30, 20, 10), image)


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (["telea"], "did you mean 'Telea'"),
        (["mean color"], "did you mean 'mean colour'"),
        (["lama"], "known: mean colour, membrane"),
        (["FSR", "FSR"], "more than once"),
    ],
)
def test_a_name_that_no_method_has_is_refused(names: list[str], fault: str) -> None:
    (found,) = baseline_name_errors(names)
    assert fault in found


def test_every_name_has_a_method_or_a_reason_why_not() -> None:
    assert set(BASELINE_NAMES) == {*AVAILABLE, *baselines_left_out(BASELINE_NAMES)}
    assert baseline_name_errors(BASELINE_NAMES) == []
