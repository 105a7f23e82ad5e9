"""`train.precision auto`: what the device computes fast, or what the run has begun in."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from launch.support.arguments import parse_with_config
from pipeline.config.loading import parse_config
from pipeline.config.schema import Config
from pipeline.device.precision import fastest_precision, precision_warnings, with_precision
from pipeline.engines.start import start_worker


@pytest.mark.parametrize(
    ("cuda", "flags", "precision"),
    [
        (True, set(), "bf16"),
        (False, {"avx512_bf16"}, "fp32"),  # the GPU computes, not the processor
        (None, {"avx2", "avx512f", "avx512_bf16"}, "bf16"),
        (None, {"avx2", "amx_bf16"}, "bf16"),
        (None, {"asimd", "bf16"}, "bf16"),
        (None, {"avx2", "fma"}, "fp32"),
        (None, {"avx512f"}, "fp32"),
        (None, set(), "fp32"),
    ],
)
def test_bf16_is_taken_where_the_device_multiplies_in_it(
    cuda: bool | None, flags: set[str], precision: str
) -> None:
    assert fastest_precision(cuda, flags) == precision


def test_a_run_goes_on_in_the_precision_that_it_recorded(tmp_path: Path) -> None:
    for recorded in ("bf16", "fp16", "fp32"):
        (tmp_path / "config.yaml").write_text(f"train: {{precision: {recorded}}}\n")
        assert with_precision(_auto(tmp_path)).train.precision == recorded


@pytest.mark.parametrize("text", ["", "train: {precision: auto}\n", "train: {}\n", "loss: {}\n"])
def test_a_record_without_a_precision_decides_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert with_precision(_auto(tmp_path)).train.precision in ("bf16", "fp32")


def test_a_named_precision_stays_whatever_was_recorded(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("train: {precision: fp32}\n")
    config = parse_config({"folder": str(tmp_path), "train": {"precision": "bf16"}})
    assert with_precision(config) is config


def test_the_quickstart_computes_in_a_precision_of_this_machine(tmp_path: Path) -> None:
    arguments = ["--config", "quickstart", "--folder", str(tmp_path)]
    _, config = parse_with_config(argparse.ArgumentParser(), arguments)
    assert config.train.precision in ("bf16", "fp32")


def test_a_worker_is_not_started_before_the_precision_is_decided(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="with_precision"):
        start_worker(_auto(tmp_path))


def test_an_emulated_precision_is_warned_of_with_what_to_write() -> None:
    for precision in ("bf16", "fp16"):
        (warning,) = precision_warnings(precision, False, {"avx2"})
        assert f"train.precision is {precision}" in warning
        assert "--train.precision fp32" in warning
    assert not precision_warnings("fp32", False, {"avx2"})
    assert not precision_warnings("bf16", True, {"avx2"})
    assert not precision_warnings("bf16", False, {"avx512_bf16"})
    assert not precision_warnings("bf16", False, set())  # flags are not known here


def _auto(folder: Path) -> Config:
    return parse_config({"folder": str(folder), "train": {"precision": "auto"}})
