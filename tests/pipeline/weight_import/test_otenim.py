from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipeline.weight_import.otenim import import_otenim
from tests.pipeline.weight_import.layouts import MEAN, WIDTH, OtenimLayout, randomised, sample

TOLERANCE = 1e-5  # of pixels in [0, 1]


def made(seed: int = 0) -> torch.nn.Module:
    return randomised(OtenimLayout(), seed)


def test_an_imported_network_gives_what_otenim_s_does() -> None:
    network = made()
    imported = import_otenim(Path("model_cn"), network.state_dict(), MEAN)
    image, mask = sample()
    torch.testing.assert_close(
        imported.network()(image, mask), network(image, mask), rtol=0, atol=TOLERANCE
    )
    assert imported.config.width == WIDTH
    assert imported.config.block_order == "conv_act_bn"


def test_files_from_before_batch_norm_counted_batches_are_read() -> None:
    network = made()
    tensors = {n: t for n, t in network.state_dict().items() if "num_batches" not in n}
    image, mask = sample()
    imported = import_otenim(Path("model_cn"), tensors, MEAN).network()
    torch.testing.assert_close(imported(image, mask), network(image, mask), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("place", [".", ".."])
def test_the_mean_pixel_is_read_from_the_runs_configuration(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "phase_3"
    folder.mkdir()
    (folder / place / "config.json").write_text(json.dumps({"mpv": MEAN, "bsize": 16}))
    imported = import_otenim(folder / "model_cn", made().state_dict(), None)
    assert imported.fill_color == MEAN
    assert "config.json" in imported.notes[0]
    given = import_otenim(folder / "model_cn", made().state_dict(), (0.0, 0.5, 1.0))
    assert given.fill_color == (0.0, 0.5, 1.0)


def test_without_a_mean_pixel_the_import_says_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--mean R,G,B.*config\.json"):
        import_otenim(tmp_path / "a" / "model_cn", made().state_dict(), None)


@pytest.mark.parametrize("text", ["{}", "nonsense", '{"mpv": 3}', '{"mpv": ["a"]}', "[" * 100_000])
def test_a_configuration_without_a_mean_pixel_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json has no mpv"):
        import_otenim(tmp_path / "model_cn", made().state_dict(), None)


def test_a_mean_pixel_in_another_range_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"mpv": [116, 114, 106]}')
    with pytest.raises(ValueError, match=r"mpv.* is 116.*from 0 to 1"):
        import_otenim(tmp_path / "model_cn", made().state_dict(), None)


def test_every_tensor_that_does_not_fit_is_named_at_once() -> None:
    tensors = made().state_dict()
    del tensors["bn3.running_var"]
    tensors["conv7.weight"] = tensors["conv7.weight"][:, :5]
    tensors["attention.weight"] = torch.zeros(2)
    tensors["conv9.bias"] = torch.zeros(32, dtype=torch.int64)
    tensors["bn4.running_var"] = -tensors["bn4.running_var"]
    with pytest.raises(ValueError, match="does not fit") as error:
        import_otenim(Path("model_cn"), tensors, MEAN)
    for fault in (
        "bn3.running_var [16] is missing",
        "conv7.weight is [32, 5, 3, 3], expected [32, 32, 3, 3]",
        "attention.weight is not part of it",
        "conv9.bias is of type torch.int64",
        "bn4.running_var holds negative variances",
    ):
        assert fault in str(error.value)


@pytest.mark.parametrize("shape", [(8, 3, 5, 5), (7, 4, 5, 5), (4, 4, 5, 5), (9000, 4, 5, 5), (8,)])
def test_another_first_layer_is_refused(shape: tuple[int, ...]) -> None:
    tensors = {**made().state_dict(), "conv1.weight": torch.zeros(1).expand(shape)}
    with pytest.raises(ValueError, match=r"conv1\.weight"):
        import_otenim(Path("model_cn"), tensors, MEAN)


def test_the_discriminator_is_told_from_the_completion_network() -> None:
    with pytest.raises(ValueError, match=r"discriminator.*model_cn"):
        import_otenim(Path("model_cd"), {"model_ld.conv1.weight": torch.zeros(2)}, MEAN)
