"""Networks and losses that cannot be built or do not go together: one sentence per error."""

from __future__ import annotations

import math
from collections.abc import Callable

from pipeline.config.schema import CompletionConfig, Config

# field of the completion network -> the kinds that it means something for
_BELONGS_TO = {
    "attention_kernel": ("dam",),
    "attention_skip": ("dam",),
    "attention_maps": ("dam",),
    "attention_form": ("dam",),
    "depth": ("unet",),
    "channels_max": ("unet",),
    "gate_skips": ("unet",),
    "block_order": ("glcic", "dam"),
}


def model_errors(config: Config) -> list[str]:
    """Return what types alone cannot say of `completion`, `discriminator` and `loss`."""
    return [*_network_errors(config), *_loss_errors(config), *_combination_errors(config)]


def _network_errors(config: Config) -> list[str]:
    completion, discriminator = config.completion, config.discriminator
    crop = config.pack.crop_size
    errors = _fields_of_other_kinds(completion)
    require = _collector(errors)
    require(
        completion.width >= 8 and completion.width % 2 == 0,
        "completion.width", completion.width, "an even number, at least 8",
    )  # fmt: skip
    scale = completion.input_scale
    require(0 < scale < math.inf, "completion.input_scale", scale, "above 0, and finite")
    kernel = completion.attention_kernel
    require(kernel in (1, 3), "completion.attention_kernel", kernel, "1 or 3")
    require(
        kernel == 1 or completion.attention_form == "report", "completion.attention_kernel", kernel,
        "left out with completion.attention_form author, whose kernels are always 3x3",
    )  # fmt: skip
    require(1 <= completion.depth <= 8, "completion.depth", completion.depth, "1 to 8")
    widest = completion.channels_max
    require(widest >= 8, "completion.channels_max", widest, "at least 8")
    if completion.kind == "unet":
        multiple = 2 ** min(max(completion.depth, 1), 8)
        require(
            crop % multiple == 0, "completion.depth", completion.depth,
            f"it halves so often that pack.crop_size ({crop}) must be a multiple of {multiple}",
        )  # fmt: skip
    require(discriminator.width >= 4, "discriminator.width", discriminator.width, "at least 4")
    features = discriminator.num_features
    require(features >= 1, "discriminator.num_features", features, "at least 1")
    require(
        16 <= discriminator.local_size <= crop, "discriminator.local_size",
        discriminator.local_size, f"16 to pack.crop_size ({crop})",
    )  # fmt: skip
    return errors


def _fields_of_other_kinds(completion: CompletionConfig) -> list[str]:
    """Fields that were set for another kind of network: they would change nothing."""
    default = type(completion)()
    return [
        f"completion.{name} is {getattr(completion, name)!r}: it belongs to completion.kind "
        f"{' or '.join(kinds)}, but that is {completion.kind}"
        for name, kinds in _BELONGS_TO.items()
        if completion.kind not in kinds and getattr(completion, name) != getattr(default, name)
    ]


def _loss_errors(config: Config) -> list[str]:
    loss, errors = config.loss, list[str]()
    require = _collector(errors)
    for name in ("known_weight", "r1_weight", "map_weight"):
        value = getattr(loss, name)
        require(0 <= value < math.inf, f"loss.{name}", value, "at least 0, and finite")
    require(0 < loss.map_scale < math.inf, "loss.map_scale", loss.map_scale, "above 0, and finite")
    require(0.5 < loss.real_label <= 1, "loss.real_label", loss.real_label, "above 0.5, at most 1")
    if loss.alpha != "auto":
        require(
            0 <= loss.alpha < math.inf, "loss.alpha", loss.alpha, "auto, or at least 0 and finite"
        )
    return errors


def _combination_errors(config: Config) -> list[str]:
    loss, train, errors = config.loss, config.train, list[str]()
    require = _collector(errors)
    require(
        config.completion.kind != "unet" or train.dilation == "native",
        "train.dilation", train.dilation,
        "native, since completion.kind unet has no dilated layers",
    )  # fmt: skip
    in_the_way = {
        "completion.kind unet": config.completion.kind == "unet",
        "train.compile": train.compile,
        f"train.dilation {train.dilation}": train.dilation != "native",
    }
    for name, is_there in in_the_way.items():
        require(
            train.convolution == "direct" or not is_there, "train.convolution", train.convolution,
            f"direct with {name}: it is for the layers of GLCIC as they are",
        )  # fmt: skip
    require(
        loss.masked_mean == "image" or loss.reconstruction == "masked",
        "loss.masked_mean", loss.masked_mean,
        f"it belongs to loss.reconstruction masked, but that is {loss.reconstruction}",
    )  # fmt: skip
    require(
        loss.alpha != "auto" or train.precision != "fp16", "loss.alpha", loss.alpha,
        "a number with train.precision fp16, in which the gradients that it is found from vanish",
    )  # fmt: skip
    require(
        loss.alpha != "auto" or config.parallel.engine != "deepspeed",
        "loss.alpha",
        loss.alpha,
        "a number with parallel.engine deepspeed, which takes the first gradient of an output for "
        "the backward of the step",
    )
    switches = {
        "train.compile": train.compile,
        "train.cuda_graphs": train.cuda_graphs,
        "train.precision fp16": train.precision == "fp16",
        "parallel.engine deepspeed": config.parallel.engine == "deepspeed",
    }
    for name, is_on in switches.items():
        require(
            not (loss.r1_weight and is_on), "loss.r1_weight", loss.r1_weight,
            f"0 with {name}: the penalty is a gradient of a gradient, which that does not compute",
        )  # fmt: skip
    return errors


def _collector(errors: list[str]) -> Callable[[bool, str, object, str], None]:
    def require(holds: bool, name: str, value: object, allowed: str) -> None:
        if not holds:
            errors.append(f"{name} is {value!r}: {allowed}")

    return require
