"""Reports that people look at: one HTML page, pictures, tables. `write_report` makes one of a comparison.

`plots.py` says in plain numbers what a figure shows; `plotly_figures.py` draws it for the page, `pictures.py` for
papers. `compose.py` chooses the parts, `page.py` writes the page.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedgraft.errors import FedGraftError

if TYPE_CHECKING:
    from scenarios.comparison.findings import Analysis
    from scenarios.comparison.records import Comparison

REPORT_FILE = "report.html"


def write_report(comparison: Comparison, directory: Path | None = None, analysis: Analysis | None = None) -> Path:
    """Write page, pictures and tables of a comparison; return the page's path.

    Args:
        comparison: its runs may have failed, or not have come to their end; the report says so.
        directory: where `report.html`, `figures/` and `tables/` go; None: the comparison's own.
        analysis: of the comparison, where it has been made already.

    Raises:
        FedGraftError: the extra `report` is not installed, or the files can't be written.
    """
    check_installed()
    from fedgraft.files import write_text
    from scenarios.comparison.analysis import analyse
    from scenarios.report.compose import compose
    from scenarios.report.exported_tables import write_tables
    from scenarios.report.page import render
    from scenarios.report.pictures import write_pictures

    place = directory or comparison.directory
    if place is None:
        raise FedGraftError("these runs have no directory in common; say where the report goes, with --out DIR")
    analysis = analysis or analyse(comparison)
    page = compose(comparison, analysis)
    write_tables(comparison, analysis, place / "tables")
    write_text(place / REPORT_FILE, render(page))
    write_pictures(page.figures, place / "figures")  # the longest part, which nobody has to wait for to look
    return place / REPORT_FILE


def check_installed() -> None:
    """See to it that the libraries of the extra `report` are there.

    Raises:
        FedGraftError: one is missing.
    """
    from importlib.util import find_spec

    missing = [name for name in ("jinja2", "plotly", "pyarrow") if find_spec(name) is None]
    if missing:
        raise FedGraftError(
            f"a report needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed; "
            'install with: pip install "fedgraft[report]"'
        )
