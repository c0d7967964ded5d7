"""The numbers as CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedgraft.files import replacing, write_text
from scenarios.comparison.estimates import Estimate
from scenarios.comparison.findings import Analysis
from scenarios.comparison.records import Comparison
from scenarios.report.paper_tables import latex_table, markdown_table

Records = list[dict[str, Any]]


def write_tables(comparison: Comparison, analysis: Analysis, folder: Path) -> list[Path]:
    """Write all tables; return their files. A table without rows is left out."""
    written = []
    for name, records in _tables(comparison, analysis).items():
        if records:
            written += [
                _write_csv(records, folder / f"{name}.csv"),
                _write_parquet(records, folder / f"{name}.parquet"),
            ]
    for ending, text in (("md", markdown_table(analysis)), ("tex", latex_table(analysis))):
        path = folder / f"results.{ending}"
        write_text(path, text)
        written.append(path)
    return written


def _tables(comparison: Comparison, analysis: Analysis) -> dict[str, Records]:
    return {
        "results": list(_results(analysis)),
        "runs": list(_runs(comparison, analysis)),
        "curves": list(_curves(analysis)),
        "clients": list(_clients(analysis)),
        "gains": list(_gains(analysis)),
        "confusion": list(_confusions(analysis)),
        "calibration": list(_calibrations(analysis)),
        "tasks": list(_lifelong(analysis)),
        "stages": list(_stages(analysis)),
    }


def _results(analysis: Analysis) -> Iterator[dict[str, Any]]:
    """Yield one record a condition, contender and metric."""
    for condition in analysis.conditions:
        for row in condition.rows:
            start = {"condition": condition.title, "contender": row.contender}
            found = dict(row.metrics)
            if row.value is not None:
                found = {analysis.metric.name: row.value, **found}
            for name, value in found.items():
                decides = name == analysis.metric.name
                gap = row.difference if decides else None
                yield {
                    **start,
                    "metric": name,
                    **_spread(value),
                    "num_seeds": len(value.values),
                    "difference": None if gap is None else gap.estimate.mean,
                    "difference_low": None if gap is None else gap.estimate.low,
                    "difference_high": None if gap is None else gap.estimate.high,
                    "test": None if gap is None else gap.test,
                    "p": None if gap is None else gap.p,
                    "adjusted_p": None if gap is None else gap.adjusted_p,
                    "best_probability": row.best_probability if decides else None,
                }
            for kind in ("seconds", "bytes", "memory_bytes"):
                measured: Estimate | None = getattr(row.resources, kind)
                if measured is not None:
                    yield {**start, "metric": kind, **_spread(measured), "num_seeds": len(measured.values)}


def _spread(value: Estimate) -> dict[str, float | None]:
    return {"mean": value.mean, "low": value.low, "high": value.high}


def _runs(comparison: Comparison, analysis: Analysis) -> Iterator[dict[str, Any]]:
    """Yield one record a run."""
    errors = {failure.id: failure.error for failure in analysis.failures}
    for run in comparison.runs:
        yield {
            "run": run.id,
            "contender": run.contender,
            **{key: _plain(value) for key, value in run.condition.items()},
            "seed": run.seed,
            "role": run.role,
            "tuned": json.dumps(run.tuned) if run.tuned else None,
            "state": run.state,
            "value": _value_of(analysis, run.contender, run.condition, run.seed),
            "error": errors.get(run.id),
            "directory": str(run.directory),
        }


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)


def _value_of(analysis: Analysis, contender: str, settings: Mapping[str, object], seed: int) -> float | None:
    for condition in analysis.conditions:
        if dict(condition.settings) == dict(settings):
            for row in condition.rows:
                if row.contender == contender and row.value is not None:
                    return row.value.values.get(seed)
    return None


def _curves(analysis: Analysis) -> Iterator[dict[str, Any]]:
    for condition in analysis.conditions:
        for metric, curves in condition.curves.items():
            for curve in curves:
                for point in curve.points:
                    yield {
                        "condition": condition.title,
                        "contender": curve.contender,
                        "metric": metric,
                        "round": point.round,
                        "bytes": point.bytes,
                        "seconds": point.seconds,
                        "mean": point.mean,
                        "low": point.low,
                        "high": point.high,
                        "num_seeds": point.num_seeds,
                    }


def _clients(analysis: Analysis) -> Iterator[dict[str, Any]]:
    """Yield one record a condition, seed and client, with a column a contender: 10,000 clients stay 10,000 rows."""
    for condition in analysis.conditions:
        for row in condition.clients:
            yield {
                "condition": condition.title,
                "seed": row.seed,
                "client": row.client,
                "num_train": row.num_train,
                "num_validation": row.num_validation,
                "label_skew": row.label_skew,
                "distance": row.distance,
                **{f"score of {name}": value for name, value in row.scores.items()},
                **{f"score of the global head of {name}": value for name, value in row.global_scores.items()},
            }


def _gains(analysis: Analysis) -> Iterator[dict[str, Any]]:
    for condition in analysis.conditions:
        for found in condition.transfer.transfers if condition.transfer is not None else ():
            for gain in found.clients:
                yield {
                    "condition": condition.title,
                    "contender": found.contender,
                    "kind": found.kind,
                    "client": gain.client,
                    "seed": gain.seed,
                    "gain": gain.gain,
                    "low": gain.low,
                    "high": gain.high,
                    "num_validation": gain.num_validation,
                }


def _confusions(analysis: Analysis) -> Iterator[dict[str, Any]]:
    """Yield one record a condition, contender, true class and answer that occurs."""
    for condition in analysis.conditions:
        for found in condition.confusions:
            for row, counts in enumerate(found.counts):
                for column, number in enumerate(counts):
                    if number:
                        yield {
                            "condition": condition.title,
                            "contender": found.contender,
                            "true": _label(analysis, row),
                            "answer": _label(analysis, column),
                            "count": number,
                        }


def _label(analysis: Analysis, number: int) -> str:
    return analysis.label_names[number] if number < len(analysis.label_names) else str(number)


def _calibrations(analysis: Analysis) -> Iterator[dict[str, Any]]:
    for condition in analysis.conditions:
        for found in condition.calibrations:
            for entry in found.bins:
                yield {
                    "condition": condition.title,
                    "contender": found.contender,
                    "low": entry.low,
                    "high": entry.high,
                    "count": entry.count,
                    "confidence": entry.confidence,
                    "accuracy": entry.accuracy,
                }


def _stages(analysis: Analysis) -> Iterator[dict[str, Any]]:
    """Yield one record a condition, contender and stage."""
    for condition in analysis.conditions:
        for found in condition.staged:
            for number, stage in enumerate(found.stages, 1):
                yield {
                    "condition": condition.title,
                    "contender": found.contender,
                    "stage": number,
                    "name": stage.name,
                    "strategy": stage.strategy,
                    "rounds": stage.rounds.mean,
                    "bytes": stage.bytes.mean,
                    "seconds": stage.seconds.mean,
                    analysis.metric.name: None if stage.value is None else stage.value.mean,
                }


def _lifelong(analysis: Analysis) -> Iterator[dict[str, Any]]:
    """Yield one record a condition, contender, task that was trained, and task so far."""
    for condition in analysis.conditions:
        for found in condition.lifelong:
            for after, row in enumerate(found.accuracy, 1):
                for task, value in enumerate(row, 1):
                    if value is not None:
                        yield {
                            "condition": condition.title,
                            "contender": found.contender,
                            "part": found.part,
                            "after_task": after,
                            "on_task": task,
                            "accuracy": value,
                        }


def _columns(records: Records) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record))


def _write_csv(records: Records, path: Path) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(records), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _harmless(value) for name, value in record.items()} for record in records)
    write_text(path, text.getvalue())
    return path


def _harmless(value: object) -> object:
    """Return a text so that a spreadsheet takes it for text: one that begins like a formula gets a quote before it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _write_parquet(records: Records, path: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    columns = {name: [record.get(name) for record in records] for name in _columns(records)}
    arrays = {name: _array(pyarrow, values) for name, values in columns.items()}
    with replacing(path) as temporary:
        parquet.write_table(pyarrow.table(arrays), temporary)
    return path


def _array(pyarrow: Any, values: list[Any]) -> Any:
    """Return a column; mixed kinds, as of a condition that is a number here and a name there, become text."""
    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):
        return pyarrow.array([None if value is None else str(value) for value in values])
