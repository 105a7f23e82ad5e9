"""The authors' Torch7 files, made here as Lua's torch.save makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.weight_import.authors import import_authors
from pipeline.weight_import.torch7 import Torch7Object
from tests.pipeline.weight_import.layouts import MEAN, WIDTH, AuthorsLayout, randomised, sample
from tests.pipeline.weight_import.torch7_writer import (
    graph,
    module,
    sequential,
    torch7_bytes,
    torch7_layers,
)

TOLERANCE = 1e-5  # of pixels in [0, 1]


def made(seed: int = 0, **options: Any) -> tuple[AuthorsLayout, list[Torch7Object]]:
    torch.manual_seed(seed)
    network = AuthorsLayout(**options)
    randomised(network, seed)
    return network, list(torch7_layers(network.layers))


def write(path: Path, model: Torch7Object, mean: Any = None) -> Path:
    stored = np.array(MEAN, dtype=np.float32) if mean is None else mean
    path.write_bytes(torch7_bytes({"model": model, "mean": stored}))
    return path


def assert_same_output(path: Path, network: AuthorsLayout) -> None:
    image, mask = sample()
    imported = import_authors(path, None).network()
    torch.testing.assert_close(imported(image, mask), network(image, mask), rtol=0, atol=TOLERANCE)


def layers_of_kind(layers: list[Torch7Object], part: str) -> list[Torch7Object]:
    return [layer for layer in layers if part in layer.class_name]


@pytest.mark.parametrize("wrap", [sequential, graph])
def test_an_imported_network_gives_what_the_file_s_would(tmp_path: Path, wrap: Any) -> None:
    network, layers = made()
    assert_same_output(write(tmp_path / "model.t7", wrap(layers)), network)


def test_nested_containers_are_read_in_order(tmp_path: Path) -> None:
    network, layers = made()
    nested = sequential([sequential(layers[:10]), graph(layers[10:20]), *layers[20:]])
    assert_same_output(write(tmp_path / "model.t7", nested), network)


def test_the_block_order_is_that_of_the_file(tmp_path: Path) -> None:
    network, layers = made(activates_first=True)
    path = write(tmp_path / "model.t7", sequential(layers))
    assert import_authors(path, None).config.block_order == "conv_act_bn"
    assert_same_output(path, network)


def test_weights_of_two_dimensions_and_inverse_deviations_of_old_files_are_read(
    tmp_path: Path,
) -> None:
    network, layers = made()
    for layer in layers:
        if layer.class_name in ("nn.SpatialConvolution", "nn.SpatialDilatedConvolution"):
            weight = layer.fields["weight"]
            layer.fields["weight"] = weight.reshape(len(weight), -1).copy()
        elif "Normalization" in layer.class_name:
            variance = layer.fields.pop("running_var")
            layer.fields["running_std"] = ((variance + 1e-5) ** -0.5).astype(np.float32)
    assert_same_output(write(tmp_path / "model.t7", sequential(layers)), network)


def test_layers_of_cudnn_are_those_of_nn(tmp_path: Path) -> None:
    network, layers = made()
    for layer in layers:
        layer.class_name = layer.class_name.replace("nn.", "cudnn.")
    assert_same_output(write(tmp_path / "model.t7", sequential(layers)), network)


def test_another_epsilon_of_batch_norm_is_kept_by_the_variances(tmp_path: Path) -> None:
    network, _ = made()
    for layer in network.layers:
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.eps = 0.05
    layers = list(torch7_layers(network.layers))
    assert_same_output(write(tmp_path / "model.t7", sequential(layers)), network)


@pytest.mark.parametrize("mean", [list(MEAN), np.array(MEAN), np.array(MEAN).reshape(3, 1, 1)])
def test_the_hole_is_filled_with_the_mean_of_the_file(tmp_path: Path, mean: Any) -> None:
    path = write(tmp_path / "model.t7", sequential(made()[1]), mean)
    assert import_authors(path, None).fill_color == pytest.approx(MEAN)
    assert import_authors(path, (0.1, 0.1, 0.1)).fill_color == (0.1, 0.1, 0.1)


@pytest.mark.parametrize("mean", [[], [0.1, 0.2], [0.1, 0.2, 116.0], np.zeros(7)])
def test_a_mean_that_is_no_colour_is_refused(tmp_path: Path, mean: Any) -> None:
    path = write(tmp_path / "model.t7", sequential(made()[1]), mean)
    with pytest.raises(ValueError, match="three numbers from 0 to 1"):
        import_authors(path, None)


def test_the_licence_of_the_release_is_told(tmp_path: Path) -> None:
    imported = import_authors(write(tmp_path / "model.t7", sequential(made()[1])), None)
    assert "CC BY-NC-SA 4.0" in imported.licence
    assert imported.licence in imported.notes
    assert imported.config.width == WIDTH


def without_batch_norm(layers: list[Torch7Object]) -> None:
    del layers[1]


def without_sigmoid(layers: list[Torch7Object]) -> None:
    layers.pop()


def one_convolution_short(layers: list[Torch7Object]) -> None:
    del layers[12:15]


def a_foreign_layer(layers: list[Torch7Object]) -> None:
    layers.insert(3, module("SpatialDropout", p=0.5))


def leaky(layers: list[Torch7Object]) -> None:
    layers[2] = module("LeakyReLU", negval=0.2)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_batch_norm, "what follows convolution 1 is relu"),
        (without_sigmoid, "what follows convolution 17 is nothing"),
        (one_convolution_short, "it has 16 convolutions"),
        (a_foreign_layer, "a layer 'SpatialDropout'"),
        (leaky, "a layer 'LeakyReLU'"),
    ],
)
def test_another_network_is_refused(tmp_path: Path, damage: Any, message: str) -> None:
    layers = made()[1]
    damage(layers)
    with pytest.raises(ValueError, match=message):
        import_authors(write(tmp_path / "model.t7", sequential(layers)), None)


@pytest.mark.parametrize(
    ("row", "field", "value"),
    [(2, "dW", 1), (8, "dilationH", 2), (7, "padW", 1), (13, "adjH", 1), (5, "kH", "three")],
)
def test_another_geometry_of_the_same_shapes_is_refused(
    tmp_path: Path, row: int, field: str, value: Any
) -> None:
    layers = made()[1]
    layers_of_kind(layers, "Convolution")[row - 1].fields[field] = value
    with pytest.raises(ValueError, match=rf"another network.*\n.*convolution {row} has"):
        import_authors(write(tmp_path / "model.t7", sequential(layers)), None)


def test_every_tensor_that_does_not_fit_is_named_at_once(tmp_path: Path) -> None:
    layers = made()[1]
    norms, convolutions = (layers_of_kind(layers, p) for p in ("Normalization", "Convolution"))
    norms[2].fields["bias"] = np.zeros(5, dtype=np.float32)
    del norms[4].fields["running_mean"]
    convolutions[6].fields["weight"][0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="width 8") as error:
        import_authors(write(tmp_path / "model.t7", sequential(layers)), None)
    assert "batch norm 3.bias is [5], expected [16]" in str(error.value)
    assert "batch norm 5.running_mean [32] is missing" in str(error.value)
    assert "convolution 7.weight holds numbers that are not finite" in str(error.value)


def test_modules_that_contain_each_other_are_refused(tmp_path: Path) -> None:
    endless = sequential([])
    endless.fields["modules"] = {1: endless}
    with pytest.raises(ValueError, match="nested without end"):
        import_authors(write(tmp_path / "model.t7", endless), None)
    wide = sequential([])
    for _ in range(40):  # two to the power of 40 modules in a kilobyte
        wide = sequential([wide, wide])
    with pytest.raises(ValueError, match="nested without end"):
        import_authors(write(tmp_path / "wide.t7", wide), None)


@pytest.mark.parametrize("content", [{"weights": 1}, [1, 2], 3.5, {"model": {"modules": []}}])
def test_a_torch7_file_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "other.t7"
    path.write_bytes(torch7_bytes(content))
    with pytest.raises(ValueError, match="was not imported"):
        import_authors(path, None)
