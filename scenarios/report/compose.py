"""The report of an analysis: which parts, in which order."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from fedgraft import __version__
from scenarios.comparison.findings import Analysis, Condition
from scenarios.comparison.records import Comparison
from scenarios.report.client_figures import clients_topic
from scenarios.report.contenders import Looks, best_first, dot_of, leader, looks_of
from scenarios.report.contents import Command, Failure, Number, Page, Part, Topic
from scenarios.report.cost_figures import cost_topic
from scenarios.report.curve_figures import curves_topic
from scenarios.report.overview import overview_part
from scenarios.report.plots import Axis, Dots, Figure
from scenarios.report.quality_figures import quality_topic
from scenarios.report.results_tables import metrics_table, results_table, tuning_table
from scenarios.report.stage_table import stages_topic
from scenarios.report.task_figures import tasks_topic
from scenarios.report.wording import (
    change,
    count,
    duration,
    file_name,
    margin,
    p_value,
    score,
    sentence_case,
    share,
    size,
)

MOST_FAILURES = 50
LONGEST_ERROR = 2000
LONGEST_SCENARIO = 60_000


def compose(comparison: Comparison, analysis: Analysis) -> Page:
    """Return all that the page shows."""
    looks = looks_of(analysis)
    parts = tuple(_part(analysis, condition, looks) for condition in analysis.conditions)
    single = len(comparison.runs) == 1
    return Page(
        title=analysis.name,
        kind="Report on one run" if single else f"Comparison of {count(len(analysis.contenders), 'contender')}",
        facts=_facts(analysis),
        verdict_title="Result" if single else "Verdict",
        verdict=(analysis.verdict.headline, *analysis.verdict.sentences),
        numbers=_numbers(analysis),
        notes=analysis.notes,
        failures_title=_failures_title(analysis),
        failures=_failures(analysis),
        overview=overview_part(analysis, looks),
        results_title="Results" if len(parts) == 1 else "Condition by condition",
        parts=parts,
        commands=_commands(comparison),
        scenario=_scenario(comparison),
        environment=tuple(_environment(analysis)),
        footer=(
            f"Made by FedGraft {__version__}. This page needs no network. The figures as PNG and SVG, the numbers as "
            "CSV and Parquet, and tables for papers lie beside it, in figures/ and tables/.",
        ),
    )


def _facts(analysis: Analysis) -> tuple[str, ...]:
    facts = [count(len(analysis.conditions), "condition")] if len(analysis.conditions) > 1 else []
    facts.append(count(len(analysis.seeds), "seed"))
    done = f"{analysis.num_finished:,} of {count(analysis.num_planned, 'run')} finished"
    facts.append(count(analysis.num_planned, "run") if analysis.num_finished == analysis.num_planned else done)
    if analysis.num_open:
        facts.append(f"{analysis.num_open:,} not run yet")
    facts.append(f"decided by {analysis.metric.title}")
    if analysis.created:
        facts.append(analysis.created[:10])
    return tuple(facts)


def _numbers(analysis: Analysis) -> tuple[Number, ...]:
    if len(analysis.conditions) == 1:
        return _numbers_of(analysis, analysis.conditions[0])
    leaders = [leader(condition, analysis.metric.higher_is_better) for condition in analysis.conditions]
    found = [best.contender for best in leaders if best is not None]
    if not found:
        return ()
    most = max(analysis.contenders, key=found.count)
    values = [
        row.value.mean
        for condition in analysis.conditions
        for row in condition.rows
        if row.contender == most and row.value is not None
    ]
    ends = f"{score(min(values), analysis.metric).removesuffix(' %')} to {score(max(values), analysis.metric)}"
    ends = ends.replace(" %", "\u00a0%")  # it stands in large letters, and would break there
    return (
        Number("Most often in front", analysis.contenders[most]),
        Number("In front under", f"{found.count(most)} of {len(analysis.conditions)}", "conditions, by the mean"),
        Number("Its means range over", ends, analysis.metric.title),
        Number("Evidence", count(analysis.num_finished, "run"), f"{count(len(analysis.seeds), 'seed')} each"),
    )


def _numbers_of(analysis: Analysis, condition: Condition) -> tuple[Number, ...]:
    best, metric = leader(condition, analysis.metric.higher_is_better), analysis.metric
    if best is None or best.value is None:
        return ()
    several = len(analysis.contenders) > 1
    seeds = f"{margin(best.value, metric)} over {count(len(best.value.values), 'seed')}".strip()
    reached = Number(sentence_case(metric.title), score(best.value.mean, metric), seeds)
    numbers = [Number("Best mean", best.title), reached] if several else [reached]
    gap = best.difference
    if gap is not None:
        p = f", p = {p_value(gap.adjusted_p)}".replace("= <", "<") if gap.adjusted_p is not None else ""
        unit = " points" if metric.in_points else ""
        value = change(gap.estimate.mean, metric) + unit
        numbers.append(
            Number(f"Against {analysis.contenders[analysis.baseline]}", value, margin(gap.estimate, metric) + p)
        )
    if best.best_probability is not None and several:
        numbers.append(Number("Chance of being best", share(best.best_probability), "when seeds are drawn anew"))
    costs = best.resources
    if costs.bytes is not None and len(numbers) < 4:
        numbers.append(Number("Traffic of a run", size(costs.bytes.mean)))
    if costs.seconds is not None and len(numbers) < 4:
        numbers.append(Number("Time of a run", duration(costs.seconds.mean)))
    return tuple(numbers)


def _part(analysis: Analysis, condition: Condition, looks: Looks) -> Part:
    """Return all of one condition."""
    several = len(analysis.conditions) > 1
    key = f"-{file_name(condition.title)}-{analysis.conditions.index(condition) + 1}" if several else ""
    topics = [
        curves_topic(analysis, condition, looks, key),
        _differences(analysis, condition, looks, key),
        clients_topic(analysis, condition, looks, key),
        tasks_topic(analysis, condition, looks, key),
        stages_topic(analysis, condition, looks),
        quality_topic(analysis, condition, looks, key),
        cost_topic(condition, looks, key),
    ]
    if condition.tuning:
        topics.append(Topic("What was tuned", table=tuning_table(analysis, condition, looks)))
    every = metrics_table(analysis, condition, looks)
    if every is not None:
        topics.insert(3, Topic("All metrics", table=every))
    verdict = (condition.verdict.headline, *condition.verdict.sentences) if several else ()
    best = leader(condition, analysis.metric.higher_is_better)
    return Part(
        key=f"condition{key}",
        title=condition.title or "Results",
        summary=f"{best.title} in front" if best is not None and len(analysis.contenders) > 1 else "",
        verdict=(*verdict, *condition.notes),
        table=results_table(analysis, condition, looks),
        topics=tuple(topic for topic in topics if topic is not None),
    )


def _differences(analysis: Analysis, condition: Condition, looks: Looks, part: str) -> Topic | None:
    """Return how far each contender is from the baseline, with the seeds paired."""
    rows = [row for row in best_first(condition, analysis.metric.higher_is_better) if row.difference is not None]
    if not rows:
        return None
    baseline, metric = analysis.contenders[analysis.baseline], analysis.metric
    factor, unit = (100.0, " points") if metric.in_points else (1.0, "")
    dots = tuple(
        dot_of(row.title, row.difference.estimate, factor, looks.styles[row.contender])
        for row in rows
        if row.difference is not None
    )
    figure = Figure(
        key=f"difference{part}",
        title=f"{sentence_case(metric.title)}: difference to {baseline}",
        caption="Paired by seed: equal seeds have equal splits, first heads and batches. Lines are 95 % intervals, not "
        "corrected for the number of contenders; the table's p-values are.",
        alternative=f"Differences to {baseline}. "
        + "; ".join(f"{dot.name}: {dot.value:+.3g}{unit}" for dot in dots[:12])
        + ".",
        plot=Dots(Axis(f"difference{',' if unit else ''}{unit}"), dots, reference=0.0),
        wide=True,
    )
    return Topic("Against the baseline", figures=(figure,))


def _failures_title(analysis: Analysis) -> str:
    said = []
    if analysis.failures:
        said.append(f"{count(len(analysis.failures), 'run')} failed")
    if analysis.left_out:
        folders = "1 directory" if len(analysis.left_out) == 1 else f"{len(analysis.left_out):,} directories"
        said.append(f"{folders} left out")
    return ", ".join(said)


def _failures(analysis: Analysis) -> tuple[Failure, ...]:
    failures = [
        Failure(", ".join(filter(None, (found.contender, found.condition, f"seed {found.seed}"))), _cut(found.error))
        for found in analysis.failures
    ]
    failures += [Failure(str(found.path), _cut(found.reason)) for found in analysis.left_out]
    if len(failures) > MOST_FAILURES:
        more = len(failures) - MOST_FAILURES
        failures = [*failures[:MOST_FAILURES], Failure(f"and {more:,} more", "see tables/runs.csv")]
    return tuple(failures)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_ERROR else text[:LONGEST_ERROR] + " …"


def _commands(comparison: Comparison) -> tuple[Command, ...]:
    """Return what to type for the same numbers again."""
    if comparison.directory is not None and (comparison.directory / "scenario.yaml").exists():
        scenario = shlex.quote(str(comparison.directory / "scenario.yaml"))
        one = comparison.directory / "runs" / comparison.runs[0].id / "scenario.yaml"
        return (
            Command("The whole comparison, into a new directory:", f"fedgraft compare {scenario}"),
            Command("One of its runs:", f"fedgraft run {shlex.quote(str(one))}"),
        )
    places = [shlex.quote(str(run.directory)) for run in comparison.runs]
    shown = [f"fedgraft run {place}/scenario.yaml" for place in places[:12]]
    if len(places) > len(shown):
        shown.append(f"# and {len(places) - len(shown)} more")
    again = Command(
        "The run again:" if len(places) == 1 else "The runs again, each into a new directory:", "\n".join(shown)
    )
    if len(places) == 1:
        return (again,)
    return (again, Command("This report, from the runs:", f"fedgraft report {' '.join(places)}"))


def _scenario(comparison: Comparison) -> str:
    places = [run.directory for run in comparison.runs]
    if comparison.directory is not None:
        places.insert(0, comparison.directory)
    for place in places:
        text = _text(place / "scenario.yaml")
        if text:
            return text if len(text) <= LONGEST_SCENARIO else text[:LONGEST_SCENARIO] + "\n# … cut; see the file"
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _environment(analysis: Analysis) -> Iterable[tuple[str, str]]:
    names = {
        "fedgraft": "FedGraft",
        "git_revision": "revision",
        "python": "Python",
        "platform": "platform",
        "processor": "processor",
        "created": "created",
        "command": "command",
    }
    for key, name in names.items():
        if analysis.environment.get(key):
            yield name, str(analysis.environment[key])
    libraries = analysis.environment.get("libraries")
    if isinstance(libraries, dict):
        yield "libraries", ", ".join(f"{name} {version}" for name, version in libraries.items())
    yield "comparison", analysis.comparison_id
