"""Networks in 8 bits: near to what they were made of, at any size, by either runtime."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

import onnx
import pytest
import torch

from pipeline.exports import int8_error as differences
from pipeline.exports.int8_error import int8_hole_error
from pipeline.exports.onnx.export import onnx_file
from pipeline.exports.onnx.file import METADATA
from pipeline.exports.onnx.int8 import quantized_graph
from pipeline.exports.onnx.runtimes import OnnxSession, OpenVinoSession
from pipeline.exports.tracing.traced import TracedCompletion, sample_inputs
from tests.pipeline.exports.onnx.test_export import KINDS, traced

# The last ones of DAM's maps among them.
OUTER_CONVOLUTIONS = {"glcic": 2, "dam": 5, "joins alone": 2, "author's DAM": 6, "unet": 2}
FACTS = {"step": 5, "precision": "int8", "calibration": {"images": 16}}


@functools.cache
def made(kind: str) -> tuple[TracedCompletion, bytes, bytes]:
    """A network whose outputs differ from pixel to pixel, its file in float, and in 8 bits; of a
    U-Net composites.
    """
    network = traced(kind, composite=kind == "unet")
    last = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.out_channels == 3]
    with torch.no_grad():
        last[0].weight.mul_(8)
    data, _ = onnx_file(network, {"step": 5})
    calibration = [sample_inputs(4, 32, 48), sample_inputs(4, 48, 32)]
    return network, data, quantized_graph(data, calibration, FACTS)


@pytest.mark.parametrize("runtime", [OpenVinoSession, OnnxSession])
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_network_gives_nearly_what_it_was_made_of(kind: str, runtime: type) -> None:
    network, _, quantized = made(kind)
    run = runtime(quantized)
    for shape in ((1, 16, 24), (3, 40, 32)):
        image, mask = sample_inputs(*shape)
        expected, given = list(network(image, mask)), list(run(image, mask))
        assert [one.shape for one in given] == [one.shape for one in expected]
        hole = (mask > 0.5).expand_as(image)
        spread = expected[0][hole].std()
        assert spread > 0.05, "else any output would be near"
        assert 0 < (given[0] - expected[0])[hole].abs().mean() < 0.05 * spread
        for ours, theirs in zip(given[1:], expected[1:], strict=True):
            assert (ours - theirs).abs().max() < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_all_convolutions_but_the_outer_ones_multiply_bytes(kind: str) -> None:
    _, data, quantized = made(kind)
    graph = onnx.load_from_string(quantized).graph
    produced_by = {name: node.op_type for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if "Conv" in node.op_type]
    floats = [node for node in convolutions if produced_by.get(node.input[0]) != "DequantizeLinear"]
    assert len(floats) == OUTER_CONVOLUTIONS[kind]
    assert len(convolutions) > 2 * len(floats)
    assert len(quantized) < 0.75 * len(data)


def test_a_quantized_file_is_described_and_asks_for_nothing_but_itself() -> None:
    model = onnx.load_from_string(made("unet")[2])
    assert {one.key: json.loads(one.value) for one in model.metadata_props} == {METADATA: FACTS}
    assert [opset.domain for opset in model.opset_import] == [""]
    assert not any(one.external_data for one in model.graph.initializer)
    onnx.checker.check_model(model, full_check=True)


def test_quantizing_is_silent_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    _, data, quantized = made("unet")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    calibration = [sample_inputs(4, 32, 48), sample_inputs(4, 48, 32)]
    assert quantized_graph(data, calibration, FACTS) == quantized, "the same every time"
    assert list(tmp_path.iterdir()) == []
    assert tuple(capfd.readouterr()) == ("", "")
    assert caplog.records == []


def test_a_composite_in_8_bits_keeps_what_is_known_to_the_bit() -> None:
    quantized = made("unet")[2]
    image, mask = sample_inputs(2, 32, 24)
    known = (mask < 0.5).expand_as(image)
    for runtime in (OpenVinoSession, OnnxSession):
        assert torch.equal(runtime(quantized)(image, mask)[0][known], image[known])


def test_the_difference_is_of_holes_alone_and_refused_where_it_is_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, _, _ = made("unet")
    batches = [sample_inputs(2, 16, 16), sample_inputs(1, 16, 24)]

    def off_by_two_levels(image: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
        return [network(image, mask)[0] + torch.where(mask > 0.5, 2 / 255, 1.0)]

    found = int8_hole_error(network, off_by_two_levels, batches)
    assert (found.mean_levels, found.max_levels) == pytest.approx((2, 2), rel=1e-4)
    assert found.psnr_db == pytest.approx(42.11, abs=0.01)
    found.require_near()
    monkeypatch.setattr(differences, "LOWEST_PSNR_DB", 43.0)
    with pytest.raises(
        RuntimeError, match=r"2\.00 levels .*nothing was written; calibrate on more"
    ):
        found.require_near()
    image, mask = batches[0]
    with pytest.raises(ValueError, match="no hole in any sample"):
        int8_hole_error(network, network, [(image, torch.zeros_like(mask))])
    undefined = int8_hole_error(network, lambda i, m: [network(i, m)[0] * float("nan")], batches)
    with pytest.raises(RuntimeError, match="nothing was written"):
        undefined.require_near()
