"""The house's rules, read from the code itself: imports follow the arrows, light stays light, no pickle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedgraft.wire.protocol import PACKAGES

ROOT = Path(__file__).parent.parent
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text())
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
"""Every module of ours, by its full name."""

WAY_IN = {
    "__main__",
    "api",
    "cli",
    "clustering",
    "commands",
    "conduct",
    "deployed_runs",
    "display",
    "export",
    "launch",
    "predict",
    "predict_texts",
    "preparation",
    "ranking",
    "rehearsal",
    "runs",
    "server_runs",
    "submission",
    "survey",
    "trained",
    "unlearning",
}
"""Modules of `fedgraft` that may know the packages above it; the rest of `fedgraft` is below them."""


def imports_of(module: str) -> Iterator[str]:
    """Yield the full name of everything that a module imports, at its top, in functions, or for types."""
    for node in ast.walk(SOURCES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively; write the full name"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in SOURCES else str(node.module)


def is_way_in(name: str) -> bool:
    parts = name.split(".")
    return parts[0] == "fedgraft" and len(parts) > 1 and parts[1] in WAY_IN


def allowed(importer: str, imported: str) -> bool:
    """Whether the arrows of the design let one of our modules import another."""
    source, target = importer.split(".")[0], imported.split(".")[0]
    if importer == "fedgraft":  # the package itself offers `run` and `load`
        return is_way_in(imported)
    if source == target == "fedgraft":
        return is_way_in(importer) or not is_way_in(imported)
    if source == target or (source == "fedgraft" and is_way_in(importer)):
        return True
    return {
        "scenarios": imported == "clients.settings" or target in ("server", "strategies", "fedgraft"),
        "server": target == "strategies" or (target == "fedgraft" and not hidden(imported)),
        "clients": target == "fedgraft" and not hidden(imported),
        "strategies": imported in STRATEGIES_MAY,
        "fedgraft": False,
    }[source]


STRATEGIES_MAY = {f"fedgraft.{name}" for name in ("settings", "closed_form", "class_means", "recipes")}
"""Arrays and settings: formulas in NumPy that the clients' side shares."""


def hidden(imported: str) -> bool:
    """Whether neither app may import it: they read their submission, and know nothing of who submitted it."""
    return is_way_in(imported) and imported != "fedgraft.submission"


@pytest.mark.parametrize("module", SOURCES)
def test_imports_follow_the_arrows(module: str) -> None:
    ours = [name for name in imports_of(module) if name.split(".")[0] in PACKAGES]
    assert [name for name in ours if not allowed(module, name)] == []


def test_the_arrows_say_what_the_design_says() -> None:
    """The rule itself, by examples: without these a typo in it would let everything pass."""
    assert allowed("scenarios.schema", "clients.settings")
    assert allowed("scenarios.schema", "fedgraft.simulation.settings")
    assert allowed("server.rounds", "strategies.base")
    assert allowed("clients.host", "fedgraft.wire.records")
    assert allowed("fedgraft.api", "server.app")
    assert allowed("fedgraft", "fedgraft.api")
    for importer, imported in (
        ("scenarios.schema", "clients.host"),
        ("server.rounds", "clients.settings"),
        ("server.rounds", "scenarios.schema"),
        ("server.rounds", "fedgraft.api"),
        ("clients.host", "server.settings"),
        ("clients.site.policy", "fedgraft.commands.site"),
        ("clients.host", "strategies.base"),
        ("strategies.base", "fedgraft.wire.requests"),
        ("fedgraft.simulation.inline", "clients.app"),
        ("fedgraft.models.heads", "server.settings"),
        ("fedgraft", "server.app"),
        ("fedgraft.data.federation", "fedgraft.api"),
    ):
        assert not allowed(importer, imported), (importer, imported)


STRATEGY_LIBRARIES = {"numpy", "pydantic", "pydantic_core"} | sys.stdlib_module_names


LOADS_A_FILE = "strategies.user"
"""Stands for a class of the user's own file, and so reads that one."""


@pytest.mark.parametrize("module", [n for n in SOURCES if n.split(".")[0] == "strategies" and n != LOADS_A_FILE])
def test_strategies_are_pure(module: str) -> None:
    """No Flower, no torch, no files: arrays and settings."""
    outside = {name.split(".")[0] for name in imports_of(module)} - {"strategies", "fedgraft"}
    assert outside <= STRATEGY_LIBRARIES - {"os", "pathlib", "io", "socket", "subprocess", "threading", "random"}


