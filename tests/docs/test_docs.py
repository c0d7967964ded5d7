"""The documentation is kept true: links, scenarios, commands, snippets, and what it says that a run leaves."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
DEPLOYED = ("yaml federation", "yaml site", "yaml log")
"""Blocks of files of a federation: of the whole, and parts of `site.yaml`."""
GENERATED = ROOT / "docs" / "scenario-reference.md"
OUR_PACKAGES = ("fedgraft", "server", "clients", "strategies", "scenarios")


@dataclass(frozen=True)
class Snippet:
    """A fenced block: where it stands, what follows the fence (`yaml`, `yaml fragment`, ...), and its text."""

    page: Path
    line: int
    info: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def snippets_of(page: Path) -> Iterator[Snippet]:
    fence: str | None = None
    start, info, lines = 0, "", list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        mark = line.strip()
        if fence is None and mark.startswith("```"):
            fence, start, info, lines = line[: line.index("`")], number, mark.strip("`").strip(), []
        elif fence is not None and mark == "```":
            yield Snippet(page, start, info, "\n".join(lines) + "\n")
            fence = None
        elif fence is not None:
            lines.append(line.removeprefix(fence))
    assert fence is None, f"{page.name}:{start}: the block is never closed"


SNIPPETS = [snippet for page in PAGES for snippet in snippets_of(page)]


def snippets(info: str, *pages: str) -> list[Snippet]:
    return [found for found in SNIPPETS if found.info == info and (not pages or found.page.name in pages)]


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_block_says_what_it_is() -> None:
    known = {"bash", "text", "python", "python fragment", "yaml", "yaml fragment", *DEPLOYED}
    assert [str(found) for found in SNIPPETS if found.info not in known] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    assert dead == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"({page.relative_to(ROOT)})" not in text] == []


@pytest.mark.parametrize("picture", sorted((ROOT / "docs" / "pictures").glob("*.svg")), ids=lambda path: path.name)
def test_pictures_load_nothing(picture: Path) -> None:
    text = picture.read_text(encoding="utf-8")
    assert re.findall(r"(?:href|src|url\()[=(\"' ]*https?:[^\"')]*", text) == []


def test_the_readme_says_what_its_picture_shows() -> None:
    (accuracy,) = re.findall(r"accuracy (0\.\d+) on the central", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert accuracy in (ROOT / "docs" / "pictures" / "run.svg").read_text(encoding="utf-8")


def is_whole(snippet: Snippet) -> bool:
    """Whether a block is a scenario; the generated reference shows parts of one, and is tested elsewhere."""
    keys = yaml.safe_load(snippet.text)
    return snippet.page != GENERATED or {"name", "data"} <= set(keys)


SCENARIOS = [found for found in snippets("yaml") if is_whole(found)]


@pytest.mark.parametrize("snippet", SCENARIOS, ids=str)
def test_scenarios_load(snippet: Snippet, tmp_path: Path) -> None:
    from scenarios.loader import load_scenario

    (tmp_path / "scenario.yaml").write_text(snippet.text)
    load_scenario(tmp_path / "scenario.yaml")


@pytest.mark.parametrize("snippet", [found for info in DEPLOYED for found in snippets(info)], ids=str)
def test_files_of_a_federation_load(snippet: Snippet, tmp_path: Path) -> None:
    from fedgraft.deployment.settings import FederationSettings, SiteSettings
    from fedgraft.settings_files.load import FileKind, load_settings

    kind = FileKind("file", "its own", "name: a")
    path = tmp_path / "file.yaml"
    if snippet.info == "yaml federation":
        path.write_text(snippet.text)
        load_settings(path, FederationSettings, kind)
        return
    server = "{host: fl.example.org}\nstate_dir: state\ncache_dir: cache\nsocket: run/host.sock\n"
    path.write_text(f"name: clinic-1\nfederation: skin\nserver: {server}{snippet.text}")
    load_settings(path, SiteSettings, kind)


def test_the_policys_keys_are_all_told_with_their_defaults() -> None:
    from clients.site.settings import PolicySettings

    text = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8").partition("## A site's own rules")[2]
    rows = dict(re.findall(r"^\| (`.+?`) \| (.+?) \|", text, flags=re.MULTILINE))
    told = {
        key: default
        for keys, defaults in rows.items()
        for key, default in zip(re.findall(r"`(\w+)`", keys), defaults.split(", "), strict=False)
    }
    for name, value in PolicySettings().model_dump().items():
        shown = value[0] if isinstance(value, tuple) else "null" if value is None else f"{value:g}".lower()
        if isinstance(value, bool):
            shown = str(value).lower()
        assert told[name].partition(":")[0] == shown, name


@pytest.mark.parametrize("snippet", snippets("yaml fragment"), ids=str)
def test_fragments_fit_into_a_scenario(snippet: Snippet, tmp_path: Path) -> None:
    from scenarios.loader import load_scenario

    keys = yaml.safe_load(snippet.text)
    (tmp_path / "scenario.yaml").write_text(yaml.safe_dump({"extends": "quickstart", **keys}))
    load_scenario(tmp_path / "scenario.yaml")


@pytest.fixture(scope="module")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the script of own-data.md has written its `data/`."""
    folder = tmp_path_factory.mktemp("own-data")
    (script,) = snippets("python", "own-data.md")
    (folder / "make_data.py").write_text(script.text)
    subprocess.run([sys.executable, "make_data.py"], cwd=folder, check=True, timeout=120)
    return folder


