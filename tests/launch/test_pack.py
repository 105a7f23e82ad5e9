import resource
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from launch import pack, preview, samples
from launch.command import EXIT_IO
from shards.format.manifest import load_manifest
from tests.shards.pictures import pack_small_set, picture, write_class_folders

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--pack.crop-size=32", "--pack.short-side=48", "--pack.masks.side-min=8",
    "--pack.masks.side-max=16", "--pack.validation-fraction=0.25",
]  # fmt: skip


@pytest.fixture
def source(tmp_path):
    return write_class_folders(tmp_path / "source")


def test_pack_writes_a_set_and_sums_it_up(tmp_path, source, capsys):
    assert pack.main([str(source), str(tmp_path / "set"), *SMALL]) == 0
    output = capsys.readouterr().out
    manifest = load_manifest(str(tmp_path / "set"))
    assert manifest.recipe.crop_size == 32
    assert "packed 12 of 12 images" in output
    assert "12 images of 3 classes" in output
    assert "no image was refused" in output
    assert manifest.fingerprint[:12] in output


def test_refused_images_are_named_and_the_status_is_still_zero(tmp_path, source, capsys):
    Image.fromarray(picture((90, 20))).save(source / "class-0" / "[bold]flat.png")
    (source / "class-0" / "notes.txt").write_text("")
    assert pack.main([str(source), str(tmp_path / "set"), *SMALL]) == 0
    output = capsys.readouterr().out
    assert "refused images, left out: 1" in output
    assert "class-0/[bold]flat.png: too small: 90x20, the short side must be at least 32" in output
    assert "ignored, not an image: 1" in output


def test_a_long_list_of_refused_images_is_cut_short(tmp_path, source, capsys):
    for number in range(30):
        (source / "class-1" / f"broken-{number}.jpg").write_bytes(b"\xff\xd8\xff")
    pack.main([str(source), str(tmp_path / "set"), *SMALL])
    output = capsys.readouterr().out
    assert output.count("class-1/broken-") == 20
    assert "and 10 more, all in the manifest" in output
    assert len(load_manifest(str(tmp_path / "set")).refused) == 30


def test_a_name_that_is_no_text_can_be_printed(tmp_path, source, capsys):
    Path(str(source / "class-0" / "caf\udce9.jpg")).write_bytes(b"\xff\xd8\xff")
    assert pack.main([str(source), str(tmp_path / "set"), *SMALL]) == 0
    assert "class-0/caf?.jpg" in capsys.readouterr().out
    assert load_manifest(str(tmp_path / "set")).refused[0].path == "class-0/caf\udce9.jpg"


def test_overwrite_replaces_the_set(tmp_path, source):
    arguments = [str(source), str(tmp_path / "set"), *SMALL]
    assert pack.main(arguments) == 0
    assert pack.main(arguments) == 0  # complete: nothing is to be done
    another = [*arguments, "--pack.seed", "3"]
    with pytest.raises(ValueError, match="--overwrite"):
        pack.main(another)
    assert pack.main([*another, "--overwrite", "--workers", "1"]) == 0
    assert load_manifest(str(tmp_path / "set")).recipe.seed == 3


