"""One HTML file that needs nothing else: no network, no folder beside it.

Its content security policy lets run two scripts, by their digests: the page's own, and plotly, which lies in it packed
(4.8 MB become 2). Nothing may be loaded from anywhere, so that a name or an error text with HTML in it is harmless even
if it were not escaped.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

from fedgraft import __version__
from scenarios.report.contents import Page
from scenarios.report.look import STYLES
from scenarios.report.plotly_figures import plotly_json

FOLDER = Path(__file__).parent / "page"


def render(page: Page) -> str:
    """Return the page as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    script, plotly = (FOLDER / "report.js").read_text(encoding="utf-8"), get_plotlyjs()
    return environment.get_template("report.html.j2").render(
        page=page,
        version=__version__,
        dashes=[style.dash.replace("px", "") if style.dash != "solid" else "none" for style in STYLES],
        style=(FOLDER / "report.css").read_text(encoding="utf-8"),
        script=script,
        script_digest=_digest(script),
        plotly=base64.b64encode(gzip.compress(plotly.encode(), compresslevel=9, mtime=0)).decode(),
        plotly_digest=_digest(plotly),
        figures=_inline_json({figure.key: plotly_json(figure) for figure in page.figures}),
    )


def _digest(script: str) -> str:
    """Return a script's SHA-256 as a content security policy names it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _inline_json(tree: Any) -> str:
    """Return JSON that can stand in a script element: no text in it can end the element."""
    text = json.dumps(tree, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
