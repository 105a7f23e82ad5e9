import os
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from shards.recipe import PackRecipe
from shards.sources import HIDDEN, NOT_AN_IMAGE, OUTSIDE_SPLITS, is_ignored, plan_packing
from tests.shards.pictures import write_class_folders


def make_files(folder: Path, names: list[str]) -> Path:
    """Files with an image's extension are taken for images until they are decoded."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"content")
    return folder


def names_of(plan, split):
    return [image.name for image in plan.splits[split]]


def classes_of(plan, split):
    return Counter(image.class_name for image in plan.splits[split])


def test_the_first_level_folder_is_the_class_however_deep_the_image_lies(tmp_path):
    make_files(tmp_path, ["cat/a.jpg", "cat/wild/deep/b.png", "dog/c.jpg"])
    plan = plan_packing(tmp_path, PackRecipe(validation_fraction=0))
    assert plan.classes == ["cat", "dog"]
    assert classes_of(plan, "train") == {"cat": 2, "dog": 1}
    assert "cat/wild/deep/b.png" in names_of(plan, "train")


def test_images_directly_in_the_source_form_one_class_named_after_it(tmp_path):
    make_files(tmp_path / "holiday", ["a.jpg", "b.jpg", "cat/c.jpg"])
    plan = plan_packing(tmp_path / "holiday", PackRecipe(validation_fraction=0))
    assert classes_of(plan, "train") == {"holiday": 2, "cat": 1}


def test_folders_train_and_val_are_the_splits(tmp_path):
    make_files(tmp_path, ["train/cat/a.jpg", "train/dog/b.jpg", "val/cat/c.jpg", "val/owl/d.jpg"])
    plan = plan_packing(tmp_path, PackRecipe(validation_fraction=0.5))
    assert sorted(names_of(plan, "train")) == ["train/cat/a.jpg", "train/dog/b.jpg"]
    assert sorted(names_of(plan, "val")) == ["val/cat/c.jpg", "val/owl/d.jpg"]
    assert plan.classes == ["cat", "dog", "owl"]


def test_what_lies_beside_train_and_val_is_ignored_aloud(tmp_path):
    make_files(tmp_path, ["train/cat/a.jpg", "val/cat/b.jpg", "test/cat/c.jpg", "SOURCES.txt"])
    plan = plan_packing(tmp_path, PackRecipe())
    assert {image.path: image.reason for image in plan.ignored} == {
        "test/cat/c.jpg": OUTSIDE_SPLITS,
        "SOURCES.txt": OUTSIDE_SPLITS,
    }
    assert all(is_ignored(image) for image in plan.ignored)


def test_a_folder_train_alone_is_a_class(tmp_path):
    make_files(tmp_path, ["train/a.jpg", "train/b.jpg", "plane/c.jpg"])
    plan = plan_packing(tmp_path, PackRecipe(validation_fraction=0))
    assert plan.classes == ["plane", "train"]


def test_hidden_files_and_foreign_files_are_ignored_with_a_reason(tmp_path):
    make_files(tmp_path, ["cat/a.jpg", "cat/._a.jpg", "cat/notes.txt", "cat/b"])
    make_files(tmp_path, [".git/c.jpg"])
    plan = plan_packing(tmp_path, PackRecipe(validation_fraction=0))
    assert names_of(plan, "train") == ["cat/a.jpg"]
    assert {image.path: image.reason for image in plan.ignored} == {
        ".git": HIDDEN,
        "cat/._a.jpg": HIDDEN,
        "cat/b": NOT_AN_IMAGE,
        "cat/notes.txt": NOT_AN_IMAGE,
    }


def test_an_image_without_an_extension_is_found_by_its_content(tmp_path):
    write_class_folders(tmp_path, classes=1, images_per_class=1)
    os.rename(tmp_path / "class-0/picture-0.jpg", tmp_path / "class-0/picture")
    plan = plan_packing(tmp_path, PackRecipe(validation_fraction=0))
    assert names_of(plan, "train") == ["class-0/picture"]


def test_every_class_gives_its_share_to_validation(tmp_path):
    make_files(tmp_path, [f"big/{number}.jpg" for number in range(60)])
    make_files(tmp_path, [f"small/{number}.jpg" for number in range(20)])
    plan = plan_packing(tmp_path, PackRecipe(validation_fraction=0.1))
    assert classes_of(plan, "val") == {"big": 6, "small": 2}
    assert classes_of(plan, "train") == {"big": 54, "small": 18}


@pytest.mark.parametrize(
    ("images", "fraction", "expected"),
    [(2, 0.01, 1), (2, 0.99, 1), (1, 0.1, 0), (40, 0.05, 2), (9, 0.0, 0)],
)
def test_validation_gets_at_least_one_image_and_never_all(tmp_path, images, fraction, expected):
    make_files(tmp_path, [f"class-{number}/a.jpg" for number in range(images)])
    plan = plan_packing(tmp_path, PackRecipe(validation_fraction=fraction))
    assert len(plan.splits["val"]) == expected
    assert len(plan.splits["train"]) == images - expected


def test_no_image_is_in_both_splits_and_none_is_lost(tmp_path):
    make_files(tmp_path, [f"c{number % 7}/{number}.jpg" for number in range(100)])
    plan = plan_packing(tmp_path, PackRecipe(validation_fraction=0.3))
    assert len(plan.splits["val"]) == 30
    assert len({*names_of(plan, "train"), *names_of(plan, "val")}) == 100


def test_the_plan_depends_on_the_names_and_the_seed_alone(tmp_path):
    names = [f"c{number % 3}/{number}.jpg" for number in range(60)]
    first = plan_packing(make_files(tmp_path / "a" / "s", names), PackRecipe())
    again = plan_packing(make_files(tmp_path / "b" / "s", names[::-1]), PackRecipe())
    other = plan_packing(tmp_path / "b" / "s", PackRecipe(seed=1))
    assert names_of(first, "train") == names_of(again, "train")
    assert names_of(first, "val") == names_of(again, "val")
    assert names_of(first, "train") != names_of(other, "train")
    assert names_of(first, "val") != names_of(other, "val")


def test_classes_are_mixed_in_the_order_of_packing(tmp_path):
    make_files(tmp_path, [f"c{number % 4}/{number}.jpg" for number in range(400)])
    plan = plan_packing(tmp_path, PackRecipe(validation_fraction=0))
    classes = [image.class_name for image in plan.splits["train"]]
    changes = sum(one != two for one, two in pairwise(classes))
    assert 250 < changes < 350  # three of four neighbours differ


def test_a_circle_of_links_ends(tmp_path):
    make_files(tmp_path, ["cat/a.jpg"])
    (tmp_path / "cat" / "loop").symlink_to(tmp_path, target_is_directory=True)
    plan = plan_packing(tmp_path, PackRecipe(validation_fraction=0))
    assert names_of(plan, "train") == ["cat/a.jpg"]


def test_a_linked_class_is_packed(tmp_path):
    make_files(tmp_path / "elsewhere", ["a.jpg"])
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "cat").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    plan = plan_packing(tmp_path / "source", PackRecipe(validation_fraction=0))
    assert names_of(plan, "train") == ["cat/a.jpg"]


def test_a_source_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="missing is not a folder"):
        plan_packing(tmp_path / "missing", PackRecipe())


def test_a_source_without_images_is_refused_with_the_count_of_other_files(tmp_path):
    make_files(tmp_path, ["a.txt", "b.csv"])
    with pytest.raises(ValueError, match=r"holds no image \(2 other files\)"):
        plan_packing(tmp_path, PackRecipe())
