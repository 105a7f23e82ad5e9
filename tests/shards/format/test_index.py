import io

import numpy as np
import pytest

from shards.format.index import decode_index, encode_index, index_dtype, index_name


def records(count=3):
    table = np.zeros(count, dtype=index_dtype(masks_per_image=2, holes_per_mask=3))
    table["image_offset"] = 2**40 + np.arange(count)
    table["completion_holes"] = np.arange(count * 24).reshape(count, 2, 3, 4)
    return table


def test_an_index_survives_the_round_trip():
    decoded = decode_index(encode_index(records()), "a.idx")
    assert decoded.dtype == records().dtype
    assert decoded.tobytes() == records().tobytes()


def test_encoding_is_deterministic():
    assert encode_index(records()) == encode_index(records())


def test_the_index_is_named_after_its_shard():
    assert index_name("train-000012.tar") == "train-000012.idx"


def test_a_truncated_index_is_refused_by_name():
    data = encode_index(records())
    for length in (0, 5, 60, len(data) - 1):
        with pytest.raises(ValueError, match=r"val-000003\.idx"):
            decode_index(data[:length], "val-000003.idx")


def test_an_array_of_another_kind_is_refused():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    with pytest.raises(ValueError, match="is not a shard index"):
        decode_index(buffer.getvalue(), "a.idx")


def test_pickled_content_is_never_loaded():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="is not a shard index"):
        decode_index(buffer.getvalue(), "a.idx")
