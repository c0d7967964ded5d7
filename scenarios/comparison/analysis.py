"""The analysis of a comparison: from its run directories to the numbers that reports and tables show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from fedgraft.errors import FedGraftError, StoreError, listed
from fedgraft.metrics import PRIMARY
from scenarios.comparison.answers import calibration, confusion
from scenarios.comparison.clients import client_rows, facts_by_seed
from scenarios.comparison.curves import curve, equal_bytes
from scenarios.comparison.findings import Analysis, Condition, Curve, Failure, Metric, Row
from scenarios.comparison.lifelong import lifelong
from scenarios.comparison.overall import overall_verdict
from scenarios.comparison.records import Comparison, PlannedRun, condition_key
from scenarios.comparison.results import CLIENTS, OF_THE_GLOBAL_HEAD, Result
from scenarios.comparison.rows import Asked, deciding, rows
from scenarios.comparison.staged import staged
from scenarios.comparison.titles import condition_title, contender_title, metric_of
from scenarios.comparison.transfer import transfer_report
from scenarios.comparison.verdict import condition_verdict
from scenarios.comparison.wording import estimate_text


def analyse(comparison: Comparison) -> Analysis:
    """Return what a comparison found so far; runs that failed, go on or are damaged are named and left out.

    Raises:
        StoreError: no run has finished, or no finished run has the metric that decides.
    """
    results, failures = _results(comparison.runs)
    contending = [result for result in results if result.planned.role == "contender"]
    if not contending:
        reasons = "".join(f"\n  {entry.id}: {entry.error}" for entry in failures)
        raise StoreError(
            f"no run of the comparison {comparison.name} has finished, so there is nothing to say{reasons}"
        )
    task, label_names = _task(results)
    metric = metric_of(comparison.metric or _main_metric(contending), task)
    _check_metric(contending, metric)
    names = dict.fromkeys(name for result in contending for name in result.final)
    conditions = tuple(_condition(comparison, settings, results, metric) for settings in comparison.conditions)
    titles = {name: contender_title(name) for name in comparison.contenders}
    return Analysis(
        comparison_id=comparison.comparison_id,
        name=comparison.name,
        task=task,
        label_names=label_names,
        metric=metric,
        target=comparison.target,
        baseline=comparison.baseline,
        contenders=titles,
        seeds=comparison.seeds,
        conditions=conditions,
        verdict=overall_verdict(conditions, titles, comparison.baseline, metric),
        metric_facts={name: metric_of(name, task) for name in names},
        failures=tuple(failures),
        num_planned=len(comparison.runs),
        num_finished=len(results),
        num_open=len(comparison.runs) - len(results) - len(failures),
        left_out=comparison.left_out,
        notes=comparison.notes,
        created=comparison.created,
        environment=comparison.environment,
    )


def _results(runs: Sequence[PlannedRun]) -> tuple[list[Result], list[Failure]]:
    """Return the finished runs, read and checked, and what happened to those that can't be used."""
    results, failures = [], []
    for run in runs:
        state, error = run.state, run.error
        if state == "finished":
            result = Result(run)
            try:
                result.check()
            except FedGraftError as damage:
                error = str(damage)
            else:
                results.append(result)
        if error is not None:
            where = condition_title(run.condition)
            failures.append(Failure(run.id, run.contender, where, run.seed, error, run.directory))
    return results, failures


def _task(results: Sequence[Result]) -> tuple[str, tuple[str, ...]]:
    """Return the task and the labels that all runs share.

    Raises:
        StoreError: they don't share them.
    """
    for name in ("task", "label_names"):
        values = dict.fromkeys(str(result.summary[name]) for result in results)
        if len(values) > 1:
            raise StoreError(f"the runs can't be compared, they differ in {name}: {listed(values, 4)}")
    summary = results[0].summary
    return str(summary["task"]), tuple(summary["label_names"])


def _main_metric(results: Sequence[Result]) -> str:
    """Return the task's main metric on the central test part if it judges all runs, else on the clients' parts."""
    name = PRIMARY[results[0].summary["task"]]
    central, clients = f"central/{name}", f"{CLIENTS}/{name}"
    judges_all = all(central in result.final for result in results)
    return clients if not judges_all and any(clients in result.final for result in results) else central


def _check_metric(results: Sequence[Result], metric: Metric) -> None:
    """Refuse a metric that no run has.

    Raises:
        StoreError: lists those that there are.
    """
    if not any(metric.name in result.final for result in results):
        there = sorted({name for result in results for name in result.final})
        raise StoreError(f"metric: came {metric.name!r}, which no run ended with; there are: {listed(there, 40)}")


