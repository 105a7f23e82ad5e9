"""The page of a study: answers, tables, sheets and curves, as one HTML file and as Markdown."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from pipeline.study.answers import answers_table, multiplicity
from pipeline.study.definition import Study, StudyFigure, StudyRun, study_runs
from pipeline.study.pictures import as_jpeg, comparison_curves, comparison_sheet
from pipeline.study.results import (
    Results,
    Spread,
    classic_figures,
    heading,
    paired_difference,
    paired_percent,
    spread_of,
)
from shards.inspection.preview import draw_preview

_PREVIEW_SAMPLES = 3


@dataclass(frozen=True)
class Picture:
    name: str  # of a file beside the Markdown
    data: bytes
    description: str

    @property
    def media_type(self) -> str:
        return "image/jpeg" if self.name.endswith(".jpg") else "image/png"


Table = list[list[str]]  # the first row is of headings


@dataclass(frozen=True)
class Section:
    title: str
    text: str
    pictures: list[Picture]
    tables: list[Table]


def study_sections(study: Study, results: Results, folder: str) -> list[Section]:
    """Return the answers, and one for each figure of the study, of the runs that have ended."""
    runs = {(run.arm, run.seed): run for run in study_runs(study, folder)}
    sections = answers_section(study, results)
    for number, figure in enumerate(study.figures, start=1):
        stem = f"{number:02d}"
        if figure.preprocessing:
            shown = _preprocessing(study, figure, runs, stem)
            sections.append(Section(figure.title, figure.question, [shown], []))
            continue
        sections.append(
            Section(
                figure.title,
                figure.question,
                list(_pictures(study, figure, results, runs, stem)),
                [
                    table
                    for table in (
                        comparison_table(study, figure, results),
                        difference_table(study, figure, results),
                    )
                    if table
                ],
            )
        )
    return sections


def answers_section(study: Study, results: Results) -> list[Section]:
    """Return what the page begins with; nothing where the study asks nothing."""
    table = answers_table(study, results)
    if not table:
        return []
    margins = " or ".join(f"{m:g}" for m in sorted({one.margin_percent for one in study.answers}))
    text = (
        "An effect is the mean over the seeds of the difference between two arms, in percent of "
        "the second's mean, with Student's interval of 95 % over the seeds. Shown: the interval "
        "lies wholly on the claimed side of zero. Not shown: it lies wholly on the other side, or "
        f"within {margins} % of zero, too small to matter. Of arms claimed to be as good as each "
        f"other: shown within {margins} %, not shown beyond that on one side. Not resolved: "
        f"these seeds cannot tell. {multiplicity(study, results)}"
    )
    return [Section("Answers", text.strip(), [], [table])]


def _preprocessing(
    study: Study, figure: StudyFigure, runs: dict[tuple[str, int], StudyRun], stem: str
) -> Picture:
    arm = figure.arms[0] if figure.arms else next(iter(study.arms))
    config = runs[arm, study.seeds[0]].config
    fill = "gray" if config.completion.hole_fill == "gray" else "mean"
    sheet = draw_preview(config.data.shards, count=_PREVIEW_SAMPLES, fill=fill)  # type: ignore[arg-type]
    return Picture(f"{stem}-preprocessing.jpg", as_jpeg(sheet), "packed samples")


def _pictures(
    study: Study, figure: StudyFigure, results: Results,
    runs: dict[tuple[str, int], StudyRun], stem: str,
) -> Iterator[Picture]:  # fmt: skip
    seed = next((s for s in study.seeds if all(s in results[arm] for arm in figure.arms)), None)
    if figure.sheet != "none" and seed is not None:
        sheet = comparison_sheet(study, figure, [runs[arm, seed] for arm in figure.arms])
        labels = "; ".join(study.arms[arm].label for arm in figure.arms)
        text = f"validation samples, seed {seed}: {labels}"
        yield Picture(f"{stem}-sheet.jpg", as_jpeg(sheet), text)
    if figure.curves and any(results[arm] for arm in figure.arms):
        yield Picture(
            f"{stem}-curves.png", comparison_curves(study, figure, results),
            "errors and accuracy while training: mean over the seeds, lowest to highest as a band",
        )  # fmt: skip


def comparison_table(study: Study, figure: StudyFigure, results: Results) -> Table:
    """A row for each arm: the mean over its seeds and the range of each figure."""
    rows = [name for name in figure.rows if any(spread_of(results, a, name) for a in figure.arms)]
    table = [["", *(heading(name)[0] for name in rows), "seeds"]]
    for arm in figure.arms:
        cells = [shown_spread(spread_of(results, arm, name), heading(name)[1]) for name in rows]
        table.append([study.arms[arm].label, *cells, str(len(results[arm]))])
    for method, figures in classic_figures(results).items() if figure.baselines else ():
        cells = [
            shown_spread(Spread.of([figures[name]] if name in figures else []), heading(name)[1])
            for name in rows
        ]
        table.append([method, *cells, ""])
    return table


def difference_table(study: Study, figure: StudyFigure, results: Results) -> Table:
    """Return the differences of the other arms from the first, seed by seed.

    The first column is in percent of the first arm's mean. Empty where nothing can be compared.
    """
    reference, *others = figure.arms
    differences = {
        (arm, name): paired_difference(results, arm, reference, name)
        for arm in others
        for name in figure.rows
    }
    rows = [name for name in figure.rows if any(differences[a, name] for a in others)]
    if not rows:
        return []
    label = study.arms[reference].label
    heads = [f"{heading(rows[0])[0]}, %", *(heading(name)[0] for name in rows)]
    table = [[f"difference from: {label} (95 % interval)", *heads]]
    for arm in others:
        cells = [shown_difference(paired_percent(results, arm, reference, rows[0]), 1)]
        cells += [shown_difference(differences[arm, name], heading(name)[1]) for name in rows]
        table.append([study.arms[arm].label, *cells])
    return table


def shown_spread(spread: Spread | None, decimals: int) -> str:
    """Return `mean (lowest to highest)` of the seeds; of one seed the value alone."""
    if spread is None:
        return "-"
    mean, low, high = (f"{v:.{decimals}f}" for v in (spread.mean, spread.lowest, spread.highest))
    return mean if spread.count == 1 else f"{mean} ({low} to {high})"


def shown_difference(spread: Spread | None, decimals: int) -> str:
    """Return `mean (low to high)` of the 95 % interval over the seeds; of one seed the value."""
    if spread is None:
        return "-"
    mean = f"{spread.mean:+.{decimals}f}"
    if spread.interval is None:
        return mean
    low, high = (f"{value:+.{decimals}f}" for value in spread.interval)
    return f"{mean} ({low} to {high})"


def render_markdown(study: Study, sections: list[Section], facts: list[str]) -> str:
    lines = [f"# {study.name}", "", study.purpose, ""]
    lines += [f"- {fact}" for fact in facts]
    for section in sections:
        lines += ["", f"## {section.title}", "", section.text, ""]
        lines += [
            f"![{picture.description}]({study.name}/{picture.name})\n"
            for picture in section.pictures
        ]
        for table in section.tables:
            lines += [*_markdown_table(table), ""]
    lines += ["", "## Arms", "", "| arm | switches |", "| --- | --- |"]
    lines += [f"| {arm.label} | `{_switches(arm.switches)}` |" for arm in study.arms.values()]
    return "\n".join(lines) + "\n"


def _markdown_table(table: Table) -> Iterator[str]:
    for number, row in enumerate(table):
        yield f"| {' | '.join(row)} |"
        if not number:
            yield "| --- |" + " ---: |" * (len(row) - 1)


def _switches(switches: dict[str, object]) -> str:
    text = yaml.safe_dump(switches, default_flow_style=True, width=1000).strip()
    return text if switches else "as the base"


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 64rem; margin: 2rem auto;
       padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 3rem; border-top: 1px solid #ddd; padding-top: 1rem; }
img { max-width: 100%; height: auto; } figure { margin: 1rem 0; }
figcaption { color: #666; font-size: 0.85rem; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid #e4e4e4; text-align: right; }
th:first-child, td:first-child { text-align: left; }
.scroll { overflow-x: auto; margin: 1rem 0; } ul.facts { color: #555; font-size: 0.9rem; }
"""


