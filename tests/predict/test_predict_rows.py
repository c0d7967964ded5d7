"""Rows of tables: a run of real targets gives what scikit-learn gives of raw columns, by name, and once exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from sklearn.preprocessing import StandardScaler

import fedgraft
from fedgraft.data.federation import build_federation
from fedgraft.errors import DataError
from fedgraft.export import export_run
from fedgraft.progress import listening
from fedgraft.runs import Run
from scenarios.loader import load_scenario

PENALTY = 2.0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    sets = [f"strategy={{name: ridge, penalty: {PENALTY}}}"]
    return fedgraft.run("diabetes", sets, out=tmp_path_factory.mktemp("rows") / "run")


@pytest.fixture(scope="module")
def pooled(run: Run) -> tuple[Any, Any, Any, Any]:
    """Features and targets of the training samples of all clients, and of the central test part."""
    scenario = load_scenario("diabetes")
    federation = build_federation(scenario.data, scenario.seed)
    features, targets = federation.samples.features().astype(np.float64), federation.samples.targets.astype(np.float64)
    train, test = federation.train.indices, federation.test
    return features[train], targets[train], features[test], targets[test]


def test_ridge_over_clients_is_scikit_learns_on_pooled_standardised_rows(run: Run, pooled: tuple[Any, ...]) -> None:
    features, targets, test_features, test_targets = pooled
    scaler = StandardScaler().fit(features)
    oracle = Ridge(alpha=PENALTY).fit(scaler.transform(features), targets)
    np.testing.assert_allclose(run.head["weight"][0], oracle.coef_, rtol=1e-4)
    np.testing.assert_allclose(run.head["bias"][0], oracle.intercept_, rtol=1e-5)
    expected = oracle.predict(scaler.transform(test_features))
    central = run.summary["central"]
    assert central["root_mean_squared_error"] == pytest.approx(
        root_mean_squared_error(test_targets, expected), rel=1e-4
    )
    assert central["mean_absolute_error"] == pytest.approx(mean_absolute_error(test_targets, expected), rel=1e-4)
    assert central["r_squared"] == pytest.approx(r2_score(test_targets, expected), rel=1e-4)
    text = (run.directory / "summary.txt").read_text()
    assert "accuracy" not in text
    line = next(line for line in text.splitlines() if line.startswith("root mean squared error"))
    assert float(line.split()[-1]) == pytest.approx(central["root_mean_squared_error"], abs=1e-4)


def test_rows_are_found_by_the_names_of_their_columns(run: Run, pooled: tuple[Any, ...], tmp_path: Path) -> None:
    """In another order, with a column besides: what scikit-learn's model of raw columns predicts."""
    features, targets, test_features, _ = pooled
    scaler = StandardScaler().fit(features)
    expected = Ridge(alpha=PENALTY).fit(scaler.transform(features), targets).predict(scaler.transform(test_features))
    names = run.summary["feature_names"]
    order = list(reversed(range(len(names))))
    lines = [",".join(["who", *(names[place] for place in order)])]
    lines += [
        ",".join([f"p{number}", *(repr(float(row[place])) for place in order)])
        for number, row in enumerate(test_features)
    ]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    predictions = run.predict([tmp_path / "rows.csv"])
    np.testing.assert_allclose([found.values["progression"] for found in predictions], expected, rtol=1e-4)
    assert predictions[3].row_number == 3

    import pyarrow as arrow
    import pyarrow.parquet as parquet

    parquet.write_table(
        arrow.table({name: test_features[:, place] for place, name in enumerate(names)}), tmp_path / "rows.parquet"
    )
    again = run.predict([tmp_path / "rows.parquet"])
    np.testing.assert_allclose([found.values["progression"] for found in again], expected, rtol=1e-4)


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
def test_exported_models_take_rows_as_they_were_measured(
    run: Run, pooled: tuple[Any, ...], tmp_path: Path, suffix: str
) -> None:
    features, targets, test_features, _ = pooled
    scaler = StandardScaler().fit(features)
    expected = Ridge(alpha=PENALTY).fit(scaler.transform(features), targets).predict(scaler.transform(test_features))
    report = export_run(run, tmp_path / f"model{suffix}")
    assert report.inputs == "features: float32 (batch, 10): age, sex, bmi, bp, s1, s2, s3, s4, s5, s6"
    rows = test_features.astype(np.float32)
    if suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(report.file), providers=["CPUExecutionProvider"])
        (values,) = session.run(None, {"features": rows})
    else:
        import torch

        from fedgraft.trained import load_safetensors

        model = load_safetensors(report.file)
        assert model.card.feature_names == ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
        values = model(torch.from_numpy(rows))["values"].numpy()
    np.testing.assert_allclose(values[:, 0], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("age,sex\n1,2\n", r"it has no column 'bmi', 'bp', 's1'.*; it has age, sex"),
        ("age,sex,bmi,bp,s1,s2,s3,s4,s5,s6\n1,2,,4,5,6,7,8,9,10\n", r"column 'bmi': 1 of 1 values are missing.*line 2"),
        ("age,sex,bmi,bp,s1,s2,s3,s4,s5,s6\n1,f,3,4,5,6,7,8,9,10\n", r"column 'sex': .* no numbers \('f' in line 2\)"),
    ],
)
def test_what_can_not_be_predicted(run: Run, tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(DataError, match=expected):
        run.predict([tmp_path / "rows.csv"])


def test_columns_of_categories_and_lists_are_found_again(tmp_path: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    generator = np.random.default_rng(1)
    vectors, sexes = generator.standard_normal((60, 3)), generator.choice(["f", "m"], 60)
    dose = vectors @ [1.0, -2.0, 0.5] + 3 * (sexes == "m")
    path = tmp_path / "table.parquet"
    parquet.write_table(arrow.table({"v": vectors.tolist(), "sex": sexes.tolist(), "dose": dose}), path)
    source = {"name": "features", "path": str(path), "task": "real", "label_columns": "dose"}
    blocks = {
        "name": "doses",
        "backbone": "identity",
        "data": {"source": {**source, "categories": {"sex": ["f", "m"]}}, "partition": {"name": "iid", "clients": 3}},
        "strategy": {"name": "ridge", "penalty": 1e-6},
    }
    import yaml

    (tmp_path / "doses.yaml").write_text(yaml.safe_dump(blocks))
    notes: list[str] = []
    with listening(lambda event: notes.append(str(event.get("text", "")))):
        run = fedgraft.run(tmp_path / "doses.yaml", out=tmp_path / "run")
    assert run.summary["feature_names"] == ["v[0]", "v[1]", "v[2]", "sex=f", "sex=m"]
    assert any("2 columns are features: v, sex" in note for note in notes)
    found = [prediction.values["dose"] for prediction in run.predict([path])]
    np.testing.assert_allclose(found, dose, atol=1e-3)
