import dataclasses
import os
from collections import Counter
from itertools import pairwise

import pytest

from shards.format.manifest import RefusedImage
from shards.format.recipe import MaskRecipe, PackRecipe
from shards.sources.plan import (
    HIDDEN,
    NOT_AN_IMAGE,
    OUTSIDE_SPLITS,
    PackPlan,
    SourceImage,
    is_ignored,
    plan_packing,
    read_source_image,
)
from shards.storage.files import remove_tree, write_bytes
from tests.shards.small_sources import make_files, make_remote, picture_bytes, tar_bytes


@pytest.fixture
def memory(tmp_path):
    url = f"memory://{tmp_path.name}"
    yield url
    remove_tree(url)


def names_of(plan, split):
    return [image.name for image in plan.splits[split]]


def classes_of(plan, split):
    return Counter(image.class_name for image in plan.splits[split])


def test_the_first_level_folder_is_the_class_however_deep_the_image_lies(tmp_path):
    make_files(tmp_path, ["cat/a.jpg", "cat/wild/deep/b.png", "dog/c.jpg"])
    plan = plan_packing(str(tmp_path), PackRecipe(validation_fraction=0))
    assert plan.classes == ["cat", "dog"]
    assert classes_of(plan, "train") == {"cat": 2, "dog": 1}
    assert "cat/wild/deep/b.png" in names_of(plan, "train")


def test_images_directly_in_the_source_form_one_class_named_after_it(tmp_path):
    make_files(tmp_path / "holiday", ["a.jpg", "b.jpg", "cat/c.jpg"])
    plan = plan_packing(str(tmp_path / "holiday"), PackRecipe(validation_fraction=0))
    assert classes_of(plan, "train") == {"holiday": 2, "cat": 1}


def test_folders_train_and_val_are_the_splits(tmp_path):
    make_files(tmp_path, ["train/cat/a.jpg", "train/dog/b.jpg", "val/cat/c.jpg", "val/owl/d.jpg"])
    plan = plan_packing(str(tmp_path), PackRecipe(validation_fraction=0.5))
    assert sorted(names_of(plan, "train")) == ["train/cat/a.jpg", "train/dog/b.jpg"]
    assert sorted(names_of(plan, "val")) == ["val/cat/c.jpg", "val/owl/d.jpg"]
    assert plan.classes == ["cat", "dog", "owl"]


def test_what_lies_beside_train_and_val_is_ignored_aloud(tmp_path):
    make_files(tmp_path, ["train/cat/a.jpg", "val/cat/b.jpg", "test/cat/c.jpg", "SOURCES.txt"])
    plan = plan_packing(str(tmp_path), PackRecipe())
    assert {image.path: image.reason for image in plan.ignored} == {
        "test/cat/c.jpg": OUTSIDE_SPLITS,
        "SOURCES.txt": OUTSIDE_SPLITS,
    }
    assert all(is_ignored(image) for image in plan.ignored)


def test_a_folder_train_alone_is_a_class(tmp_path):
    make_files(tmp_path, ["train/a.jpg", "train/b.jpg", "plane/c.jpg"])
    plan = plan_packing(str(tmp_path), PackRecipe(validation_fraction=0))
    assert plan.classes == ["plane", "train"]


def test_hidden_files_and_foreign_files_are_ignored_with_a_reason(tmp_path):
    make_files(tmp_path, ["cat/a.jpg", "cat/._a.jpg", "cat/notes.txt", "cat/b"])
    make_files(tmp_path, [".git/c.jpg"])
    plan = plan_packing(str(tmp_path), PackRecipe(validation_fraction=0))
    assert names_of(plan, "train") == ["cat/a.jpg"]
    assert {image.path: image.reason for image in plan.ignored} == {
        ".git": HIDDEN,
        "cat/._a.jpg": HIDDEN,
        "cat/b": NOT_AN_IMAGE,
        "cat/notes.txt": NOT_AN_IMAGE,
    }


def test_an_image_without_an_extension_is_found_by_its_content(tmp_path):
    make_files(tmp_path, ["cat/picture", "cat/text"])
    (tmp_path / "cat/picture").write_bytes(picture_bytes())
    plan = plan_packing(str(tmp_path), PackRecipe(validation_fraction=0))
    assert names_of(plan, "train") == ["cat/picture"]


