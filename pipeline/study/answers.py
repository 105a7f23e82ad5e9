"""What a study may say: a question, the effect with its interval, and one of four words.

An effect is taken seed by seed: both arms began with the same weights and saw the same samples. Its
interval is Student's, of 95 %, over the seeds, as a share of the reference's mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.study.definition import Study, StudyAnswer
from pipeline.study.results import Results, Spread, paired_difference, spread_of

Verdict = Literal["shown", "not shown", "not resolved", "not run"]


@dataclass(frozen=True)
class Answer:
    question: str
    verdict: Verdict
    effect: Spread | None  # in percent of the reference's mean; one value for each seed


def answers(study: Study, results: Results) -> list[Answer]:
    """Return an answer to each question of the study, in its order."""
    found = []
    for asked in study.answers:
        effect = effect_percent(asked, results)
        found.append(Answer(asked.question, verdict(asked, effect), effect))
    return found


def effect_percent(asked: StudyAnswer, results: Results) -> Spread | None:
    """Return the effect by seed; None where no seed of both arms has ended."""
    if not asked.reference:  # a change since the first phase: 1 is none
        changes = spread_of(results, asked.arm, asked.figure)
        return Spread.of(100 * (v - 1) for v in changes.values) if changes else None
    differences = paired_difference(results, asked.arm, asked.reference, asked.figure)
    reference = spread_of(results, asked.reference, asked.figure)
    if differences is None or reference is None or reference.mean == 0:
        return None
    return Spread.of(100 * value / abs(reference.mean) for value in differences.values)


def verdict(asked: StudyAnswer, effect: Spread | None) -> Verdict:
    """Return what the interval allows to say of the claim.

    lower, higher: "shown" where the interval lies wholly on the claimed side of zero; "not shown"
    where it lies wholly on the other side, or wholly within the margin. same: "shown" where it lies
    wholly within the margin; else "not shown" where it leaves out zero. Everything else, and a
    single seed, is "not resolved".
    """
    if effect is None:
        return "not run"
    if effect.interval is None:
        return "not resolved"
    low, high = effect.interval
    is_within = -asked.margin_percent < low and high < asked.margin_percent
    if asked.claim == "same":
        leaves_out_zero = low > 0 or high < 0
        return "shown" if is_within else "not shown" if leaves_out_zero else "not resolved"
    is_claimed, is_contrary = (high < 0, low > 0)
    if asked.claim == "higher":
        is_claimed, is_contrary = is_contrary, is_claimed
    if is_claimed:
        return "shown"
    return "not shown" if is_contrary or is_within else "not resolved"


def answers_table(study: Study, results: Results) -> list[list[str]]:
    """Return rows of text, the first of headings; empty where the study asks nothing."""
    if not study.answers:
        return []
    rows = [["question", "answer", "effect (95 % interval)", "seeds"]]
    for answer in answers(study, results):
        count = str(answer.effect.count) if answer.effect else "0"
        rows.append([answer.question, answer.verdict, _shown(answer.effect), count])
    return rows


def multiplicity(study: Study) -> str:
    """Return how many of the answers chance alone would make wrong, as a sentence."""
    count = len(study.answers)
    return (
        f"Of {count} intervals of 95 %, chance alone leaves the true value outside about "
        f"{0.05 * count:.1f}: read a single answer near the edge of its interval with that in mind."
    )


def _shown(effect: Spread | None) -> str:
    if effect is None:
        return "-"
    if effect.interval is None:
        return f"{effect.mean:+.1f} %"
    low, high = effect.interval
    return f"{effect.mean:+.1f} % ({low:+.1f} to {high:+.1f})"
