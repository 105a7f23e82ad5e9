"""The tables of figures that the README and docs/ hold, each rendered from its result files.

Every table ends with what its files record: command, machine and date.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.result import Measurement, Result, read_result
from benchmarks.harness.tables import markdown_line
from pipeline.evaluation.metrics import METRICS
from pipeline.evaluation.report import BLENDED
from pipeline.study.answers import answers_table, multiplicity
from pipeline.study.definition import BLENDED_PREFIX
from pipeline.study.page import shown_spread
from pipeline.study.record import read_record
from pipeline.study.results import classic_figures, spread_of

PLAIN = "plain: eager, fp32, NCHW"
_FORWARD = "forward, 128 pixels, batch 8"
_BOTH_WAYS = "forward and backward, 128 pixels, batch 8"
_DECODING = "stored at the size of the crop: decoding only"
_PHASES = ("completion", "discriminator", "joint")


@dataclass(frozen=True)
class DocumentedTable:
    files: tuple[str, ...]  # of the results folder
    render: Callable[[Path], Iterable[str]]  # lines of Markdown


def quickstart(results: Path) -> Iterator[str]:
    """Yield the figures in the hole of every method of the quickstart's evaluation.

    Where the evaluation holds intervals, the last column is the network's PSNR minus the method's.
    """
    content = read_document(results / "quickstart-evaluation.json")
    methods: dict[str, dict[str, float]] = content["methods"]
    intervals = content.get("intervals", {})
    measured = set().union(*methods.values())
    names = [name for name in _IN_THE_HOLE if name in measured]
    heads = [METRICS[name][0] for name in names]
    if intervals:
        heads.append(f"{next(iter(methods))} minus it, dB ({intervals['confidence']:.0%} interval)")
    yield markdown_line(["", *heads])
    yield "| --- |" + " ---: |" * len(heads)
    for method, figures in methods.items():
        cells = [_of_method(figures, name) for name in names]
        if intervals:
            cells.append(_difference(intervals["differences"].get(method, {})))
        yield markdown_line([method, *cells])
    yield ""
    if BLENDED in methods and "membrane" in methods:
        gain = f"{methods[BLENDED]['hole_psnr_db'] - methods['membrane']['hole_psnr_db']:+.2f}"
        of_blended = intervals.get("differences_of", {}).get(BLENDED, {})
        if "hole_psnr_db" in of_blended.get("membrane", {}):
            gain = _difference(of_blended["membrane"])
        yield (
            f"Blended, the network has {gain} dB against the membrane, which is a grey fill "
            "blended in the same way."
        )
        yield ""
    images = f" of {intervals['num_images']} images" if intervals else ""
    yield f"{content['num_samples']} validation samples{images}. {origin(content)}"


_IN_THE_HOLE = tuple(
    name
    for name in METRICS
    if name in ("hole_mse", "hole_psnr_db", "hole_ssim", "hole_sharpness", "seam")
)


def _of_method(figures: dict[str, float], name: str) -> str:
    return f"{figures[name]:.{METRICS[name][1]}f}" if name in figures else "-"


def _difference(of_figures: dict[str, dict[str, float]]) -> str:
    if "hole_psnr_db" not in of_figures:
        return "-"
    one = of_figures["hole_psnr_db"]
    return f"{one['mean']:+.2f} ({one['low']:+.2f} to {one['high']:+.2f})"


def speed(results: Path) -> Iterator[str]:
    """Yield this project's rates beside those of others in the same run."""
    generator = read_result(results / "generator.json")
    training = read_result(results / "training.json")
    loader = read_result(results / "loader-zen4.json")
    packing = read_result(results / "packing-many-zen4.json")
    folded, reader = "default, batch norm folded, Winograd", "ShardReader, 1 thread"
    yield markdown_line(["images/s", "here", "beside it", "", "ratio, lowest to highest round"])
    yield "| --- | ---: | --- | ---: | --- |"
    yield _compare(
        "completion network, 8 bits by OpenVINO", generator, _FORWARD, "8 bits, OpenVINO", PLAIN
    )
    yield _compare("completion network, bf16, Winograd", generator, _FORWARD, folded, PLAIN)
    yield _compare(
        "its forward and backward, bf16, Winograd",
        generator,
        _BOTH_WAYS,
        "default, Winograd",
        PLAIN,
    )
    for phase in _PHASES:
        group = f"compared: {phase}, real images"
        what = f"training step, {phase} phase, Winograd"
        yield _compare(what, training, group, "train.convolution=winograd", "plain")
    for peer in ("webdataset, PIL", "webdataset, simplejpeg"):
        yield _compare("loading JPEGs of 256 pixels, one thread", loader, _DECODING, reader, peer)
    packer, writer = "pack_images, 1 process", "ShardWriter with Pillow, 1 process"
    yield _compare("packing photographs, one process", packing, "speed", packer, writer)
    yield from _origins(generator, training, loader, packing)