def test_a_disk_that_fills_up_in_the_middle_is_named_in_one_line(tmp_path):
    source = tmp_path / "source"
    write_class_folders(source / "train", classes=1, images_per_class=2)
    write_class_folders(source / "val", classes=1, images_per_class=40)
    finished = tmp_path / "finished"
    assert pack.main([str(source), str(finished), *SMALL]) == 0
    train, val = ((finished / f"{split}-000000.tar").stat().st_size for split in ("train", "val"))
    assert train < val
    room = (train + val) // 2  # for the training shard, not for that of validation

    destination = tmp_path / "set"
    result = subprocess.run(
        [sys.executable, ROOT / "launch" / "pack.py", source, destination, *SMALL, "--workers=1"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    assert result.returncode == EXIT_IO
    assert len(result.stderr.splitlines()) == 1
    assert f"packing into {destination} failed: " in result.stderr
    assert "File too large; the shards that are finished stay" in result.stderr
    assert [path.name for path in destination.glob("*.tar")] == ["train-000000.tar"]
    assert pack.main([str(source), str(destination), *SMALL]) == 0


def test_a_fault_of_the_recipe_is_reported_by_its_field(tmp_path, source):
    with pytest.raises(ValueError, match=r"pack\.jpeg_quality is 7"):
        pack.main([str(source), str(tmp_path / "set"), *SMALL, "--pack.jpeg-quality", "7"])


def test_a_negative_number_of_workers_is_refused(tmp_path, source):
    with pytest.raises(ValueError, match="--workers is -1"):
        pack.main([str(source), str(tmp_path / "set"), *SMALL, "--workers=-1"])


def test_slices_are_packed_and_merged(tmp_path, source, capsys, monkeypatch):
    whole, sliced = tmp_path / "whole", tmp_path / "sliced"
    assert pack.main([str(source), str(whole), *SMALL]) == 0
    for number in (2, 0):
        assert pack.main([str(source), str(sliced), *SMALL, "--slice", f"{number}/3"]) == 0
    with pytest.raises(ValueError, match="1 of 3 slices are not packed: 1/3"):
        pack.main(["--merge", str(sliced)])
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    assert pack.main([str(source), str(sliced), *SMALL, "--slice", "/3"]) == 0
    assert f"glcic pack --merge {sliced}" in capsys.readouterr().out
    assert pack.main(["--merge", str(sliced)]) == 0
    names = sorted(path.name for path in whole.iterdir())
    assert sorted(path.name for path in sliced.iterdir()) == names
    assert all((whole / name).read_bytes() == (sliced / name).read_bytes() for name in names)


def test_the_slice_that_is_packed_last_merges(tmp_path, source, capsys):
    whole, sliced = tmp_path / "whole", tmp_path / "sliced"
    assert pack.main([str(source), str(whole), *SMALL]) == 0
    for number in (2, 0, 1):
        assert "manifest.json" not in [path.name for path in sliced.glob("*")]
        arguments = [str(source), str(sliced), *SMALL, f"--slice={number}/3", "--merge-last"]
        assert pack.main(arguments) == 0
        said = "the last one" if number == 1 else "others are still to be packed"
        assert said in capsys.readouterr().out
    names = sorted(path.name for path in whole.iterdir())
    assert sorted(path.name for path in sliced.iterdir()) == names
    assert all((whole / name).read_bytes() == (sliced / name).read_bytes() for name in names)
    assert pack.main(arguments) == 0  # an index whose pod was lost after it had merged
    assert sorted(path.name for path in sliced.iterdir()) == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--slice", "3/3"], "--slice is 3/3: I/N with 0 <= I < N"),
        (["--slice", "a/3"], "--slice is a/3"),
        (["--slice", "1"], "--slice is 1/"),
        (["--slice", "/3"], "JOB_COMPLETION_INDEX is not set"),
        (["--slice", "0/3", "--overwrite"], "--overwrite would remove what other slices"),
        (["--merge", "somewhere"], "--merge takes the destination alone"),
        (["--merge-last"], "--merge-last belongs to --slice"),
    ],
)
def test_a_slice_that_means_nothing_is_refused(tmp_path, source, arguments, message, monkeypatch):
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    with pytest.raises(ValueError, match=message):
        pack.main([str(source), str(tmp_path / "set"), *SMALL, *arguments])
    assert not (tmp_path / "set").exists()


def test_the_destination_must_be_named(source):
    with pytest.raises(ValueError, match="name the source and the destination"):
        pack.main([str(source)])


def test_a_size_stands_for_the_crop_what_is_stored_and_the_holes(tmp_path, source):
    assert pack.main([str(source), str(tmp_path / "a"), "--size", "32"]) == 0
    recipe = load_manifest(str(tmp_path / "a")).recipe
    assert (recipe.crop_size, recipe.short_side) == (32, 48)
    assert (recipe.masks.side_min, recipe.masks.side_max) == (12, 16)
    given = ["--pack.short-side", "40", "--size=32", "--pack.masks.side-max", "20"]
    assert pack.main([str(source), str(tmp_path / "b"), *given]) == 0
    recipe = load_manifest(str(tmp_path / "b")).recipe
    assert (recipe.crop_size, recipe.short_side, recipe.masks.side_max) == (32, 40, 20)


def test_preview_writes_the_picture(tmp_path, capsys):
    url = pack_small_set(tmp_path)
    output = tmp_path / "figures" / "preview.png"
    assert preview.main([url, "--output", str(output), "--count", "2", "--split", "val"]) == 0
    with Image.open(output) as image:
        assert f"{image.width}x{image.height}" in capsys.readouterr().out


def test_preview_shows_validation_images_where_there_are_no_others(tmp_path):
    url = pack_small_set(tmp_path, validation_fraction=1)
    picture, statistics = tmp_path / "sheet.png", tmp_path / "masks.png"
    assert preview.main([url, "--output", str(picture), "--statistics", str(statistics)]) == 0
    assert picture.stat().st_size > 0
    assert statistics.stat().st_size > 0


def test_samples_says_what_it_wrote_and_what_is_next(tmp_path, capsys):
    assert samples.main([str(tmp_path / "photographs")]) == 0
    output = capsys.readouterr().out
    assert "validation tiles" in output
    assert "glcic pack" in output


@pytest.mark.parametrize("verb", ["pack", "preview", "samples"])
def test_the_file_can_be_started_as_a_script(verb, tmp_path):
    result = subprocess.run(
        [sys.executable, str(ROOT / "launch" / f"{verb}.py"), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert f"glcic {verb}" in result.stdout
