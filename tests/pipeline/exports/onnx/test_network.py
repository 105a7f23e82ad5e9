"""ONNX files as networks: what they can do, and which files are refused."""

from __future__ import annotations

import copy
import functools
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from pipeline.config.schema import CompletionConfig
from pipeline.exports.network_folder import load_completion_network
from pipeline.exports.onnx.export import onnx_file
from pipeline.exports.onnx.file import METADATA, parse_onnx_file, read_onnx_file
from pipeline.exports.onnx.network import OnnxNetwork, load_onnx_network
from pipeline.exports.onnx.runtimes import OnnxSession, OpenVinoSession, openvino
from pipeline.exports.tracing.traced import TracedCompletion, sample_inputs
from pipeline.inference.complete import complete, output_and_maps
from pipeline.networks.dam import AttentionCompletionNetwork
from shards.storage.files import write_bytes
from tests.torchrun import ROOT

CPU = torch.device("cpu")
CONFIG = CompletionConfig(kind="dam", width=8, attention_kernel=3)


@functools.cache
def network() -> AttentionCompletionNetwork:
    torch.manual_seed(0)
    return AttentionCompletionNetwork(CONFIG).eval().requires_grad_(False)


@functools.cache
def file_data() -> bytes:
    description = {"step": 1, "completion": asdict(CONFIG)}
    return onnx_file(TracedCompletion(network(), composite=False), description)[0]


def altered(alter: Callable[[Any], None]) -> bytes:
    model = onnx.load_from_string(file_data())
    alter(model)
    data: bytes = model.SerializeToString()
    return data


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_a_file_in_a_bucket_is_called_as_the_network_that_it_was_made_of() -> None:
    url = "memory://bucket/network.onnx"
    write_bytes(url, file_data())
    graph = load_completion_network(url, "ema", CPU)
    assert isinstance(graph, OnnxNetwork)
    for fact in ("size_multiple", "context_px", "has_maps", "map_names"):
        assert getattr(graph, fact) == getattr(network(), fact)
    for threads, shape in ((1, (2, 16, 40)), (2, (1, 24, 24))):
        torch.set_num_threads(threads)
        image, mask = sample_inputs(*shape)
        raw, maps = graph(image, mask, True)
        expected, expected_maps = network()(image, mask, True)
        for ours, theirs in zip((raw, *maps), (expected, *expected_maps), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        assert torch.equal(graph(image, mask), raw)
    with pytest.raises(ValueError, match="multiples of 4 pixels, but this one is 30x16"):
        graph(*sample_inputs(1, 16, 30))
    assert copy.deepcopy(graph) is graph


def test_images_of_any_size_are_completed_in_windows_and_with_maps() -> None:
    graph = OnnxNetwork(parse_onnx_file(file_data(), "network.onnx"))
    image = np.random.default_rng(0).integers(0, 256, (45, 62, 3), dtype=np.uint8)
    mask = np.zeros((45, 62), bool)
    mask[10:30, 20:40] = True
    ours, theirs = (complete(one, image, mask).astype(int) for one in (graph, network()))
    assert np.abs(ours - theirs).max() <= 1
    assert np.array_equal(ours[~mask], image[~mask])
    assert [one.shape for one in output_and_maps(graph, image, mask)[1]] == 3 * [(45, 62)]


def test_a_graph_stays_on_the_processor(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"net\.onnx runs on the CPU, not on cuda:1"):
        load_onnx_network(str(tmp_path / "net.onnx"), torch.device("cuda", 1))
    graph = OnnxNetwork(parse_onnx_file(file_data(), "net.onnx"))
    with pytest.raises(ValueError, match="runs on the CPU, not on meta"):
        graph(*(one.to("meta") for one in sample_inputs(1, 8, 8)))


def test_openvino_is_taken_before_onnxruntime_and_neither_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = parse_onnx_file(file_data(), "network.onnx")
    find = importlib.util.find_spec
    absent: set[str] = set()
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else find(name)
    )
    assert isinstance(OnnxNetwork(file)._run, OpenVinoSession)
    absent.add("openvino")
    assert isinstance(OnnxNetwork(file)._run, OnnxSession)
    absent.add("onnxruntime")
    with pytest.raises(RuntimeError, match=r"OpenVINO or onnxruntime.*glcic-pipeline\[openvino\]"):
        OnnxNetwork(file)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(RuntimeError, match=r"read with onnx, which is not installed"):
        parse_onnx_file(file_data(), "network.onnx")


