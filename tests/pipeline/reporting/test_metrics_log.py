from __future__ import annotations

import io
import json
from pathlib import Path

from PIL import Image
from rich.console import Console

from pipeline.reporting.curves import draw_curves
from pipeline.reporting.metrics_log import MetricsFile, Telemetry, read_metrics


def telemetry(folder: Path, output: io.StringIO, start_step: int = 0) -> Telemetry:
    console = Console(file=output, force_terminal=False, width=200)
    return Telemetry(
        str(folder), start_step=start_step, total_steps=10, tensorboard=False, console=console
    )


def test_off_a_terminal_each_record_is_one_plain_line(tmp_path: Path) -> None:
    output = io.StringIO()
    run = telemetry(tmp_path, output)
    run.record(4, "joint", {"reconstruction": 0.25, "images_per_second": 12.0})
    run.close()
    (line,) = output.getvalue().splitlines()
    assert line.startswith("joint step 4/10: rec 0.25 img/s 12, left ")
    assert "\x1b" not in line


def test_on_a_terminal_there_is_a_progress_bar_with_phase_and_figures(tmp_path: Path) -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=160)
    run = Telemetry(str(tmp_path), start_step=0, total_steps=10, tensorboard=False, console=console)
    run.record(4, "joint", {"reconstruction": 0.25})
    run.close()
    assert "joint" in output.getvalue()
    assert "4/10" in output.getvalue()
    assert "rec 0.25" in output.getvalue()


def test_every_record_is_a_line_of_the_metrics_file(tmp_path: Path) -> None:
    run = telemetry(tmp_path, io.StringIO())
    run.record(2, "completion", {"reconstruction": 0.5})
    assert read_metrics(str(tmp_path)) == [
        {"step": 2, "phase": "completion", "reconstruction": 0.5}
    ]
    run.close()


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    first = MetricsFile(str(tmp_path), 0)
    for step in (2, 4, 6):
        first.append({"step": step})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "rec')  # a kill in the middle of a line
    MetricsFile(str(tmp_path), 4).append({"step": 6})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6]


def test_a_step_that_is_looked_at_again_has_one_record_of_each_kind(tmp_path: Path) -> None:
    metrics = MetricsFile(str(tmp_path), 0)
    for record in ({"step": 2, "rec": 1}, {"step": 4, "rec": 2}, {"step": 4, "psnr": 3}):
        metrics.append(record)
    metrics.append({"step": 4, "psnr": 5})
    expected = [{"step": 2, "rec": 1}, {"step": 4, "rec": 2}, {"step": 4, "psnr": 5}]
    assert read_metrics(str(tmp_path)) == expected


def test_metrics_reach_a_store_that_cannot_append() -> None:
    url = "memory://run-with-metrics"
    metrics = MetricsFile(url, 0)
    metrics.append({"step": 1})
    metrics.flush()
    assert read_metrics(url) == [{"step": 1}]


def test_the_curves_are_a_picture_also_of_a_run_with_one_record() -> None:
    for records in ([], [{"step": 1, "phase": "completion", "reconstruction": 0.3}]):
        picture = Image.open(io.BytesIO(draw_curves(records)))
        assert picture.width > 400
