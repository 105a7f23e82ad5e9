"""Options under the names that they had before."""

from __future__ import annotations

import argparse

import pytest

from launch import elastic, evaluate, study
from launch.support.former_names import add_former_name


def parser_with_former_names() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    wait = parser.add_argument("--join-window", type=int, default=3)
    add_former_name(parser, "--last-call", wait)
    flag = parser.add_argument("--no-host", action="store_true")
    add_former_name(parser, "--guest", flag)
    return parser


def test_a_former_name_sets_the_option_and_prints_what_to_write(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = parser_with_former_names().parse_args(["--last-call", "7", "--guest"])
    assert options == argparse.Namespace(join_window=7, no_host=True)
    assert capsys.readouterr().err.splitlines() == [
        "--last-call was renamed: write --join-window",
        "--guest was renamed: write --no-host",
    ]


def test_defaults_stay_and_the_present_name_prints_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = parser_with_former_names().parse_args([])
    assert options == argparse.Namespace(join_window=3, no_host=False)
    assert parser_with_former_names().parse_args(["--join-window", "7"]).join_window == 7
    assert capsys.readouterr().err == ""


def test_help_lists_the_present_name_alone() -> None:
    text = parser_with_former_names().format_help()
    assert "--join-window" in text
    assert "--last-call" not in text


@pytest.mark.parametrize(
    ("command", "former", "present"),
    [
        (elastic, ["--nodes", "1", "--rendezvous", "a:1", "--silence", "9"], "heartbeat_timeout"),
        (elastic, ["--nodes", "1", "--rendezvous", "a:1", "--last-call", "9"], "join_window"),
        (study, ["study-quick", "--side-by-side", "9"], "parallel_runs"),
    ],
)
def test_commands_take_their_former_names(command, former: list[str], present: str) -> None:
    options = command._parser().parse_args(former)
    assert getattr(options, present) == 9


def test_evaluate_takes_its_former_name() -> None:
    parser = argparse.ArgumentParser()
    evaluate._add_files(parser)
    assert parser.parse_args(["--beside", "mmagic-places"]).compare_with == "mmagic-places"
