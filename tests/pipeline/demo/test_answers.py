from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import nn

from pipeline.config.schema import CompletionConfig
from pipeline.demo.answers import Answers
from pipeline.demo.page import demo_page
from pipeline.demo.picture import Picture, pillow_image
from pipeline.demo.stages import completion_stages, heat
from pipeline.inference.complete import complete
from pipeline.inference.photograph import Photograph
from pipeline.networks.registry import COMPLETION_NETWORKS
from tests.pipeline.demo.test_hole import painted


def network_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return COMPLETION_NETWORKS[kind](CompletionConfig(kind=kind, width=8)).eval()


@pytest.fixture(scope="module")
def answers() -> Answers:
    return Answers(network_of("dam"), longest_side=64)


def photograph(mode: str = "RGB", width: int = 50, height: int = 35) -> Photograph:
    image = Image.fromarray(data.astronaut()[:height, :width]).convert(mode)
    return Photograph(np.asarray(image).reshape(height, width, -1))


def hole(width: int = 50, height: int = 35) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[height // 3 : height // 2, width // 3 : width // 2] = True
    return mask


def picture() -> Picture:
    return Picture("a.png", photograph(), (35, 50))


@pytest.mark.parametrize("kind", list(COMPLETION_NETWORKS))
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_known_pixels_of_the_completion_are_the_pictures_in_its_own_mode(
    kind: str, mode: str
) -> None:
    given, mask = photograph(mode), hole()
    stages = completion_stages(network_of(kind), given, mask)
    assert pillow_image(stages.completed).mode == mode
    assert np.array_equal(stages.completed.pixels[~mask], given.pixels[~mask])
    assert np.array_equal(stages.blended[~mask], given.rgb()[~mask])
    if mode == "RGB":
        assert np.array_equal(stages.completed.pixels[mask], stages.raw[mask])


@pytest.mark.parametrize("kind", list(COMPLETION_NETWORKS))
def test_the_stages_are_those_of_the_command_line(kind: str) -> None:
    network, given, mask = network_of(kind), photograph(), hole()
    stages = completion_stages(network, given, mask)
    same = complete(network, given.rgb(), mask)
    assert np.abs(stages.completed.pixels.astype(int) - same).max() <= 1
    assert (
        np.abs(stages.blended.astype(int) - complete(network, given.rgb(), mask, blend=True)).max()
        <= 2
    )


def test_what_lies_in_the_hole_is_not_shown_to_the_network() -> None:
    network, given, mask = network_of("glcic"), photograph(), hole()
    other = Photograph(np.where(mask[..., None], 255 - given.pixels, given.pixels))
    stages = completion_stages(network, given, mask)
    assert np.array_equal(stages.raw, completion_stages(network, other, mask).raw)
    assert len(np.unique(stages.erased[mask], axis=0)) == 1


def test_dam_gives_three_maps_of_the_pictures_size_and_the_others_none() -> None:
    maps = completion_stages(network_of("dam"), photograph(), hole()).maps
    assert [one.shape for one in maps] == [(35, 50)] * 3
    assert all(((one > 0) & (one < 1)).all() for one in maps)
    assert completion_stages(network_of("glcic"), photograph(), hole()).maps == ()


@pytest.mark.parametrize(
    ("fields", "panes"),
    [
        ({"kind": "glcic"}, []),
        ({"kind": "dam"}, ["map-4", "map-2", "map-1"]),
        ({"kind": "dam", "attention_maps": "zero"}, []),
        ({"kind": "dam", "attention_form": "author"}, ["map-4", "map-2", "map-1", "map-output"]),
    ],
    ids=str,
)
def test_the_page_has_a_pane_for_each_map_and_fills_it(
    fields: dict[str, str], panes: list[str]
) -> None:
    config = CompletionConfig(width=8, **fields)
    page = demo_page(COMPLETION_NETWORKS[fields["kind"]](config).eval(), longest_side=64)
    shown = [getattr(block, "elem_id", None) for block in page.blocks.values()]
    assert [one for one in shown if str(one).startswith("map-")] == panes
    (complete_it,) = (one for one in page.fns.values() if one.name == "on_start")
    mask = hole()
    values = complete_it.fn(picture(), mask, None, "Hole as painted")
    assert len(values) == len(complete_it.outputs) == 5 + len(panes)
    assert all(value is not None for value in values)


def test_a_coarse_map_is_repeated_where_it_belongs() -> None:
    class Located(nn.Module):
        has_maps = True

        def forward(self, image: torch.Tensor, mask: torch.Tensor, with_maps: bool = False):
            return image, (nn.functional.max_pool2d(mask, 4),)

    (found,) = completion_stages(Located(), photograph(), hole()).maps
    expected = np.zeros((35, 50), dtype=bool)
    expected[8:20, 16:28] = True  # rows 11 to 16 and columns 16 to 24 touch these squares of 4
    assert np.array_equal(found > 0, expected)


@pytest.mark.parametrize(("width", "height"), [(2, 1), (1, 3), (5, 3), (7, 64)])
def test_tiny_pictures_are_completed_too(width: int, height: int) -> None:
    mask = np.zeros((height, width), dtype=bool)
    mask[0, 0] = True
    for kind in COMPLETION_NETWORKS:
        stages = completion_stages(network_of(kind), photograph("RGB", width, height), mask)
        assert stages.completed.size == (height, width)


def test_heat_goes_from_black_to_bright() -> None:
    shown = heat(np.array([[0.0, 0.25, 0.5]], dtype=np.float32), 0.5).astype(int).sum(axis=2)
    assert shown[0, 0] < 20
    assert shown[0, 0] < shown[0, 1] < shown[0, 2]


def test_every_example_is_completed_by_itself(answers: Answers) -> None:
    assert len(answers.examples) >= 4
    for number, example in enumerate(answers.examples):
        answer = answers.example(number)
        assert answer.stages is not None
        assert max(answer.stages.completed.size) <= 64
        assert example.credit in answer.notice


def test_a_hole_is_completed_and_the_notice_says_how_large_it_was(answers: Answers) -> None:
    answer = answers.completed(picture(), [painted(hole())])
    assert answer.stages is not None
    assert "50 × 35 pixels" in answer.notice
    assert f"{hole().sum()} in the hole" in answer.notice
    assert "Maps" in answer.notice


def test_strokes_are_added_to_the_hole_of_an_example(answers: Answers) -> None:
    more = np.zeros_like(hole())
    more[:3, :4] = True
    answer = answers.completed(picture(), [painted(more)], hole())
    assert f"{hole().sum() + 12} in the hole" in answer.notice


def test_a_rectangle_around_a_stroke_is_completed_if_asked_for(answers: Answers) -> None:
    stroke = np.eye(35, 50, dtype=bool)
    stroke[20:] = False
    answer = answers.completed(picture(), [painted(stroke)], as_rectangles=True)
    assert "400 in the hole" in answer.notice


@pytest.mark.parametrize(
    ("given", "everywhere", "message"),
    [
        (None, True, "Open a picture first"),
        (picture(), False, "Nothing is painted"),
        (picture(), True, "the whole picture"),
    ],
)
def test_what_is_missing_is_said_instead(
    answers: Answers, given: Picture | None, everywhere: bool, message: str
) -> None:
    answer = answers.completed(given, [painted(np.full((35, 50), everywhere))])
    assert answer.stages is None
    assert message in answer.notice


def test_a_scaled_picture_is_said_to_be_scaled(answers: Answers, tmp_path: Path) -> None:
    Image.fromarray(data.astronaut()[:200, :128]).save(tmp_path / "a.png")
    found, answer = answers.opened(tmp_path / "a.png")
    assert found is not None
    assert "41 × 64 pixels, scaled down from 128 × 200" in answer.notice


def test_a_name_is_shown_and_not_run(answers: Answers, tmp_path: Path) -> None:
    path = tmp_path / "<img src=x onerror=alert(1)>.png"
    path.write_bytes(b"no image")
    found, answer = answers.opened(path)
    assert found is None
    assert "Not opened" in answer.notice
    assert "<img" not in answer.notice


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_stages_of_the_cpu() -> None:
    network, given, mask = network_of("dam"), photograph(), hole()
    expected = completion_stages(network, given, mask)
    found = completion_stages(network.to("cuda"), given, mask, "cuda")
    assert np.array_equal(found.completed.pixels[~mask], given.pixels[~mask])
    assert np.abs(found.raw.astype(int) - expected.raw).max() <= 2
    for one, other in zip(found.maps, expected.maps, strict=True):
        np.testing.assert_allclose(one, other, atol=0.01)