def render_html(study: Study, sections: list[Section], facts: list[str]) -> str:
    """Self-contained: pictures are part of the file, nothing is fetched from anywhere."""
    escape = html.escape
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{escape(study.name)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(study.name)}</h1><p>{escape(study.purpose)}</p><ul class='facts'>",
        *(f"<li>{escape(fact)}</li>" for fact in facts),
        "</ul>",
    ]
    for section in sections:
        parts.append(f"<h2>{escape(section.title)}</h2><p>{escape(section.text)}</p>")
        for picture in section.pictures:
            data = base64.b64encode(picture.data).decode()
            parts.append(
                f"<figure><img src='data:{picture.media_type};base64,{data}' "
                f"alt='{escape(picture.description, quote=True)}'>"
                f"<figcaption>{escape(picture.description)}</figcaption></figure>"
            )
        parts += [_html_table(table) for table in section.tables]
    arms = [["arm", "switches"]]
    arms += [[arm.label, _switches(arm.switches)] for arm in study.arms.values()]
    parts += ["<h2>Arms</h2>", _html_table(arms), "</body></html>"]
    return "\n".join(parts) + "\n"


def _html_table(rows: Table) -> str:
    lines = ["<div class='scroll'><table>"]
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        cells = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
        lines.append(f"<tr>{cells}</tr>")
    return "\n".join([*lines, "</table></div>"])