OWN_DATA = [found for found in snippets("yaml", "own-data.md") if "torchvision:" not in found.text]
"""What needs no download."""


@pytest.mark.parametrize("snippet", OWN_DATA, ids=str)
def test_own_data_can_be_divided(snippet: Snippet, own_data: Path) -> None:
    from fedgraft.data.federation import build_federation
    from scenarios.loader import load_scenario

    (own_data / "scenario.yaml").write_text(snippet.text)
    scenario = load_scenario(own_data / "scenario.yaml")
    federation = build_federation(scenario.data, scenario.seed)
    assert federation.num_clients >= 3
    assert federation.train.counts.sum() > 0
    assert len(federation.test) > 0
    assert (federation.samples.kind == "features") == (scenario.backbone.name == "identity")


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield every `fedgraft` command of the pages, in blocks and in lines: where it stands, and its words."""
    found: list[tuple[str, str]] = []
    for snippet in snippets("bash"):
        found += [(str(snippet), line) for line in snippet.text.replace("\\\n", " ").splitlines()]
    for page in PAGES:
        found += [(page.name, text) for text in re.findall(r"`(fedgraft [^`]+)`", prose(page))]
    for where, line in found:
        for part in re.split(r"&&|;|\|", line):
            words = shlex.split(part, comments=True)
            if words[:1] == ["fedgraft"]:
                yield where, words[1:]


COMMANDS = list(commands())


def parse(words: list[str]) -> click.Context:
    """Parse a command line as the command line does, without running it; return the innermost context."""
    from fedgraft.cli import app

    command: click.Command = typer.main.get_command(app)
    context = command.make_context("fedgraft", list(words))
    while isinstance(context.command, click.Group):
        name, found, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        context = found.make_context(name, rest, parent=context)
    return context


def names_of_commands() -> set[str]:
    from fedgraft.cli import app

    command = typer.main.get_command(app)
    assert isinstance(command, click.Group)
    return set(command.commands)


@pytest.mark.parametrize("words", [words for _, words in COMMANDS], ids=[f"{at}-{' '.join(w)}" for at, w in COMMANDS])
def test_commands_parse(words: list[str]) -> None:
    if words in (["--help"], ["--version"]):
        with pytest.raises(click.exceptions.Exit):
            parse(words)
    elif len(words) == 1:  # prose that speaks of a command, not a line to be typed
        assert words[0] in names_of_commands()
    else:
        parse(words)


def test_a_wrong_command_would_be_noticed() -> None:
    for words in (["run", "quickstart", "--sett", "a=1"], ["predicts", "runs/first"], ["list", "cuts"]):
        with pytest.raises(click.UsageError):
            parse(words)


def test_the_readme_shows_every_command() -> None:
    shown = {words[0] for where, words in COMMANDS if where.startswith("README.md")}
    assert names_of_commands() - shown == set()


def test_the_readme_has_the_two_commands() -> None:
    lines = "".join(found.text for found in snippets("bash", "README.md")).splitlines()
    assert "pip install -e . && fedgraft run scenarios/quickstart.yaml" in lines
    assert any(line.startswith('pip install -e ".[test]" && pytest') for line in lines)
    assert (ROOT / "scenarios" / "quickstart.yaml").is_file()


@pytest.mark.parametrize("snippet", snippets("python"), ids=str)
def test_python_compiles_and_imports_what_there_is(snippet: Snippet) -> None:
    tree = ast.parse(snippet.text, str(snippet))
    compile(tree, str(snippet), "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in OUR_PACKAGES:
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_the_strategy_of_the_docs_is_the_one_that_runs() -> None:
    (found,) = (found for found in snippets("python", "add-a-strategy.md") if "strategies/fedavgm.py" in found.text)
    first, _, rest = found.text.partition("\n")
    assert first == "# strategies/fedavgm.py"
    assert rest == (ROOT / "strategies" / "fedavgm.py").read_text(encoding="utf-8")


SMALL = ("server.rounds=2", "backbone={name: timm:test_resnet, weights: random, input_size: 32}")
"""Digits in colour through a real but tiny network; FedAdam and half of the uneven clients stay."""


@pytest.fixture(scope="module")
def run_of_the_readme(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The README's five-line scenario, run."""
    import fedgraft

    folder = tmp_path_factory.mktemp("readme")
    (snippet,) = snippets("yaml", "README.md")
    assert len(snippet.text.splitlines()) == 5, "the README calls it a scenario of five lines"
    (folder / "very-uneven.yaml").write_text(snippet.text)
    return fedgraft.run(folder / "very-uneven.yaml", SMALL, out=folder / "run")


