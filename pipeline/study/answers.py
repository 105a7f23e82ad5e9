"""What a study may say: a question, one of four words, and the effect that the word rests on.

An effect is taken seed by seed: both arms began with the same weights and saw the same samples. It
is in percent of the reference's mean, which is taken as a number without error. Its interval is
Student's, of 95 %, over the seeds: another seed is another training, another sample is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.config.baseline_names import BASELINE_NAMES
from pipeline.study.definition import BLENDED_PREFIX, Study, StudyAnswer
from pipeline.study.results import (
    CONFIDENCE,
    Results,
    Spread,
    classic_figures,
    paired_percent,
    percent_above,
    spread_of,
)

Verdict = Literal["shown", "not shown", "not resolved", "not run"]


@dataclass(frozen=True)
class Answer:
    question: str
    verdict: Verdict
    effect: Spread | None  # in percent of the reference's mean; one value for each seed
    reason: str = ""  # in a few words, where the verdict alone says too little


def answers(study: Study, results: Results) -> list[Answer]:
    """Return an answer to each question of the study, in its order."""
    found = []
    for asked in study.answers:
        effect = effect_percent(asked, results)
        word, reason = verdict(asked, effect)
        found.append(Answer(asked.question, word, effect, reason))
    return found


def effect_percent(asked: StudyAnswer, results: Results) -> Spread | None:
    """Return the effect by seed; None where no seed of both arms has ended.

    A method without learned weights has one value for all seeds, and no blended form: with it, a
    figure of the blended completion is compared as well.
    """
    if asked.reference in BASELINE_NAMES:
        value = (
            classic_figures(results)
            .get(asked.reference, {})
            .get(asked.figure.removeprefix(BLENDED_PREFIX))
        )
        return percent_above(spread_of(results, asked.arm, asked.figure), value)
    if asked.reference:
        return paired_percent(results, asked.arm, asked.reference, asked.figure)
    # Since the first phase: 1 is no change.
    return percent_above(spread_of(results, asked.arm, asked.figure), 1.0)


def verdict(asked: StudyAnswer, effect: Spread | None) -> tuple[Verdict, str]:
    """Return what the interval allows to say of the claim, and the reason where there is one.

    claim           shown                    not shown
    lower, higher   the claimed side of 0    the other side of 0, or within the margin
    differs         either side of 0         within the margin
    same            within the margin        beyond the margin on one side

    The interval must lie there wholly; an end that touches 0 or the margin does not. What is shown
    may still be within the margin, which the reason says. Everything else is "not resolved", and so
    is a single seed, which has no interval.
    """
    if effect is None:
        return "not run", ""
    if effect.interval is None:
        return "not resolved", "one seed has no interval"
    low, high = effect.interval
    margin = asked.margin_percent
    smaller = f"smaller than {margin:g} %" if -margin < low and high < margin else ""
    if asked.claim == "same":
        if smaller:
            return "shown", smaller
        is_beyond = low > margin or high < -margin
        return ("not shown", f"more than {margin:g} %") if is_beyond else ("not resolved", "")
    claimed = {"lower": high < 0, "higher": low > 0, "differs": high < 0 or low > 0}[asked.claim]
    if claimed:
        return "shown", smaller and f"but {smaller}"
    if smaller:
        return "not shown", smaller
    is_contrary = high < 0 or low > 0
    return ("not shown", "it is the other way round") if is_contrary else ("not resolved", "")


def answers_table(study: Study, results: Results) -> list[list[str]]:
    """Return rows of text, the first of headings; empty where the study asks nothing."""
    if not study.answers:
        return []
    rows = [["question", "answer", "effect (95 % interval)", "seeds"]]
    for answer in answers(study, results):
        word = f"{answer.verdict} ({answer.reason})" if answer.reason else answer.verdict
        count = str(answer.effect.count) if answer.effect else "0"
        rows.append([answer.question, word, _format_effect(answer.effect), count])
    return rows


def multiplicity(study: Study, results: Results) -> str:
    """Return what chance alone does to that many intervals, as a sentence; of none, nothing."""
    count = sum(
        answer.effect is not None and answer.effect.interval is not None
        for answer in answers(study, results)
    )
    if not count:
        return ""
    return (
        f"Of {count} intervals of {100 * CONFIDENCE:.0f} %, about {(1 - CONFIDENCE) * count:.1f} "
        "would exclude zero by chance alone if no arm differed from another; no correction is "
        "made for that."
    )


def _format_effect(effect: Spread | None) -> str:
    if effect is None:
        return "-"
    if effect.interval is None:
        return f"{effect.mean:+.1f} %"
    low, high = effect.interval
    return f"{effect.mean:+.1f} % ({low:+.1f} to {high:+.1f})"
