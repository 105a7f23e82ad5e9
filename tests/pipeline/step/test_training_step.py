from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from pipeline.config.loading import parse_config
from pipeline.config.schedule import Phase
from pipeline.config.schema import Config, OptimizerConfig
from pipeline.distributed.optimizers import build_optimizer
from pipeline.distributed.trainable import TrainableNetwork
from pipeline.engines.ddp import Worker
from pipeline.networks.dam import PREFIX
from pipeline.networks.registry import build_completion, build_discriminator
from pipeline.step.holes import composite, cut_patches, patch_corners, rasterize
from pipeline.step.losses import adversarial_loss, reconstruction_loss
from pipeline.step.training_step import TrainingBatch, TrainingStep


def small_config(**loss: object) -> Config:
    return parse_config(
        {
            "pack": {"crop_size": 32, "masks": {"side_min": 8, "side_max": 12}},
            "data": {"short_side_min": 32, "short_side_max": 32},
            "completion": {"width": 8},
            "discriminator": {"width": 4, "local_size": 16, "num_features": 8},
            "loss": loss,
            "train": {"precision": "fp32"},
        }
    )


def training_step(config: Config) -> TrainingStep:
    torch.manual_seed(0)
    worker = Worker(precision=config.train.precision)
    completion, discriminator = build_completion(config), build_discriminator(config)
    return TrainingStep(
        worker.trainable("completion", completion, config.completion_optimizer),
        worker.trainable("discriminator", discriminator, config.discriminator_optimizer),
        config.loss,
        config.discriminator.local_size,
        worker,
        config.train.micro_batch_size,
    )


def training_batch(seed: int = 0) -> TrainingBatch:
    generator = torch.Generator().manual_seed(seed)
    holes = torch.tensor([[[4, 6, 10, 8]], [[20, 1, 8, 12]], [[0, 0, 9, 9]], [[12, 12, 8, 8]]])
    choice = torch.zeros(4, dtype=torch.int64)
    corners = patch_corners(holes, choice, 16, 32)
    return TrainingBatch(
        images=torch.rand(4, 3, 32, 32, generator=generator),
        masks=rasterize(holes, 32),
        hole_corners=corners,
        real_corners=corners.flip(0),
    )


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def changed(network: nn.Module, before: dict[str, Tensor]) -> bool:
    return any(not torch.equal(t, before[name]) for name, t in network.state_dict().items())


