"""Metrics that need a network: LPIPS, FID, KID, U-IDS and P-IDS.

The networks are ONNX files, which hold operators and numbers and no code, run by ONNX Runtime. FID
and KID are computed by torchmetrics, the separation behind U-IDS and P-IDS by scikit-learn.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000
_PACKAGES = {
    "onnxruntime": "onnxruntime",
    "torchmetrics": "torchmetrics",
    "sklearn": "scikit-learn",
}


class OnnxNetwork:
    """Raises FileNotFoundError or ValueError for a file that is not such a network of `num_inputs`
    inputs, RuntimeError where ONNX Runtime is not installed."""

    def __init__(self, path: str, num_inputs: int, flag: str) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"{flag} {path}: there is no such file")
        runtime = _import_package("onnxruntime", flag)
        try:
            providers = runtime.get_available_providers()
            options = runtime.SessionOptions()
            # Idle threads would take the cores of the other ranks.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self._session = runtime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # its own kinds, which derive from nothing narrower
            raise ValueError(f"{flag} {path} is not an ONNX network: {error}") from error
        inputs = self._session.get_inputs()
        if len(inputs) != num_inputs:
            names = ", ".join(one.name for one in inputs)
            raise ValueError(f"{flag} {path} has inputs {names}: it must have {num_inputs}")
        self._names = [one.name for one in inputs]
        batch = inputs[0].shape[0]
        self._batch = batch if isinstance(batch, int) else 0  # exported for that many; 0: any
        self._what = f"{flag} {path}"
        self.sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()

    def __call__(self, *images: np.ndarray) -> np.ndarray:
        """float32 (N, ...) of the first output, for arrays (N, 3, H, W) float32."""
        count = len(images[0])
        piece = self._batch or count
        parts = [
            self._run([one[start : start + piece] for one in images])
            for start in range(0, count, piece)
        ]
        return np.concatenate(parts)

    def _run(self, images: list[np.ndarray]) -> np.ndarray:
        count = len(images[0])
        if self._batch > count:  # the last piece
            padding = [(0, self._batch - count), (0, 0), (0, 0), (0, 0)]
            images = [np.pad(one, padding) for one in images]
        try:
            output = self._session.run(None, dict(zip(self._names, images, strict=True)))[0]
        except Exception as error:
            raise ValueError(
                f"{self._what} cannot take images of {images[0].shape[2:]} pixels: {error}"
            ) from error
        return np.asarray(output, dtype=np.float32)[:count]


@dataclass
class PerceptualNetworks:
    """`feature_network` takes images in [0, 1] and gives features (N, D); `distance_network` takes
    two images in [-1, 1] and gives N distances. Without one, its figures are left out.
    """

    feature_network: OnnxNetwork | None = None
    distance_network: OnnxNetwork | None = None

    @classmethod
    def load(cls, features: str = "", lpips: str = "") -> PerceptualNetworks:
        """From the paths of ONNX files; raises what `OnnxNetwork` raises."""
        if features:
            for package in ("torchmetrics", "sklearn"):
                _import_package(package, "--features")
        return cls(
            OnnxNetwork(features, 1, "--features") if features else None,
            OnnxNetwork(lpips, 2, "--lpips") if lpips else None,
        )

    def description(self) -> dict[str, str]:
        """Return the networks' checksums: figures of others cannot be compared."""
        networks = {
            "feature_network_sha256": self.feature_network,
            "lpips_network_sha256": self.distance_network,
        }
        return {name: one.sha256 for name, one in networks.items() if one is not None}

    def room_for_features(self, num_samples: int, columns: int, side: int) -> np.ndarray | None:
        """float32 zeros (num_samples, columns, D); None without a feature network."""
        if self.feature_network is None:
            return None
        width = self.features(np.zeros((1, side, side, 3), np.uint8)).shape[1]
        return np.zeros((num_samples, columns, width), np.float32)

    def features(self, images: np.ndarray) -> np.ndarray:
        """(N, D) of uint8 (N, H, W, 3)."""
        assert self.feature_network is not None
        return self.feature_network(_network_input(images)).reshape(len(images), -1)

    def distances(self, originals: np.ndarray, completed: np.ndarray) -> np.ndarray:
        """(N,) of uint8 (N, H, W, 3) twice; NaN without a distance network."""
        if self.distance_network is None:
            return np.full(len(originals), np.nan)
        pair = (2 * _network_input(images) - 1 for images in (originals, completed))
        return self.distance_network(*pair).reshape(len(originals))


def distribution_metrics(originals: np.ndarray, completed: np.ndarray) -> dict[str, float]:
    """FID, KID, U-IDS and P-IDS of features (N, D) of images and of their completions, in pairs.

    Raises ValueError for fewer than 2 samples.
    """
    if len(originals) < 2:
        raise ValueError(
            "FID, KID, U-IDS and P-IDS compare distributions: 2 samples are the fewest"
        )
    return {
        "fid": frechet_distance(originals, completed),
        "kid": kernel_distance(originals, completed),
        **inception_scores(originals, completed),
    }


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Of two sets of features (N, D): torchmetrics' FID."""
    image = import_module("torchmetrics.image.fid")
    distance = image.FrechetInceptionDistance(feature=_AsTheyAre(first.shape[1]))
    distance.update(torch.from_numpy(first), real=True)
    distance.update(torch.from_numpy(second), real=False)
    return float(distance.compute())


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Of two sets of features (N, D): torchmetrics' KID, unbiased, so that it may be below 0.

    Up to KID_SUBSET_SIZE samples are compared at once; of more, the mean over KID_SUBSETS subsets
    of that size, whose draws are the same every time.
    """
    image = import_module("torchmetrics.image.kid")
    num_samples = min(len(first), len(second))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)  # that it keeps the features: they are here
        torch.manual_seed(0)
        distance = image.KernelInceptionDistance(
            feature=_AsTheyAre(first.shape[1]),
            subsets=KID_SUBSETS if num_samples > KID_SUBSET_SIZE else 1,
            subset_size=min(num_samples, KID_SUBSET_SIZE),
        )
        distance.update(torch.from_numpy(first).double(), real=True)
        distance.update(torch.from_numpy(second).double(), real=False)
        mean, _ = distance.compute()
    return float(mean)


class _AsTheyAre(nn.Module):
    """Stands where torchmetrics expects the network: the features are there already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def inception_scores(originals: np.ndarray, completed: np.ndarray) -> dict[str, float]:
    """U-IDS and P-IDS in percent (Zhao et al. 2021): the share that a linear support vector machine
    puts on the wrong side, and of completions that it finds more real than their originals.
    """
    machine = import_module("sklearn.svm").LinearSVC(dual=False)
    features = np.concatenate([originals, completed]).astype(np.float64)
    is_real = np.arange(len(features)) < len(originals)
    machine.fit(features, is_real)
    realness = machine.decision_function(features)
    return {
        "u_ids_percent": float(100 * (1 - machine.score(features, is_real))),
        "p_ids_percent": float(
            100 * np.mean(realness[len(originals) :] > realness[: len(originals)])
        ),
    }


def _network_input(images: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W) in [0, 1]."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32) / 255


def _import_package(package: str, flag: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise RuntimeError(
            f"{flag} needs {_PACKAGES[package]}, which is not installed; "
            "pip install 'glcic-pipeline[evaluation]'"
        ) from error