def test_every_class_gives_its_share_to_validation(tmp_path):
    make_files(tmp_path, [f"big/{number}.jpg" for number in range(60)])
    make_files(tmp_path, [f"small/{number}.jpg" for number in range(20)])
    plan = plan_packing(str(tmp_path), PackRecipe(validation_fraction=0.1))
    assert classes_of(plan, "val") == {"big": 6, "small": 2}
    assert classes_of(plan, "train") == {"big": 54, "small": 18}


@pytest.mark.parametrize(
    ("images", "fraction", "expected"),
    [(2, 0.01, 1), (2, 0.99, 1), (1, 0.1, 0), (40, 0.05, 2), (9, 0.0, 0)],
)
def test_validation_gets_at_least_one_image_and_never_all(tmp_path, images, fraction, expected):
    make_files(tmp_path, [f"class-{number}/a.jpg" for number in range(images)])
    plan = plan_packing(str(tmp_path), PackRecipe(validation_fraction=fraction))
    assert len(plan.splits["val"]) == expected
    assert len(plan.splits["train"]) == images - expected


def test_no_image_is_in_both_splits_and_none_is_lost(tmp_path):
    make_files(tmp_path, [f"c{number % 7}/{number}.jpg" for number in range(100)])
    plan = plan_packing(str(tmp_path), PackRecipe(validation_fraction=0.3))
    assert len(plan.splits["val"]) == 30
    assert len({*names_of(plan, "train"), *names_of(plan, "val")}) == 100


def test_the_plan_depends_on_the_names_and_the_seed_alone(tmp_path):
    names = [f"c{number % 3}/{number}.jpg" for number in range(60)]
    first = plan_packing(str(make_files(tmp_path / "a" / "s", names)), PackRecipe())
    again = plan_packing(str(make_files(tmp_path / "b" / "s", names[::-1])), PackRecipe())
    other = plan_packing(str(tmp_path / "b" / "s"), PackRecipe(seed=1))
    assert names_of(first, "train") == names_of(again, "train")
    assert names_of(first, "val") == names_of(again, "val")
    assert names_of(first, "train") != names_of(other, "train")
    assert names_of(first, "val") != names_of(other, "val")


def test_classes_are_mixed_in_the_order_of_packing(tmp_path):
    make_files(tmp_path, [f"c{number % 4}/{number}.jpg" for number in range(400)])
    plan = plan_packing(str(tmp_path), PackRecipe(validation_fraction=0))
    classes = [image.class_name for image in plan.splits["train"]]
    changes = sum(one != two for one, two in pairwise(classes))
    assert 250 < changes < 350  # three of four neighbours differ


def test_a_circle_of_links_ends(tmp_path):
    make_files(tmp_path, ["cat/a.jpg"])
    (tmp_path / "cat" / "loop").symlink_to(tmp_path, target_is_directory=True)
    plan = plan_packing(str(tmp_path), PackRecipe(validation_fraction=0))
    assert names_of(plan, "train") == ["cat/a.jpg"]
    assert [image.path for image in plan.ignored] == ["cat/loop"]


def test_a_linked_class_is_packed(tmp_path):
    make_files(tmp_path / "elsewhere", ["a.jpg"])
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "cat").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    plan = plan_packing(str(tmp_path / "source"), PackRecipe(validation_fraction=0))
    assert names_of(plan, "train") == ["cat/a.jpg"]


def test_a_source_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="missing is not a folder"):
        plan_packing(str(tmp_path / "missing"), PackRecipe())


def test_a_source_without_images_is_refused_with_the_count_of_other_files(tmp_path):
    make_files(tmp_path, ["a.txt", "b.csv"])
    with pytest.raises(ValueError, match=r"holds no image \(2 other files\)"):
        plan_packing(str(tmp_path), PackRecipe())


