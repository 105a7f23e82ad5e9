import importlib.util
import os
import sys

import fsspec
import pytest

from shards.format.recipe import PackRecipe
from shards.sources.plan import plan_packing, read_source_image
from shards.storage.files import remove_tree, write_bytes
from tests.shards.small_sources import classes_by_name, make_files, names_of, planned

needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed"
)


@pytest.fixture(params=["local", "memory"])
def url(request, tmp_path):
    if request.param == "local":
        yield str(tmp_path)
    else:
        yield f"memory://{tmp_path.name}"
        remove_tree(f"memory://{tmp_path.name}")


def write_list(folder, text, name="list.csv"):
    write_bytes(f"{folder}/{name}", text if isinstance(text, bytes) else text.encode())
    return f"{folder}/{name}"


def fault_of(folder, text):
    with pytest.raises(ValueError, match=r"list\.csv") as raised:
        planned(write_list(folder, text))
    return str(raised.value)


def contents(location):
    return {
        image.name: read_source_image(location, image)
        for image in planned(location).splits["train"]
    }


def test_a_list_names_its_images_and_their_classes(url):
    for name in ("a.jpg", "deep/b with, comma.jpg", "no extension"):
        write_bytes(f"{url}/{name}", name.encode())
    text = (
        "class,note,path\ncat,x,./a.jpg\n"
        '"dog, large",y,"deep/b with, comma.jpg"\ncat,,no extension\n'
    )
    location = write_list(url, text)
    plan = planned(location)
    assert plan.classes == ["cat", "dog, large"]
    assert classes_by_name(plan)["deep/b with, comma.jpg"] == "dog, large"
    assert contents(location) == {
        name: name.encode() for name in ("a.jpg", "deep/b with, comma.jpg", "no extension")
    }
    assert {image.num_bytes for image in plan.splits["train"]} == {-1}


def test_a_column_split_decides(url):
    location = write_list(url, "path,class,split\na.jpg,cat,train\nb.jpg,cat,val\nc.jpg,dog,val\n")
    plan = plan_packing(location, PackRecipe(validation_fraction=0.9))
    assert names_of(plan, "train") == ["a.jpg"]
    assert names_of(plan, "val") == ["b.jpg", "c.jpg"]


def test_without_a_column_split_a_fraction_is_validation(url):
    rows = "".join(f"{number}.jpg,cat\n" for number in range(20))
    plan = plan_packing(write_list(url, "path,class\n" + rows), PackRecipe(validation_fraction=0.1))
    assert {split: len(images) for split, images in plan.splits.items()} == {"train": 18, "val": 2}


def test_absolute_paths_and_urls_keep_their_names_and_lie_anywhere(url, tmp_path):
    make_files(tmp_path / "elsewhere", ["a.jpg"])
    store = f"memory://{tmp_path.name}-other"
    names = [
        f"{tmp_path}/elsewhere/a.jpg",
        f"file://{tmp_path}/elsewhere/a.jpg",
        f"{store}/b[1].jpg",
    ]
    fsspec.filesystem("memory").pipe_file(f"/{tmp_path.name}-other/b[1].jpg", b"with brackets")
    try:
        location = write_list(url, "path,class\n" + "".join(f"{name},cat\n" for name in names))
        assert contents(location) == {
            names[0]: b"a.jpg",
            names[1]: b"a.jpg",
            names[2]: b"with brackets",
        }
    finally:
        remove_tree(store)


def test_every_fault_of_a_list_is_named_with_its_row(tmp_path):
    message = fault_of(
        tmp_path,
        "path,class,split\n"
        "a.jpg,cat,train\n"
        "./a.jpg,cat,val\n"
        "b.jpg,,val\n"
        "c.jpg,cat,test\n"
        "../d.jpg,cat,val\n"
        "x/../../e.jpg,cat,val\n"
        ",cat,val\n"
        "f.jpg,cat,\n"
        "nonsense://bucket/g.jpg,cat,val\n",
    )
    lines = message.splitlines()
    assert len(lines) == 9
    for row, words in (
        (3, "listed a second time"),
        (4, "the class is empty"),
        (5, "the split is 'test'; it must be train or val"),
        (6, "../d.jpg holds '..'"),
        (7, "x/../../e.jpg holds '..'"),
        (8, "the path is ''"),
        (9, "the split is ''"),
        (10, "nonsense://bucket"),
    ):
        assert any(f"row {row}: " in line and words in line for line in lines), (row, message)


