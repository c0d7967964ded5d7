"""What a report is made of: a comparison's directory, or finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fedgraft.errors import StoreError, listed, nearest
from scenarios.comparison.gathered import comparison_of_runs
from scenarios.comparison.records import COMPARISON_FILE, Comparison, read_comparison


def comparison_in(
    directories: Sequence[Path], out: Path | None = None, baseline: str | None = None
) -> tuple[Comparison, Path]:
    """Return the comparison that directories hold or make, and where its report goes.

    Args:
        directories: one of a comparison, or run directories.
        out: where the report goes; None: into the comparison or the only run, else a new directory below `reports/`.
        baseline: instead of the one that was planned.

    Raises:
        StoreError: there is nothing to report on, a comparison stands among runs, or no contender is called `baseline`.
    """
    comparisons = [path for path in directories if (path / COMPARISON_FILE).exists()]
    if comparisons and len(directories) > 1:
        raise StoreError(
            f"{listed(map(str, comparisons))} {'is a comparison' if len(comparisons) == 1 else 'are comparisons'}; a "
            "report is on one comparison, or on runs: give one alone, or the run directories below its runs/"
        )
    if comparisons:
        comparison = read_comparison(directories[0])
        if baseline is not None:
            comparison = _with_baseline(comparison, baseline)
        return comparison, out or directories[0]
    comparison = comparison_of_runs(directories, baseline)
    if out is not None:
        return comparison, out
    if len(comparison.runs) == 1:
        return comparison, comparison.runs[0].directory
    from server.run_directory import new_directory

    return comparison, new_directory(Path("reports"), comparison.name.replace(" ", "-"))


def _with_baseline(comparison: Comparison, baseline: str) -> Comparison:
    if baseline not in comparison.contenders:
        raise StoreError(
            f"baseline: came {baseline!r}, which is none of the contenders: {listed(comparison.contenders)}"
            f"{nearest(baseline, comparison.contenders)}"
        )
    return replace(comparison, baseline=baseline)
