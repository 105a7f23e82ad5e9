import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console

from pipeline.config.baseline_names import BASELINE_NAMES
from pipeline.config.schema import (
    CompletionConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    TrainConfig,
)
from pipeline.engines.ddp import Worker
from pipeline.evaluation.baselines import baselines_left_out, classic_baselines
from pipeline.evaluation.evaluate import (
    Evaluation,
    evaluate,
    evaluate_network,
    evaluated_samples,
    recalibrate,
    sample_tensors,
)
from pipeline.evaluation.map_metrics import MAP_METRICS
from pipeline.evaluation.metrics import METRICS, OF_ALL_SAMPLES, image_metrics
from pipeline.evaluation.per_sample import EvaluationContext
from pipeline.inference.photograph import quantized
from pipeline.inference.poisson_blending import blended
from pipeline.networks.dam import AttentionCompletionNetwork
from pipeline.networks.glcic import CompletionNetwork
from pipeline.step.holes import composite
from pipeline.step.losses import error_map
from shards.format.manifest import load_manifest
from shards.reading.in_order import read_in_order
from shards.sampling.mixture import WeightedSet
from tests.pipeline.rank_sum import in_threads
from tests.shards.pictures import pack_small_set

CPU = torch.device("cpu")
NETWORK_METRICS = {*MAP_METRICS, *OF_ALL_SAMPLES, "lpips"}  # that not all evaluations have
IMAGE_METRICS = [name for name in METRICS if name not in NETWORK_METRICS]


@pytest.fixture(scope="module")
def shards_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("evaluation")
    return pack_small_set(folder, images=30, masks_per_image=2, validation_fraction=0.3)


@pytest.fixture(scope="module")
def network() -> CompletionNetwork:
    torch.manual_seed(0)
    return CompletionNetwork(CompletionConfig(width=8)).eval()


def config_of(shards_url: str, **evaluation: int) -> Config:
    return Config(
        data=DataConfig(shards=shards_url, short_side_min=32, short_side_max=40),
        pack=load_manifest(shards_url).recipe,
        completion=CompletionConfig(width=8),
        evaluation=EvaluationConfig(**{"recalibration_images": 20, **evaluation}),
        train=TrainConfig(precision="fp32"),
    )


def assert_same_figures(first: Evaluation, second: Evaluation) -> None:
    assert first.methods.keys() == second.methods.keys()
    for method, figures in first.methods.items():
        assert second.methods[method] == pytest.approx(figures, rel=1e-4, abs=1e-7), method


@pytest.mark.parametrize("world_size", [2, 5])
def test_the_number_of_ranks_does_not_change_the_figures(
    shards_url: str, network: CompletionNetwork, world_size: int
) -> None:
    alone = evaluate(network, shards_url, EvaluationContext(CPU))
    results = in_threads(
        world_size,
        lambda rank, total: evaluate(
            network, shards_url, EvaluationContext(CPU, rank, world_size, total)
        ),
    )
    for evaluation in results:
        assert_same_figures(alone, evaluation)


def test_neither_the_batch_size_nor_the_threads_change_the_figures(
    shards_url: str, network: CompletionNetwork
) -> None:
    expected = evaluate(network, shards_url, EvaluationContext(CPU), batch_size=16)
    assert_same_figures(
        expected, evaluate(network, shards_url, EvaluationContext(CPU), batch_size=1)
    )
    assert_same_figures(
        expected, evaluate(network, shards_url, EvaluationContext(CPU, threads=3), batch_size=5)
    )


def test_the_figures_are_means_over_all_validation_samples(
    shards_url: str, network: CompletionNetwork
) -> None:
    manifest = load_manifest(shards_url)
    fill = classic_baselines(manifest.mean_color)["mean colour"]
    expected = []
    for batch in read_in_order(shards_url, "val", range(manifest.num_samples("val")), 1):
        mask = np.zeros((32, 32), dtype=bool)
        for x, y, width, height in batch.completion_holes[0]:
            mask[y : y + height, x : x + width] = True
        expected.append(image_metrics(batch.images[0], fill(batch.images[0], mask), mask))
    evaluation = evaluate(network, shards_url, EvaluationContext(CPU))
    assert evaluation.num_samples == len(expected) == manifest.num_samples("val") > 4
    for figure, value in evaluation.methods["mean colour"].items():
        assert value == pytest.approx(np.mean([row[figure] for row in expected])), figure


def test_a_network_that_returns_the_image_has_perfect_figures(shards_url: str) -> None:
    class Cheat(torch.nn.Module):
        def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return image

    figures = evaluate(Cheat(), shards_url, EvaluationContext(CPU)).methods["glcic"]
    assert set(figures) == set(IMAGE_METRICS)
    assert figures["hole_mse"] == 0
    assert figures["known_mse_of_raw"] == pytest.approx(0, abs=1e-12)
    assert figures["ssim"] == pytest.approx(1)


