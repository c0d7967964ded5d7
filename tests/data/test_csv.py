"""Tables of images: columns, tasks, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedgraft.data.federation import Federation
from fedgraft.data.samples import Samples
from fedgraft.data.settings import CsvSettings
from fedgraft.data.sources import load_samples
from fedgraft.errors import DataError


@pytest.fixture
def table(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes a table beside four images of grey 10, 20, 30, 40."""
    (tmp_path / "images").mkdir()
    for name, grey in zip("abcd", (10, 20, 30, 40), strict=True):
        Image.new("L", (3, 2), grey).save(tmp_path / "images" / f"{name}.png")

    def write(text: str) -> Path:
        (tmp_path / "table.csv").write_text(text, encoding="utf-8")
        return tmp_path / "table.csv"

    return write


def load(path: Path, **values: Any) -> Samples:
    return load_samples(CsvSettings(path=str(path), **values), seed=1)


FULL = """path,label,site,scanner,key,part
images/b.png,cat,north,A,k1,train
images/a.png,dog,south,B,k2,test
images/c.png,cat,south,A,k3,Train
images/d.png,dog,north,A,k4,TEST
"""


def test_columns_are_carried_in_the_order_of_the_table(table: Callable[[str], Path]) -> None:
    samples = load(table(FULL), client_column="site", group_column="scanner", id_column="key", split_column="part")
    assert samples.label_names == ("cat", "dog")
    assert samples.targets.tolist() == [0, 1, 0, 1]
    assert samples.sample_ids.tolist() == ["k1", "k2", "k3", "k4"]
    assert samples.natural_client is not None
    assert samples.natural_client.tolist() == ["north", "south", "south", "north"]
    assert samples.group is not None
    assert samples.group.tolist() == ["A", "B", "A", "A"]
    assert samples.is_test is not None
    assert samples.is_test.tolist() == [False, True, False, True]
    images = samples.images([0, 1, 2, 3])
    assert isinstance(images, np.ndarray)
    assert images[:, 0, 0, 0].tolist() == [20, 10, 30, 40]


def test_a_table_without_optional_columns(table: Callable[[str], Path]) -> None:
    samples = load(table(FULL))
    assert samples.sample_ids.tolist()[0] == "images/b.png"
    assert (samples.natural_client, samples.group, samples.is_test) == (None, None, None)


def test_the_client_column_divides_naturally(table: Callable[[str], Path], build: Callable[..., Federation]) -> None:
    path = table(FULL.replace("cat,north", "dog,north", 1))
    federation = build({"name": "csv", "path": str(path), "client_column": "site"}, "natural", test_fraction=0)
    assert federation.client_names == ("north", "south")
    assert federation.label_counts().tolist() == [[0, 2], [1, 1]]


def test_several_labels(table: Callable[[str], Path]) -> None:
    samples = load(
        table("path,label\nimages/a.png,red;big\nimages/b.png,\nimages/c.png, big ;new;\n"),
        task="labels",
        separator=";",
    )
    assert samples.label_names == ("big", "new", "red")
    assert samples.targets.dtype == np.uint8
    assert samples.targets.tolist() == [[1, 0, 1], [0, 0, 0], [1, 1, 0]]


def test_real_targets(table: Callable[[str], Path]) -> None:
    one = load(table("path,age\nimages/a.png,1.5\nimages/b.png,-2\n"), task="real", label_column="age")
    assert one.targets.tolist() == [1.5, -2.0]
    assert one.targets.dtype == np.float32
    assert one.label_names == ("age",)
    two = load(table("path,at\nimages/a.png,1|2\nimages/b.png,3|4\n"), task="real", label_column="at")
    assert two.targets.tolist() == [[1, 2], [3, 4]]
    assert two.label_names == ("at-0", "at-1")


def test_a_byte_order_mark_quotes_and_blank_lines(table: Callable[[str], Path]) -> None:
    samples = load(table('\ufeffpath,label\n\n"images/a.png","cat, big"\nimages/b.png,dog\n'))
    assert samples.label_names == ("cat, big", "dog")


def test_missing_and_unreadable_images_are_left_out_and_named(table: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "images" / "d.png").write_text("no image")
    samples = load(table(FULL.replace("images/c.png", "images/z.png")))
    assert samples.targets.tolist() == [0, 1]
    assert samples.notes == (
        "1 missing image left out: images/z.png",
        "1 unreadable image left out: images/d.png",
    )


@pytest.mark.parametrize(
    ("text", "values", "message"),
    [
        ("", {}, "has no header line"),
        ("path,label\n", {}, "has no rows below the header"),
        ("path,lable\nimages/a.png,x\n", {}, r"no column 'label' \(label_column\); it has path, lable; did you mean"),
        (FULL, {"client_column": "sites"}, r"no column 'sites' \(client_column\).*did you mean 'site'"),
        ("path,path\na,b\n", {}, "a column name stands twice in the header"),
        ("path,label\nimages/a.png\nimages/b.png,x,y\n", {}, r"not 2 values.* in 2 of 2 rows \(line 2, 3\)"),
        ("path,label\nimages/a.png,\nimages/b.png,1\n", {"task": "real"}, r"column 'label' is empty in 1 of 2 rows"),
        (
            "path,label\nimages/a.png,\nimages/b.png,x\n",
            {},
            "all samples that have a label, 1 of 2, have the one class 'x'",
        ),
        ("path,label\nimages/a.png,\nimages/b.png,\n", {}, "none of the 2 samples has a label"),
        ("path,label\nz.png,x\ny.png,w\n", {}, "none of the 2 images exists .*paths are taken from the csv's own"),
        ("path,label\nimages/a.png,x\nimages/b.png,x\n", {}, "all 2 samples have the one class 'x'"),
        (
            "path,label\nimages/a.png,x\nimages/a.png,y\n",
            {},
            "1 of 1 stand more than once: images/a",
        ),
        (FULL, {"labels": ("cat", "dogs")}, r"not declared in labels: dog; .*did you mean 'dogs'"),
        (FULL, {"labels": ("cat", "cat")}, "names a label twice"),
        (FULL, {"task": "real"}, r"column 'label' is no number in 4 of 4 rows \(line 2, 3, 4, 5\)"),
        ("path,label\nimages/a.png,1|2\nimages/b.png,3\n", {"task": "real"}, "does not hold 2 numbers in 1 of 2 rows"),
        ("path,label\nimages/a.png,nan\nimages/b.png,inf\n", {"task": "real"}, "2 of 2 targets are NaN or infinite"),
        ("path,label\nimages/a.png,\nimages/b.png,\n", {"task": "labels"}, "'label' is empty in every row"),
        ('path,label\n"images/a.png,x\n', {}, "can't read the csv file .*unexpected end of data"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(
    table: Callable[[str], Path], text: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load(table(text), **values)


def test_a_table_that_is_not_there_or_not_utf_8(table: Callable[[str], Path], tmp_path: Path) -> None:
    path = table(FULL)
    with pytest.raises(DataError, match=r"tabel\.csv does not exist; did you mean 'table\.csv'"):
        load(tmp_path / "tabel.csv")
    with pytest.raises(DataError, match="is a folder, not a csv file"):
        load(tmp_path / "images")
    path.write_bytes(b"path,label\nimages/a.png,caf\xe9\n")
    with pytest.raises(DataError, match="is not UTF-8"):
        load(path)
