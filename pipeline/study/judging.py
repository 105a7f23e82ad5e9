"""Measure the networks of finished runs, all by the same judge: the study's evaluation set.

Runs do not measure themselves at their end: methods without a network would be measured once for
each run, and figures that need a judging network would need it in every run's configuration.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipeline.config.baseline_names import BASELINE_NAMES
from pipeline.config.schema import Config
from pipeline.engines.ddp import Worker
from pipeline.evaluation.evaluate import Evaluation, evaluate, recalibrate
from pipeline.evaluation.feature_metrics import PerceptualNetworks
from pipeline.evaluation.per_sample import EvaluationContext
from pipeline.evaluation.report import NETWORK
from pipeline.exports.network_folder import find_checkpoint, load_from_checkpoint
from pipeline.study.provenance import this_environment
from pipeline.study.results import JUDGEMENT
from shards.format.manifest import load_manifest
from shards.storage.files import exists, join_url, read_bytes, write_bytes

_VERSION = 1  # of what is measured, and how


@dataclass(frozen=True)
class Judge:
    """What measures all runs of a study. Paths are of ONNX files, see
    `pipeline.evaluation.feature_metrics`."""

    features: str = ""
    lpips: str = ""
    num_samples: int = 0  # of the evaluation set, spread evenly; 0: all

    def judge(self, config: Config, *, baselines: bool) -> None:
        """Write `judgement.json` into a finished run's folder, unless this judge has done so.

        The network is the newest checkpoint's raw weights, measured with its batch norm estimated
        anew on training images, and once more with its running statistics as training left them.
        """
        perceptual = _networks(self.features, self.lpips)
        facts = self._facts(config, perceptual, baselines)
        url = join_url(config.run_folder, JUDGEMENT)
        if _is_judged(url, facts):
            return
        device = _device()
        left, _ = load_from_checkpoint(find_checkpoint(config.checkpoint_url), "raw", device)
        worker = Worker(device=device, precision=config.train.precision)
        network = recalibrate(left, config, worker)
        names = BASELINE_NAMES if baselines else ()
        judged = self._measure(network, config, perceptual, names, blend=True)
        running = self._measure(left, config, PerceptualNetworks(), (), blend=False)
        content = {
            "judge": {**facts, "made": this_environment()},
            "num_samples": judged.num_samples,
            "methods": judged.methods,
            "running_statistics": running.methods[NETWORK],
        }
        write_bytes(url, json.dumps(content, indent=1).encode())

    def _measure(
        self,
        network: nn.Module,
        config: Config,
        perceptual: PerceptualNetworks,
        baselines: Sequence[str],
        *,
        blend: bool,
    ) -> Evaluation:
        context = EvaluationContext(
            device=_device(),
            precision=config.train.precision,
            map_scale=config.loss.map_scale,
            threads=torch.get_num_threads(),
            perceptual=perceptual,
        )
        return evaluate(
            network,
            config.validation_shards,
            context,
            batch_size=config.evaluation.batch_size,
            limit=self.num_samples,
            baselines=baselines,
            blend=blend,
            cache=config.data.cache,
            cache_limit_bytes=config.data.cache_limit_bytes,
        )

    def _facts(
        self, config: Config, perceptual: PerceptualNetworks, baselines: bool
    ) -> dict[str, Any]:
        """Return what the figures depend on besides the run: with others it is judged again."""
        return {
            "version": _VERSION,
            "evaluation_set": load_manifest(config.validation_shards).fingerprint,
            "num_samples": self.num_samples,
            "baselines": baselines,
            "networks_sha256": perceptual.description(),
        }


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@functools.cache  # a process judges many runs
def _networks(features: str, lpips: str) -> PerceptualNetworks:
    return PerceptualNetworks.load(features, lpips)


def _is_judged(url: str, facts: dict[str, Any]) -> bool:
    """Return whether all that is asked for has been measured; what was measured beyond that may
    stay.
    """
    if not exists(url):
        return False
    try:
        before = json.loads(read_bytes(url))["judge"]
        networks = {**before["networks_sha256"], **facts["networks_sha256"]}
        baselines = before["baselines"] or facts["baselines"]
        asked = {**facts, "networks_sha256": networks, "baselines": baselines}
        return bool({**before, "made": None} == {**asked, "made": None})
    except (KeyError, TypeError, ValueError):  # damaged, or of an earlier version: measured again
        return False