HEAVY = (
    *("torch", "torchvision", "timm", "sklearn", "scipy", "flwr", "flwr_datasets", "datasets", "pandas"),
    *("matplotlib", "PIL", "ray", "onnx", "onnxruntime", "safetensors"),
)
"""Libraries whose import costs a tenth of a second or more, or that only one path needs."""

ALLOWED_WITH_APPS = {"torch", "flwr"}
"""What a warm run may import (the rest of an app's imports wait until they are needed)."""


def loaded_by(modules: list[str]) -> set[str]:
    """Return which heavy libraries a fresh process has after importing the modules."""
    code = f"import sys, {', '.join(modules)}\nprint(*({HEAVY!r} & sys.modules.keys()))"
    code = code.replace(repr(HEAVY), f"set({HEAVY!r})")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_the_command_line_and_the_scenario_are_light() -> None:
    light = ["fedgraft", "fedgraft.cli", "fedgraft.api", "scenarios.schema", "scenarios.loader"]
    light += ["server", "clients", "strategies.registry"]  # Flower's command line imports the packages themselves
    light += [name for name in SOURCES if name.split(".")[-1].endswith("settings")]
    assert loaded_by(light) == set()


def test_what_finds_kept_work_is_light() -> None:
    """On a warm cache the partition, the features and the backbone's facts are found without these."""
    modules = [
        "fedgraft.workspace",
        "fedgraft.data.federation",
        "fedgraft.features.extract",
        "fedgraft.models.registry",
    ]
    assert loaded_by(modules) == set()


def test_the_apps_load_torch_and_flower_at_most() -> None:
    assert loaded_by(["server.app", "clients.app", "fedgraft.simulation.inline"]) <= ALLOWED_WITH_APPS


UNSAFE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
REQUIRED = {("torch", "load"): ("weights_only", True), ("np", "load"): ("allow_pickle", False)}
FORBIDDEN = {("pandas", "read_pickle"), ("pd", "read_pickle"), ("torch", "save")}
BUILT_IN = {"eval", "exec", "compile"}


def pickling(tree: ast.AST) -> Iterator[str]:
    """Yield each expression that could run code from a file or a message."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in UNSAFE:
            yield ast.unparse(node)
        if isinstance(node, ast.Import) and any(
            alias.name.split(".")[0] in UNSAFE - {"pickle"} or (alias.name == "pickle" and alias.asname)
            for alias in node.names
        ):
            yield ast.unparse(node)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            # torch.load raises pickle's own error, which has to be caught by its name
            if node.value.id == "pickle" and node.attr != "UnpicklingError":
                yield ast.unparse(node)
            if (node.value.id, node.attr) in FORBIDDEN:
                yield ast.unparse(node)
        if isinstance(node, ast.Call):
            yield from _unsafe_call(node)


def _unsafe_call(node: ast.Call) -> Iterator[str]:
    if isinstance(node.func, ast.Name) and node.func.id in BUILT_IN:
        yield ast.unparse(node)
    if isinstance(node.func, ast.Attribute):
        module = {"numpy": "np"}.get(ast.unparse(node.func.value), ast.unparse(node.func.value))
        required = REQUIRED.get((module, node.func.attr))
        given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
        if required and given.get(required[0]) is not required[1]:
            yield ast.unparse(node)
        if node.func.attr == "load_state_dict_from_url" and given.get("weights_only") is not True:
            yield ast.unparse(node)


@pytest.mark.parametrize("module", SOURCES)
def test_nothing_is_unpickled(module: str) -> None:
    assert list(pickling(SOURCES[module])) == []


@pytest.mark.parametrize(
    "code",
    [
        "from pickle import loads",
        "import pickle as p",
        "import cloudpickle",
        "pickle.loads(data)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=chosen)",
        "np.load(path)",
        "numpy.load(path, allow_pickle=True)",
        "torch.hub.load_state_dict_from_url(url)",
        "pandas.read_pickle(path)",
        "eval(text)",
    ],
)
def test_the_search_for_pickles_finds_them(code: str) -> None:
    assert list(pickling(ast.parse(code)))


def test_the_search_for_pickles_lets_the_safe_ones_pass() -> None:
    code = "import pickle\nnp.load(p, allow_pickle=False)\ntorch.load(p, weights_only=True)\npickle.UnpicklingError"
    assert not list(pickling(ast.parse(code)))
