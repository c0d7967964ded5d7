"""Names as a text speaks of them: of contenders, conditions and metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import JsonValue

from scenarios.comparison.findings import Metric

STRATEGY_TITLES = {
    "fedavg": "FedAvg",
    "fedavgm": "FedAvgM",
    "fedadagrad": "FedAdagrad",
    "fedadam": "FedAdam",
    "fedyogi": "FedYogi",
    "fedprox": "FedProx",
    "scaffold": "SCAFFOLD",
    "feddyn": "FedDyn",
    "fednova": "FedNova",
    "fedexp": "FedExP",
    "qfedavg": "q-FedAvg",
    "ditto": "Ditto",
    "fedper": "FedPer",
    "fedrep": "FedRep",
    "fedbabu": "FedBABU",
    "fedrod": "FedRoD",
    "ncm": "nearest class mean",
    "lda": "linear discriminant",
    "fedcof": "FedCOF",
    "ccvr": "CCVR",
    "fedpft": "FedPFT",
    "krum": "Krum",
    "multi-krum": "Multi-Krum",
    "bulyan": "Bulyan",
}
"""Of strategies whose name in a scenario is not how papers write it."""

METRIC_TITLES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "loss": "loss",
    "log_loss": "log-loss",
    "calibration_error": "expected calibration error",
    "mean_squared_error": "mean squared error",
    "subset_accuracy": "all labels right",
    "root_mean_squared_error": "root mean squared error",
    "mean_absolute_error": "mean absolute error",
    "r_squared": "R²",
    "client_mean": "mean over clients",
    "client_worst_decile": "worst tenth of clients",
    "client_spread": "spread between clients",
}

PART_TITLES = {
    "central": "on the central test part",
    "validation": "of the global head on the clients' validation parts",
    "personal": "of the clients' own heads on their validation parts",
    "clients": "on the clients' validation parts, each with the head that it would use",
}

PART_HEADINGS = {"central": "central", "validation": "global head", "personal": "own heads", "clients": "head in use"}
"""As short as a column's heading has room for."""

SHARES = ("accuracy", "balanced_accuracy", "subset_accuracy", "macro_f1", "micro_f1", "calibration_error")
LESS_IS_BETTER = (
    *("loss", "log_loss", "calibration_error", "mean_squared_error", "root_mean_squared_error"),
    *("mean_absolute_error", "client_spread"),
)


def metric_of(name: str, task: str) -> Metric:
    """Return what a metric means; clients' scores are shares of right answers, for real targets squared errors."""
    part, _, key = name.partition("/")
    of_clients = key.startswith("client_")
    title = METRIC_TITLES.get(key, key.replace("_", " "))
    short = f"{title}, {PART_HEADINGS[part]}"
    if of_clients:
        title = f"{'squared error' if task == 'real' else 'accuracy'}, {title},"
    less = key in LESS_IS_BETTER or (of_clients and task == "real")
    in_points = key in SHARES or (of_clients and task != "real")
    return Metric(name, f"{title} {PART_TITLES[part]}", not less, in_points, short)


def contender_title(name: str) -> str:
    """Return a contender's name with its strategy as papers write it: `FedProx (mu=0.1)`."""
    strategy, _, rest = name.partition(" ")
    title = STRATEGY_TITLES.get(strategy, strategy)
    return f"{title} ({rest.replace(' ', ', ')})" if rest else title


def condition_title(condition: Mapping[str, JsonValue]) -> str:
    """Return a condition in words: `alpha 0.05, attack sign-flip`."""
    return ", ".join(f"{_short(key)} {_value(value)}" for key, value in condition.items())


def _short(key: str) -> str:
    parts = key.removesuffix(".name").split(".")
    return parts[-1].replace("_", " ")


def _value(value: JsonValue) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        name, rest = value.get("name"), [f"{key} {_value(entry)}" for key, entry in value.items() if key != "name"]
        return " ".join([*([str(name)] if name is not None else []), *([f"({', '.join(rest)})"] if rest else [])])
    return value if isinstance(value, str) else json.dumps(value)