def has_gradient(network: nn.Module) -> bool:
    return any(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("phase", list(Phase))
def test_after_a_step_no_gradient_stands_in_either_network(phase: Phase) -> None:
    step = training_step(small_config())
    step(phase, training_batch())
    assert not has_gradient(step.completion.network)
    assert not has_gradient(step.discriminator.network)


def test_the_completion_phase_leaves_the_discriminator_as_it_was() -> None:
    step = training_step(small_config())
    before = state(step.discriminator.network)
    completion_before = state(step.completion.network)
    step(Phase.COMPLETION, training_batch())
    assert not changed(step.discriminator.network, before)
    assert changed(step.completion.network, completion_before)


def test_the_discriminator_phase_leaves_the_completion_network_as_it_was() -> None:
    step = training_step(small_config())
    before = state(step.completion.network)
    discriminator_before = state(step.discriminator.network)
    step(Phase.DISCRIMINATOR, training_batch())
    assert not changed(step.completion.network, before), "running statistics must not move either"
    assert changed(step.discriminator.network, discriminator_before)


def test_while_the_completion_network_learns_no_gradient_reaches_the_discriminator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = training_step(small_config(alpha=1.0))
    seen = []
    original = TrainableNetwork.update_

    def watching(self: TrainableNetwork) -> dict[str, Tensor]:
        if self is step.completion:
            seen.append((has_gradient(self.network), has_gradient(step.discriminator.network)))
        return original(self)

    monkeypatch.setattr(TrainableNetwork, "update_", watching)
    step(Phase.JOINT, training_batch())
    assert seen == [(True, False)]


def test_while_the_discriminator_learns_no_gradient_reaches_the_completion_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = training_step(small_config())
    seen = []
    original = TrainableNetwork.update_

    def watching(self: TrainableNetwork) -> dict[str, Tensor]:
        if self is step.discriminator:
            seen.append((has_gradient(self.network), has_gradient(step.completion.network)))
        return original(self)

    monkeypatch.setattr(TrainableNetwork, "update_", watching)
    for phase in (Phase.DISCRIMINATOR, Phase.JOINT):
        step(phase, training_batch())
    assert seen == [(True, False)] * 2


@pytest.mark.parametrize("form", ["non_saturating", "saturating"])
def test_the_joint_step_is_the_discriminators_step_and_then_the_completion_networks(
    form: str,
) -> None:
    """Against the two halves written out, with a second forward of the completion network."""
    # Adadelta: Adam would blow the rounding of biases before batch norm, whose gradient is zero, up
    # to whole steps.
    adadelta = OptimizerConfig(kind="adadelta", learning_rate=1.0, epsilon=1e-6)
    config = dataclasses.replace(
        small_config(alpha=0.5, adversarial=form),
        completion_optimizer=adadelta,
        discriminator_optimizer=adadelta,
    )
    batch = training_batch()
    step = training_step(config)
    reference = copy.deepcopy((step.completion.network, step.discriminator.network))
    step(Phase.JOINT, batch)

    completion, discriminator = reference
    optimizer = build_optimizer(config.discriminator_optimizer, discriminator)
    with torch.no_grad():
        fake = composite(completion(batch.images, batch.masks), batch.images, batch.masks)
    real_logits = discriminator(batch.images, cut_patches(batch.images, batch.real_corners, 16))
    fake_logits = discriminator(fake, cut_patches(fake, batch.hole_corners, 16))
    bce = nn.functional.binary_cross_entropy_with_logits
    loss = bce(real_logits, torch.ones(4)) + bce(fake_logits, torch.zeros(4))
    loss.backward()
    optimizer.step()
    for (name, mine), theirs in zip(
        step.discriminator.network.named_parameters(), discriminator.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, theirs, msg=lambda m, name=name: f"{name}: {m}")

    optimizer = build_optimizer(config.completion_optimizer, completion)
    raw = completion(batch.images, batch.masks)
    shown = composite(raw, batch.images, batch.masks)
    logits = discriminator(shown, cut_patches(shown, batch.hole_corners, 16))
    reconstruction = reconstruction_loss(raw, batch.images, batch.masks, config.loss)
    (reconstruction + 0.5 * adversarial_loss(logits, form)).backward()
    optimizer.step()
    for (name, mine), theirs in zip(
        step.completion.network.named_parameters(), completion.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, theirs, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("form", ["non_saturating", "saturating"])
def test_the_gradients_of_either_adversarial_form_can_be_balanced(form: str) -> None:
    step = training_step(small_config(alpha="auto", adversarial=form))
    metrics = step(Phase.JOINT, training_batch())
    assert all(bool(metric.isfinite()) for metric in metrics.values())
    assert 1 - 1e-4 <= float(metrics["gradient_ratio"]) <= 10 + 1e-3
    assert (float(metrics["adversarial"]) < 0) == (form == "saturating")


def test_a_masked_loss_and_a_composite_give_known_pixels_no_gradient() -> None:
    step = training_step(small_config(reconstruction="masked", alpha=1.0))
    batch = training_batch()
    raw = step.completion.network(batch.images, batch.masks).detach().requires_grad_(True)
    shown = step._discriminator_input(raw, batch)
    logits = step.discriminator.frozen(shown, step._patches(shown, batch.hole_corners))
    (step._reconstruction_losses((raw, ()), batch)[0] + adversarial_loss(logits)).backward()
    assert raw.grad is not None
    known = (batch.masks == 0).expand_as(raw)
    assert raw.grad[known].abs().max() == 0
    assert raw.grad[~known].abs().max() > 0


def test_shown_raw_the_discriminator_sees_the_known_region_as_the_network_left_it() -> None:
    config = small_config()
    config = dataclasses.replace(
        config, loss=dataclasses.replace(config.loss, discriminator_input="raw")
    )
    step = training_step(config)
    raw = torch.rand(4, 3, 32, 32)
    assert step._discriminator_input(raw, training_batch()) is raw


def test_bf16_autocast_keeps_parameters_and_losses_in_float32() -> None:
    config = small_config()
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, precision="bf16"))
    step = training_step(config)
    metrics = step(Phase.JOINT, training_batch())
    assert all(metric.dtype == torch.float32 for metric in metrics.values())
    for network in (step.completion.network, step.discriminator.network):
        assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


@pytest.mark.parametrize("kind", ["adam", "adadelta"])
def test_training_on_one_batch_lowers_its_reconstruction_loss(kind: str) -> None:
    config = small_config()
    optimizer = dataclasses.replace(
        config.completion_optimizer, kind=kind, learning_rate=1.0 if kind == "adadelta" else 0.002
    )
    step = training_step(dataclasses.replace(config, completion_optimizer=optimizer))
    batch = training_batch()
    losses = [float(step(Phase.COMPLETION, batch)["reconstruction"]) for _ in range(24)]
    assert losses[-1] < 0.8 * losses[0]


