from rich.console import Console

from benchmarks import report
from benchmarks.harness.result import Measurement, Result, write_result
from benchmarks.harness.tables import print_result, render_markdown


def a_result(name="loader"):
    figures = [
        Measurement.of_runs("direct", "reader", "images/s", [3391.2, 3400.0, 3500.0]),
        Measurement.of_runs("direct", "reader / peer", "ratio", [2.215, 2.4]),
        Measurement.of_runs("random | scale", "reader", "images/s", [0.5]),
    ]
    return Result(name, "python -m benchmarks.loader --rounds 3", {"source": "tiles"}, figures)


def test_markdown_has_one_table_for_each_group_with_medians_and_spread():
    text = render_markdown([a_result()])
    assert "### direct" in text
    assert "### random | scale" in text
    assert "| reader | images/s | 3,400 | 3,391 | 3,500 | 3 |" in text
    assert "| reader / peer | ratio | 2.31 | 2.21 | 2.40 | 2 |" in text
    assert "`python -m benchmarks.loader --rounds 3`" in text
    assert "- source: tiles" in text


def test_the_command_writes_all_results_into_one_file(tmp_path, capsys):
    results = tmp_path / "results"
    write_result(results / "a.json", a_result("first"))
    write_result(results / "b.json", a_result("second"))
    assert report.main([f"--results={results}"]) == 0
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.index("## first") < text.index("## second")
    assert "2 results" in capsys.readouterr().out


def test_a_damaged_result_is_named_and_nothing_is_written(tmp_path, capsys):
    results = tmp_path / "results"
    results.mkdir()
    (results / "broken.json").write_text("{")
    assert report.main([f"--results={results}"]) == 1
    assert "broken.json" in capsys.readouterr().err
    assert not (tmp_path / "RESULTS.md").exists()


def test_an_evaluation_beside_the_results_is_left_out(tmp_path, capsys):
    results = tmp_path / "results"
    write_result(results / "a.json", a_result("first"))
    (results / "quickstart-evaluation.json").write_text('{"methods": {}, "num_samples": 0}')
    assert report.main([f"--results={results}"]) == 0
    assert "1 results" in capsys.readouterr().out


def test_the_console_shows_every_figure():
    console = Console(record=True, width=120)
    print_result(a_result(), console)
    text = console.export_text()
    assert "loader: direct" in text
    assert "reader / peer" in text
