"""The tensors of a `.pth` file of another project, without running what a pickle may ask for.

Such files are pickles, and a pickle can name any function of any module. torch's `weights_only`
reader builds tensors and plain containers and refuses every other name before it is looked up; a
file is read by that reader or not at all. Nothing of our own is stored as a pickle.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ZIP_START = b"PK\x03\x04"
PICKLE_START = b"\x80"  # of files that torch before 1.6 has written
_REFUSED_NAME = re.compile(r"GLOBAL ([\w.]+)")


def read_pickled_tensors(path: Path) -> dict[str, Tensor]:
    """Return those of the state dict that the file is, or holds as `state_dict`; on the CPU.

    Raises ValueError for a file that is cut, holds anything but tensors and plain values, or
    states more than it has.
    """
    _require_stored(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever a malformed pickle makes the reader trip over
        raise ValueError(
            f"{path} was not read, and nothing of it was run: {_why(error)}"
        ) from error
    return {
        name: _check_tensor(path, name, value) for name, value in _state_dict(path, content).items()
    }


def _state_dict(path: Path, content: Any) -> dict[str, Any]:
    """By name, without the prefix that DataParallel gives."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(
            f"{path} holds a {type(content).__name__} instead of named tensors (a state dict)"
        )
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def _check_tensor(path: Path, name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"{path}: {name} is a {type(value).__name__} instead of a tensor")
    tensor = value.detach()
    is_plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
    if not is_plain or tensor.is_quantized:
        raise ValueError(f"{path}: {name} is no plain dense tensor")
    # A view can state any shape over one stored element.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"{path}: {name} states shape {list(tensor.shape)}, more than is stored")
    return tensor


def _require_stored(path: Path) -> None:
    """torch stores without compression; what unpacks to more than the file has is not torch's."""
    with path.open("rb") as file:
        if file.read(len(ZIP_START)) != ZIP_START:
            return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked_bytes = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path} is damaged or was cut: {error}") from error
    if unpacked_bytes > path.stat().st_size:
        raise ValueError(f"{path} would unpack to {unpacked_bytes} bytes; torch's files do not")


def _why(error: Exception) -> str:
    names = _REFUSED_NAME.findall(str(error))
    if names:
        return (
            f"besides tensors it asks for {', '.join(dict.fromkeys(names))}. If you trust it, save "
            "its state_dict alone, where it was made, with torch.save"
        )
    lines = str(error).strip().splitlines()
    return f"it is damaged, cut or no such file ({lines[0] if lines else type(error).__name__})"
