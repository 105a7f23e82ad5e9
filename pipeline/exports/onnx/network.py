"""A completion network in an ONNX file, called as any other one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config.loading import parse_config
from pipeline.exports.onnx.file import OnnxFile, read_onnx_file
from pipeline.exports.onnx.runtimes import installed_runtime
from pipeline.exports.tracing.comparison import Run
from pipeline.networks.base import Completed
from pipeline.networks.registry import build_completion


class OnnxNetwork(nn.Module):
    """Runs on the CPU, with as many threads as torch has at the time; it cannot be trained.

    Raises ValueError for a composite graph, whose raw output is not there, and for one that is
    damaged; RuntimeError where no runtime is installed.
    """

    def __init__(self, file: OnnxFile) -> None:
        super().__init__()
        if file.outputs[0] != "raw":
            raise ValueError(
                f"{file.name} gives the image with its hole completed, and what is needed here is "
                "the raw output; export it without --composite"
            )
        self.file = file
        network = _read_metadata(file)
        self.size_multiple = network.size_multiple
        self.context_px = network.context_px
        self.has_maps = network.has_maps
        self.map_names = network.map_names
        self._open = installed_runtime()
        self._run = self._open_session()

    def forward(self, image: Tensor, mask: Tensor, with_maps: bool = False) -> Tensor | Completed:
        """Return what `CompletionBase` returns, without gradients."""
        if image.device.type != "cpu":
            raise ValueError(f"{self.file.name} runs on the CPU, not on {image.device}")
        height, width = image.shape[-2:]
        multiple = self.size_multiple
        if height % multiple or width % multiple:
            raise ValueError(
                f"{self.file.name} takes images whose sides are multiples of {multiple} pixels, "
                f"but this one is {width}x{height} pixels; pad it"
            )
        if self._threads != torch.get_num_threads():
            self._run = self._open_session()
        raw, *maps = self._run(image.detach().float(), mask.detach().float())
        return (raw, tuple(maps)) if with_maps else raw

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxNetwork:
        return self  # nothing of it ever changes

    def _open_session(self) -> Run:
        self._threads = torch.get_num_threads()
        try:
            return self._open(self.file.data)
        except Exception as error:  # each runtime's own kinds
            reason = " ".join(str(error).split())
            raise ValueError(f"{self.file.name} cannot be run: {reason}") from error


def load_onnx_network(url: str, device: torch.device) -> OnnxNetwork:
    """Raises what `read_onnx_file` and `OnnxNetwork` raise, and ValueError for a GPU."""
    if device.type != "cpu":
        raise ValueError(
            f"{url} runs on the CPU, not on {device}; leave the device out, or name the network "
            "that the file was made of"
        )
    return OnnxNetwork(read_onnx_file(url)).eval()


def _read_metadata(file: OnnxFile) -> Any:
    """Return the network that the file was made of, without its weights: of its class
    and geometry.
    """
    try:
        config = parse_config({"completion": file.description["completion"]})
        with torch.device("meta"):
            return build_completion(config)
    except ValueError as error:
        raise ValueError(
            f"{file.name} is damaged: its property does not describe a network: {error}"
        ) from error
