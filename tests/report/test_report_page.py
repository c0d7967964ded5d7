"""The page as a file: what stands in it, that nothing in it can do harm, and that it stays small."""

from __future__ import annotations

import base64
import copy
import gzip
import hashlib
import html.parser
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hand_made_analysis as made
import pytest

from scenarios.comparison.findings import Failure
from scenarios.comparison.records import LeftOut
from scenarios.report.compose import compose
from scenarios.report.contents import Page
from scenarios.report.look import STYLES
from scenarios.report.page import render
from scenarios.report.plotly_figures import plotly_json
from scenarios.report.plots import Bars, Heat

HOSTILE = "<script>alert(1)</script> $x$ %{y} & \"q\" 'p' @style-0 </style>"
TOKEN = re.compile(r"@[a-z]+(-\d)?(/0\.\d+)?")


class Parsed(html.parser.HTMLParser):
    """A page's elements, with the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and not data.isspace():
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        else:
            self.text.append(data)

    def one(self, tag: str, **attributes: str) -> dict[str, str | None]:
        (found,) = [have for name, have in self.elements if name == tag and attributes.items() <= have.items()]
        return found


def page_of(folder: Path, **changes: Any) -> Page:
    analysis = made.analysis(**changes)
    return compose(made.comparison_for(analysis, folder), analysis)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def rendered(plain: Page) -> str:
    return render(plain)


def test_the_verdict_comes_first(rendered: str) -> None:
    sections = [have["id"] for tag, have in Parsed(rendered).elements if tag == "section"]
    assert sections == ["verdict", "overview", "results", "repeat"]


def test_a_page_has_language_title_and_headings_in_order(rendered: str) -> None:
    parsed = Parsed(rendered)
    assert parsed.one("html")["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in parsed.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels


def test_every_figure_says_in_words_what_it_shows(rendered: str, plain: Page) -> None:
    plots = [have for tag, have in Parsed(rendered).elements if tag == "div" and have.get("class") == "plot"]
    assert [have["data-figure"] for have in plots] == [figure.key for figure in plain.figures]
    assert all(have["role"] == "img" and len(have["aria-label"] or "") > 40 for have in plots)


def test_keys_and_addresses_in_the_page_are_unique(rendered: str) -> None:
    ids = [have["id"] for _, have in Parsed(rendered).elements if "id" in have]
    assert len(ids) == len(set(ids))
    targets = {(have["href"] or "")[1:] for tag, have in Parsed(rendered).elements if tag == "a"}
    assert targets <= set(ids)


def test_the_policy_lets_run_these_two_scripts_and_load_nothing(rendered: str) -> None:
    """The digests are computed here from what stands in the page; plotly's from what it unpacks to."""
    parsed = Parsed(rendered)
    policy = parsed.one("meta", **{"http-equiv": "Content-Security-Policy"})["content"] or ""
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data: blob:"
    assert "connect-src" not in rules  # so that it is that of default-src
    code = [text for attributes, text in parsed.scripts if "type" not in attributes]
    (packed,) = [text for attributes, text in parsed.scripts if attributes.get("id") == "plotly"]
    code.append(gzip.decompress(base64.b64decode(packed)).decode())
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in code]
    assert rules["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]


def test_the_page_names_nothing_to_load(rendered: str) -> None:
    for tag, have in Parsed(rendered).elements:
        for name in ("src", "srcset", "href", "data", "action", "poster", "background"):
            assert (have.get(name) or "#").startswith(("#", "data:,")), (tag, have)
    style = (Path(__file__).parents[2] / "scenarios/report/page/report.css").read_text()
    assert "@import" not in style
    assert "url(" not in style


def hostile(folder: Path) -> Page:
    """Return a page on which every name that comes from outside wants to be more than a name."""
    failure = Failure("run-1", HOSTILE, HOSTILE, 1, HOSTILE, folder)
    left_out = LeftOut(folder / "<img src=x onerror=alert(1)>", HOSTILE)
    return page_of(folder, names=("fedavg", HOSTILE, "@text"), failures=(failure,), left_out=(left_out,))


def test_a_name_with_html_in_it_stays_a_name(tmp_path: Path, rendered: str) -> None:
    (tmp_path / "scenario.yaml").write_text(f"name: {HOSTILE}</code></pre>\n")
    parsed, tame = Parsed(render(hostile(tmp_path))), Parsed(rendered)
    assert len(parsed.scripts) == len(tame.scripts)
    assert {tag for tag, _ in parsed.elements} <= {tag for tag, _ in tame.elements}
    assert not [name for _, have in parsed.elements for name in have if name.startswith("on")]
    assert "".join(parsed.text).count("<script>alert(1)</script>") > 5


def test_numbers_of_figures_cannot_end_their_script(tmp_path: Path) -> None:
    (text,) = [text for have, text in Parsed(render(hostile(tmp_path))).scripts if have.get("id") == "figures"]
    assert "<" not in text
    names = [trace.get("legendgroup") for figure in json.loads(text).values() for trace in figure["data"]]
    assert HOSTILE in names  # as it was, for the page's own comparison of names


def without_tokens(node: Any) -> Any:
    """Replace the page's names of colours, which plotly does not know, by a colour."""
    if isinstance(node, dict):
        return {key: without_tokens(value) for key, value in node.items()}
    if isinstance(node, list):
        return [without_tokens(value) for value in node]
    return "#123456" if isinstance(node, str) and TOKEN.fullmatch(node) else node


def test_plotly_itself_finds_nothing_wrong_with_the_figures(plain: Page) -> None:
    import plotly.graph_objects as go

    kinds = {type(figure.plot).__name__ for figure in plain.figures}
    assert kinds == {"Lines", "Heat", "Dots", "Bars"}
    for figure in plain.figures:
        go.Figure(without_tokens(copy.deepcopy(plotly_json(figure))))  # checks every name and value


def colours(node: Any, key: str = "") -> Iterator[str]:
    """Yield what stands where the page looks for its own colours."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from colours(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from colours(value, key)
    elif isinstance(node, str) and (key.lower().endswith("color") or key == "colorscale"):
        yield node


def test_rounds_are_marked_at_whole_numbers_and_nothing_else_is(plain: Page) -> None:
    axes = {figure.key: plotly_json(figure)["layout"]["xaxis"] for figure in plain.figures if "-over-" in figure.key}
    over_rounds = [axis for key, axis in axes.items() if "-over-rounds" in key]
    assert over_rounds
    assert all(isinstance(axis["dtick"], int) and axis["dtick"] >= 1 for axis in over_rounds)
    assert not any(axis.get("tickformat") == ",d" for key, axis in axes.items() if "-over-rounds" not in key)


def test_every_colour_of_a_figure_is_one_of_the_page(plain: Page) -> None:
    style = (Path(__file__).parents[2] / "scenarios/report/page/report.css").read_text()
    known = set(re.findall(r"--([a-z0-9-]+):", style))
    used = {colour for figure in plain.figures for colour in colours(plotly_json(figure))}
    assert used
    assert {colour.removeprefix("@").split("/")[0] for colour in used} <= known
    assert all(TOKEN.fullmatch(colour) for colour in used)


def test_light_and_dark_define_the_same_colours() -> None:
    style = (Path(__file__).parents[2] / "scenarios/report/page/report.css").read_text()
    light, dark = style.split("@media (prefers-color-scheme: dark)")[:2]
    dark = dark[: dark.index("}")]
    of_light, of_dark = (set(re.findall(r"--([a-z0-9-]+):", text)) for text in (light, dark))
    assert of_light - of_dark == {"clear"}


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("side", ["light", "dark"])
def test_text_and_lines_stand_out_from_the_page(side: str) -> None:
    """WCAG 2.2 asks for 4.5 for text.

    It asks for 3 for parts of pictures; Okabe and Ito's orange and sky are below that on white. Dashes and markers tell
    lines apart as well, so that here colours have to reach 2.
    """
    style = (Path(__file__).parents[2] / "scenarios/report/page/report.css").read_text()
    light, dark = style.split("@media (prefers-color-scheme: dark)")[:2]
    tokens = dict(re.findall(r"--([a-z0-9-]+):\s*(#[0-9a-f]{6})\b", light if side == "light" else dark))
    for ground in ("page", "surface"):
        for text in ("text", "muted", "link", "bad"):
            assert contrast(tokens[text], tokens[ground]) >= 4.5, (text, ground)
        for number in range(len(STYLES)):
            assert contrast(tokens[f"style-{number}"], tokens[ground]) >= 2, (number, ground)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Page:
    names = tuple(f"contender {number} learning_rate={number / 1000}" for number in range(30))
    return page_of(tmp_path_factory.mktemp("crowded"), names=names, alphas=(None,), num_clients=10_000, num_labels=150)


def test_of_thirty_contenders_seven_stand_out(crowded: Page) -> None:
    """The baseline is contender 0; the higher a contender's number, the better it is (`hand_made_analysis.final`)."""
    (part,) = crowded.parts
    assert part.table is not None
    shown = {row.cells[0].text for row in part.table.rows if row.style is not None}
    assert shown == {f"contender {number} learning_rate={number / 1000}" for number in (0, 24, 25, 26, 27, 28, 29)}
    assert [key.label for key in part.topics[0].keys][-1] == "23 others"
    assert len(part.topics[0].keys[-1].names) == 23


def test_ten_thousand_clients_and_many_classes_stay_readable(crowded: Page) -> None:
    plots = {figure.key: figure.plot for figure in crowded.figures}
    scores, gains = plots["client-scores"], plots["gain-global-against-own"]
    assert isinstance(scores, Heat)
    assert scores.values.shape == (40, 7)  # the seven that stand out
    assert isinstance(gains, Bars)
    assert len(gains.values) == 100
    confusions = [plot for key, plot in plots.items() if key.startswith("confusion") and isinstance(plot, Heat)]
    assert [plot.values.shape for plot in confusions] == [(25, 25), (25, 25)]


def test_groups_of_clients_keep_the_mean(crowded: Page) -> None:
    """40 groups of 250 clients each: the mean over groups is the mean over clients."""
    (scores,) = [figure.plot for figure in crowded.figures if figure.key == "client-scores"]
    assert isinstance(scores, Heat)
    rows = made.client_rows(("one",), 10_000, 0)
    assert scores.values[:, 0].mean() == pytest.approx(sum(row.scores["one"] for row in rows) / 10_000, rel=1e-12)


def test_a_crowded_page_stays_small(crowded: Page) -> None:
    assert len(render(crowded).encode()) < 3_000_000


def test_one_run_of_one_contender_has_a_report(tmp_path: Path) -> None:
    page = page_of(tmp_path, names=("fedavg",), alphas=(None,), num_seeds=1)
    assert page.kind == "Report on one run"
    assert page.overview is None
    (part,) = page.parts
    assert part.table is not None
    assert [column.name for column in part.table.columns] == ["contender", made.ACCURACY.title, "traffic", "time"]
    assert [topic.title for topic in part.topics if topic.title.startswith("Against")] == []
    render(page)


def test_failures_are_named_with_their_errors(tmp_path: Path) -> None:
    failure = Failure("run-3", "ridge", "alpha 0.5", 2, "TrainingError: the loss is not a number", tmp_path)
    page = page_of(tmp_path, failures=(failure,), left_out=(LeftOut(tmp_path / "old", "damaged: no summary"),))
    assert page.failures_title == "1 run failed, 1 directory left out"
    text = render(page)
    assert text.index('id="failures"') < text.index('id="overview"')
    for words in ("ridge, alpha 0.5, seed 2", "TrainingError: the loss is not a number", "damaged: no summary"):
        assert words in text


def test_equal_numbers_give_an_equal_page(plain: Page, rendered: str) -> None:
    assert render(plain) == rendered
