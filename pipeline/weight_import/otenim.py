"""`model_cn` of otenim/GLCIC-PyTorch: ReLU before batch norm; the hole's colour in config.json.

Layers are conv1 to conv12, deconv13, conv14, deconv15, conv16 and conv17; batch norms bn1 to bn16.
The image lies in [0, 1] and is not centred; what fills the hole is the mean pixel of the training
files, `mpv` in the config.json that training writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pipeline.config.schema import CompletionConfig
from pipeline.weight_import.imported import Color, Imported, checked_color
from pipeline.weight_import.matching import DECONVOLUTIONS, matched_tensors, table_of_names

OTENIM = "otenim"
_CONFIG = CompletionConfig(block_order="conv_act_bn", subtract_fill=False)
_DISCRIMINATOR = ("model_ld.", "model_gd.")
_DESCRIPTION = "config.json"
_MAX_DESCRIPTION_BYTES = 1 << 20


def _convolution(row: int) -> str:
    return f"deconv{row}" if row in DECONVOLUTIONS else f"conv{row}"


TABLE = table_of_names(_convolution, lambda row: f"bn{row}")


def is_otenim(tensors: Mapping[str, Tensor]) -> bool:
    return "conv1.weight" in tensors or any(name.startswith(_DISCRIMINATOR) for name in tensors)


def import_otenim(path: Path, tensors: Mapping[str, Tensor], mean: Color | None) -> Imported:
    """Raises ValueError where the tensors do not fit, or where no mean pixel is known."""
    if any(name.startswith(_DISCRIMINATOR) for name in tensors):
        raise ValueError(
            f"{path} is otenim's discriminator; import its completion network, model_cn"
        )
    config, ours = matched_tensors(tensors, TABLE, _CONFIG, str(path))
    color, origin = (mean, "--mean") if mean is not None else _mean_beside(path)
    return Imported(OTENIM, config, ours, color, notes=(f"the mean pixel is that of {origin}",))


def _mean_beside(path: Path) -> tuple[Color, str]:
    """From the config.json of the run: beside the file, or above the folder of its phase."""
    for folder in (path.absolute().parent, path.absolute().parent.parent):
        description = folder / _DESCRIPTION
        if description.is_file():
            return _mean_of(description), str(description)
    raise ValueError(
        f"{path} does not hold the mean pixel that its network fills holes with; name it with "
        f"--mean R,G,B (`mpv` in the run's {_DESCRIPTION}), or put that file beside it"
    )


def _mean_of(description: Path) -> Color:
    if description.stat().st_size > _MAX_DESCRIPTION_BYTES:
        raise ValueError(f"{description} is no configuration: it has more than a mebibyte")
    try:
        values = [float(value) for value in json.loads(description.read_bytes())["mpv"]]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{description} has no mpv of three numbers; name --mean R,G,B") from error
    return checked_color(values, f"mpv in {description}")
