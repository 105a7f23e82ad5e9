"""What the runs of a study came to, gathered from their folders."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from scipy import stats

from pipeline.evaluation.metrics import METRICS
from pipeline.evaluation.report import BLENDED, NETWORK
from pipeline.reporting.metrics_log import read_metrics
from pipeline.study.definition import (
    BLENDED_PREFIX,
    CHANGES,
    FIRST_PHASE_PREFIX,
    RUNNING_PREFIX,
    Study,
    StudyRun,
    study_runs,
)
from shards.storage.files import exists, join_url, read_bytes

EVALUATION = "evaluation.json"  # in a run's folder when it has ended
JUDGEMENT = "judgement.json"  # beside it, when the study has measured the network
CONFIDENCE = 0.95  # of intervals over the seeds

Figures = dict[str, float]


@dataclass(frozen=True)
class RunResult:
    figures: Figures  # of `pipeline.evaluation.metrics.METRICS`, and some with a prefix
    baselines: dict[str, Figures]
    num_samples: int
    records: list[dict[str, Any]]  # of metrics.jsonl
    judge: dict[str, Any] = field(default_factory=dict)  # by what, when and where it was measured


@dataclass(frozen=True)
class Spread:
    """Of one figure over the seeds of an arm."""

    values: tuple[float, ...]  # one for each seed, at least one

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """Return None where there are no values."""
        found = tuple(values)
        return cls(found) if found else None

    @property
    def count(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def lowest(self) -> float:
        return min(self.values)

    @property
    def highest(self) -> float:
        return max(self.values)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return Student's interval of the mean; None for a single seed."""
        if self.count < 2:
            return None
        factor = float(stats.t.ppf((1 + CONFIDENCE) / 2, self.count - 1))
        half = factor * statistics.stdev(self.values) / self.count**0.5
        return self.mean - half, self.mean + half


Results = dict[str, dict[int, RunResult]]  # by arm and seed; runs that have ended


def is_finished(run: StudyRun) -> bool:
    return exists(join_url(run.config.run_folder, EVALUATION))


def gather_results(study: Study, folder: str) -> Results:
    """Of the runs that have ended. Raises ValueError for files that are not what a run writes."""
    results: Results = {arm: {} for arm in study.arms}
    for run in study_runs(study, folder):
        if is_finished(run):
            results[run.arm][run.seed] = _read(run)
    return results


def _read(run: StudyRun) -> RunResult:
    """Of the judgement. What has changed since the first phase, of the run's own evaluations."""
    folder = run.config.run_folder
    own = _json(join_url(folder, EVALUATION))
    judged = _json(join_url(folder, JUDGEMENT)) if exists(join_url(folder, JUDGEMENT)) else own
    methods = dict(judged["methods"])
    figures = dict(methods.pop(NETWORK))
    blended, running = methods.pop(BLENDED, {}), judged.get("running_statistics", {})
    figures |= {f"{BLENDED_PREFIX}{name}": value for name, value in blended.items()}
    figures |= {f"{RUNNING_PREFIX}{name}": value for name, value in running.items()}
    records = read_metrics(folder)
    figures |= changes_since_first_phase(own["methods"][NETWORK], records)
    return RunResult(figures, methods, judged["num_samples"], records, judged.get("judge", {}))


def changes_since_first_phase(figures: Figures, records: list[dict[str, Any]]) -> Figures:
    """Return the errors at the end of the completion phase, and those at the end over them: what
    training with the discriminators has done to them, by the run's own evaluations. Empty where
    there was no other phase.
    """
    first = [r for r in records if r["phase"] == "completion" and "evaluation_hole_mse" in r]
    if not first or records[-1]["phase"] == "completion":
        return {}
    changes = {}
    for name, (figure, _) in CHANGES.items():
        before = first[-1][f"evaluation_{figure}"]
        changes[f"{FIRST_PHASE_PREFIX}{figure}"] = before
        changes[name] = figures[figure] / max(before, 1e-12)
    return changes


def _json(url: str) -> Any:
    try:
        return json.loads(read_bytes(url))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{url} is damaged ({error}); remove it and run the study again"
        ) from error


def classic_figures(results: Results) -> dict[str, Figures]:
    """Of the methods that learn nothing, which every run compares its network with."""
    every = (one.baselines for arm in results.values() for one in arm.values())
    return next((baselines for baselines in every if baselines), {})


def spread_of(results: Results, arm: str, figure: str) -> Spread | None:
    return Spread.of(one.figures[figure] for one in results[arm].values() if figure in one.figures)


def paired_difference(results: Results, arm: str, reference: str, figure: str) -> Spread | None:
    """Seed by seed: both arms began with the same weights and saw the same samples."""
    return Spread.of(one - other for one, other in _pairs(results, arm, reference, figure))


def paired_percent(results: Results, arm: str, reference: str, figure: str) -> Spread | None:
    """Return the differences in percent of the reference's mean over the same seeds.

    None where no seed of both has ended, or where that mean is 0.
    """
    pairs = _pairs(results, arm, reference, figure)
    mean = statistics.fmean(other for _, other in pairs) if pairs else 0.0
    return Spread.of(100 * (one - other) / abs(mean) for one, other in pairs) if mean else None


def percent_above(spread: Spread | None, value: float | None) -> Spread | None:
    """Return by how many percent each seed's figure lies above one value; None without either."""
    if spread is None or not value:
        return None
    return Spread.of(100 * (one / value - 1) for one in spread.values)


def _pairs(results: Results, arm: str, reference: str, figure: str) -> list[tuple[float, float]]:
    """Return the figure of both arms for each seed that has it for both."""
    return [
        (one.figures[figure], results[reference][seed].figures[figure])
        for seed, one in results[arm].items()
        if figure in one.figures
        and seed in results[reference]
        and figure in results[reference][seed].figures
    ]


def heading(figure: str) -> tuple[str, int]:
    """Of a figure in a table, and its decimals."""
    if figure in CHANGES:
        return CHANGES[figure][1], 2
    for prefix, suffix in (
        (RUNNING_PREFIX, "batch norm as training left it"),
        (BLENDED_PREFIX, "blended"),
        (FIRST_PHASE_PREFIX, "end of first phase"),
    ):
        if figure.startswith(prefix):
            text, decimals = METRICS[figure.removeprefix(prefix)]
            return f"{text}, {suffix}", decimals
    return METRICS[figure]


Read = Callable[[dict[str, Any]], float | None]


def curve(results: Results, arm: str, read: Read) -> tuple[list[int], list[Spread]]:
    """Steps, and what `read` makes of the records there, over the seeds that have such a one."""
    by_step: dict[int, list[float]] = {}
    for one in results[arm].values():
        for record in one.records:
            value = read(record)
            if value is not None:
                by_step.setdefault(record["step"], []).append(value)
    steps = sorted(by_step)
    spreads = [Spread.of(by_step[step]) for step in steps]
    return steps, [spread for spread in spreads if spread is not None]
