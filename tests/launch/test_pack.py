import resource
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from launch import pack, preview, samples
from launch.command import EXIT_IO
from shards.manifest import load_manifest
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
    with pytest.raises(ValueError, match="--overwrite"):
        pack.main(arguments)
    assert pack.main([*arguments, "--overwrite", "--threads", "1"]) == 0


def test_a_disk_that_fills_up_in_the_middle_leaves_no_set_and_is_named_in_one_line(tmp_path):
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
        [sys.executable, ROOT / "launch" / "pack.py", source, destination, *SMALL],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    assert result.returncode == EXIT_IO
    assert len(result.stderr.splitlines()) == 1
    assert f"{destination} cannot be written: " in result.stderr
    assert "File too large; no set was left there" in result.stderr
    assert list(destination.iterdir()) == []


def test_a_fault_of_the_recipe_is_reported_by_its_field(tmp_path, source):
    with pytest.raises(ValueError, match=r"pack\.jpeg_quality is 7"):
        pack.main([str(source), str(tmp_path / "set"), *SMALL, "--pack.jpeg-quality", "7"])


def test_a_negative_number_of_threads_is_refused(tmp_path, source):
    with pytest.raises(ValueError, match="--threads is -1"):
        pack.main([str(source), str(tmp_path / "set"), *SMALL, "--threads=-1"])


def test_preview_writes_the_picture(tmp_path, capsys):
    url = pack_small_set(tmp_path)
    output = tmp_path / "figures" / "preview.png"
    assert preview.main([url, "--output", str(output), "--count", "2", "--split", "val"]) == 0
    with Image.open(output) as image:
        assert f"{image.width}x{image.height}" in capsys.readouterr().out


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
