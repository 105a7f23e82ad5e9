"""The figures of a study as one JSON file: every arm, every seed, and what they depend on.

Tables are rendered from such a file alone, so that whoever has it can check or draw them again.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from pipeline.study.definition import Study, parse_study
from pipeline.study.results import Results, RunResult

_VERSION = 1


def study_record(study: Study, results: Results, facts: dict[str, Any]) -> str:
    """Return the file's text. `facts` says where, when and from what the figures come."""
    runs = {
        arm: {str(seed): one.figures for seed, one in by_seed.items()}
        for arm, by_seed in results.items()
    }
    judged = [one for by_seed in results.values() for one in by_seed.values()]
    content = {
        "version": _VERSION,
        "facts": facts,
        "num_samples": max((one.num_samples for one in judged), default=0),
        "baselines": next((one.baselines for one in judged if one.baselines), {}),
        "runs": runs,
        "study": dataclasses.asdict(study),
    }
    return json.dumps(content, indent=1) + "\n"


def read_record(text: str) -> tuple[Study, Results, dict[str, Any]]:
    """Return what `study_record` was given, without the records of training.

    Raises ValueError for a file of another version.
    """
    content = json.loads(text)
    if content.get("version") != _VERSION:
        raise ValueError(f"the record has version {content.get('version')}, not {_VERSION}")
    study = parse_study(content["study"])
    results: Results = {
        arm: {
            int(seed): RunResult(figures, content["baselines"], content["num_samples"], [])
            for seed, figures in by_seed.items()
        }
        for arm, by_seed in content["runs"].items()
    }
    return study, results, content["facts"]
