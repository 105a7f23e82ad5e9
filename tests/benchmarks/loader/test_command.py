import threading
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.harness.launched_workers import ALONE, Workers
from benchmarks.harness.photographs import pack_both_ways, write_shipped_parts
from benchmarks.harness.result import read_result
from benchmarks.loader import __main__ as loader
from benchmarks.loader import candidates as loading_candidates
from benchmarks.loader.from_store import DOWNLOADED, FROM_STORE
from benchmarks.peers.adapters.stored_images import shards_of_worker
from benchmarks.peers.loading_rate import measure_rate
from pipeline.config.schema import Config
from tests.shards.pictures import write_class_folders
from tests.torchrun import run, torchrun_command

CROPS = [
    "--pack.crop-size=32", "--pack.short-side=48", "--pack.masks.side-min=8",
    "--pack.masks.side-max=16", "--discriminator.local-size=16",
]  # fmt: skip
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


@pytest.fixture
def served(packed) -> Iterator[str]:
    """The URL of the packed set, on a server that knows nothing of it."""
    handler = partial(SimpleHTTPRequestHandler, directory=packed[0])
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("num_shards", [1, 2, 3, 7])
def test_workers_share_out_whole_shards_and_none_is_without(num_shards):
    shares = [shards_of_worker(num_shards, rank, 3) for rank in range(3)]
    assert all(shares)
    assert {shard for share in shares for shard in share} == set(range(num_shards))
    if num_shards >= 3:
        assert sum(map(len, shares)) == num_shards


def test_a_worker_reads_its_own_lanes_by_the_configurations_crops():
    workers = Workers(rank=1, world_size=4)
    case = loader.cases_of("set", 32, 8, Config(), workers)[loader.RANDOM_SCALE]
    spec = case.spec(threads=3)
    assert (spec.batch_size, list(spec.lanes), spec.decode_threads) == (32, [*range(8, 16)], 3)
    data = Config().data
    assert (spec.short_side_min, spec.short_side_max) == (data.short_side_min, data.short_side_max)


def test_without_webdataset_its_pipelines_are_listed_as_not_measured(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(loader.importlib.util, "find_spec", lambda name: None)
    case = loader.cases_of(packed[0], crop_size=32, batch_size=4)[loader.DIRECT]
    peers = loader.peers_of(Namespace(peers=[], seconds=0.01), case, tmp_path, ALONE)
    assert peers.not_measured.keys() == {loader.PIL, loader.SIMPLEJPEG}


@pytest.mark.dist
def test_two_workers_load_a_remote_set_through_the_cache_and_with_none(served, tmp_path):
    output, log = tmp_path / "loader.json", tmp_path / "log"
    names = [loader.READER, loader.PIL, loader.BARE]
    command = torchrun_command(
        2, "--module", "benchmarks.loader", "--rounds=1", "--seconds=0.02", "--batch-size=2",
        "--store-seconds=0.1", "--data.decode-threads=1", "--data.short-side-min=32",
        "--data.short-side-max=40", *CROPS, *(f"--candidate={name}" for name in names),
        f"--data.shards={served}", f"--data.cache={tmp_path / 'cache'}", f"--output={output}",
    )  # fmt: skip
    assert run(command, log) == 0, log.read_text()
    result = read_result(output)
    assert (result.parameters["workers"], result.parameters["the set's store"]) == (2, "http")
    for group in (loader.DIRECT, loader.RANDOM_SCALE):
        figures = {one.name: one.median for one in result.figures if one.group == group}
        assert [*figures][:3] == [loader.BARE, loader.READER, loader.PIL]
        (table,) = [one for one in result.tables if one.title.endswith(group)]
        rates = [float(row[2].replace(",", "")) for row in table.rows]
        assert figures[loader.READER] == pytest.approx(sum(rates), rel=0.01)
    store = {one.name: one.median for one in result.figures if one.group == FROM_STORE}
    assert set(store) == {loader.READER, DOWNLOADED}
    assert min(store.values()) > 0
    assert [path.name for path in tmp_path.iterdir() if "benchmark" in path.name] == []
    assert served not in output.read_text()
