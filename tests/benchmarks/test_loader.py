from contextlib import closing

import pytest

from benchmarks import loader, loading_candidates
from benchmarks.inputs import pack_both_ways, write_shipped_parts
from benchmarks.loading_candidates import measure_rate
from benchmarks.result import read_result
from tests.shards.pictures import write_class_folders

LOADERS = [
    loading_candidates.bare_decoding,
    loading_candidates.bare_decoding_2_threads,
    loading_candidates.batch_assembler,
    loading_candidates.shard_reader,
    loading_candidates.shard_reader_2_threads,
    loading_candidates.webdataset_pil,
    loading_candidates.webdataset_simplejpeg,
]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    source = write_class_folders(folder / "source")
    return pack_both_ways(source, folder, crop_size=32)


def test_every_photograph_is_packed_both_ways(packed):
    _, manifest = packed
    assert manifest.num_images("train") == manifest.num_images("val") == 12


def test_longer_epochs_repeat_the_images_that_are_only_decoded(tmp_path):
    source = write_class_folders(tmp_path / "source")
    _, manifest = pack_both_ways(source, tmp_path, crop_size=32, repeat=3)
    assert (manifest.num_images("train"), manifest.num_images("val")) == (12, 36)


@pytest.mark.parametrize("group", [loader.DIRECT, loader.RANDOM_SCALE])
@pytest.mark.parametrize("candidate", LOADERS, ids=lambda candidate: candidate.__name__)
def test_every_candidate_loads_batch_after_batch(packed, candidate, group):
    case = loader.cases_of(packed[0], crop_size=32, batch_size=5)[group]
    expected = 12 if "bare" in candidate.__name__ else 5  # bare decoding counts whole rounds
    with closing(candidate(case)) as batches:
        assert [next(batches) for _ in range(6)] == [expected] * 6  # past the end of an epoch


def test_a_rate_is_measured_with_and_without_a_busy_consumer(packed):
    case = loader.cases_of(packed[0], crop_size=32, batch_size=4)[loader.DIRECT]
    assert measure_rate(loading_candidates.batch_assembler, case, 0.01) > 0
    assert measure_rate(loading_candidates.shard_reader, case, 0.01, 0.002) > 0


def test_the_shipped_photographs_give_enough_to_measure(tmp_path):
    assert len(list(write_shipped_parts(tmp_path / "parts").iterdir())) > 80


def test_a_set_that_is_not_there_is_one_line(tmp_path, capsys):
    output = tmp_path / "result.json"
    assert loader.main([f"--shards={tmp_path}/none", f"--output={output}"]) == 1
    assert "holds no packed set" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.slow
def test_the_benchmark_runs_and_its_result_names_no_folder(tmp_path):
    source = write_class_folders(tmp_path / "source", images_per_class=3)
    output = tmp_path / "results" / "loader.json"
    options = ["--rounds=1", "--seconds=0.02", "--batch-size=4", "--crop-size=32"]
    assert loader.main([*options, "--source", str(source), f"--output={output}"]) == 0
    result = read_result(output)
    names = [figure.name for figure in result.figures if figure.group == loader.DIRECT]
    assert len(names) == 9 + len(loader.PAIRS)
    assert all(figure.minimum > 0 for figure in result.figures)
    assert str(tmp_path) not in output.read_text()
