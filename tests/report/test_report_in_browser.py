"""The page in a real browser: drawn, sortable, light and dark, on a phone and on paper, without the network."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hand_made_analysis as made
import pytest
from required_tools import missing, required_tool

from scenarios.comparison.findings import Failure
from scenarios.comparison.records import LeftOut
from scenarios.report.compose import compose
from scenarios.report.page import render

PATIENCE = 120_000  # ms; a page takes about 2 s, and on a machine that does much else it may take long
HOSTILE = "<script>window.hurt = 1</script><img src=x onerror='window.hurt = 1'> %{y} @style-0"


class Visit:
    """A page that was opened, and what the browser had to say of it."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready=yes]", state="attached")

    def open_all(self) -> None:
        """Open what is closed, and wait until its figures are drawn."""
        self.page.evaluate("document.querySelectorAll('details').forEach((part) => (part.open = true))")
        self.page.wait_for_selector(".plot:not([data-drawn])", state="detached")

    def column(self, number: int) -> list[str]:
        """Return what a column of the first table shows, from the top."""
        code = "(table, number) => [...table.tBodies[0].rows].map((row) => row.children[number].innerText.trim())"
        found: list[str] = self.page.locator("table").first.evaluate(code, number)
        return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = required_tool("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("the library playwright", 'pip install "fedgraft[test]"')
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])  # root has no sandbox
        yield opened
        opened.close()


