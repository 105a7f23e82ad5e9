"""Archives of any bytes, and what reads them: a result, or the error that is documented."""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shards.format.finding import Finding
from shards.format.index import decode_index, encode_index
from shards.format.recipe import PackRecipe
from shards.format.tar_reader import ShardFile, archive_members, walk_tar
from shards.indexing.external_shard import read_external_shard
from shards.indexing.rebuild import rebuild_index
from shards.packing.tar_header import END, member_header, padding
from tests.fuzz.mutations import archives, corpus, edited_json, fuzzed, mutated
from tests.shards.pictures import pack_small_set, small_recipe

HANGS_AFTER_S = 20


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(pack_small_set(tmp_path_factory.mktemp("fuzz"), images=3, classes=1, size=(40, 36)))


@pytest.fixture(autouse=True)
def no_hang() -> Any:
    """A reader that goes in a circle would never come back by itself."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"still reading after {HANGS_AFTER_S} s")

    signal.signal(signal.SIGALRM, stop)
    yield
    signal.alarm(0)


def shard_bytes(small_set: Path) -> bytes:
    return (small_set / "train-000000.tar").read_bytes()


def members_bytes(members: dict[str, bytes]) -> bytes:
    parts = [
        member_header(name.encode(), len(data)) + data + padding(len(data))
        for name, data in members.items()
    ]
    return b"".join(parts) + END


def in_file(data: bytes, read: Callable[[Path], Any]) -> Any:
    signal.alarm(HANGS_AFTER_S)
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        file.write(data)
        file.flush()
        result = read(Path(file.name))
    signal.alarm(0)
    return result


def walk(path: Path) -> tuple[int, list[Finding]]:
    findings: list[Finding] = []
    with ShardFile(path) as file:
        members = walk_tar(file, "train-000000.tar", findings.append)
        assert all(0 <= member.offset <= file.size for member in members)
        return len(members), findings


def check_walk(data: bytes) -> None:
    found, findings = in_file(data, walk)
    assert all(str(finding).isprintable() for finding in findings)
    assert findings or found * 512 + 1024 <= len(data)


def check_foreign(data: bytes) -> None:
    try:
        shard = in_file(data, lambda path: read_external_shard(path, "far.tar"))
    except ValueError as error:
        assert "far.tar" in str(error)
        return
    assert all(0 <= one.offset <= len(data) - one.num_bytes for one in shard.images)
    assert all(one.path.startswith("far.tar") for one in shard.refused)


def check_rebuilding(data: bytes, recipe: PackRecipe) -> None:
    signal.alarm(HANGS_AFTER_S)
    try:
        index = rebuild_index(memoryview(data), recipe, "train-000000.tar")
    except ValueError as error:
        assert "train-000000.tar" in str(error)
        return
    finally:
        signal.alarm(0)
    records = decode_index(index, "train-000000.idx")
    assert encode_index(records) == index
    ends = records["image_offset"] + records["image_size"]
    assert (ends <= len(data)).all()


def check_everything(data: bytes) -> None:
    check_walk(data)
    check_foreign(data)
    check_rebuilding(data, small_recipe())


@pytest.mark.parametrize("data", corpus("archives"), ids=len)
def test_archives_that_were_once_found_are_read_or_refused(data: bytes) -> None:
    check_everything(data)


@fuzzed(150)
@given(data=st.binary(max_size=3000))
def test_any_bytes_as_a_shard_are_read_or_refused(data: bytes) -> None:
    check_everything(data)


@fuzzed(250)
@given(draw=st.data())
def test_a_mutated_shard_is_read_or_refused(small_set: Path, draw: st.DataObject) -> None:
    check_everything(draw.draw(mutated([shard_bytes(small_set)])))


@fuzzed(500)
@given(draw=st.data())
def test_headers_that_say_anything_are_read_or_refused(
    small_set: Path, draw: st.DataObject
) -> None:
    contents = [
        bytes(shard_bytes(small_set)[one.offset_data : one.offset_data + one.size])
        for one in archive_members(memoryview(shard_bytes(small_set)))
    ]
    check_everything(draw.draw(archives(contents)))


@fuzzed(250)
@given(draw=st.data())
def test_an_index_is_rebuilt_from_any_description_or_refused(
    small_set: Path, draw: st.DataObject
) -> None:
    data = memoryview(shard_bytes(small_set))
    members = {
        one.name: bytes(data[one.offset_data : one.offset_data + one.size])
        for one in archive_members(data)
    }
    name = next(name for name in members if name.endswith(".json"))
    members[name] = json.dumps(draw.draw(edited_json(json.loads(members[name])))).encode()
    check_rebuilding(members_bytes(members), small_recipe())
    check_foreign(members_bytes(members))


@pytest.mark.parametrize("size", [-512, -1024, -1536, -(2**40)])
def test_a_member_of_negative_size_is_refused_and_not_read_for_ever(size: int) -> None:
    header = bytearray(member_header(b"00000001.jpg", 0))
    header[124:136] = b"\xff" + (size % 2**88).to_bytes(11, "big")
    from tests.fuzz.mutations import sealed

    data = sealed(header) + bytes(1024)
    with pytest.raises(ValueError, match=r"size that cannot be|archive"):
        list(archive_members(memoryview(data)))
    check_everything(data)


@fuzzed(300)
@given(draw=st.data())
@example(draw=None)
def test_a_mutated_index_is_decoded_or_refused(small_set: Path, draw: Any) -> None:
    whole = (small_set / "train-000000.idx").read_bytes()
    data = whole if draw is None else draw.draw(mutated([whole, *corpus("indexes")]))
    try:
        records = decode_index(data, "train-000000.idx")
    except ValueError as error:
        assert "train-000000.idx is not a shard index" in str(error)
        return
    assert records.nbytes <= len(data)
    assert records.dtype == decode_index(whole, "").dtype or draw is not None


@pytest.mark.parametrize("data", corpus("indexes"), ids=len)
def test_indexes_that_were_once_found_are_refused_by_name(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"a\.idx is not a shard index"):
        decode_index(data, "a.idx")
