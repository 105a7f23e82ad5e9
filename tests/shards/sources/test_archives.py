import io
import os
import tarfile

import pytest

from shards.sources import listing as reasons
from shards.sources.files import RangedFile
from shards.sources.plan import plan_packing, read_source_image
from shards.storage.files import remove_tree, write_bytes
from tests.shards.small_sources import (
    NO_VALIDATION,
    classes_by_name,
    make_files,
    names_of,
    picture_bytes,
    planned,
    reasons_of,
    tar_bytes,
)


@pytest.fixture(params=["local", "memory"])
def url(request, tmp_path):
    if request.param == "local":
        yield str(tmp_path)
    else:
        yield f"memory://{tmp_path.name}"
        remove_tree(f"memory://{tmp_path.name}")


def contents(location):
    plan = planned(location)
    images = [image for images in plan.splits.values() for image in images]
    return {image.name: read_source_image(location, image) for image in images}


def test_every_tar_of_a_folder_is_a_class_named_after_it(url):
    write_bytes(f"{url}/n01.tar", tar_bytes(["a.jpg", "b.jpg"], prefix="of n01 "))
    write_bytes(f"{url}/n02.TAR", tar_bytes(["deep/folders/a.jpg"], prefix="of n02 "))
    write_bytes(f"{url}/n02/c.jpg", b"loose")
    write_bytes(f"{url}/n03/part-1.tar", tar_bytes(["d.jpg"]))
    plan = planned(url)
    assert plan.classes == ["n01", "n02", "n03"]
    assert classes_by_name(plan) == {
        "n01.tar/a.jpg": "n01",
        "n01.tar/b.jpg": "n01",
        "n02.TAR/deep/folders/a.jpg": "n02",
        "n02/c.jpg": "n02",
        "n03/part-1.tar/d.jpg": "n03",
    }
    assert contents(url) == {
        "n01.tar/a.jpg": b"of n01 a.jpg",
        "n01.tar/b.jpg": b"of n01 b.jpg",
        "n02.TAR/deep/folders/a.jpg": b"of n02 deep/folders/a.jpg",
        "n02/c.jpg": b"loose",
        "n03/part-1.tar/d.jpg": b"d.jpg",
    }


def test_tars_in_train_and_val_are_classes_of_the_splits(url):
    write_bytes(f"{url}/train/cat.tar", tar_bytes(["x/a.jpg"]))
    write_bytes(f"{url}/val/cat.tar", tar_bytes(["b.jpg"]))
    write_bytes(f"{url}/test/cat.tar", b"never opened")
    plan = planned(url)
    assert plan.classes == ["cat"]
    assert names_of(plan, "train") == ["train/cat.tar/x/a.jpg"]
    assert names_of(plan, "val") == ["val/cat.tar/b.jpg"]
    assert reasons_of(plan) == {"test/cat.tar": reasons.OUTSIDE_SPLITS}


def test_archives_train_and_val_hold_the_splits_and_their_folders_are_the_classes(url):
    write_bytes(f"{url}/train.tar", tar_bytes(["cat/a.jpg", "dog/b.jpg"]))
    write_bytes(f"{url}/val.tar", tar_bytes(["cat/c.jpg"]))
    plan = planned(url)
    assert plan.classes == ["cat", "dog"]
    assert names_of(plan, "val") == ["val.tar/cat/c.jpg"]


def test_the_folders_of_a_single_archive_are_classes(url):
    write_bytes(f"{url}/photos.tar", tar_bytes(["./cat/a.jpg", "dog//b.jpg", "c.jpg"]))
    plan = planned(f"{url}/photos.tar")
    expected = {"cat/a.jpg": "cat", "dog/b.jpg": "dog", "c.jpg": "photos"}
    assert classes_by_name(plan) == expected


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_of_every_format_are_read(tmp_path, form):
    name = f"{'c' * 90}/{'d' * 40}/ü.jpg"
    if form != tarfile.USTAR_FORMAT:
        name = f"{'c' * 200}/{'d' * 200}/ü.jpg"
    (tmp_path / "s.tar").write_bytes(tar_bytes(["cat/a.jpg", name, "cat/b.jpg"], form))
    location = str(tmp_path / "s.tar")
    assert contents(location)[name] == name.encode()
    assert len(contents(location)) == 3


