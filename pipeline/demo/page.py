"""The page of `glcic demo`: a picture, the hole that is painted over it, and what comes of it."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from torch import nn

from pipeline.demo.answers import START, Answer, Answers
from pipeline.demo.hole import canvas_picture
from pipeline.demo.picture import MAX_FILE_MB, Picture, pillow_image
from pipeline.demo.stages import heat

_AS_PAINTED, _AS_RECTANGLES = "Hole as painted", "Rectangles around it"
_LARGE_PX, _SMALL_PX = 460, 280  # heights of panes
_BRUSH_PX = 40
_BRUSH = ("#e23e57", 0.75)
_MAP_SCALES = {"map_4": "1/4", "map_2": "1/2", "map_1": "1/1", "map_output": "1/1, at the output"}

Editor = dict[str, Any]  # background, layers and composite: what the editor takes and gives


@dataclass(frozen=True)
class _Controls:
    editor: gr.ImageEditor
    opened: gr.UploadButton
    clear: gr.Button
    start: gr.Button
    shape: gr.Radio
    gallery: gr.Gallery


def demo_page(
    network: nn.Module,
    *,
    device: torch.device | str = "cpu",
    longest_side: int = 512,
    title: str = "",
) -> gr.Blocks:
    """`network` is in eval mode and on `device`. Larger pictures are scaled to `longest_side`."""
    answers = Answers(network, device, longest_side)
    page = gr.Blocks(title="Image completion", analytics_enabled=False, delete_cache=(600, 3600))
    with page:
        gr.HTML(_heading(answers, title))
        with gr.Row(equal_height=False):
            with gr.Column(min_width=400):
                controls = _controls(answers)
            with gr.Column(min_width=400):
                completed = _pane("Completion", "completion", _LARGE_PX)
                download = gr.DownloadButton(
                    "Download the completion (PNG)", interactive=False, size="md",
                    elem_id="download",
                )  # fmt: skip
                notice = gr.Markdown(START, elem_id="notice")
        with gr.Row():
            erased = _pane("What the network is given", "erased")
            raw = _pane("Raw output", "raw")
            blended = _pane("Completion, blended", "blended")
        with gr.Row(visible=answers.has_maps):
            maps = [
                _pane(f"Attention map, {_MAP_SCALES[one]}", one.replace("_", "-"))
                for one in answers.map_names
            ]
        _connect(answers, controls, [completed, erased, raw, blended, *maps, notice], download)
    return page


def _controls(answers: Answers) -> _Controls:
    editor = _editor()
    with gr.Row():
        opened = gr.UploadButton(
            "Open a picture", file_types=["image"], size="md", min_width=90, elem_id="open"
        )
        clear = gr.Button("Clear the hole", size="md", min_width=90, elem_id="clear")
        start = gr.Button(
            "Complete", variant="primary", size="md", min_width=90, elem_id="complete"
        )
    shape = gr.Radio(
        [_AS_PAINTED, _AS_RECTANGLES], value=_AS_PAINTED, show_label=False, container=False,
        elem_id="shape",
    )  # fmt: skip
    return _Controls(editor, opened, clear, start, shape, _gallery(answers))


def _connect(
    answers: Answers, controls: _Controls, results: list[Any], download: gr.DownloadButton
) -> None:
    """`results` as `_values` gives theirs."""
    num_maps = len(answers.map_names)
    picture = gr.State(None)
    mask = gr.State(None)  # of an example; not a layer of the editor, which would misplace it

    def on_open(path: str) -> tuple[Any, ...]:
        found, answer = answers.opened(Path(path))
        return found, None, _on_canvas(found), *_values(answer, num_maps)

    def on_example(event: gr.SelectData) -> tuple[Any, ...]:
        example = answers.examples[event.index]
        canvas = _on_canvas(example.picture, example.mask)
        return (
            example.picture,
            example.mask,
            canvas,
            *_values(answers.example(event.index), num_maps),
        )

    def on_start(
        found: Picture | None, hole: np.ndarray | None, painted: Editor | None, chosen: str
    ) -> tuple[Any, ...]:
        layers = (painted or {}).get("layers", [])
        answer = answers.completed(found, layers, hole, chosen == _AS_RECTANGLES)
        return _values(answer, num_maps)

    def on_clear(found: Picture | None) -> tuple[Any, ...]:
        return None, _on_canvas(found)

    def as_file(path: str | None) -> Any:
        return gr.DownloadButton(value=path, interactive=path is not None)

    # One at a time: the network has the device to itself.
    options: Any = {"concurrency_limit": 1, "concurrency_id": "network"}
    options |= {"api_visibility": "private"}
    everything = [picture, mask, controls.editor, *results]
    given = [picture, mask, controls.editor, controls.shape]
    for event in (
        controls.opened.upload(on_open, controls.opened, everything, **options),
        controls.gallery.select(on_example, None, everything, **options),
        controls.start.click(on_start, given, results, **options),
    ):
        event.then(as_file, results[0], download, api_visibility="private")
    controls.clear.click(on_clear, picture, [mask, controls.editor], api_visibility="private")


def _editor() -> gr.ImageEditor:
    return gr.ImageEditor(
        label="Picture and hole",
        sources=(),
        transforms=(),
        layers=False,
        brush=gr.Brush(
            default_size=_BRUSH_PX, colors=[_BRUSH], default_color=_BRUSH, color_mode="fixed"
        ),
        eraser=gr.Eraser(default_size=_BRUSH_PX),
        height=_LARGE_PX,
        format="png",
        buttons=["fullscreen"],
        placeholder="Open a picture",
        elem_id="editor",
    )


def _gallery(answers: Answers) -> gr.Gallery:
    return gr.Gallery(
        [(one.picture.photograph.rgb(), one.picture.name) for one in answers.examples],
        label="Or one of these, with a hole",
        columns=len(answers.examples),
        height=142,
        allow_preview=False,
        object_fit="cover",
        format="png",
        buttons=[],
        interactive=False,
        elem_id="examples",
    )


def _pane(label: str, name: str, height: int = _SMALL_PX) -> gr.Image:
    return gr.Image(
        label=label,
        height=height,
        format="png",
        type="filepath",
        image_mode=None,
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_id=name,
        elem_classes="pane",
    )


def _on_canvas(picture: Picture | None, mask: np.ndarray | None = None) -> Editor | None:
    if picture is None:
        return None
    background = canvas_picture(picture.photograph.rgb(), mask)
    return {"background": background, "layers": [], "composite": None}


def _values(answer: Answer, num_maps: int) -> tuple[Any, ...]:
    """Of the panes from the completion to the last map, and of the notice."""
    stages = answer.stages
    if stages is None:
        return *([None] * (4 + num_maps)), answer.notice
    maps = [heat(one, stages.map_maximum) for one in stages.maps]
    completed = pillow_image(stages.completed)
    return completed, stages.erased, stages.raw, stages.blended, *maps, answer.notice


def _heading(answers: Answers, title: str) -> str:
    millions = sum(one.numel() for one in answers.network.parameters()) / 1e6
    facts = [f"<code>{html.escape(title)}</code>"] if title else []
    facts += [type(answers.network).__name__, f"{millions:.2f} M parameters", str(answers.device)]
    facts += [f"pictures of up to {answers.longest_side} pixels, files of up to"]
    return f"<h1>Image completion</h1><p>{' · '.join(facts)} {MAX_FILE_MB} MB</p>"
