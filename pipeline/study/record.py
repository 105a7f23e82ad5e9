"""The figures of a study as one JSON file: every arm, every seed, and what they depend on.

Tables are rendered from such a file alone, so that whoever has it can check or draw them again.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from pipeline.study.definition import Study, parse_study
from pipeline.study.results import Results, RunResult, classic_figures

_VERSION = 2


def study_record(study: Study, results: Results, provenance: dict[str, Any]) -> str:
    """Return the file's text. `provenance` is what `study_provenance` returns, or any mapping."""
    content = {
        "version": _VERSION,
        **provenance,
        "baselines": classic_figures(results),
        "runs": {
            arm: {
                str(seed): {"num_samples": one.num_samples, "means": one.figures}
                for seed, one in by_seed.items()
            }
            for arm, by_seed in results.items()
        },
        "study": dataclasses.asdict(study),
    }
    return json.dumps(content, indent=1) + "\n"


def read_record(text: str) -> tuple[Study, Results, dict[str, Any]]:
    """Return what `study_record` was given, without the runs' records of training.

    Raises ValueError for what is no such file, or one of another version.
    """
    content = json.loads(text)
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        version = content.get("version") if isinstance(content, dict) else None
        raise ValueError(
            f"this is no record of a study of version {_VERSION} but of {version}; write it again "
            "with glcic study --page-only"
        )
    study = parse_study(content.pop("study"))
    baselines, runs = content.pop("baselines"), content.pop("runs")
    results: Results = {
        arm: {
            int(seed): RunResult(one["means"], baselines, one["num_samples"], [])
            for seed, one in by_seed.items()
        }
        for arm, by_seed in runs.items()
    }
    del content["version"]
    return study, results, content
