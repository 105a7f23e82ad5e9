import dataclasses
import json

import pytest

from benchmarks.harness.result import (
    Measurement,
    Result,
    installed_versions,
    read_result,
    read_results,
    write_result,
)


def a_result(name="loader"):
    figure = Measurement.of_runs("case", "reader", "images/s", [30.0, 10.0, 20.0])
    return Result(name, f"python -m benchmarks.{name}", {"rounds": 3}, [figure])


def test_a_result_is_read_as_it_was_written(tmp_path):
    result = a_result()
    write_result(tmp_path / "results" / "loader.json", result)
    assert read_results(tmp_path / "results") == [result]


def test_a_figure_keeps_its_runs_and_says_their_middle_and_ends():
    figure = a_result().figures[0]
    assert (figure.minimum, figure.median, figure.maximum) == (10.0, 20.0, 30.0)
    assert figure.runs == [30.0, 10.0, 20.0]


def test_results_say_what_they_were_measured_with():
    result = a_result()
    assert result.hardware.cores >= 1
    assert result.hardware.memory_bytes > 1e6
    assert result.date.endswith("+00:00")
    assert {"python", "numpy", "simplejpeg", "opencv", "torch", "webdataset"} <= set(
        installed_versions()
    )


@pytest.mark.parametrize("change", [{"schema_version": 2}, {"surprise": 1}, {"figures": [{}]}])
def test_what_does_not_follow_the_schema_is_refused_by_name(tmp_path, change):
    content = {**dataclasses.asdict(a_result()), **change}
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"odd\.json is not a benchmark result"):
        read_result(path)