def test_ten_faults_are_shown_and_the_rest_counted(tmp_path):
    message = fault_of(tmp_path, "path,class\n" + "".join(f"{n}.jpg,\n" for n in range(1500)))
    assert len(message.splitlines()) == 12
    assert message.endswith("and 1,490 more")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has the columns of an empty file; it must have path and class"),
        ("path;class\na.jpg;cat\n", "has the columns path;class; it must have path and class"),
        ("path,class,path\na.jpg,cat,b.jpg\n", "each of them once"),
        ("path,class\na,b.jpg,cat\n", "row 2 has 3 fields and not 2"),
        ("path,class\na.jpg\n", "row 2 has 1 fields and not 2"),
        (b"path,class\n\xff.jpg,cat\n", "cannot be read as a list: 'utf-8' codec"),
        ('path,class\n"a.jpg,cat\n', "cannot be read as a list: unexpected end of data"),
        ("path,class\n", "holds no image"),
        ("path,class\na\0.jpg,cat\n", ""),
    ],
)
def test_a_list_of_another_form_is_refused(tmp_path, text, words):
    assert words in fault_of(tmp_path, text)


def test_a_byte_order_mark_and_windows_line_ends_are_understood(tmp_path):
    location = write_list(tmp_path, b"\xef\xbb\xbfpath,class\r\na.jpg,cat\r\n\r\n")
    assert classes_by_name(planned(location)) == {"a.jpg": "cat"}


def test_a_space_after_the_comma_makes_no_other_class(tmp_path):
    location = write_list(tmp_path, "path, class, split\na.jpg, cat, train\nb.jpg,cat,train\n")
    assert planned(location).classes == ["cat"]


def test_a_missing_list_is_refused(url):
    with pytest.raises(ValueError, match=r"missing\.csv does not exist"):
        planned(f"{url}/missing.csv")


def test_a_listed_pipe_is_refused_when_it_is_read_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    location = write_list(tmp_path, "path,class\na.jpg,cat\n")
    with pytest.raises(OSError, match="not a regular file"):
        read_source_image(location, planned(location).splits["train"][0])


def write_parquet(url, columns, name="list.parquet"):
    import pyarrow
    from pyarrow import parquet

    buffer = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(columns), buffer)
    write_bytes(f"{url}/{name}", buffer.getvalue().to_pybytes())
    return f"{url}/{name}"


@needs_pyarrow
def test_a_parquet_list_gives_the_plan_of_the_same_csv_list(url):
    names = [f"{number}.jpg" for number in range(30)]
    classes = [str(number % 3) for number in range(30)]
    splits = ["val" if number % 5 == 0 else "train" for number in range(30)]
    rows = "".join(f"{','.join(row)}\n" for row in zip(names, classes, splits, strict=True))
    columns = {"extra": [1] * 30, "class": [int(name) for name in classes], "path": names}
    columns["split"] = splits
    parquet = planned(write_parquet(url, columns))
    assert parquet.sha256 == planned(write_list(url, "path,class,split\n" + rows)).sha256
    assert len(parquet.splits["val"]) == 6


@needs_pyarrow
def test_the_faults_of_a_parquet_list_are_named_with_their_rows(tmp_path):
    columns = {"path": ["a.jpg", None], "class": ["cat", None], "split": [None, "val"]}
    with pytest.raises(ValueError, match=r"list\.parquet cannot be packed") as raised:
        planned(write_parquet(tmp_path, columns))
    message = str(raised.value)
    assert "row 1: the split is ''" in message
    assert "row 2: the path is ''" in message
    assert "row 2: the class is empty" in message


@needs_pyarrow
def test_a_file_that_is_no_parquet_and_one_without_the_columns_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"list\.parquet cannot be read as a list"):
        planned(write_list(tmp_path, "path,class\n", "list.parquet"))
    with pytest.raises(ValueError, match="has the columns path, label; it must have"):
        planned(write_parquet(tmp_path, {"path": ["a.jpg"], "label": ["cat"]}))


def test_without_pyarrow_a_parquet_list_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(RuntimeError, match=r"pip install 'glcic-pipeline\[parquet\]'"):
        planned(write_list(tmp_path, "", "list.parquet"))