def loading_peers(results: Path) -> Iterator[str]:
    """Yield how fast batches are loaded, as a multiple of the rate of every other library."""
    result = read_result(results / "loader-peers.json")
    first, second = "ShardReader, 1 thread / ", "ShardReader, 2 threads / "
    yield markdown_line(
        ["ShardReader / ...", "1 thread, or in the calling process", "2 threads or workers"]
    )
    yield "| --- | --- | --- |"
    for peer, one, two in _LOADING_PEERS:
        cells = [
            spread(find(result, _DECODING, name))
            for name in (first + peer + one, second + peer + two)
        ]
        yield markdown_line([peer, *cells])
    yield from _origins(result)


_NO_WORKERS, _TWO_WORKERS = ", 0 workers", ", 2 workers"
_LOADING_PEERS = (
    ("webdataset, PIL", "", ""),
    ("webdataset, simplejpeg", "", ""),
    ("MosaicML Streaming, Pillow", _NO_WORKERS, _TWO_WORKERS),
    ("MosaicML Streaming, simplejpeg", _NO_WORKERS, _TWO_WORKERS),
    ("LitData, torchvision", _NO_WORKERS, _TWO_WORKERS),
    ("LitData, simplejpeg", _NO_WORKERS, _TWO_WORKERS),
    ("FFCV", ", 1 thread", ", 2 threads"),
    ("DALI", ", 1 thread", ", 2 threads"),
    ("DataLoader of files, Pillow", _NO_WORKERS, _TWO_WORKERS),
)


def schedule(results: Path) -> Iterator[str]:
    """Yield the hours that the schedules of two presets take, extrapolated from their steps."""
    paper = read_result(results / "training-places2.json")
    quick = read_result(results / "training-quickstart.json")
    yield markdown_line(
        ["schedule, extrapolated from measured steps", "workers", "batch measured", "time"]
    )
    yield "| --- | ---: | ---: | --- |"
    for preset, result in (("places2", paper), ("quickstart", quick)):
        (hours,) = [one for one in result.figures if one.name.startswith("all phases")]
        measured = [str(result.parameters[name]) for name in ("workers", "batch size")]
        steps = hours.name.removeprefix("all phases, ")
        yield markdown_line([f"`{preset}`, {steps}", *measured, _duration(hours)])
    yield from _origins(paper, quick)


def _duration(hours: Measurement) -> str:
    if hours.median >= 1:
        return f"{spread(hours)} hours"
    minutes = Measurement.of_runs(
        hours.group, hours.name, "minutes", [60 * one for one in hours.runs]
    )
    return f"{spread(minutes)} minutes"


def checkpoint(results: Path) -> Iterator[str]:
    """Yield what a checkpoint of the full-size networks costs, in seconds."""
    result = read_result(results / "checkpoint.json")
    megabytes = result.parameters["bytes of all tensors"] / 1e6
    yield markdown_line(
        [f"a checkpoint of {megabytes:,.0f} MB", "seconds, lowest to highest round"]
    )
    yield "| --- | --- |"
    for group, name in (
        ("the training loop", "one step, undisturbed"),
        ("the training loop", "copy to host memory, which the loop waits for"),
        ("the store, a local disk", "hashing and writing"),
        ("the store, a local disk", "reading and verifying"),
        ("the store, a local disk", "loading into networks and optimizers"),
    ):
        yield markdown_line([name, spread(find(result, group, name))])
    yield from _origins(result)


def scaling(results: Path) -> Iterator[str]:
    """Yield the rate of two workers, as a share of twice the rate of one."""
    result = read_result(results / "cluster.json")
    groups = [f"weak scaling, {images} images a worker: efficiency" for images in (4, 8, 16, 32)]
    groups.append("strong scaling, 32 images in all: efficiency")
    yield markdown_line(["share of twice the rate of one worker", *_PHASES])
    yield "| --- | --- | --- | --- |"
    for group in groups:
        cells = [spread(find(result, group, f"{phase}, 2 workers")) for phase in _PHASES]
        yield markdown_line([group.removesuffix(": efficiency"), *cells])
    yield from _origins(result)


def study(results: Path) -> Iterator[str]:
    """Yield the answers of study-quick, with their effects and intervals."""
    study, measured, provenance = read_record((results / "study-quick.json").read_text("utf-8"))
    table = answers_table(study, measured)
    yield markdown_line(table[0])
    yield "| --- | --- | ---: | ---: |"
    yield from map(markdown_line, table[1:])
    yield ""
    yield multiplicity(study, measured)
    yield ""
    yield origin(provenance)


