"""Figures in the README come from result files, and are those of the committed ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.documented_figures import NOT_MEASURED, ROOT, documented_pages, main, render_page
from benchmarks.documented_tables import TABLES, origin
from benchmarks.harness.result import RESULTS_FOLDER
from benchmarks.keep_evaluation import main as keep_evaluation
from tests.handwritten_figures import handwritten_figures

METHODS = {
    "glcic": {"hole_psnr_db": 17.25, "hole_mse": 0.0123, "hole_ssim": 0.5, "hole_sharpness": 0.7},
    "mean colour": {"hole_psnr_db": 11.5, "hole_mse": 0.0456, "hole_ssim": 0.25},
}


def a_page(name: str, text: str = "an earlier table\n") -> str:
    return f"Before.\n\n<!-- figures: {name} -->\n{text}<!-- end -->\n\nAfter.\n"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder of results with the evaluation of a quickstart, kept as the command keeps it."""
    folder = tmp_path / "results"
    folder.mkdir()
    evaluation = tmp_path / "evaluation.json"
    evaluation.write_text(json.dumps({"methods": METHODS, "num_samples": 256, "evaluated": {}}))
    kept = folder / "quickstart-evaluation.json"
    assert keep_evaluation([str(evaluation), str(kept), "--command", "make quickstart"]) == 0
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(a_page("quickstart"))
    return tmp_path


@pytest.mark.parametrize("page", list(documented_pages(ROOT)), ids=lambda page: page.name)
def test_every_block_is_what_the_result_files_give(page: Path) -> None:
    text = page.read_text()
    rendered, _ = render_page(text, RESULTS_FOLDER)
    assert rendered == text, "run python -m benchmarks.documented_figures"


def test_the_readme_holds_no_measured_figure_outside_its_blocks() -> None:
    found = handwritten_figures((ROOT / "README.md").read_text())
    assert not found, f"render {found} from a result file, or leave them out"


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_a_block_is_rewritten_in_its_place(results: Path) -> None:
    text, stale = render_page(a_page("quickstart"), results)
    assert text.startswith("Before.\n\n<!-- figures: quickstart -->\n| ")
    assert text.endswith("<!-- end -->\n\nAfter.\n")
    assert "| glcic | 0.01230 | 17.250 | 0.5000 | 0.700 |" in text
    assert "| mean colour | 0.04560 | 11.500 | 0.2500 | - |" in text
    assert stale == ["quickstart"]
    assert render_page(text, results) == (text, [])


def test_the_quickstarts_table_shows_the_interval_of_the_difference(results: Path) -> None:
    path = results / "quickstart-evaluation.json"
    psnr = {"hole_psnr_db": {"mean": 5.75, "low": -0.5, "high": 6.25}}
    intervals = {"confidence": 0.95, "num_images": 16, "differences": {"mean colour": psnr}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intervals": intervals}))
    text, _ = render_page(a_page("quickstart"), results)
    assert "glcic minus it, dB (95% interval) |" in text
    assert "| +5.75 (-0.50 to +6.25) |" in text
    assert "256 validation samples of 16 images. " in text


def test_a_block_ends_with_command_machine_and_date(results: Path) -> None:
    content = json.loads((results / "quickstart-evaluation.json").read_text())
    text, _ = render_page(a_page("quickstart"), results)
    last_line = text.split("<!-- end -->")[0].splitlines()[-1]
    assert last_line.startswith("256 validation samples. `make quickstart`; ")
    assert content["hardware"]["cpu"] in last_line
    assert content["date"][:10] in last_line


@pytest.mark.parametrize("lacking", ["command", "hardware", "date"])
def test_a_result_of_unknown_origin_is_refused(results: Path, lacking: str) -> None:
    content = json.loads((results / "quickstart-evaluation.json").read_text())
    with pytest.raises(ValueError, match=f"does not record its {lacking}"):
        origin({name: value for name, value in content.items() if name != lacking})


@pytest.mark.parametrize("name", TABLES)
def test_a_missing_result_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=TABLES[name].files[0]):
        render_page(a_page(name), tmp_path)


def test_a_block_that_was_never_measured_may_say_so(tmp_path: Path) -> None:
    page = a_page("quickstart", f"{NOT_MEASURED}\n")
    assert render_page(page, tmp_path) == (page, [])


def test_a_block_that_says_not_measured_is_stale_once_it_is_measured(results: Path) -> None:
    _, stale = render_page(a_page("quickstart", f"{NOT_MEASURED}\n"), results)
    assert stale == ["quickstart"]


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (a_page("no-such-table"), "is none of"),
        ("<!-- figures: speed -->\na table\n", "has no"),
        ("<!-- figures: speed -->\na table\n" + a_page("speed"), "has no"),
    ],
)
def test_a_malformed_block_is_refused(page: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_page(page, RESULTS_FOLDER)


def test_the_check_names_stale_blocks_and_writes_nothing(
    repository: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (repository / "README.md").read_text()
    command = [f"--results={results}", f"--root={repository}"]
    assert main([*command, "--check"]) == 1
    assert "README.md: quickstart is stale" in capsys.readouterr().out
    assert (repository / "README.md").read_text() == before
    assert main(command) == 0
    assert main([*command, "--check"]) == 0


def test_the_command_says_which_file_is_missing(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"--results={tmp_path}", f"--root={repository}"]) == 1
    assert "quickstart-evaluation.json, which is missing" in capsys.readouterr().err


def test_only_an_evaluation_is_kept_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"num_samples": 3}')
    assert keep_evaluation([str(other), str(tmp_path / "kept.json"), "--command", "x"]) == 1
    assert "it has no methods" in capsys.readouterr().err


@pytest.mark.parametrize(
    "sentence",
    [
        "After minutes it is 6.4 dB above the mean colour.",
        "Global MSE and composite are the best pair, 0.0252.",
        "Training raises the error by 24 %.",
        "Packing is twice as fast, 1,228 images/s.",
        "It takes less than five minutes on two CPU cores.",
        "The network completes `47.2` images a second, 4x as many.",
        "Of its steps 12 ms are exchange.",
    ],
)
def test_a_measured_figure_typed_by_hand_is_found(sentence: str) -> None:
    assert handwritten_figures(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "Both need Python 3.11 or later and `make`.",
        "The preset trains on crops of 64 pixels, with holes of 24 to 32 px.",
        "Alpha is 0.0004, as Iizuka et al. (2017) have it.",
        "The paper's schedule has 500,000 steps; `--train.ema-decay 0.999` is a setting.",
        "Training on 8 GPUs: `torchrun --nproc_per_node=8 launch/train.py`.",
        "See [the results](https://example.com/2.81/page) under the Apache License 2.0.",
        a_page("speed", "| 47.2 images/s | 4.02 times |\n"),
        "```sh\nglcic complete PHOTO.jpg --hole 96,80,64,64\n```",
    ],
)
def test_settings_names_and_rendered_blocks_are_no_handwritten_figures(sentence: str) -> None:
    assert not handwritten_figures(sentence)
