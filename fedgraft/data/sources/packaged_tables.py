"""Three tables that scikit-learn carries, read without importing scikit-learn.

- breast cancer: W. H. Wolberg, O. L. Mangasarian and W. N. Street, "Breast Cancer Wisconsin (Diagnostic)", UCI Machine
  Learning Repository, 1993, doi:10.24432/C5DW2B.
- wine: S. Aeberhard and M. Forina, "Wine", UCI Machine Learning Repository, 1992, doi:10.24432/C5PC7J.
- diabetes: B. Efron, T. Hastie, I. Johnstone and R. Tibshirani, "Least Angle Regression", Annals of Statistics 32,
  2004; measures as they were taken, not scaled.
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedgraft.data.samples import Samples, Targets, content_digests, numbered
from fedgraft.data.settings import BreastCancerSettings, DiabetesSettings, Task, WineSettings
from fedgraft.data.sources.ready import ReadyFeatures
from fedgraft.errors import DataError

_CELLS = (
    *("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points"),
    *("symmetry", "fractal dimension"),
)
_TUMOUR = (
    *(f"mean {name}" for name in _CELLS),
    *(f"{name} error" for name in _CELLS),
    *(f"worst {name}" for name in _CELLS),
)
_WINE = (
    *("alcohol", "malic acid", "ash", "alcalinity of ash", "magnesium", "total phenols", "flavanoids"),
    *("nonflavanoid phenols", "proanthocyanins", "color intensity", "hue", "od280/od315", "proline"),
)
_PATIENT = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")


def load(settings: BreastCancerSettings | WineSettings | DiabetesSettings, seed: int) -> Samples:
    """Return one of the tables; `seed` is not used."""
    if settings.name == "diabetes":
        return _diabetes()
    is_wine = settings.name == "wine"
    values = _numbers("wine_data.csv" if is_wine else "breast_cancer.csv", ",", header=True)
    names = ("cultivar 1", "cultivar 2", "cultivar 3") if is_wine else ("malignant", "benign")
    return _samples(values[:, :-1], values[:, -1].astype(np.int64), "classes", names, _WINE if is_wine else _TUMOUR)


def _diabetes() -> Samples:
    """Return the patients; a decade of age is a natural client, and a sex a group."""
    values, targets = _numbers("diabetes_data_raw.csv.gz", " "), _numbers("diabetes_target.csv.gz", " ")[:, 0]
    decades = values[:, 0].astype(np.int64) // 10 * 10
    owners = np.char.add(np.char.add("age ", decades.astype(np.str_)), "s")
    groups = np.char.add("sex ", values[:, 1].astype(np.int64).astype(np.str_))  # 1 or 2; the authors do not say which
    return _samples(values, targets.astype(np.float32), "real", ("progression",), _PATIENT, owners, groups)


def _samples(
    values: NDArray[np.float64],
    targets: Targets,
    task: Task,
    label_names: tuple[str, ...],
    feature_names: tuple[str, ...],
    owners: NDArray[np.str_] | None = None,
    groups: NDArray[np.str_] | None = None,
) -> Samples:
    features = values.astype(np.float32)
    return Samples(
        inputs=ReadyFeatures(features, content_digests(features)),
        targets=targets,
        task=task,
        label_names=label_names,
        sample_ids=numbered(len(targets)),
        natural_client=owners,
        group=groups,
        feature_names=feature_names,
    )


def _numbers(name: str, separator: str, header: bool = False) -> NDArray[np.float64]:
    """Return the numbers of a file of scikit-learn, `(N, columns)`; a header has sizes and class names."""
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise DataError("this table comes with scikit-learn, which is not installed: pip install scikit-learn")
    path = Path(found.submodule_search_locations[0]) / "datasets" / "data" / name
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("ascii")
    except OSError as error:
        raise DataError(f"can't read scikit-learn's table at {path}: {error}; reinstall it") from error
    lines = text.splitlines()[1 if header else 0 :]
    return np.array([line.split(separator) for line in lines], dtype=np.float64)
