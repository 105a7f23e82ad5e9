from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config.schema import CompletionConfig
from pipeline.evaluation.evaluate import Evaluation, evaluate, evaluate_files
from pipeline.evaluation.feature_metrics import PerceptualNetworks
from pipeline.evaluation.per_sample import EvaluationContext
from pipeline.networks.glcic import CompletionNetwork
from shards.evaluation_sets.image_mask_pairs import ImageMaskPairs, find_pairs
from shards.evaluation_sets.write_pairs import write_fixed_files
from shards.format.manifest import load_manifest
from tests.pipeline.onnx_networks import write_distance_network, write_feature_network
from tests.pipeline.rank_sum import in_threads
from tests.shards.pictures import pack_small_set

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shards_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("evaluation")
    return pack_small_set(folder, images=30, masks_per_image=2, validation_fraction=0.3)


@pytest.fixture(scope="module")
def folder(shards_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packed samples as files, with a second set of masks that are small."""
    folder = tmp_path_factory.mktemp("files") / "packed-samples"
    recipe = load_manifest(shards_url).recipe
    write_fixed_files(shards_url, str(folder), recipe, ["packed"])
    small = folder.parent / "small"
    recipe = replace(recipe, masks=replace(recipe.masks, side_min=4, side_max=5))
    write_fixed_files(str(folder / "images"), str(small), replace(recipe, validation_fraction=0.0),
                      ["packed"], split="train")  # fmt: skip
    (small / "packed").rename(folder / "small")
    return folder


@pytest.fixture(scope="module")
def pairs(folder: Path) -> ImageMaskPairs:
    return find_pairs(str(folder / "images.csv"), [str(folder / n) for n in ("packed", "small")])


@pytest.fixture(scope="module")
def network() -> CompletionNetwork:
    torch.manual_seed(0)
    return CompletionNetwork(CompletionConfig(width=8)).eval()


@pytest.fixture(scope="module")
def perceptual(tmp_path_factory: pytest.TempPathFactory) -> PerceptualNetworks:
    folder = tmp_path_factory.mktemp("networks")
    return PerceptualNetworks.load(
        write_feature_network(folder / "features.onnx"),
        write_distance_network(folder / "distance.onnx"),
    )


def assert_same(first: Evaluation, second: Evaluation) -> None:
    for method in ("glcic", "glcic blended", "Telea"):
        for figure, value in first.methods[method].items():
            expected = pytest.approx(value, rel=1e-4, abs=1e-7)
            assert second.methods[method][figure] == expected, (method, figure)


def test_packed_samples_as_files_have_the_figures_that_they_have_in_the_set(
    shards_url: str, folder: Path, network: CompletionNetwork
) -> None:
    pairs = find_pairs(str(folder / "images.csv"), [str(folder / "packed")])
    of_files = evaluate_files(network, pairs, EvaluationContext(CPU))
    of_set = evaluate(network, shards_url, EvaluationContext(CPU))
    assert of_files.num_samples == of_set.num_samples == 18
    assert_same(of_set, of_files)
    assert of_files.methods["Telea"] == pytest.approx(of_set.methods["Telea"])
    assert "mean colour" not in of_files.methods
    assert not of_files.by_set  # there is only one


def test_every_set_of_masks_has_figures_of_its_own(
    pairs: ImageMaskPairs, network: CompletionNetwork
) -> None:
    evaluation = evaluate_files(network, pairs, EvaluationContext(CPU))
    assert list(evaluation.by_set) == ["packed", "small"]
    assert [one["num_samples"] for one in evaluation.by_set.values()] == [18, 18]
    for figure in ("hole_mse", "ssim"):
        parts = [one["methods"]["glcic"][figure] for one in evaluation.by_set.values()]
        assert evaluation.methods["glcic"][figure] == pytest.approx(np.mean(parts))
        assert parts[0] != parts[1]
    text = evaluation.to_markdown()
    assert "| packed | 18 |" in text
    assert "| small | 18 |" in text


def test_samples_are_grouped_by_the_tenth_that_their_hole_takes(
    pairs: ImageMaskPairs, network: CompletionNetwork
) -> None:
    evaluation = evaluate_files(network, pairs, EvaluationContext(CPU), baselines=(), blend=False)
    shares = [pairs.read(number)[1].mean() for number in range(len(pairs.pairs))]
    expected = {f"{10 * n}-{10 * n + 10} %": 0 for n in range(10)}
    for share in shares:
        expected[f"{10 * int(10 * share)}-{10 * int(10 * share) + 10} %"] += 1
    counts = {name: one["num_samples"] for name, one in evaluation.by_hole_area.items()}
    assert counts == {name: count for name, count in expected.items() if count}
    assert len(counts) > 1
    total = sum(
        one["num_samples"] * one["methods"]["glcic"]["psnr_db"]
        for one in evaluation.by_hole_area.values()
    )
    assert total / 36 == pytest.approx(evaluation.methods["glcic"]["psnr_db"])


@pytest.mark.parametrize("world_size", [2, 3])
def test_figures_of_distributions_do_not_depend_on_the_number_of_ranks(
    pairs: ImageMaskPairs,
    network: CompletionNetwork,
    perceptual: PerceptualNetworks,
    world_size: int,
) -> None:
    alone = evaluate_files(
        network, pairs, EvaluationContext(CPU, perceptual=perceptual), batch_size=7
    )
    figures = alone.methods["glcic"]
    assert {"lpips", "fid", "kid", "u_ids_percent", "p_ids_percent"} <= set(figures)
    assert figures["fid"] > 0
    assert "fid" in alone.by_set["small"]["methods"]["glcic"]
    assert "lpips" in next(iter(alone.by_hole_area.values()))["methods"]["glcic"]
    results = in_threads(
        world_size,
        lambda rank, total: evaluate_files(
            network, pairs, EvaluationContext(CPU, rank, world_size, total, perceptual=perceptual)
        ),
    )
    for evaluation in results:
        assert_same(alone, evaluation)


def test_every_method_is_compared_by_the_same_perceptual_networks(
    pairs: ImageMaskPairs, network: CompletionNetwork, perceptual: PerceptualNetworks
) -> None:
    methods = evaluate_files(network, pairs, EvaluationContext(CPU, perceptual=perceptual)).methods
    assert {"glcic blended", "membrane", "Navier-Stokes"} <= set(methods)
    for name in ("lpips", "fid", "kid", "u_ids_percent", "p_ids_percent"):
        assert all(name in figures for figures in methods.values()), name
    # The stand-in for LPIPS is the mean absolute difference in [-1, 1], known pixels included.
    telea = methods["Telea"]
    assert 0 < telea["lpips"] != methods["glcic"]["lpips"]
    assert telea["fid"] != methods["glcic"]["fid"]


def test_the_sets_of_masks_of_one_image_are_resampled_together(
    pairs: ImageMaskPairs, network: CompletionNetwork
) -> None:
    evaluation = evaluate_files(network, pairs, EvaluationContext(CPU), baselines=())
    num_images = len({pair.image for pair in pairs.pairs})
    assert evaluation.intervals["num_images"] == num_images < evaluation.num_samples


def test_the_result_tells_which_files_it_was_made_on(
    folder: Path, pairs: ImageMaskPairs, network: CompletionNetwork
) -> None:
    packed = find_pairs(str(folder / "images.csv"), [str(folder / "packed")])
    first = evaluate_files(
        network, packed, EvaluationContext(CPU), limit=2, baselines=(), blend=False
    )
    assert first.num_samples == 2
    assert first.evaluated["files"]["sha256"] == packed.description()["sha256"] != ""
    assert pairs.description()["sha256"] == ""  # the small masks are not in the list
