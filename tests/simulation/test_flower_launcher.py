"""The `flower` runtime's launcher, with real processes: a toy app in a real SuperLink on a real Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tomllib
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from interrupts import listen_to_interrupts
from process_watch import Watch

import fedgraft
from fedgraft.errors import LaunchError
from fedgraft.simulation.app_folder import PACKAGES, app_folder
from fedgraft.simulation.flower import FlowerOutcome, run_in_flower
from fedgraft.simulation.flower_log import reason
from fedgraft.simulation.flower_machine import divide

REPOSITORY = Path(fedgraft.__file__).parent.parent
# Whatever a resolved scenario may hold, and longer than one: 130 kB with quotes, newlines, escapes and Greek.
TEXT = json.dumps({"quotes": "'\"`", "lines": "a\nb\r\n\tc", "path": "C:\\x", "greek": "λ=µ", "pad": "x " * 65_000})

PYPROJECT = """
[project]
name = "toy"
version = "1.0.0"
description = "One message to each node"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedgraft"

[tool.flwr.app.components]
serverapp = "toyserver.app:app"
clientapp = "toyclient.app:app"

[tool.flwr.app.config]
folder = ""
text = ""
behaviour = "answer"
"""

SERVER = """
import json, os, time
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    config = context.run_config
    folder = Path(config["folder"])
    while len(nodes := list(grid.get_node_ids())) < 2:
        time.sleep(0.02)
    (folder / "began").touch()
    if config["behaviour"] == "raise":
        raise KeyError("weights")
    messages = [Message(RecordDict(), message_type="query", dst_node_id=node) for node in nodes]
    replies = [dict(reply.content["answer"]) for reply in grid.send_and_receive(messages)]
    result = {"text": config["text"], "file": __file__, "replies": replies}
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "answered").touch()
    while config["behaviour"] == "linger":
        time.sleep(0.1)
    if config["behaviour"] == "die":
        os.kill(os.getpid(), 9)