LAYOUTS = {
    "class folders": ["cat/a.jpg", "cat/deep/b.jpg", "dog/c.jpg", "dog/d.png", "dog.jpg"],
    "splits": ["train/cat/a.jpg", "train/dog/b.jpg", "val/cat/c.jpg", "test/x.jpg"],
    "one class": ["a.jpg", "b.jpg", "c.jpg"],
    "odd names": [
        "b c/ü.jpg",
        "b c/line\nbreak.jpg",
        "b/[a].jpg",
        "b.c/*.jpg",
        f"d/{'e' * 150}.jpg",
    ],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tree_the_same_in_a_store_and_the_same_in_an_archive_give_one_plan(
    layout, tmp_path, memory
):
    names = LAYOUTS[layout]
    make_files(tmp_path / "photos", names)
    (tmp_path / "photos.tar").write_bytes(tar_bytes(names[::-1]))
    make_remote(f"{memory}/photos", names)
    write_bytes(f"{memory}/archive/photos.tar", tar_bytes(names))
    recipe = PackRecipe(validation_fraction=0.4)
    locations = [f"{tmp_path}/photos", f"{tmp_path}/photos/", f"file://{tmp_path}/photos"]
    locations += [f"{tmp_path}/photos.tar", f"{memory}/photos", f"{memory}/archive/photos.tar"]
    plans = [plan_packing(location, recipe) for location in locations]
    assert {plan.sha256 for plan in plans} == {plans[0].sha256}
    for plan, location in zip(plans, locations, strict=True):
        assert plan.classes == plans[0].classes
        for split, images in plan.splits.items():
            assert names_of(plan, split) == names_of(plans[0], split)
            for image in images:
                assert read_source_image(location, image) == image.name.encode()


def test_the_digest_tells_other_recipes_names_sizes_classes_and_orders():
    images = [SourceImage("a.jpg", "cat", 3), SourceImage("b.jpg", "cat", 4)]
    recipe = PackRecipe(masks=MaskRecipe(margin=1))
    plan = PackPlan("here", {"train": images, "val": []}, ["cat"], [], recipe)

    def with_images(*train, val=()):
        return dataclasses.replace(plan, splits={"train": list(train), "val": list(val)})

    others = [
        dataclasses.replace(plan, recipe=PackRecipe(masks=MaskRecipe(margin=2))),
        dataclasses.replace(plan, classes=["cat", "dog"]),
        with_images(*images[::-1]),
        with_images(images[0], val=images[1:]),
        with_images(images[0], dataclasses.replace(images[1], num_bytes=5)),
        with_images(images[0], dataclasses.replace(images[1], class_name="ca")),
        with_images(images[0], dataclasses.replace(images[1], name="b.jpg3:cat")),
    ]
    assert len({plan.sha256, *(other.sha256 for other in others)}) == 8
    elsewhere = dataclasses.replace(plan, location="there", ignored=[RefusedImage("x", HIDDEN)])
    assert elsewhere.sha256 == plan.sha256


def test_names_that_are_no_text_survive(tmp_path):
    name = os.fsdecode(b"cat/\xff\xfe.jpg")
    make_files(tmp_path / "s", [name])
    (tmp_path / "s.tar").write_bytes(tar_bytes([name]))
    tree = plan_packing(f"{tmp_path}/s", PackRecipe(validation_fraction=0))
    archive = plan_packing(f"{tmp_path}/s.tar", PackRecipe(validation_fraction=0))
    assert names_of(tree, "train") == names_of(archive, "train") == [name]
    assert tree.sha256 == archive.sha256
    assert read_source_image(f"{tmp_path}/s", tree.splits["train"][0]) == os.fsencode(name)


def test_a_source_named_like_an_archive_or_a_list_may_be_a_folder(tmp_path):
    for name in ("photos.tar", "photos.csv", "photos.zip"):
        make_files(tmp_path / name, ["cat/a.jpg"])
        location = str(tmp_path / name)
        plan = plan_packing(location, PackRecipe(validation_fraction=0))
        assert read_source_image(location, plan.splits["train"][0]) == b"cat/a.jpg"


def test_the_images_of_a_plan_share_the_names_of_their_classes(tmp_path):
    make_files(tmp_path, [f"cat/{number}.jpg" for number in range(5)])
    plan = plan_packing(str(tmp_path), PackRecipe(validation_fraction=0))
    assert len({id(image.class_name) for image in plan.splits["train"]}) == 1
    assert not hasattr(plan.splits["train"][0], "__dict__")
