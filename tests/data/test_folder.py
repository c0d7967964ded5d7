"""Folders of images: levels, labels, what is passed over, and what is refused."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fedgraft.data.image_files
from fedgraft.data.federation import Federation
from fedgraft.data.samples import Samples
from fedgraft.data.settings import FolderSettings
from fedgraft.data.sources import load_samples
from fedgraft.errors import DataError


def draw(path: Path, grey: int, size: tuple[int, int] = (6, 5)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).save(path)


def load(root: Path, **values: Any) -> Samples:
    return load_samples(FolderSettings(path=str(root), **values), seed=1)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for number in range(4):
        draw(tmp_path / "pets" / "cat" / f"{number}.png", 10 + number)
        draw(tmp_path / "pets" / "dog" / f"{number}.jpg", 100 + number)
    return tmp_path / "pets"


def test_a_sub_folder_is_a_class(pets: Path) -> None:
    samples = load(pets)
    assert samples.label_names == ("cat", "dog")
    assert samples.targets.tolist() == [0] * 4 + [1] * 4
    assert samples.sample_ids.tolist()[3:5] == ["cat/3.png", "dog/0.jpg"]
    assert samples.natural_client is None
    assert samples.notes == ()
    images = samples.images([2, 0])
    assert isinstance(images, np.ndarray)
    assert images.shape == (2, 5, 6, 3)
    assert images[:, 0, 0, 0].tolist() == [12, 10]


def test_only_the_images_asked_for_are_read(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = load(pets)
    read: list[str] = []
    decode = fedgraft.data.image_files.decode

    def counted(path: Any) -> Any:
        read.append(path.name)
        return decode(path)

    monkeypatch.setattr(fedgraft.data.image_files, "decode", counted)
    samples.images([5, 1])
    assert read == ["1.jpg", "1.png"]


def test_images_of_unequal_size_come_as_a_list(pets: Path) -> None:
    draw(pets / "cat" / "wide.png", 0, (20, 5))
    samples = load(pets)
    images = samples.images(np.arange(samples.num_samples))
    assert isinstance(images, list)
    assert {image.shape for image in images} == {(5, 6, 3), (5, 20, 3)}


def test_site_folders_are_natural_clients(tmp_path: Path, build: Callable[..., Federation]) -> None:
    for number in range(6):
        draw(tmp_path / "north" / "cat" / f"{number}.png", number)
        draw(tmp_path / "south" / "cat" / f"{number}.png", 50 + number)
        draw(tmp_path / "south" / "dog" / f"{number}.png", 90 + number)
    source = {"name": "folder", "path": str(tmp_path), "sites": True}
    federation = build(source, "natural", test_fraction=0)
    assert federation.client_names == ("north", "south")
    assert federation.label_counts().tolist() == [[6, 0], [6, 6]]
    assert "1 of 2 clients with a single class: north" in federation.notes
    assert any(note.startswith("label sets differ: 1 of 2 clients") for note in federation.notes)
    assert federation.samples.sample_ids[0] == "north/cat/0.png"


def test_unreadable_images_are_left_out_and_named(pets: Path) -> None:
    (pets / "cat" / "1.png").write_text("no image")
    whole = (pets / "dog" / "2.jpg").read_bytes()
    (pets / "dog" / "2.jpg").write_bytes(whole[: len(whole) - 40])
    samples = load(pets)
    assert samples.num_samples == len(samples.images(np.arange(6))) == 6
    assert samples.notes == ("2 unreadable images left out: cat/1.png, dog/2.jpg",)
    assert samples.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert load(pets).notes == samples.notes


def test_what_is_passed_over_is_said(pets: Path) -> None:
    (pets / "README.txt").write_text("about")
    (pets / "cat" / "notes.txt").write_text("about")
    (pets / ".hidden").mkdir()
    (pets / "cat" / ".DS_Store").write_text("")
    (pets / "empty").mkdir()
    draw(pets / "dog" / "old" / "a.png", 1)
    assert load(pets).notes == (
        "2 files passed over (no images of a class): README.txt, cat/notes.txt",
        "1 folder inside a class folder not read: dog/old",
        "1 folder without images left out: empty",
    )


def test_numbers_as_names_are_ordered_as_numbers(tmp_path: Path) -> None:
    for name in ("10", "9", "1"):
        draw(tmp_path / name / "a.png", int(name))
    assert load(tmp_path).label_names == ("1", "9", "10")


def test_declared_labels_fix_the_order_and_may_be_absent(pets: Path) -> None:
    samples = load(pets, labels=("dog", "bird", "cat"))
    assert samples.label_names == ("dog", "bird", "cat")
    assert samples.targets.tolist() == [2] * 4 + [0] * 4
    with pytest.raises(DataError, match=r"found but not declared in labels: dog; .*did you mean 'dogs'"):
        load(pets, labels=("cat", "dogs"))


def test_digests_follow_content_not_time(pets: Path) -> None:
    first = load(pets)
    os.utime(pets / "cat" / "0.png", ns=(1, 1))
    again = load(pets)
    assert again.digest() == first.digest()
    draw(pets / "cat" / "0.png", 77)
    changed = load(pets)
    differs = (changed.sample_digests() != first.sample_digests()).any(axis=1)
    assert differs.tolist() == [True] + [False] * 7
    assert changed.digest() != first.digest()


def test_a_warm_load_reads_no_image(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(pets)

    def refuse(path: Path) -> Any:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(fedgraft.data.image_files, "inspect", refuse)
    assert load(pets).digest() == first.digest()
    draw(pets / "cat" / "new.png", 3)
    with pytest.raises(AssertionError, match=r"new\.png was read again"):
        load(pets)


def test_ten_thousand_files_are_listed_quickly(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        draw(tmp_path / name / "0.png", ord(name[0]))
        for number in range(1, 3000):
            os.link(tmp_path / name / "0.png", tmp_path / name / f"{number}.png")
    first = load(tmp_path)
    start = time.perf_counter()
    assert load(tmp_path).digest() == first.digest()
    assert time.perf_counter() - start < 2


def test_a_file_that_vanishes_later_is_an_error_that_says_so(pets: Path) -> None:
    samples = load(pets)
    (pets / "cat" / "0.png").unlink()
    with pytest.raises(DataError, match=r"0\.png could be read before and can't be now"):
        samples.images([0])


def test_a_folder_that_is_not_there(pets: Path) -> None:
    with pytest.raises(DataError, match="pest does not exist; did you mean 'pets'"):
        load(pets.parent / "pest")


def test_a_file_in_place_of_the_folder(pets: Path) -> None:
    with pytest.raises(DataError, match="is a file, not a folder; use the source csv"):
        load(pets / "cat" / "0.png")


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty: expected one sub-folder of images a class"):
        load(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="holds no images in its classes sub-folders"):
        load(tmp_path)


def test_images_without_class_folders(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 1)
    with pytest.raises(DataError, match="holds 1 images and no sub-folders; put the images of each class"):
        load(tmp_path)


def test_one_class_only(tmp_path: Path) -> None:
    draw(tmp_path / "cat" / "a.png", 1)
    with pytest.raises(DataError, match="the one class 'cat'; a classifier needs at least two classes"):
        load(tmp_path)


def test_one_class_of_several_that_are_declared(tmp_path: Path) -> None:
    """A site of a federation may have one of its classes only."""
    draw(tmp_path / "cat" / "a.png", 1)
    samples = load(tmp_path, labels=("bird", "cat"))
    assert (samples.label_names, samples.targets.tolist()) == (("bird", "cat"), [1])


def test_no_image_can_be_read(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_text("no image")
    with pytest.raises(DataError, match=r"none of the 2 images can be read \(first: cat/a.png: cannot identify"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("levels", "sites", "text"),
    [
        ("north/cat south/cat", False, "if these are sites with class folders inside, set sites: true"),
        ("train/cat test/cat", False, "point path at one of test, train"),
        ("cat dog", True, "is a site and should hold class folders, but it holds images .*set sites: false"),
        ("north/cat dog", True, "is a site and should hold class folders, but it holds images"),
    ],
)
def test_levels_that_do_not_fit_the_setting(tmp_path: Path, levels: str, sites: bool, text: str) -> None:
    for name in levels.split():
        draw(tmp_path / name / "a.png", 1)
    with pytest.raises(DataError, match=text):
        load(tmp_path, sites=sites)
