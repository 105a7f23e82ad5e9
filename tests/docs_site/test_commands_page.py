"""The page of the commands shows the parser of every verb."""

from __future__ import annotations

import argparse

import pytest

from docs_site.commands_page import commands_page, parser_of
from launch.command import EXIT_TRY_AGAIN, VERBS


@pytest.fixture(scope="module")
def page() -> str:
    return commands_page()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_section_with_its_options(page: str, verb: str) -> None:
    section = page.split(f"## `glcic {verb}`\n")[1].split("\n## ")[0]
    assert f"\nglcic {verb}" in section
    for action in parser_of(verb)._actions:
        if action.help == argparse.SUPPRESS:  # a former name, which still works
            continue
        for option in action.option_strings:
            assert option in section or option in ("-h", "--help", "--config", "--print-config")


def test_help_has_its_default_filled_in(page: str) -> None:
    assert "| `--count COUNT` | samples drawn (4) |" in page


def test_a_verb_that_reads_part_of_the_configuration_names_that_part(page: str) -> None:
    section = page.split("## `glcic pack`\n")[1].split("\n## ")[0]
    assert "Fields of the configuration: `pack`, `telemetry`." in section


def test_exit_statuses_are_those_of_the_code(page: str) -> None:
    assert f"| {EXIT_TRY_AGAIN} | stopped by a signal" in page


def test_parsers_parse_again_after_the_page_was_made(page: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int)
    assert page
    assert parser.parse_args(["--number", "3"]).number == 3