def special(name, kind, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_links_devices_and_names_that_lead_out_are_ignored_with_a_reason(tmp_path):
    members = {
        "cat/link.jpg": (tarfile.SYMTYPE, reasons.LINK_IN_ARCHIVE),
        "cat/hard.jpg": (tarfile.LNKTYPE, reasons.LINK_IN_ARCHIVE),
        "cat/pipe.jpg": (tarfile.FIFOTYPE, reasons.NOT_A_FILE),
        "cat/device.jpg": (tarfile.CHRTYPE, reasons.NOT_A_FILE),
        "/etc/a.jpg": (tarfile.REGTYPE, reasons.LEADS_OUT),
        "../a.jpg": (tarfile.REGTYPE, reasons.LEADS_OUT),
        "cat/../../b.jpg": (tarfile.REGTYPE, reasons.LEADS_OUT),
        "cat/inner.tar": (tarfile.REGTYPE, reasons.NESTED),
        "cat/inner.tar.gz": (tarfile.REGTYPE, reasons.COMPRESSED),
        "cat/.hidden.jpg": (tarfile.REGTYPE, reasons.HIDDEN),
        "cat/notes.txt": (tarfile.REGTYPE, reasons.NOT_AN_IMAGE),
    }
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for name, (kind, _) in members.items():
            archive.addfile(special(name, kind, "/etc/passwd"))
        archive.addfile(special("cat", tarfile.DIRTYPE))
        archive.addfile(special("cat/a.jpg", tarfile.REGTYPE))
    plan = planned(tmp_path / "s.tar")
    assert names_of(plan) == ["cat/a.jpg"]
    assert reasons_of(plan) == {name: reason for name, (_, reason) in members.items()}
    below = planned(tmp_path)
    assert reasons_of(below) == {f"s.tar/{name}": reason for name, (_, reason) in members.items()}


def test_a_packed_set_is_not_taken_for_a_folder_of_archives(url):
    write_bytes(f"{url}/train-000000.tar", WHOLE)
    assert planned(url).classes == ["train-000000"]
    write_bytes(f"{url}/manifest.json", b"{}")
    with pytest.raises(ValueError, match="is a packed set; name the images"):
        planned(url)


def test_an_archive_of_archives_alone_says_to_unpack_it(tmp_path):
    (tmp_path / "s.tar").write_bytes(tar_bytes(["n01.tar", "n02.tar"]))
    with pytest.raises(ValueError, match=r"n01\.tar is .*unpack the outer one \(2 such files\)"):
        planned(tmp_path / "s.tar")


def test_a_later_member_replaces_an_earlier_one_of_its_name(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for name, data in (("cat/a.jpg", b"old"), ("./cat/a.jpg", b"new content")):
            member = special(name, tarfile.REGTYPE)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    assert contents(str(tmp_path / "s.tar")) == {"cat/a.jpg": b"new content"}
    assert reasons_of(planned(tmp_path / "s.tar")) == {"cat/a.jpg": reasons.REPLACED}


def test_a_member_without_an_extension_is_looked_into(url):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in (("picture", picture_bytes()), ("text", b"words"), ("empty", b"")):
            member = special(name, tarfile.REGTYPE)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    write_bytes(f"{url}/cat.tar", buffer.getvalue())
    assert contents(url) == {"cat.tar/picture": picture_bytes()}


WHOLE = tar_bytes([f"cat/{number}.jpg" for number in range(3)])
MEMBERS_END = 3 * 1024


@pytest.mark.parametrize("size", [0, 100, 512, 700, 1024, 1500, 2048 + 512 + 8, MEMBERS_END, 3500])
def test_a_truncated_archive_is_refused_by_name(tmp_path, size):
    (tmp_path / "s.tar").write_bytes(WHOLE[:size])
    with pytest.raises(ValueError, match=r"s\.tar is cut off or damaged.*copy it again"):
        planned(tmp_path / "s.tar")
    with pytest.raises(ValueError, match=r"s\.tar is cut off or damaged"):
        planned(tmp_path)


def test_a_truncated_archive_in_a_store_is_refused_by_name(tmp_path):
    url = f"memory://{tmp_path.name}"
    write_bytes(f"{url}/s.tar", WHOLE[:2000])
    try:
        with pytest.raises(ValueError, match=r"s\.tar is cut off or damaged"):
            planned(url)
    finally:
        remove_tree(url)


@pytest.mark.parametrize("offset", [0, 130, 1024 + 3, 2048 + 150])
def test_a_damaged_header_is_refused_and_does_not_end_the_archive(tmp_path, offset):
    damaged = bytearray(WHOLE)
    damaged[offset] ^= 0xFF
    (tmp_path / "s.tar").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"s\.tar is cut off or damaged"):
        planned(tmp_path)


def test_archives_laid_end_to_end_are_refused_because_the_second_would_be_lost(tmp_path):
    (tmp_path / "s.tar").write_bytes(WHOLE + tar_bytes(["dog/a.jpg"]))
    with pytest.raises(ValueError, match=r"neither a member nor the archive's end"):
        planned(tmp_path)


def test_an_archive_that_shrank_after_the_plan_gives_an_oserror(url):
    write_bytes(f"{url}/s.tar", WHOLE)
    images = planned(f"{url}/s.tar").splits["train"]
    last = max(images, key=lambda image: image.offset)
    write_bytes(f"{url}/s.tar", WHOLE[: last.offset + 3])
    with pytest.raises(OSError, match="3 of 9 bytes are there"):
        read_source_image(f"{url}/s.tar", last)


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip"])
def test_compressed_archives_are_ignored_with_what_to_do(tmp_path, suffix):
    make_files(tmp_path, [f"cat{suffix}"])
    with pytest.raises(ValueError, match=r"holds no image: cat.* is ignored, .*decompress"):
        planned(tmp_path)
    with pytest.raises(ValueError, match="is compressed; decompress it"):
        planned(tmp_path / f"cat{suffix}")
    make_files(tmp_path, ["cat/a.jpg"])
    plan = planned(tmp_path)
    assert names_of(plan) == ["cat/a.jpg"]
    assert reasons_of(plan) == {f"cat{suffix}": reasons.COMPRESSED}
    assert "decompress" in reasons.COMPRESSED


def test_a_missing_archive_is_refused(url):
    with pytest.raises(ValueError, match=r"missing\.tar is not there; name the folder"):
        planned(f"{url}/missing.tar")


def test_a_pipe_named_like_an_archive_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "s.tar")
    with pytest.raises(OSError, match="not a regular file"):
        planned(tmp_path / "s.tar")


def test_members_are_read_from_where_they_lie_and_nothing_is_unpacked(tmp_path):
    write_bytes(f"{tmp_path}/s.tar", WHOLE)
    plan = plan_packing(f"{tmp_path}/s.tar", NO_VALIDATION)
    for image in plan.splits["train"]:
        assert WHOLE[image.offset :][: image.num_bytes] == image.name.encode()
    assert os.listdir(tmp_path) == ["s.tar"]


def test_a_ranged_file_reads_like_the_file(url):
    data = bytes(range(256)) * 40
    write_bytes(f"{url}/file", data)
    with io.BufferedReader(RangedFile(url, "file", len(data)), 512) as file:
        assert file.read(100) == data[:100]
        assert file.seek(-10, io.SEEK_END) == len(data) - 10
        assert file.read(100) == data[-10:]
        assert file.read(1) == b""
        assert file.seek(700) == 700
        assert file.read() == data[700:]