def relative_change(optimizer: OptimizerConfig, updates: int) -> float:
    """How far a masked loss moves the completion network's weights, beside their own size."""
    config = small_config(reconstruction="masked")
    step = training_step(dataclasses.replace(config, completion_optimizer=optimizer))
    parameters = list(step.completion.network.parameters())
    before = [one.detach().clone() for one in parameters]
    for number in range(updates):
        step(Phase.COMPLETION, training_batch(number))
    moved = sum(
        (one.detach() - old).square().sum() for one, old in zip(parameters, before, strict=True)
    )
    return float((moved / sum(old.square().sum() for old in before)).sqrt())


def test_adadelta_learns_with_its_own_values_and_hardly_with_those_of_adam() -> None:
    own = OptimizerConfig(kind="adadelta")
    adams = OptimizerConfig(kind="adadelta", learning_rate=0.0004, epsilon=1e-8)
    assert relative_change(own, 40) > 3e-3
    assert relative_change(adams, 40) < 3e-5


def gradients_of_a_step(
    config: Config, phase: Phase, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Tensor]:
    """Of a step of fresh networks whose batch norm uses its running statistics, so that a sample's
    gradient does not depend on the others of its batch."""
    step = training_step(config)
    gradients = {}
    original = TrainableNetwork.update_

    def recording(self: TrainableNetwork) -> dict[str, Tensor]:
        for name, parameter in self.network.named_parameters():
            gradients[f"{self.name}.{name}"] = parameter.grad.clone()
        return original(self)

    step.completion.network.eval()
    step.discriminator.network.eval()
    with monkeypatch.context() as patch:
        patch.setattr(TrainableNetwork, "update_", recording)
        step(phase, training_batch())
    return gradients


