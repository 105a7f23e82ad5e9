"""ONNX and torch.export: what is read back gives what the network gives, at any size."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import onnx
import pytest
import torch

from pipeline.config.loading import parse_config
from pipeline.exports.onnx.export import onnx_file
from pipeline.exports.onnx.file import METADATA
from pipeline.exports.onnx.runtimes import OnnxSession
from pipeline.exports.torch_export import DESCRIPTION, exported_program_file
from pipeline.exports.tracing.comparison import compare_export
from pipeline.exports.tracing.traced import TracedCompletion, sample_inputs
from pipeline.networks.registry import build_completion

TOLERANCE = 1e-5  # of values in [0, 1]
FACTS = {"step": 5, "licence": "Terms."}
KINDS: dict[str, dict[str, Any]] = {
    "glcic": {"block_order": "conv_act_bn", "subtract_fill": False},
    "dam": {"input_scale": 2.0, "output": "clamp"},
    "joins alone": {"kind": "dam", "attention_maps": "zero"},
    "author's DAM": {"kind": "dam", "attention_form": "author"},
    "unet": {"depth": 2, "gate_skips": True},
}


def traced(kind: str, *, composite: bool = False) -> TracedCompletion:
    torch.manual_seed(0)
    config = parse_config({"completion": {"kind": kind, "width": 8} | KINDS[kind]})
    network = build_completion(config)
    network.set_fill_color((0.2, 0.5, 0.7))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.1, 1)
    return TracedCompletion(network.eval().requires_grad_(False), composite=composite)


@pytest.mark.parametrize("kind", KINDS)
def test_both_graphs_give_what_the_network_gives_and_say_what_they_are_made_of(kind: str) -> None:
    made = traced(kind, composite=kind == "glcic")
    onnx_data, onnx_agreement = onnx_file(made, FACTS)
    program_data, program_agreement = exported_program_file(made, FACTS)
    described = {DESCRIPTION: ""}
    program = torch.export.load(io.BytesIO(program_data), extra_files=described)
    graphs = [OnnxSession(onnx_data), program.module()]
    multiple = made.network.size_multiple
    for shape in ((1, 2 * multiple, 9 * multiple), (4, 6 * multiple, 4 * multiple)):
        image, mask = sample_inputs(*shape)
        with torch.no_grad():
            expected = list(made(image, mask))
        for run in graphs:
            given = list(run(image, mask))
            torch.testing.assert_close(given, expected, rtol=0, atol=TOLERANCE)
            if made.composite:
                known = (mask < 0.5).expand_as(image)
                assert torch.equal(given[0][known], image[known])
    for agreed in (onnx_agreement, program_agreement):
        assert agreed.max_difference < TOLERANCE
        assert len({shape[1:] for shape in agreed.shapes}) >= 4
    (entry,) = onnx.load_from_string(onnx_data).metadata_props
    assert (entry.key, json.loads(entry.value)) == (METADATA, FACTS)
    assert json.loads(described[DESCRIPTION]) == FACTS


def test_a_composite_keeps_what_is_known_and_completes_the_hole() -> None:
    image, mask = sample_inputs(2, 16, 24)
    composite = traced("glcic", composite=True)(image, mask)[0]
    raw = traced("glcic")(image, mask)[0]
    known = (mask < 0.5).expand_as(image)
    assert torch.equal(composite[known], image[known])
    assert torch.equal(composite[~known], raw[~known])


def test_outputs_are_named_and_maps_have_their_sizes() -> None:
    made = traced("dam")
    assert made.output_names() == ["raw", "map_4", "map_2", "map_1"]
    sizes = [tensor.shape[-1] for tensor in made(*sample_inputs(1, 16, 32))]
    assert sizes == [32, 8, 16, 32]
    authors = traced("author's DAM")
    assert authors.output_names() == ["raw", "map_4", "map_2", "map_1", "map_output"]
    assert authors(*sample_inputs(1, 16, 32))[4].shape[-1] == 32
    assert traced("joins alone").output_names() == ["raw"]
    assert traced("unet", composite=True).output_names() == ["completed"]


def test_what_is_traced_of_a_network_with_spectral_norm_is_its_own_function() -> None:
    torch.manual_seed(0)
    config = parse_config({"completion": {"width": 8, **KINDS["author's DAM"]}})
    network = build_completion(config).eval()
    inputs = sample_inputs(2, 16, 24)
    made = TracedCompletion(network, composite=False)(*inputs)
    raw, maps = network(*inputs, True)
    for ours, theirs in zip(made, (raw, *maps), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_a_graph_that_gives_something_else_is_refused() -> None:
    made = traced("glcic")

    def almost(image: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
        return [made(image, mask)[0] + (2e-4 if image.shape[0] == 3 else 0)]

    with pytest.raises(RuntimeError, match=r"nothing was written: largest difference 2\.0e-04"):
        compare_export(made, almost)
    with pytest.raises(RuntimeError, match="gives shapes"):
        compare_export(made, lambda image, mask: [made(image, mask)[0][..., 1:]])
    with pytest.raises(RuntimeError, match="nothing was written"):
        compare_export(made, lambda image, mask: [made(image, mask)[0] * float("nan")])


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeError, match=r"onnxruntime.*glcic-pipeline\[onnx\]"):
        onnx_file(traced("glcic"), {})
