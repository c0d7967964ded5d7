"""Tables of ready features: which columns are features, what targets are, and what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from fedgraft.data.federation import Federation
from fedgraft.data.samples import Samples
from fedgraft.data.settings import (
    BreastCancerSettings,
    DiabetesSettings,
    FeaturesSettings,
    SourceSettings,
    WineSettings,
)
from fedgraft.data.sources import load_samples
from fedgraft.errors import DataError

TEXT = """key,age,site,weight,label,sex,part,ward
k1,50,north,71.5,sick,f,train,a
k2,61,south,80,well,m,TEST,b
k3,38,north,64.25,well,f,train,b
k4,45,south,90,sick,m,test,a
"""
ROLES = {
    "client_column": "site",
    "id_column": "key",
    "split_column": "part",
    "group_column": "ward",
    "categories": {"sex": ("f", "m")},
}


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str, name: str = "table.csv") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def load(path: Path, **values: Any) -> Samples:
    return load_samples(FeaturesSettings(path=str(path), **values), seed=1)


def as_parquet(path: Path, **columns: Any) -> Path:
    parquet.write_table(arrow.table(columns), path)
    return path


def test_all_columns_without_another_use_are_features(table: Callable[..., Path]) -> None:
    path = table(TEXT)
    for _ in range(2):  # the second time from the cache
        samples = load(path, **ROLES)
        assert samples.feature_names == ("age", "weight", "sex=f", "sex=m")
        expected = [[50, 71.5, 1, 0], [61, 80, 0, 1], [38, 64.25, 1, 0], [45, 90, 0, 1]]
        np.testing.assert_array_equal(samples.features(), np.array(expected, dtype=np.float32))
        assert samples.features().dtype == np.float32
        assert (samples.label_names, samples.targets.tolist()) == (("sick", "well"), [0, 1, 1, 0])
        assert samples.sample_ids.tolist() == ["k1", "k2", "k3", "k4"]
        assert samples.natural_client is not None
        assert samples.natural_client.tolist() == ["north", "south", "north", "south"]
        assert samples.group is not None
        assert samples.group.tolist() == ["a", "b", "b", "a"]
        assert samples.is_test is not None
        assert samples.is_test.tolist() == [False, True, False, True]
        assert samples.notes == ("3 columns are features: age, weight, sex (feature_columns would name others)",)


def test_an_edited_table_is_read_anew(table: Callable[..., Path]) -> None:
    assert load(table("x,label\n1,a\n2,b\n")).features().tolist() == [[1], [2]]
    assert load(table("x,label\n11,a\n2,b\n")).features().tolist() == [[11], [2]]


def test_named_columns_stand_in_their_own_order(table: Callable[..., Path]) -> None:
    samples = load(table(TEXT), feature_columns=("weight", "age"))
    assert samples.features().tolist() == [[71.5, 50], [80, 61], [64.25, 38], [90, 45]]
    assert samples.notes == ()


def test_parquet_says_the_same_as_csv(table: Callable[..., Path], tmp_path: Path) -> None:
    rows = [line.split(",") for line in TEXT.splitlines()]
    columns: dict[str, Any] = dict(zip(rows[0], map(list, zip(*rows[1:], strict=True)), strict=True))
    columns["age"] = arrow.array([50, 61, 38, 45], arrow.int16())
    columns["weight"] = arrow.array([71.5, 80, 64.25, 90], arrow.float64())
    columns["sex"] = arrow.array(["f", "m", "f", "m"]).dictionary_encode()
    one = load(table(TEXT), **ROLES)
    other = load(as_parquet(tmp_path / "table.parquet", **columns), **ROLES)
    assert one.digest() == other.digest()


@pytest.mark.parametrize("kind", [arrow.list_(arrow.float32()), arrow.list_(arrow.float64(), 3)])
def test_an_embedding_in_one_column_is_as_many_features(tmp_path: Path, kind: Any) -> None:
    vectors = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    path = as_parquet(tmp_path / "e.parquet", vector=arrow.array(vectors, kind), label=["a", "b"])
    samples = load(path)
    assert samples.features().tolist() == vectors
    assert samples.feature_names == ("vector[0]", "vector[1]", "vector[2]")


def test_classes_as_words_and_as_numbers(table: Callable[..., Path], tmp_path: Path) -> None:
    assert load(table("x,label\n1,10\n2,9\n3,10\n")).label_names == ("9", "10")
    samples = load(as_parquet(tmp_path / "n.parquet", x=[1.0, 2.0], label=[1.0, 0.0]))
    assert (samples.label_names, samples.targets.tolist()) == (("0", "1"), [1, 0])
    samples = load(table("x,label\n1,low\n2,high\n"), labels=("low", "high"))
    assert samples.targets.tolist() == [0, 1]
    with pytest.raises(DataError, match=r"not whole, such as 0\.5; set task: real to predict numbers"):
        load(table("x,label\n1,0.5\n2,1.5\n"))
    with pytest.raises(DataError, match="not whole, such as inf; set task: real"):
        load(table("x,label\n1,1\n2,inf\n"))
    codes = load(table("x,label\n1,01\n2,1\n3,1.0\n4,9007199254740993\n5,9007199254740992\n"))
    assert (codes.targets[1], len(codes.label_names)) == (codes.targets[2], 4)
    with pytest.raises(DataError, match="found but not declared in labels: high"):
        load(table("x,label\n1,low\n2,high\n"), labels=("low", "hihg"))


def test_several_real_targets_and_several_labels(table: Callable[..., Path]) -> None:
    path = table("x,up,down\n1,0,1\n2,1,1\n3,0,0\n")
    real = load(path, task="real", label_columns=("up", "down"))
    assert (real.targets.tolist(), real.label_names) == ([[0, 1], [1, 1], [0, 0]], ("up", "down"))
    assert (real.targets.dtype, real.feature_names) == (np.float32, ("x",))
    labels = load(path, task="labels", label_columns=("down", "up"))
    assert (labels.targets.tolist(), labels.targets.dtype) == ([[1, 0], [1, 1], [0, 0]], np.uint8)
    one = load(path, task="real", label_columns=("up",), feature_columns=("x",))
    assert one.targets.tolist() == [0, 1, 0]
    with pytest.raises(DataError, match=r"column 'x': 2 of 3 values are not 0 or 1 \('2' in line 3, '3' in line 4\)"):
        load(path, task="labels", label_columns=("x", "up"))


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("x,y,label\n1,,a\n2,nan,b\n", {}, r"'y': 2 of 2 values are missing, infinite or too large \(line 2, line 3\)"),
        ("x,y,label\n1,1e300,a\n2,3,b\n", {}, r"'y': 1 of 2 values are missing, infinite or too large \(line 2\)"),
        ("x,y,label\n1,m,a\n2,f,b\n", {}, r"column 'y': 2 of 2 values are no numbers \('m' in line 2, 'f' in line 3\)"),
        ("x,y,label\n1,m,a\n2,f,b\n", {"categories": {"y": ("m", "w")}}, r"not among m, w \('f' in line 3\)"),
        ("x,y,label\n,m,a\n2,f,b\n", {}, "has 2 columns that can't be features: column 'x'.*column 'y'.*`categories`"),
        ("x,label\n1,a\n2,\n", {}, r"column 'label' is empty in 1 of 2 rows \(line 3\)"),
        ("x,label\n1,a\n2,b\n", {"feature_columns": ("X",)}, r"no column 'X' \(feature_columns\).*did you mean 'x'"),
        ("x,lable\n1,a\n2,b\n", {}, r"no column 'label' \(label_columns\); it has x, lable; did you mean 'lable'"),
        ("x,label\n1,a\n2,b\n", {"client_column": "site"}, r"no column 'site' \(client_column\)"),
        ("label\na\nb\n", {}, "nothing is left for features"),
        ("x,label\n1,2\n2,\n", {"task": "real"}, r"column 'label': 1 of 2 values are not numbers \('' in line 3\)"),
    ],
)  # fmt: skip
def test_what_is_refused(table: Callable[..., Path], text: str, values: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        load(table(text), **values)


def test_row_numbers_as_pandas_writes_them_are_no_feature(table: Callable[..., Path]) -> None:
    samples = load(table(",x,label\n0,5,a\n1,6,b\n"))
    assert samples.feature_names == ("x",)
    assert samples.notes[1] == "the column '' of row numbers, as pandas writes it, is no feature"


def test_unreadable_files(table: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected \.csv, \.parquet, \.npz or a folder"):
        load(table("x", "table.xlsx"))
    with pytest.raises(DataError, match=r"does not exist; did you mean 'table\.csv'"):
        load(table(TEXT).with_name("tabel.csv"))
    with pytest.raises(DataError, match=r"is no whole \.parquet file"):
        load(table("x,label\n", "broken.parquet"))
    ragged = as_parquet(tmp_path / "r.parquet", v=[[1.0], [1.0, 2.0]], label=["a", "b"])
    with pytest.raises(DataError, match="the lists of column 'v' hold 1, 2 numbers; all must be of one length"):
        load(ragged)
    damaged = tmp_path / "damaged.npz"
    np.savez_compressed(damaged, features=np.random.default_rng(0).standard_normal((50, 4)), labels=np.arange(50) % 2)
    whole = bytearray(damaged.read_bytes())
    whole[200:260] = bytes(60)
    damaged.write_bytes(whole)
    with pytest.raises(DataError, match=r"damaged|no \.npz file"):
        load(damaged)
    latin = tmp_path / "latin.csv"
    latin.write_bytes("gr\xf6\xdfe,label\n1,a\n".encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8"):
        load(latin)


def test_a_folder_of_tables_is_one_client_a_table(table: Callable[..., Path], build: Callable[..., Federation]) -> None:
    table("x,y,label\n1,2,cat\n3,4,dog\n", "sites/north.csv")
    path = table("x,y,label\n5,6,bee\n7,8,bee\n", "sites/south.csv").parent
    table("no table", "sites/._north.csv")
    samples = load(path)
    assert samples.label_names == ("bee", "cat", "dog")
    assert samples.targets.tolist() == [1, 2, 0, 0]
    assert samples.features().tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert samples.sample_ids.tolist() == ["north/0", "north/1", "south/0", "south/1"]
    federation = build({"name": "features", "path": str(path)}, "natural", test_fraction=0)
    assert federation.client_names == ("north", "south")


def test_files_of_unlike_features_are_refused_with_both_widths(table: Callable[..., Path]) -> None:
    table("x,y,label\n1,2,a\n3,4,b\n", "sites/north.csv")
    path = table("x,y,z,label\n1,2,3,a\n4,5,6,b\n", "sites/south.csv").parent
    with pytest.raises(DataError, match="north has 2, south has 3 and has 'z' besides"):
        load(path)
    table("y,x,label\n1,2,a\n4,5,b\n", "sites/south.csv")
    with pytest.raises(DataError, match="north has 2, south has 2 and them in another order"):
        load(path)


def test_arrays_are_read_by_their_own_names(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, features=np.eye(2), labels=np.array(["u", "v"]), feature_names=np.array(["p", "q"]))
    samples = load(path)
    assert (samples.label_names, samples.feature_names) == (("u", "v"), ("p", "q"))
    as_hosts_get_it = FeaturesSettings.model_validate_json(FeaturesSettings(path=str(path)).model_dump_json())
    assert load_samples(as_hosts_get_it, seed=1).num_samples == 2
    with pytest.raises(DataError, match="label_columns is for tables"):
        load(path, label_columns=("kind",))
    np.savez(path, features=np.eye(2), labels=np.arange(2), feature_names=np.array(["p"]))
    with pytest.raises(DataError, match=r"'feature_names' is <U1 of shape \(1,\); expected 2 different texts"):
        load(path)


@pytest.mark.parametrize(
    ("settings", "loader", "classes"),
    [
        (BreastCancerSettings(), "load_breast_cancer", ("malignant", "benign")),
        (WineSettings(), "load_wine", ("cultivar 1", "cultivar 2", "cultivar 3")),
        (DiabetesSettings(), "load_diabetes", ("progression",)),
    ],
)
def test_packaged_tables_are_scikit_learns(settings: SourceSettings, loader: str, classes: tuple[str, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sklearn import datasets

        oracle = getattr(datasets, loader)(**({"scaled": False} if loader == "load_diabetes" else {}))
    samples = load_samples(settings, seed=1)
    np.testing.assert_array_equal(samples.features(), oracle.data.astype(np.float32))
    np.testing.assert_array_equal(samples.targets, oracle.target)
    assert samples.label_names == classes
    theirs = [str(name).replace("_", " ").replace("/od315 of diluted wines", "/od315") for name in oracle.feature_names]
    assert list(samples.feature_names) == theirs


def test_patients_belong_to_the_decade_of_their_age() -> None:
    samples = load_samples(DiabetesSettings(), seed=1)
    assert samples.natural_client is not None
    ages = samples.features()[:, 0]
    for owner in np.unique(samples.natural_client).tolist():
        decade = int(owner.removeprefix("age ").removesuffix("s"))
        assert ((ages >= decade) & (ages < decade + 10))[samples.natural_client == owner].all()