def study_methods(results: Path) -> Iterator[str]:
    """Yield the classic methods of study-quick beside its networks, plain and blended."""
    study, measured, provenance = read_record((results / "study-quick.json").read_text("utf-8"))
    names = [name for name in _IN_THE_HOLE if name != "hole_mse"]
    names += ["lpips"]
    yield markdown_line(["", *(METRICS[name][0] for name in names)])
    yield "| --- |" + " ---: |" * len(names)
    for arm in ("completion-only", "known-03", "known-4", "global-composite"):
        label = study.arms[arm].label
        for suffix, prefix in (("", ""), (", blended", BLENDED_PREFIX)):
            spreads = [(spread_of(measured, arm, prefix + name), name) for name in names]
            cells = [shown_spread(one, METRICS[name][1]) for one, name in spreads]
            yield markdown_line([label + suffix, *cells])
    for method, figures in classic_figures(measured).items():
        yield markdown_line([method, *(_of_method(figures, name) for name in names)])
    yield ""
    evaluation = provenance["evaluation_set"]
    yield (
        f"Means over the seeds, lowest to highest, on {evaluation['num_samples']} samples of "
        f"{evaluation['num_images']} validation images"
    )


TABLES = {
    "quickstart": DocumentedTable(("quickstart-evaluation.json",), quickstart),
    "speed": DocumentedTable(
        ("generator.json", "training.json", "loader-zen4.json", "packing-many-zen4.json"), speed
    ),
    "loading-peers": DocumentedTable(("loader-peers.json",), loading_peers),
    "schedule": DocumentedTable(("training-places2.json", "training-quickstart.json"), schedule),
    "checkpoint": DocumentedTable(("checkpoint.json",), checkpoint),
    "scaling": DocumentedTable(("cluster.json",), scaling),
    "study": DocumentedTable(("study-quick.json",), study),
    "study-methods": DocumentedTable(("study-quick.json",), study_methods),
}


def _compare(what: str, result: Result, group: str, here: str, beside: str) -> str:
    """Return a row: two rates, and the ratio of the rates of the same round."""
    ours, theirs = find(result, group, here), find(result, group, beside)
    ratios = [one / other for one, other in zip(ours.runs, theirs.runs, strict=True)]
    ratio = Measurement.of_runs(group, f"{here} / {beside}", "ratio", ratios)
    name = _NAMES.get(beside, beside)
    return markdown_line([what, number(ours.median), name, number(theirs.median), spread(ratio)])


_NAMES = {PLAIN: "plain PyTorch", "plain": "plain PyTorch"}


def _origins(*results: Result) -> Iterator[str]:
    """Yield a line for each result: command, machine and date."""
    yield ""
    for result in results:
        yield f"- {origin(asdict(result))}"


def origin(content: Mapping[str, Any]) -> str:
    """Return command, machine and date of a result; commit and note if it records them.

    Raises ValueError if it does not record its command, machine and date.
    """
    missing = [name for name in ("command", "hardware", "date") if not content.get(name)]
    if missing:
        raise ValueError(
            f"a result file does not record its {' and '.join(missing)}; write it with "
            "python -m benchmarks.keep_evaluation, or run its benchmark again"
        )
    hardware = content["hardware"]
    parts = [
        f"`{content['command']}`",
        f"{hardware['cpu']}, {hardware['cores']} cores, {hardware.get('accelerator') or 'no GPU'}",
        content["date"][:10],
    ]
    if content.get("commit"):
        parts.append(f"commit {content['commit']}")
    if note := content.get("parameters", {}).get("note"):
        parts.append(note)
    return "; ".join(parts)


def find(result: Result, group: str, name: str) -> Measurement:
    """Return the figure of that group and name. Raises ValueError if the result has none."""
    for figure in result.figures:
        if (figure.group, figure.name) == (group, name):
            return figure
    raise ValueError(
        f"the result of `{result.command}` has no figure {name!r} in {group!r}; measure it again "
        "or change benchmarks/documented_tables.py"
    )


def spread(figure: Measurement) -> str:
    """Return the median and, in brackets, the lowest and highest round."""
    low, high = number(figure.minimum), number(figure.maximum)
    return f"{number(figure.median)} ({low} to {high})"


def number(value: float) -> str:
    """Return `value` with three significant digits or, from 100 on, without a fraction."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def read_document(path: Path) -> dict[str, Any]:
    """Return a JSON document. Raises ValueError, with the file's name, for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); measure it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object; measure it again")
    return content