@pytest.mark.parametrize("phase", list(Phase))
def test_micro_batches_have_the_gradients_of_the_whole_batch(
    phase: Phase, monkeypatch: pytest.MonkeyPatch
) -> None:
    adadelta = OptimizerConfig(kind="adadelta", learning_rate=1.0, epsilon=1e-6)
    config = dataclasses.replace(
        small_config(alpha=0.5), completion_optimizer=adadelta, discriminator_optimizer=adadelta
    )
    whole = gradients_of_a_step(config, phase, monkeypatch)
    train = dataclasses.replace(config.train, micro_batch_size=2)
    parts = gradients_of_a_step(dataclasses.replace(config, train=train), phase, monkeypatch)
    assert parts.keys() == whole.keys()
    for name, gradient in whole.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(
            parts[name], gradient, rtol=1e-4, atol=1e-5 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("kind", ["adam", "adadelta"])
@pytest.mark.parametrize("phase", list(Phase))
def test_a_step_that_is_not_finite_leaves_networks_and_optimizers_as_they_were(
    phase: Phase, kind: str
) -> None:
    optimizer = OptimizerConfig(kind=kind)
    config = dataclasses.replace(
        small_config(), completion_optimizer=optimizer, discriminator_optimizer=optimizer
    )
    step = training_step(config)
    for warm_up in Phase:
        step(warm_up, training_batch())
    trainables = (step.completion, step.discriminator)
    before = [everything(trainable) for trainable in trainables]
    batch = training_batch(1)
    batch.images[2, 1, 5, 7] = torch.nan
    metrics = step(phase, batch)
    for trainable, then in zip(trainables, before, strict=True):
        now = everything(trainable)
        assert [name for name in now if not torch.equal(now[name], then[name])] == []
    trained = {Phase.COMPLETION: ["completion"], Phase.DISCRIMINATOR: ["discriminator"]}
    for name in trained.get(phase, ["completion", "discriminator"]):
        assert metrics[f"{name}_skipped"] == 1
    after = step(phase, training_batch(1))
    assert all(metric.isfinite() for metric in after.values()), "training goes on"
    now = [everything(trainable) for trainable in trainables]
    assert any(not torch.equal(now[i][name], before[i][name]) for i in (0, 1) for name in now[i])


def everything(trainable: TrainableNetwork) -> dict[str, Tensor]:
    """Parameters, buffers and optimizer, but for batch norm's count of batches, which nothing
    reads."""
    tensors = {**trainable.network.state_dict(), **trainable.optimizer_tensors()}
    return {
        name: tensor.clone()
        for name, tensor in tensors.items()
        if not name.endswith("num_batches_tracked")
    }


def test_fp16_keeps_parameters_in_float32_and_updates_its_scale_once_a_step() -> None:
    config = small_config()
    train = dataclasses.replace(config.train, precision="fp16")
    step = training_step(dataclasses.replace(config, train=train))
    scaler = step._worker.scaler
    assert scaler is not None
    for number, phase in enumerate((Phase.COMPLETION, Phase.DISCRIMINATOR, Phase.JOINT), start=1):
        metrics = step(phase, training_batch())
        assert not any(value for name, value in metrics.items() if name.endswith("skipped"))
        assert scaler.state_dict()["_growth_tracker"] == number
    for trainable in (step.completion, step.discriminator):
        assert all(parameter.dtype == torch.float32 for parameter in trainable.network.parameters())


def test_fp16_lowers_its_scale_where_a_gradient_overflows() -> None:
    config = small_config()
    train = dataclasses.replace(config.train, precision="fp16")
    step = training_step(dataclasses.replace(config, train=train))
    assert step._worker.scaler is not None
    scale = step._worker.scaler.get_scale()
    batch = training_batch()
    batch.images[0, 0, 0, 0] = torch.inf
    metrics = step(Phase.JOINT, batch)
    assert metrics["completion_skipped"] == metrics["discriminator_skipped"] == 1
    assert step._worker.scaler.get_scale() == scale / 2


def gradients_of_completion(config: Config, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    gradients = gradients_of_a_step(config, Phase.JOINT, monkeypatch)
    return {name: g for name, g in gradients.items() if name.startswith("completion.")}


def test_an_automatic_alpha_gives_the_gradients_of_the_same_fixed_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = training_step(small_config(alpha="auto"))
    step.completion.network.eval()
    step.discriminator.network.eval()
    metrics = step(Phase.JOINT, training_batch())
    assert 0.99 <= float(metrics["gradient_ratio"]) <= 10.01
    automatic = gradients_of_completion(small_config(alpha="auto"), monkeypatch)
    fixed = gradients_of_completion(small_config(alpha=float(metrics["alpha"])), monkeypatch)
    without = gradients_of_completion(small_config(alpha=0.0), monkeypatch)
    for name, gradient in fixed.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(automatic[name], gradient, rtol=1e-3, atol=1e-4 * scale)
    last = "completion.decoder.17.conv.weight"
    assert not torch.allclose(without[last], fixed[last], rtol=1e-2), "the term must matter here"


def test_the_slope_penalty_reaches_the_discriminator_and_is_told() -> None:
    step = training_step(small_config(r1_weight=10.0))
    before = state(step.completion.network)
    metrics = step(Phase.DISCRIMINATOR, training_batch())
    assert metrics["discriminator_slope"] > 0
    assert not changed(step.completion.network, before)
    slopes = [float(step(Phase.DISCRIMINATOR, training_batch())["discriminator_slope"])
              for _ in range(8)]  # fmt: skip
    assert slopes[-1] < slopes[0]


def dam_config(**loss: object) -> Config:
    config = small_config(**loss)
    return dataclasses.replace(
        config, completion=dataclasses.replace(config.completion, kind="dam")
    )


@pytest.mark.parametrize("phase", [Phase.COMPLETION, Phase.JOINT])
def test_maps_learn_whenever_the_completion_network_does(phase: Phase) -> None:
    step = training_step(dam_config(map_weight=1.0))
    distances = [float(step(phase, training_batch())["map_distance"]) for _ in range(20)]
    assert distances[-1] < 0.8 * distances[0]


@pytest.mark.parametrize("phase", [Phase.COMPLETION, Phase.JOINT])
def test_joins_without_maps_are_asked_for_none(phase: Phase) -> None:
    config = dam_config(map_weight=1.0)
    completion = dataclasses.replace(config.completion, attention_maps="zero")
    step = training_step(dataclasses.replace(config, completion=completion))
    metrics = step(phase, training_batch())
    assert metrics["reconstruction"] > 0
    assert "map_distance" not in metrics


def test_in_the_discriminators_phase_the_maps_are_not_compared() -> None:
    metrics = training_step(dam_config())(Phase.DISCRIMINATOR, training_batch())
    assert "map_distance" not in metrics


def test_the_maps_error_gives_the_output_layer_no_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the network could please its maps by making errors where they expect them."""
    heavy = gradients_of_a_step(dam_config(map_weight=1e6), Phase.COMPLETION, monkeypatch)
    none = gradients_of_a_step(dam_config(map_weight=0.0), Phase.COMPLETION, monkeypatch)
    for name, gradient in none.items():
        if "decoder.17" in name or "decoder.16" in name:
            assert torch.equal(heavy[name], gradient), name
    name = f"completion.{PREFIX}1.head.2.bias"
    assert heavy[name].abs().max() > 1e3 * none[name].abs().max()
