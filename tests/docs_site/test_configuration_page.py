"""The page of the configuration names every field with its type, default and comment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from docs_site.configuration_page import configuration_page, field_comments
from pipeline.config.loading import config_mapping
from pipeline.config.schema import Config, OptimizerConfig


@dataclass(frozen=True)
class Example:
    """A section with comments in every place that they may have."""

    plain: int = 1
    beside: int = 2  # after the value
    # above it,
    # in two lines
    above: Literal["a", "b"] = "a"
    # first above
    both: str = "# no comment"  # then beside

    def __post_init__(self) -> None:
        plain = self.plain  # of a method, not of the field
        assert plain


def test_a_comment_belongs_to_the_field_that_it_stands_beside_or_above() -> None:
    assert field_comments(Example) == {
        "beside": "after the value",
        "above": "above it, in two lines",
        "both": "first above then beside",
    }


def test_every_section_has_a_heading_and_every_field_a_row() -> None:
    page = configuration_page()
    for name, value in config_mapping(Config()).items():
        if isinstance(value, dict):
            assert f"## `{name}`\n" in page
            for field in value:
                assert f"| `{field}` |" in page or f"## `{name}.{field}`" in page
        else:
            assert f"| `{name}` |" in page


def test_a_row_gives_choices_default_and_comment() -> None:
    row = (
        "| `damaged` | `stop`, `substitute` | `stop` | at a sample or shard that cannot be read |\n"
    )
    assert row in configuration_page()


def test_defaults_that_depend_on_the_kind_are_those_in_effect() -> None:
    assert f"| number | `{OptimizerConfig().learning_rate}` | adam: " in configuration_page()


def test_a_field_that_must_be_given_has_no_default() -> None:
    assert "## Elements of `data.mixture`" in configuration_page()
    assert "| `shards` | text |  | folder or URL |" in configuration_page()