def written(folder: Path, **changes: Any) -> Path:
    analysis = made.analysis(**changes)
    path = folder / "report.html"
    path.write_text(render(compose(made.comparison_for(analysis, folder), analysis)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two conditions, so that one is closed at first."""
    folder = tmp_path_factory.mktemp("a folder with # and %20 in its name")
    return written(
        folder, names=("fedavg", "fedprox mu=0.1", "ridge"), alphas=(0.05, 0.5), num_clients=12, num_labels=4
    )


@pytest.fixture(scope="module")
def laptop(browser: Any, plain: Path) -> Iterator[Visit]:
    page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
    yield Visit(page, plain)
    page.close()


def test_every_figure_is_drawn_without_a_word_and_without_the_network(laptop: Visit, plain: Path) -> None:
    """A figure is drawn when its marks are there: lines, fields, dots or bars, inside plotly's own picture."""
    laptop.open_all()
    marks = "svg.main-svg :is(.scatterlayer path, .heatmaplayer image, .barlayer path)"
    empty = laptop.page.evaluate(
        f"""() => [...document.querySelectorAll(".plot")]
            .filter((place) => !place.querySelector("{marks}") || place.querySelector("svg").clientWidth < 200)
            .map((place) => place.dataset.figure)"""
    )
    assert laptop.page.locator(".plot").count() >= 15
    assert empty == []
    assert laptop.said == []
    assert laptop.asked == [plain.as_uri()]


def test_a_click_sorts_and_a_second_turns_it_round(laptop: Visit) -> None:
    """`final`: contender number k reaches 70 + k / 2 per cent, so the order by alpha 0.05 is that of the plan."""
    heading = laptop.page.locator("table").first.locator("th", has_text="alpha 0.05")
    names = ["fedavg", "fedprox mu=0.1", "ridge"]
    assert [entry.partition("baseline")[0].strip() for entry in laptop.column(0)] == names
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert [entry.partition("baseline")[0].strip() for entry in laptop.column(0)] == names[::-1]
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert [entry.partition("baseline")[0].strip() for entry in laptop.column(0)] == names


def test_the_keyboard_sorts_and_one_column_at_a_time_says_so(laptop: Visit) -> None:
    table = laptop.page.locator("table").first
    table.locator("th button").nth(0).focus()
    laptop.page.keyboard.press("Tab")
    assert laptop.page.evaluate("document.activeElement.textContent") == "alpha 0.05"
    laptop.page.keyboard.press("Enter")
    laptop.page.keyboard.press("Tab")
    laptop.page.keyboard.press("Space")
    sorts = [heading.get_attribute("aria-sort") for heading in table.locator("thead th").all()]
    assert sorts == [None, None, "descending"]
    assert laptop.column(0)[0] == "ridge"


def test_numbers_are_sorted_as_numbers_and_what_is_missing_comes_last(laptop: Visit) -> None:
    """Differences: none (the baseline), +0.5 and +1.0 points; p: 0.075 and 0.0222 after doubling."""
    table = laptop.page.locator("details table").first
    heading = table.locator("th", has_text="p (Holm)")
    column = "(table) => [...table.tBodies[0].rows].map((row) => row.children[3].innerText.trim())"
    heading.locator("button").click()
    assert table.evaluate(column) == ["0.022", "0.075", "\N{EN DASH}"]
    heading.locator("button").click()
    assert table.evaluate(column) == ["0.075", "0.022", "\N{EN DASH}"]


def test_the_key_hides_a_contender_in_all_figures_of_its_part(laptop: Visit) -> None:
    laptop.open_all()
    part = laptop.page.locator("details").first
    count = (
        "(part) => [...part.querySelectorAll('.plot')].map((p) => p.querySelectorAll('.scatterlayer .trace').length)"
    )
    before = part.evaluate(count)
    button = part.locator(".toggles button", has_text="ridge")
    button.focus()
    laptop.page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"
    laptop.page.wait_for_timeout(200)
    after = part.evaluate(count)
    assert [old - new > 0 for old, new in zip(before[:3], after[:3], strict=True)] == [True] * 3
    laptop.page.keyboard.press("Enter")
    laptop.page.wait_for_timeout(200)
    assert part.evaluate(count) == before


def test_everything_that_acts_can_be_reached_by_keyboard(laptop: Visit) -> None:
    """Nothing acts on a click that is no link, button or summary; wide tables scroll by the keyboard too."""
    reached = laptop.page.evaluate(
        """() => [...document.querySelectorAll("th button, .toggles button, nav a, summary, .table, pre")]
            .filter((entry) => { entry.focus(); return document.activeElement !== entry; }).length"""
    )
    assert reached == 0


def colours(visit: Visit) -> tuple[str, str]:
    """Return the page's ground and the colour of the first figure's axis labels."""
    ground = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    label = visit.page.evaluate("getComputedStyle(document.querySelector('.xtick text')).fill")
    return ground, label


def brightness(colour: str) -> float:
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


@pytest.mark.slow
def test_dark_turns_page_and_figures_and_back(browser: Any, plain: Path) -> None:
    page = browser.new_page(color_scheme="dark")
    visit = Visit(page, plain)
    ground, label = colours(visit)
    assert brightness(ground) < 40
    assert brightness(label) > 130
    page.emulate_media(color_scheme="light")
    page.wait_for_timeout(500)
    ground, label = colours(visit)
    assert brightness(ground) > 240
    assert brightness(label) < 130
    assert visit.said == []
    page.close()


@pytest.mark.slow
def test_a_phone_scrolls_down_and_never_sideways(browser: Any, tmp_path: Path) -> None:
    names = ("fedavg", "a-very-long-name-without-a-single-space-in-it-as-users-like-to-give-them", "ridge")
    path = written(tmp_path, names=names, alphas=(0.05, 0.5), num_clients=12, num_labels=12)
    (tmp_path / "scenario.yaml").write_text("name: x\n")
    page = browser.new_page(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    visit = Visit(page, path)
    visit.open_all()
    width, view = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert (width, view) == (360, 360)
    beyond = page.evaluate(
        """() => [...document.querySelectorAll("main *")]
            .filter((entry) => !entry.closest(".table, pre, .hidden, svg"))
            .filter((entry) => entry.getBoundingClientRect().right > 361)
            .map((entry) => entry.outerHTML.slice(0, 80))"""
    )
    assert beyond == []
    assert visit.said == []
    page.close()


@pytest.mark.slow
def test_on_paper_everything_is_open_light_and_drawn(browser: Any, plain: Path) -> None:
    """What the paper shows is read while the browser prints; afterwards all is as it was."""
    page = browser.new_page(color_scheme="dark")
    visit = Visit(page, plain)
    page.evaluate(
        """() => addEventListener("beforeprint", () => {
            const all = (what) => [...document.querySelectorAll(what)];
            window.paper = {
                closed: all("details:not([open])").length,
                wide: all(".plot svg.main-svg").filter((svg) => svg.clientWidth > 660).length,
                drawn: all(".plot").filter((place) => place.querySelector("svg.main-svg")).length,
                label: getComputedStyle(document.querySelector(".xtick text")).fill,
            };
        })"""
    )
    paper = page.pdf(format="A4", prefer_css_page_size=True)
    assert paper[:5] == b"%PDF-"
    assert len(re.findall(rb"/Type\s*/Page\b", paper)) >= 4
    seen = page.evaluate("window.paper")
    assert seen["closed"] == 0
    assert seen["wide"] == 0
    assert seen["drawn"] == page.locator(".plot").count()
    assert brightness(seen["label"]) < 130
    assert page.locator("details[open]").count() == 1
    page.wait_for_timeout(300)
    assert brightness(colours(visit)[1]) > 130
    assert visit.said == []
    page.close()


def test_hostile_names_do_nothing_and_are_shown_as_they_are(browser: Any, tmp_path: Path) -> None:
    """With the policy's help or without: the page is also opened with its policy taken out."""
    failure = Failure("run-1", HOSTILE, HOSTILE, 1, HOSTILE, tmp_path)
    changes = {"failures": (failure,), "left_out": (LeftOut(tmp_path / "x", HOSTILE),)}
    path = written(tmp_path, names=("fedavg", HOSTILE, "@text"), alphas=(None,), num_clients=4, **changes)
    open_door = tmp_path / "open.html"
    open_door.write_text(re.sub(r"<meta http-equiv.*?>", "", path.read_text(encoding="utf-8"), count=1))
    for file in (path, open_door):
        page = browser.new_page()
        visit = Visit(page, file)
        visit.open_all()
        assert page.evaluate("window.hurt") is None
        assert visit.said == []
        assert visit.asked == [file.as_uri()]
        assert HOSTILE in page.locator("table").first.inner_text()
        labels = page.evaluate("[...document.querySelectorAll('.ytick text')].map((text) => text.textContent)")
        assert "@text" in labels
        assert [label for label in labels if label.startswith("<script>window")]
        page.close()


@pytest.mark.slow
def test_the_policy_stops_what_would_ask_the_network(browser: Any, plain: Path) -> None:
    """Were something to slip in, the browser would not load it; the oracle is a server that nobody comes to."""
    page = browser.new_page()
    visit = Visit(page, plain)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(1)
        place = f"http://127.0.0.1:{server.getsockname()[1]}/x.png"
        page.evaluate("(place) => document.body.insertAdjacentHTML('beforeend', `<img src='${place}'>`)", place)
        assert page.evaluate("(place) => fetch(place).then(() => 'came', () => 'refused')", place) == "refused"
        with pytest.raises(TimeoutError):
            server.accept()
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<b onclick=\"window.hurt = 1\">x</b>')")
    page.evaluate("document.querySelector('body > b').click()")
    assert page.evaluate("window.hurt") is None
    assert len([text for text in visit.said if "Content Security Policy" in text]) >= 3
    page.close()


@pytest.mark.slow
def test_where_it_cannot_draw_the_page_says_where_the_picture_is(browser: Any, plain: Path, tmp_path: Path) -> None:
    """As in a browser that can't unpack: the tables still sort."""
    path = tmp_path / "report.html"
    text = plain.read_text(encoding="utf-8")
    begin = text.index('id="plotly">') + len('id="plotly">')
    path.write_text(text[:begin] + "AAAA" + text[text.index("</script>", begin) :], encoding="utf-8")
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(path.as_uri())
    page.wait_for_selector(".lost")
    shown = page.locator(".plot").first
    assert shown.inner_text().endswith(f"figures/{shown.get_attribute('data-figure')}.png")
    page.locator("table").first.locator("th button").nth(1).click()
    assert page.locator("table").first.locator("th").nth(1).get_attribute("aria-sort") == "descending"
    page.close()


@pytest.mark.slow
def test_thirty_contenders_and_ten_thousand_clients_are_drawn(browser: Any, tmp_path: Path) -> None:
    names = tuple(f"contender {number} learning_rate={number / 1000}" for number in range(30))
    path = written(tmp_path, names=names, alphas=(None,), num_clients=10_000, num_labels=150)
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    visit = Visit(page, path)
    overlapping = page.evaluate(
        """() => [...document.querySelectorAll(".plot")].filter((place) => {
            const boxes = [...place.querySelectorAll(".ytick text")].map((text) => text.getBoundingClientRect());
            return boxes.some((box, n) => n && boxes[n - 1].top < box.bottom - 3 && box.top < boxes[n - 1].bottom - 3);
        }).map((place) => place.dataset.figure)"""
    )
    assert overlapping == []
    assert visit.said == []
    assert json.loads(page.locator(".toggles button", has_text="23 others").get_attribute("data-names") or "")
    page.close()
