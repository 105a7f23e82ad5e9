from typing import Any

import pytest

from pipeline.config.loading import parse_config


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"completion": {"kind": "glcic", "depth": 3}}, "completion.depth is 3: it belongs to"),
        ({"completion": {"kind": "unet", "attention_kernel": 3}}, "kind dam, but that is unet"),
        (
            {"completion": {"kind": "glcic", "attention_maps": "zero"}},
            "completion.attention_maps is 'zero': it belongs to completion.kind dam",
        ),
        (
            {"completion": {"kind": "unet", "attention_form": "author"}},
            "kind dam, but that is unet",
        ),
        (
            {"completion": {"kind": "dam", "attention_form": "author", "attention_kernel": 3}},
            "attention_form author, whose kernels are always 3x3",
        ),
        ({"completion": {"kind": "unet", "block_order": "conv_act_bn"}}, "glcic or dam"),
        (
            {"completion": {"kind": "unet", "depth": 6}, "pack": {"crop_size": 160}},
            "must be a multiple of 64",
        ),
        (
            {"completion": {"kind": "unet"}, "train": {"dilation": "auto"}},
            "native, since completion.kind unet has no dilated layers",
        ),
        ({"completion": {"input_scale": 0}}, "completion.input_scale is 0"),
        (
            {"completion": {"kind": "dam", "attention_kernel": 2}},
            "completion.attention_kernel is 2",
        ),
        ({"loss": {"masked_mean": "hole"}}, "it belongs to loss.reconstruction masked"),
        ({"loss": {"real_label": 0.5}}, "above 0.5, at most 1"),
        ({"loss": {"alpha": "often"}}, "loss.alpha is 'often'"),
        ({"loss": {"alpha": -1}}, "auto, or at least 0 and finite"),
        ({"loss": {"alpha": "auto"}, "train": {"precision": "fp16"}}, "a number with"),
        (
            {"loss": {"alpha": "auto"}, "parallel": {"engine": "deepspeed"}},
            "a number with parallel.engine deepspeed",
        ),
        ({"loss": {"map_weight": -1}}, "loss.map_weight is -1"),
        ({"loss": {"r1_weight": 1}, "train": {"compile": True}}, "0 with train.compile"),
        ({"loss": {"r1_weight": 1}, "train": {"precision": "fp16"}}, "0 with train.precision"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(
    sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        parse_config(sections)


def test_every_kind_of_network_and_loss_can_be_asked_for() -> None:
    for completion in ({"kind": "dam"}, {"kind": "dam", "attention_skip": "none"},
                       {"kind": "dam", "attention_skip": "none", "attention_maps": "zero"},
                       {"kind": "dam", "attention_form": "author", "attention_maps": "zero"},
                       {"kind": "unet", "gate_skips": True, "depth": 5}):  # fmt: skip
        parse_config({"completion": completion})
    config = parse_config({"loss": {"alpha": "auto", "r1_weight": 10, "real_label": 0.9}})
    assert config.loss.alpha == "auto"
    assert parse_config({"loss": {"alpha": 1}}).loss.alpha == 1
