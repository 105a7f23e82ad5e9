from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.evaluation import feature_metrics
from pipeline.evaluation.feature_metrics import (
    OnnxNetwork,
    PerceptualNetworks,
    distribution_metrics,
    frechet_distance,
    inception_scores,
    kernel_distance,
)
from tests.pipeline.onnx_networks import write_distance_network, write_feature_network


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def test_the_frechet_distance_is_that_of_the_formula() -> None:
    generator = np.random.default_rng(0)
    first = generator.normal(0, 1, (500, 3)).astype(np.float32)
    second = (generator.normal(0, 1, (400, 3)) * [1, 2, 0.5] + [0.3, 0, -1]).astype(np.float32)
    means = [one.mean(axis=0, dtype=np.float64) for one in (first, second)]
    covariances = [np.cov(one.astype(np.float64), rowvar=False) for one in (first, second)]
    # The trace of the root of a product is the sum of the roots of its eigenvalues.
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).real).sum()
    expected = np.sum((means[0] - means[1]) ** 2) + np.trace(sum(covariances)) - 2 * roots
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-6)


def test_of_known_gaussians_the_distance_is_near_their_own() -> None:
    generator = np.random.default_rng(0)
    first = generator.normal(0, 1, (20_000, 2)).astype(np.float32)
    second = generator.normal([3, 0], [1, 2], (20_000, 2)).astype(np.float32)
    assert frechet_distance(first, second) == pytest.approx(3**2 + (2 - 1) ** 2, rel=0.05)


def unbiased_kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """The squared distance of means under the kernel (x.y / D + 1)^3 (Binkowski et al. 2018)."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a.astype(np.float64) @ b.T.astype(np.float64) / a.shape[1] + 1) ** 3

    def mean_of_others(values: np.ndarray) -> float:
        count = len(values)
        return float((values.sum() - np.trace(values)) / (count * (count - 1)))

    return (
        mean_of_others(kernel(first, first))
        + mean_of_others(kernel(second, second))
        - 2 * float(kernel(first, second).mean())
    )


@pytest.mark.parametrize("count", [2, 40])
def test_of_few_samples_the_kernel_distance_is_that_of_all_of_them(count: int) -> None:
    generator = np.random.default_rng(0)
    first, second = (generator.normal(m, 1, (count, 5)).astype(np.float32) for m in (0, 0.5))
    expected = unbiased_kernel_distance(first, second)
    assert kernel_distance(first, second) == pytest.approx(expected, rel=1e-6)


def test_of_many_samples_the_kernel_distance_is_the_same_every_time_and_near_that_of_all() -> None:
    generator = np.random.default_rng(0)
    first, second = (generator.normal(m, 1, (1500, 5)).astype(np.float32) for m in (0, 0.5))
    state = torch.random.get_rng_state()
    found = kernel_distance(first, second)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert kernel_distance(first, second) == found
    assert found == pytest.approx(unbiased_kernel_distance(first, second), rel=0.1)


def test_completions_that_are_told_apart_at_once_have_scores_of_zero() -> None:
    originals = np.random.default_rng(0).normal(0, 1, (50, 4))
    scores = inception_scores(originals, originals + 100)
    assert scores == {"u_ids_percent": 0, "p_ids_percent": 0}


def test_completions_like_their_originals_are_taken_for_real_as_often_as_not() -> None:
    generator = np.random.default_rng(0)
    scores = inception_scores(generator.normal(0, 1, (2000, 2)), generator.normal(0, 1, (2000, 2)))
    assert scores["u_ids_percent"] == pytest.approx(50, abs=3)
    assert scores["p_ids_percent"] == pytest.approx(50, abs=3)


def test_pairs_are_compared_with_each_other_alone() -> None:
    originals = np.array([[0.0], [10.0], [20.0], [30.0]])
    shifts = np.array([[1.0], [1.0], [1.0], [-0.5]])
    # Real is found to be small: only the last completion lies below its original.
    assert inception_scores(originals, originals + shifts)["p_ids_percent"] == 25


def test_a_single_sample_has_no_distribution() -> None:
    with pytest.raises(ValueError, match="2 samples are the fewest"):
        distribution_metrics(np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32))


@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_features_are_the_same_whatever_number_the_network_takes_at_a_time(
    tmp_path: Path, batch: int | str
) -> None:
    any_number = write_feature_network(tmp_path / "any.onnx")
    expected = PerceptualNetworks.load(features=any_number).features(images(6))
    path = write_feature_network(tmp_path / "network.onnx", batch=batch)
    features = PerceptualNetworks.load(features=path).features(images(6))
    assert features.shape == (6, 4)
    np.testing.assert_allclose(features, expected, rtol=1e-5)
    assert np.ptp(features, axis=0).min() > 0


def test_distances_are_of_images_from_minus_one_to_one(tmp_path: Path) -> None:
    networks = PerceptualNetworks.load(lpips=write_distance_network(tmp_path / "network.onnx"))
    black, white = np.zeros((2, 8, 8, 3), np.uint8), np.full((2, 8, 8, 3), 255, np.uint8)
    white[1] = 0
    np.testing.assert_allclose(networks.distances(black, white), [2, 0])
    assert np.isnan(PerceptualNetworks().distances(black, white)).all()


def test_a_file_that_is_no_such_network_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"--features .*none.onnx: there is no such file"):
        PerceptualNetworks.load(features=str(tmp_path / "none.onnx"))
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(ValueError, match=r"text.onnx is not an ONNX network"):
        PerceptualNetworks.load(features=str(tmp_path / "text.onnx"))
    path = write_feature_network(tmp_path / "network.onnx")
    with pytest.raises(ValueError, match=r"--lpips .* has inputs image: it must have 2"):
        PerceptualNetworks.load(lpips=path)
    with pytest.raises(ValueError, match=r"cannot take images of"):
        OnnxNetwork(path, 1, "--features")(np.zeros((1, 4, 32, 32), np.float32))


def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def not_installed(name: str) -> None:
        raise ImportError(name)

    path = write_feature_network(tmp_path / "network.onnx")
    monkeypatch.setattr(feature_metrics, "import_module", not_installed)
    with pytest.raises(RuntimeError, match=r"--features needs torchmetrics.*\[evaluation\]"):
        PerceptualNetworks.load(features=path)