class Mapped(torch.nn.Module):
    """Returns a grey image, and as its finest map what `map_of` makes of the image."""

    has_maps = True

    def __init__(self, map_of: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.map_of = map_of

    def forward(
        self, image: torch.Tensor, mask: torch.Tensor, with_maps: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        raw = torch.full_like(image, 0.5)
        coarse = torch.zeros(len(image), 1, 8, 8)
        fine = self.map_of(error_map(composite(raw, image, mask), image, scale=1.5))
        return (raw, (coarse, fine)) if with_maps else raw


def test_the_figures_of_maps_are_those_of_the_finest_one(shards_url: str) -> None:
    figures = evaluate(
        Mapped(lambda error: error), shards_url, EvaluationContext(CPU, map_scale=1.5)
    )
    exact = figures.methods["glcic"]
    assert set(exact) == {*IMAGE_METRICS, *MAP_METRICS}
    assert exact["map_mae"] == pytest.approx(0, abs=1e-6)
    assert exact["map_error_correlation"] == pytest.approx(1, abs=1e-3)
    assert exact["map_hole_auroc"] > 0.95
    assert not set(MAP_METRICS) & set(figures.methods["Telea"])
    wrong = evaluate(
        Mapped(lambda error: 1 - error), shards_url, EvaluationContext(CPU, map_scale=1.5)
    )
    assert wrong.methods["glcic"]["map_error_correlation"] == pytest.approx(-1, abs=1e-3)
    assert wrong.methods["glcic"]["map_hole_auroc"] < 0.05


def test_only_blocks_with_maps_have_figures_of_maps(shards_url: str) -> None:
    config = CompletionConfig(kind="dam", width=8)
    joins = dataclasses.replace(config, attention_maps="zero")
    learned, zero = (
        evaluate(
            AttentionCompletionNetwork(one).eval(), shards_url, EvaluationContext(CPU), limit=3
        )
        for one in (config, joins)
    )
    assert "map_mae" in learned.methods["glcic"]
    assert set(zero.methods["glcic"]) == set(IMAGE_METRICS)


def test_samples_with_a_constant_map_are_left_out_of_the_correlation(shards_url: str) -> None:
    def of_the_first_alone(error: torch.Tensor) -> torch.Tensor:
        return torch.cat([error[:1], torch.zeros_like(error[1:])])

    some = evaluate(Mapped(of_the_first_alone), shards_url, EvaluationContext(CPU, map_scale=1.5))
    assert some.methods["glcic"]["map_error_correlation"] == pytest.approx(1, abs=1e-3)
    none = evaluate(Mapped(torch.zeros_like), shards_url, EvaluationContext(CPU))
    assert "map_error_correlation" not in none.methods["glcic"]
    assert none.methods["glcic"]["map_hole_auroc"] == pytest.approx(0.5)


def test_the_classic_methods_can_be_left_out_and_have_no_raw_output(
    shards_url: str, network: CompletionNetwork
) -> None:
    with_all = evaluate(network, shards_url, EvaluationContext(CPU), limit=3)
    available = [name for name in BASELINE_NAMES if name not in baselines_left_out(BASELINE_NAMES)]
    assert list(with_all.methods) == ["glcic", "glcic blended", *available]
    for method in ("glcic blended", "Telea"):
        assert "known_mse_of_raw" not in with_all.methods[method]
    some = evaluate(
        network, shards_url, EvaluationContext(CPU), limit=3, baselines=["Telea", "membrane"]
    )
    assert list(some.methods) == ["glcic", "glcic blended", "membrane", "Telea"]
    config = config_of(shards_url, limit=3)
    while_training = evaluate_network(network, config, Worker(), baselines=False)
    assert while_training.methods == {"glcic": with_all.methods["glcic"]}


def test_the_blended_completions_are_those_of_the_paper_s_post_processing(
    shards_url: str, network: CompletionNetwork
) -> None:
    batch = next(read_in_order(shards_url, "val", [0], 1))
    images, masks = sample_tensors(batch, CPU)
    with torch.inference_mode():
        completed = composite(network(images, masks), images, masks)
    hole = masks[0, 0].numpy() > 0.5
    after = blended(quantized(completed[0].permute(1, 2, 0).numpy()), hole)
    methods = evaluate(network, shards_url, EvaluationContext(CPU), limit=1, baselines=()).methods
    expected = image_metrics(batch.images[0], after, hole)
    assert methods["glcic blended"] == pytest.approx(expected)
    assert methods["glcic blended"]["hole_mse"] != methods["glcic"]["hole_mse"]


def test_a_method_that_is_not_installed_is_named_below_the_tables(
    shards_url: str, network: CompletionNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(cv2, "xphoto", raising=False)
    evaluation = evaluate(
        network, shards_url, EvaluationContext(CPU), limit=2, baselines=["FSR", "Telea"]
    )
    assert list(evaluation.methods) == ["glcic", "glcic blended", "Telea"]
    assert list(evaluation.evaluated["baselines_left_out"]) == ["FSR"]
    assert "FSR is left out: this OpenCV has no module xphoto" in evaluation.to_markdown()


def test_the_masks_of_one_image_are_resampled_together(
    shards_url: str, network: CompletionNetwork
) -> None:
    evaluation = evaluate(network, shards_url, EvaluationContext(CPU), baselines=["membrane"])
    assert evaluation.intervals["num_images"] == evaluation.num_samples / 2
    low, high = evaluation.intervals["methods"]["membrane"]["hole_psnr_db"]
    assert low < evaluation.methods["membrane"]["hole_psnr_db"] < high
    difference = evaluation.intervals["differences"]["membrane"]["hole_mse"]
    network_s, its = (evaluation.methods[name]["hole_mse"] for name in ("glcic", "membrane"))
    assert difference["mean"] == pytest.approx(network_s - its)


def test_a_result_from_before_there_were_intervals_is_shown_without_them() -> None:
    methods = {"glcic": {"psnr_db": 20.0}, "Telea": {"psnr_db": 19.0}}
    old = Evaluation(methods=methods, num_samples=4)
    assert old.to_markdown().splitlines() == [
        "| 4 samples | glcic | Telea |",
        "| --- | ---: | ---: |",
        "| PSNR, dB | 20.000 | 19.000 |",
    ]


def test_a_limit_takes_samples_from_the_whole_split() -> None:
    assert evaluated_samples(10, 0) == list(range(10))
    assert evaluated_samples(10, 3) == [0, 3, 6]
    assert evaluated_samples(10, 99) == list(range(10))
    with pytest.raises(ValueError, match="no validation samples"):
        evaluated_samples(0, 3)


def test_the_outputs_tell_what_was_evaluated_and_every_figure(
    shards_url: str, network: CompletionNetwork
) -> None:
    config = config_of(shards_url, limit=4)
    evaluation = evaluate_network(network, config, Worker(), evaluated={"checkpoint": "some/step"})
    content = json.loads(evaluation.to_json())
    assert Evaluation(**content) == evaluation
    assert content["evaluated"]["checkpoint"] == "some/step"
    assert content["evaluated"]["data_fingerprint"] == load_manifest(shards_url).fingerprint
    tables = [part.splitlines() for part in evaluation.to_markdown().split("\n\n")][:5]
    first, intervals, differences, of_blended, by_mask = tables
    assert len(first) == 2 + len(IMAGE_METRICS)
    assert first[-1].endswith("| - | - | - |")
    assert len(intervals) == 2 + len(evaluation.methods)
    assert len(differences) == len(of_blended) == 2 + len(evaluation.methods) - 1
    assert len(by_mask) == 2 + len(evaluation.by_hole_area)
    for table in tables:
        assert len({line.count("|") for line in table}) == 1
    low, high = evaluation.intervals["methods"]["Telea"]["hole_psnr_db"]
    assert f"({low:.3f} to {high:.3f})" in "".join(intervals)
    console = Console(width=120, file=io.StringIO())
    console.print(evaluation.to_table())
    text = console.file.getvalue()
    assert f"{evaluation.methods['Telea']['psnr_db']:.3f}" in text
    assert "Navier-Stokes" in text


def test_recalibration_uses_training_images_and_leaves_the_network_as_it_was(
    shards_url: str, network: CompletionNetwork
) -> None:
    config = config_of(shards_url)
    result = recalibrate(network, config, Worker())
    norm, before = result.encoder["1"].norm, network.encoder["1"].norm
    assert not torch.equal(norm.running_mean, before.running_mean)
    assert torch.equal(before.running_mean, torch.zeros(8))
    assert not result.training
    again = recalibrate(result, config, Worker())
    torch.testing.assert_close(again.encoder["1"].norm.running_var, norm.running_var)


def test_recalibration_reads_a_mixture_as_training_does(
    shards_url: str, network: CompletionNetwork, tmp_path: Path
) -> None:
    other = WeightedSet(pack_small_set(tmp_path, images=16, classes=2, seed=1))
    alone = config_of(shards_url, recalibration_images=24)
    alone = dataclasses.replace(alone, train=TrainConfig(precision="fp32", batch_size=8))
    data = dataclasses.replace(alone.data, mixture=(other,))
    mixed = dataclasses.replace(alone, data=data)

    def mean(config: Config) -> torch.Tensor:
        return recalibrate(network, config, Worker()).encoder["1"].norm.running_mean

    assert not torch.equal(mean(mixed), mean(alone))
    figures = evaluate_network(network, mixed, Worker(), baselines=False)
    assert_same_figures(figures, evaluate_network(network, alone, Worker(), baselines=False))


def test_recalibration_on_no_images_keeps_the_statistics(
    shards_url: str, network: CompletionNetwork
) -> None:
    result = recalibrate(network, config_of(shards_url, recalibration_images=0), Worker())
    assert result is not network
    assert torch.equal(result.encoder["1"].norm.running_var, torch.ones(8))


def test_recalibration_needs_no_more_images_than_there_are(
    shards_url: str, network: CompletionNetwork
) -> None:
    config = dataclasses.replace(
        config_of(shards_url), evaluation=EvaluationConfig(recalibration_images=1)
    )
    result = recalibrate(network, config, Worker())
    assert int(result.encoder["1"].norm.num_batches_tracked) == 1


def test_a_set_that_does_not_exist_is_named(network: CompletionNetwork, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no packed set"):
        evaluate(network, str(tmp_path / "none"), EvaluationContext(CPU))