def test_the_scenario_of_the_readme_runs(run_of_the_readme: Any) -> None:
    assert run_of_the_readme.finished
    assert run_of_the_readme.summary["strategy"] == "flower:FedAdam"
    assert [row["num_clients"] for row in run_of_the_readme.metrics if row["group"] == "train"] == [10, 10]


def test_run_directory_tells_of_every_file_and_key(run_of_the_readme: Any) -> None:
    page = (ROOT / "docs" / "run-directory.md").read_text(encoding="utf-8")
    directory = run_of_the_readme.directory
    files = {path.name for path in directory.iterdir() if path.is_file()}
    keys = {key for row in run_of_the_readme.metrics for key in row}
    columns = (directory / "client_metrics.csv").read_text().splitlines()[0].split(",")
    words = {*files, *keys, *columns, *run_of_the_readme.summary, *run_of_the_readme.summary["seconds"]}
    assert sorted(word for word in words if f"`{word}`" not in page) == []
    assert len(list((directory / "checkpoints").iterdir())) == 2
    assert json.loads((directory / "run.json").read_text())["libraries"]["torch"]


def test_the_readme_names_every_file_of_a_run(run_of_the_readme: Any) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in run_of_the_readme.directory.iterdir()} - {"events.jsonl"}  # for programs
    assert sorted(name for name in files if name not in text) == []


def test_the_readme_lists_every_switch() -> None:
    """What the code sets and the table says are the same switches with the same values."""
    from fedgraft.launch import SWITCHED_OFF
    from fedgraft.simulation.flower_machine import processes_environment

    pages = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `([A-Z_]+)=(\w+)` \|", pages, flags=re.MULTILINE))
    environment = processes_environment(Path("folder"), 1.0, SWITCHED_OFF)
    elsewhere = {"ORT_DISABLE_TELEMETRY": "1"}  # set by fedgraft.export before onnxruntime is imported
    assert set(SWITCHED_OFF) <= set(listed)
    assert listed == {name: {**environment, **elsewhere}[name] for name in listed}


def test_checking_an_exported_file_switches_onnxruntime_s_reports_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedgraft import export

    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed: nothing is loaded
    assert export._onnx_runner(tmp_path / "none.onnx") is None
    assert export.os.environ["ORT_DISABLE_TELEMETRY"] == "1"
