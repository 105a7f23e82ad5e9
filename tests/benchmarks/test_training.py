import json

import pytest

from benchmarks import training
from benchmarks.result import read_result

SMALL = [
    "--pack.crop-size=32", "--pack.short-side=48", "--pack.masks.side-min=8",
    "--pack.masks.side-max=16", "--data.short-side-min=32", "--data.short-side-max=48",
    "--completion.width=8", "--discriminator.width=4", "--discriminator.local-size=16",
    "--discriminator.num-features=8", "--train.precision=fp32", "--train.threads=1",
]  # fmt: skip


def test_every_phase_is_measured_and_the_result_is_one_line_and_a_file(tmp_path, capsys):
    output = tmp_path / "results" / "training.json"
    arguments = [*SMALL, "--train.batch-size=2", "--steps=1", "--rounds=2", f"--output={output}"]
    assert training.main(arguments) == 0
    result = read_result(output)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == json.loads(output.read_text())
    assert [figure.name for figure in result.figures] == [
        "completion", "completion", "discriminator", "discriminator", "joint", "joint",
    ]  # fmt: skip
    assert all(len(figure.runs) == 2 and figure.minimum > 0 for figure in result.figures)
    assert result.parameters["workers"] == 1


def test_workers_that_cannot_share_the_batch_are_refused(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "5")
    assert training.main([*SMALL, "--train.batch-size=12"]) == 1
    assert "cannot be shared equally by 5 workers" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--steps=0", "--rounds=0"])
def test_nothing_to_measure_is_refused(option, capsys):
    assert training.main([*SMALL, option]) == 1
    assert "at least 1" in capsys.readouterr().err