"""

CLIENT = """
import os
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()
NAMES = ("FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK", "RAY_USAGE_STATS_ENABLED",
         "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "FLWR_HOME", "OMP_NUM_THREADS", "XDG_CACHE_HOME", "OURS")

@app.query()
def query(message, context):
    answer = {name: os.environ.get(name, "unset") for name in NAMES}
    answer |= {"file": __file__, "cwd": os.getcwd(), "pid": os.getpid(), "part": context.node_config["partition-id"]}
    return Message(RecordDict({"answer": ConfigRecord(answer)}), reply_to=message)
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    folder = tmp_path / "toy"
    for name, code in {"toyserver": SERVER, "toyclient": CLIENT}.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").touch()
        (folder / name / "app.py").write_text(code)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    return folder


def launch(toy: Path, behaviour: str = "answer", watch: Watch | None = None) -> tuple[FlowerOutcome, dict]:
    """Run the toy with two hosts; return the outcome and what the ServerApp wrote."""
    folder = toy.parent / "out"
    folder.mkdir(exist_ok=True)
    outcome = run_in_flower(
        {"folder": str(folder), "text": TEXT, "behaviour": behaviour},
        2,
        1.0,
        log_file=folder / "logs" / "flower.log",
        app=toy,
        environment={"OURS": "seen"},
        on_poll=watch.look if watch else None,
    )
    result = folder / "result.json"
    return outcome, json.loads(result.read_text()) if result.exists() else {}


def test_a_run_completes_silently_and_leaves_nothing(toy, tmp_path, monkeypatch, capfd):
    decoy = tmp_path / "elsewhere" / "toyclient"  # another project's package of the same name
    decoy.mkdir(parents=True)
    (decoy / "__init__.py").write_text("raise RuntimeError('the decoy was imported')")
    monkeypatch.chdir(decoy.parent)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("RAY_ADDRESS", "ray://192.0.2.1:10001")  # a cluster that is none of our business
    monkeypatch.setenv("HTTP_PROXY", "http://192.0.2.1:3128")  # a proxy that must not be asked for 127.0.0.1
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    watch = Watch(os.getpid())

    outcome, result = launch(toy, watch=watch)

    assert (outcome.status, outcome.details) == ("completed", "")
    assert outcome.run_id > 0
    assert 0 < outcome.start_seconds < outcome.total_seconds
    assert result["text"] == TEXT
    replies = result["replies"]
    assert sorted(reply["part"] for reply in replies) == [0, 1]
    assert len({reply["pid"] for reply in replies}) == 2
    for reply in replies:
        home = Path(reply["FLWR_HOME"])
        assert Path(reply["file"]).is_relative_to(home), "the client's code did not come from the bundle"
        assert Path(result["file"]).is_relative_to(home)
        assert not home.parent.exists()
        assert Path(reply["cwd"]) != decoy.parent
        assert reply["FLWR_TELEMETRY_ENABLED"] == "0"
        assert reply["FLWR_DISABLE_UPDATE_CHECK"] == "1"
        assert reply["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
        assert reply["RAY_USAGE_STATS_ENABLED"] == "0"
        assert reply["OMP_NUM_THREADS"] == "1"
        assert reply["XDG_CACHE_HOME"] == str(tmp_path / "cache")
        assert reply["OURS"] == "seen"
    watch.assert_all_ended()
    assert capfd.readouterr() == ("", "")
    log = (tmp_path / "out" / "logs" / "flower.log").read_text()
    assert "Starting Flower Simulation" in log
    assert "\x1b" not in log


def test_a_server_app_that_raises_is_a_failure_with_its_reason(toy):
    watch = Watch(os.getpid())
    outcome, _ = launch(toy, "raise", watch)
    assert outcome.status == "failed"
    assert outcome.details == "KeyError: 'weights'"
    assert outcome.log_tail
    watch.assert_all_ended()


SCRIPT = """
import sys
from pathlib import Path
from fedgraft.simulation.flower import run_in_flower

if __name__ == "__main__":
    folder = Path(sys.argv[2])
    config = {"folder": str(folder), "behaviour": sys.argv[3]}
    try:
        run_in_flower(config, 2, 1.0, log_file=folder / "flower.log", app=Path(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)
"""


def interrupted(toy: Path, number: signal.Signals, moment: str) -> tuple[int, Watch]:
    """Launch from a process of its own, send it a signal at a moment, and wait for its end."""
    folder = toy.parent / "out"
    folder.mkdir()
    script = toy.parent / "script.py"
    script.write_text(SCRIPT)
    temporary = toy.parent / "t"
    temporary.mkdir()
    process = subprocess.Popen([sys.executable, script, toy, folder, "linger"], preexec_fn=listen_to_interrupts)
    watch = Watch(process.pid)
    deadline = time.monotonic() + 90
    while not (folder / moment).exists() and time.monotonic() < deadline and process.poll() is None:
        watch.look()
        time.sleep(0.05)
    watch.look()
    process.send_signal(number)
    return process.wait(timeout=30), watch


def test_ctrl_c_ends_everything(toy):
    exit_code, watch = interrupted(toy, signal.SIGINT, "answered")
    assert exit_code == 130
    watch.assert_all_ended()


@pytest.mark.slow
def test_sigkill_of_the_launcher_ends_everything(toy):
    exit_code, watch = interrupted(toy, signal.SIGKILL, "answered")
    assert exit_code == -signal.SIGKILL
    watch.assert_all_ended(within_seconds=10)


@pytest.mark.slow
def test_a_killed_simulation_process_is_reported_at_once(toy):
    watch = Watch(os.getpid())
    outcome, _ = launch(toy, "die", watch)
    assert outcome.status == "failed"
    assert "ended by signal 9" in outcome.details
    watch.assert_all_ended()


@pytest.mark.slow
def test_an_exception_of_the_caller_ends_everything(toy, tmp_path):
    watch = Watch(os.getpid())

    def on_poll() -> None:
        watch.look()
        if (tmp_path / "answered").exists():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_in_flower(
            {"folder": str(tmp_path), "behaviour": "linger"}, 2, 1, log_file=tmp_path / "log", app=toy, on_poll=on_poll
        )
    watch.assert_all_ended()


@pytest.mark.slow
def test_two_runs_at_once_do_not_meet(toy, tmp_path):
    outcomes: dict[str, FlowerOutcome] = {}

    def run(name: str) -> None:
        folder = tmp_path / name
        folder.mkdir()
        config = {"folder": str(folder), "text": name}
        outcomes[name] = run_in_flower(config, 2, 1, log_file=folder / "log", app=toy)

    threads = [threading.Thread(target=run, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    homes = set()
    for name in ("one", "two"):
        assert outcomes[name].status == "completed"
        result = json.loads((tmp_path / name / "result.json").read_text())
        assert result["text"] == name
        homes |= {reply["FLWR_HOME"] for reply in result["replies"]}
        assert len(result["replies"]) == 2
    assert len(homes) == 2


@pytest.mark.slow
def test_verbose_copies_flowers_words_to_the_terminal(toy, tmp_path, capfd):
    run_in_flower({"folder": str(tmp_path)}, 2, 1, log_file=tmp_path / "log", app=toy, verbose=True)
    assert "Starting Flower Simulation" in capfd.readouterr().err


def test_an_undeclared_run_key_is_refused_in_one_line(toy, tmp_path):
    with pytest.raises(LaunchError, match=r"refused the run: .*\n.*flower\.log"):
        run_in_flower({"colour": "blue"}, 2, 1, log_file=tmp_path / "flower.log", app=toy)


def test_a_folder_that_is_no_app_is_refused(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    with pytest.raises(LaunchError, match="is no Flower app"):
        run_in_flower({}, 2, 1, log_file=tmp_path / "flower.log", app=tmp_path)


def test_the_app_folder_says_what_the_repository_says(tmp_path):
    folder = app_folder(tmp_path)
    ours = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    made = tomllib.loads((folder / "pyproject.toml").read_text())
    assert made["tool"]["flwr"] == ours["tool"]["flwr"]
    for key in ("name", "version", "description", "license"):
        assert made["project"][key] == ours["project"][key]
    assert any(line.startswith("flwr[simulation]") for line in made["project"]["dependencies"])
    assert not any("pytest" in line for line in made["project"]["dependencies"])


def test_the_bundle_holds_all_our_code_and_nothing_else(tmp_path):
    from flwr.supercore.utils import is_valid_name

    from fedgraft.simulation.flower_control import bundle

    folder = app_folder(tmp_path)
    assert is_valid_name(folder.name)[0]
    bundled = set(zipfile.ZipFile(BytesIO(bundle(folder))).namelist())
    code = {
        path.relative_to(REPOSITORY).as_posix()
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert code <= bundled
    assert {name.partition("/")[0] for name in bundled} <= {*PACKAGES, "pyproject.toml", ".info"}


def test_the_app_folder_is_made_from_an_installed_copy_too(tmp_path):
    """The packages lie in a folder as pip leaves them; the working folder holds another `server`."""
    site = app_folder(tmp_path / "made")  # stands for site-packages
    (site / "server" / "marker.py").write_text("")
    decoy = tmp_path / "project" / "server"
    decoy.mkdir(parents=True)
    (decoy / "__init__.py").write_text("raise RuntimeError('the decoy was imported')")
    code = textwrap.dedent("""
        import sys, pathlib
        from fedgraft.simulation.app_folder import app_folder
        print(app_folder(pathlib.Path(sys.argv[1])))
    """)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", code, str(tmp_path / "again")]
    subprocess.run(command, cwd=decoy.parent, env=environment, check=True, capture_output=True)
    copied = tmp_path / "again" / "fedgraft" / "server"
    assert (copied / "marker.py").exists()
    assert "decoy" not in (copied / "__init__.py").read_text()


TRACEBACK = """\
INFO :      Starting Flower Simulation
ERROR :     Simulation raised an exception
Traceback (most recent call last):
  File "a.py", line 1, in main
    raise error
{last}
"""


@pytest.mark.parametrize(
    ("details", "last", "expected"),
    [
        ("Simulation failed with exception: 'weights'", "KeyError: 'weights'", "KeyError: 'weights'"),
        (
            "Simulation failed with exception: no such cut; use penultimate",
            "fedgraft.errors.ModelError: no such cut; use penultimate",
            "no such cut; use penultimate",
        ),
        ("Simulation failed with exception: two\nlines", "fedgraft.errors.DataError: two\nlines", "two\nlines"),
        ("Simulation failed with exception: ", "AssertionError", "AssertionError"),
        ("Simulation failed with exception: Simulation Runtime crashed.", "OSError: disk full", "OSError: disk full"),
        (
            "Simulation failed with exception: An error was encountered. Ending simulation.",
            "ValueError: ActorPool is empty. Stopping Simulation.",
            "a host asks for more of a GPU than Ray finds on this machine; lower the GPUs for each host, or use none",
        ),
    ],
)
def test_the_reason_is_the_exceptions_own(details, last, expected):
    assert reason(details, TRACEBACK.format(last=last)) == expected


def test_what_a_client_raised_earlier_is_not_the_reason():
    earlier = TRACEBACK.replace("Simulation raised an exception", "a client").format(last="ValueError: borne")
    log = earlier + TRACEBACK.format(last="OSError: disk full")
    assert reason("Simulation Runtime crashed.", log) == "OSError: disk full"


def test_actors_never_outnumber_hosts_or_the_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert divide(2, 1.0, 0.0).num_actors == 2  # not eight
    assert divide(100, 1.0, 0.0).num_actors == 8
    assert divide(100, 0.5, 0.0).num_actors == 16
    assert divide(3, 16.0, 0.0).num_actors == 1  # too much asked: one at a time, not none
    with pytest.raises(LaunchError, match="at least one host"):
        divide(0, 1.0, 0.0)