def _condition(
    comparison: Comparison, settings: Mapping[str, JsonValue], results: Sequence[Result], metric: Metric
) -> Condition:
    """Return all that was found under one condition."""
    key = condition_key(settings)
    planned: dict[str, list[PlannedRun]] = {}
    for run in comparison.runs_in(settings):
        if run.role == "contender":
            planned.setdefault(run.contender, []).append(run)
    every = [result for result in results if condition_key(result.planned.condition) == key]
    here = [result for result in every if result.planned.role == "contender"]
    alone = [result for result in every if result.planned.role == "alone"]
    of = {name: [result for result in here if result.planned.contender == name] for name in planned}
    titles = {name: contender_title(name) for name in planned}
    bytes_of_all = equal_bytes(here)
    asked = Asked(metric, comparison.baseline, comparison.target, bytes_of_all, key)
    values = [set(deciding(found, metric.name)) for found in of.values()]
    confusions = [confusion(name, titles[name], found) for name, found in of.items()]
    calibrations = [calibration(name, titles[name], found) for name, found in of.items()]
    stages = [staged(name, titles[name], found, metric) for name, found in of.items()]
    lifelongs = [lifelong(name, titles[name], found) for name, found in of.items()]
    table = rows(planned, of, titles, asked)
    facts = facts_by_seed(here, comparison.directory) if any(_has_clients(result) for result in here) else {}
    by_themselves = {
        name: [result for result in alone if result.planned.contender == name] for name in comparison.alone
    }
    clients = client_rows(of | by_themselves, facts)
    score = metric_of("clients/client_mean", str(here[0].summary["task"])) if here else metric
    return Condition(
        settings=settings,
        title=condition_title(settings),
        rows=table,
        shared_seeds=tuple(sorted(set.intersection(*(seeds for seeds in values if seeds)))) if any(values) else (),
        equal_bytes=bytes_of_all,
        curves=_curves(of, titles, metric, str(results[0].summary["metric"])),
        clients=clients,
        confusions=tuple(entry for entry in confusions if entry is not None),
        calibrations=tuple(entry for entry in calibrations if entry is not None),
        transfer=transfer_report(of, alone, titles, clients, score, facts_at_hand=bool(facts)),
        verdict=condition_verdict(table, comparison.baseline, metric, comparison.target),
        notes=(*_notes(planned, of, titles), *_unjudged(table, metric)),
        tuning=tuple(one for one in comparison.tuning if condition_key(one.condition) == key),
        lifelong=tuple(entry for entry in lifelongs if entry is not None),
        staged=tuple(entry for entry in stages if entry is not None),
    )


def _has_clients(result: Result) -> bool:
    return any(result.client_scores.values())


def _curves(
    of: Mapping[str, Sequence[Result]], titles: Mapping[str, str], metric: Metric, primary: str
) -> dict[str, tuple[Curve, ...]]:
    """Return curves of the deciding metric, and of the main metric and the loss on each part that has them."""
    wanted = [metric.name, *(f"{part}/{name}" for part in ("central", "clients") for name in (primary, "loss"))]
    found: dict[str, tuple[Curve, ...]] = {}
    for name in dict.fromkeys(wanted):
        curves = [curve(contender, titles[contender], results, name) for contender, results in of.items()]
        if name == metric.name or any(entry.points for entry in curves):
            found[name] = tuple(entry for entry in curves if entry.points)
    return found


def _notes(
    planned: Mapping[str, Sequence[PlannedRun]], of: Mapping[str, Sequence[Result]], titles: Mapping[str, str]
) -> tuple[str, ...]:
    """Say which runs are missing: what is paired is paired over fewer seeds then."""
    notes = []
    for name, runs in planned.items():
        there = {result.seed for result in of[name]}
        missing = [str(run.seed) for run in runs if run.seed not in there]
        if missing:
            seeds = f"seed{'s' if len(missing) > 1 else ''} {listed(missing)}"
            rest = "it is compared over the others" if there else "it has no result"
            notes.append(f"{titles[name]} has no finished run of {seeds}; {rest}.")
    return tuple(notes)


def _unjudged(rows: Sequence[Row], metric: Metric) -> list[str]:
    """Say who has no head that the metric judges, and how its own heads do where they are judged."""
    part, _, name = metric.name.partition("/")
    notes = []
    for row in rows:
        if not row.own_heads or part not in OF_THE_GLOBAL_HEAD:
            continue
        text = (
            f"{row.title} answers with each client's own head and has no global one to be judged, so it is not ranked"
        )
        theirs = row.metrics.get(f"{CLIENTS}/{name}")
        if theirs is not None:
            reached = estimate_text(theirs, metric)
            text += (
                f"; on the clients' validation parts its heads reach {reached}, and compare.metric: {CLIENTS}/{name} "
            )
            text += "ranks all contenders there"
        notes.append(f"{text}.")
    return notes