def test_openvino_is_imported_without_what_would_report_it() -> None:
    assert openvino().Core().available_devices
    assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.onnx"):
        read_onnx_file(str(tmp_path / "none.onnx"))


def describe(text: str) -> Callable[[Any], None]:
    return lambda model: onnx.helper.set_model_props(model, {METADATA: text})


def point_outside(model: Any) -> None:
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL


def name_a_foreign_operator(model: Any) -> None:
    model.graph.node[3].domain = "com.example"


def hold_a_graph(model: Any) -> None:
    attribute = onnx.helper.make_attribute("body", onnx.GraphProto(name="inner"))
    model.graph.node[3].attribute.append(attribute)


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda model: model.metadata_props.pop(), "has no property glcic"),
        (describe("{"), "does not describe a network"),
        (describe("[]"), "does not describe a network"),
        (describe('{"completion": 4}'), "completion is no mapping"),
        (lambda model: model.graph.input.pop(), "its inputs are image instead of image, mask"),
        (lambda model: model.ClearField("graph"), "its inputs are none"),
        (lambda model: model.graph.initializer.pop(3), "topologically sorted"),
        (point_outside, "its weights are not all in it"),
        (name_a_foreign_operator, "of com.example is none of ONNX's own operators"),
        (hold_a_graph, "holds a graph of its own"),
        (lambda model: model.functions.add(), "it defines operators of its own"),
    ],
)
def test_a_file_that_was_altered_is_refused(alter: Callable[[Any], None], message: str) -> None:
    with pytest.raises(ValueError, match=rf"net\.onnx .*{message}"):
        parse_onnx_file(altered(alter), "net.onnx")


def test_a_file_that_was_cut_off_is_refused_wherever_that_is() -> None:
    data = file_data()
    for size in (*range(0, 2000, 97), *range(2000, len(data), len(data) // 20), len(data) - 1):
        with pytest.raises(ValueError, match=r"net\.onnx"):
            OnnxNetwork(parse_onnx_file(data[:size], "net.onnx"))


def test_a_graph_of_another_network_or_of_none_is_refused() -> None:
    unknown = altered(describe(json.dumps({"completion": {"kind": "transformer"}})))
    with pytest.raises(ValueError, match="kind is 'transformer'"):
        OnnxNetwork(parse_onnx_file(unknown, "net.onnx"))

    def rename_output(model: Any) -> None:
        for node in model.graph.node:
            for place, name in enumerate(node.output):
                if name == "raw":
                    node.output[place] = "completed"
        model.graph.output[0].name = "completed"

    with pytest.raises(ValueError, match="export it without --composite"):
        OnnxNetwork(parse_onnx_file(altered(rename_output), "net.onnx"))

    def turn_a_kernel_around(model: Any) -> None:
        kernel = next(one for one in model.graph.initializer if len(one.dims) == 4)
        kernel.dims[0], kernel.dims[1] = kernel.dims[1], kernel.dims[0]

    with pytest.raises(ValueError, match=r"net\.onnx cannot be run"):
        OnnxNetwork(parse_onnx_file(altered(turn_a_kernel_around), "net.onnx"))


def test_a_signal_is_handled_after_networks_have_come_and_gone(tmp_path: Path) -> None:
    (tmp_path / "network.onnx").write_bytes(file_data())
    program = (
        "import gc, os, signal, sys\n"
        "from pipeline.exports.onnx.runtimes import OpenVinoSession\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "sessions = [OpenVinoSession(data) for _ in range(2)]\n"
        "del sessions[0]\n"
        "del sessions[0]\n"
        "gc.collect()\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('handled'))\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "network.onnx")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "handled\n"), result.stderr
