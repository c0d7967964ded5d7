"""Who means harm: a site that sends wrong numbers, and a server that sends code to its sites."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.fab import Fab
from local_fleet import Seen, ledgers, run, running_fleet, wait_for

from clients.site.desk import Desk
from clients.site.window import hand_over, note_refusal
from fedgraft.deployment.processes import known_bundle
from fedgraft.errors import FedGraftError
from fedgraft.rehearsal import Fleet
from fedgraft.simulation.flower_control import bundle
from fedgraft.wire.records import pack, unpack
from fedgraft.wire.requests import TrainReply
from server.deployment.control import Control

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Groups = dict[str, dict[str, Any]]
Lie = Callable[[TrainReply, Groups, dict[int, RecordDict]], RecordDict]
"""Makes another answer of an honest one; the last argument holds the honest answers by round."""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file that all processes' lines go into."""
    return tmp_path_factory.mktemp("log") / "processes.log"


@pytest.fixture(scope="module")
def running(cache_of_the_session: None, log: Path) -> Iterator[Fleet]:
    with running_fleet(log_file=log) as found:
        yield found


# --- a site ----------------------------------------------------------------------------------------------------------


def nan(body: TrainReply, groups: Groups, _: dict[int, RecordDict]) -> RecordDict:
    groups["update"]["bias"][0] = np.nan
    return pack(body, groups)


def cut_short(body: TrainReply, groups: Groups, _: dict[int, RecordDict]) -> RecordDict:
    groups["update"]["weight"] = groups["update"]["weight"][:, :-1]
    return pack(body, groups)


def huge(body: TrainReply, groups: Groups, _: dict[int, RecordDict]) -> RecordDict:
    groups["update"]["weight"] = np.full_like(groups["update"]["weight"], 1e30)
    return pack(body, groups)


def replayed(body: TrainReply, groups: Groups, honest: dict[int, RecordDict]) -> RecordDict:
    return honest[1]


def overweight(body: TrainReply, groups: Groups, _: dict[int, RecordDict]) -> RecordDict:
    return pack(body.model_copy(update={"scalars": {"weight": 1e12}}), groups)


def garbage(body: TrainReply, groups: Groups, _: dict[int, RecordDict]) -> RecordDict:
    return RecordDict()


LIES: dict[int, tuple[Lie, str]] = {
    2: (nan, "1 of 10 values that are not finite"),
    3: (cut_short, "weight has shape (10, 63), expected (10, 64)"),
    4: (huge, "more than 1000 (server.largest_update_norm)"),
    5: (replayed, "is for round 1, expected 5; a stale reply"),
    6: (overweight, "is weighted with 1e+12 training samples, described were"),
    7: (garbage, "has no body"),
}
"""What clinic-3 answers in a round, and what the server says of it; in all others it is honest."""


@contextlib.contextmanager
def lying(window: Path) -> Iterator[None]:
    """Stand between a site's messenger and its resident host, and change what the host answers."""
    behind, honest = window.with_name("behind.sock"), dict[int, RecordDict]()

    def answer(kind: str, scenario: str, record: RecordDict) -> RecordDict:
        reply = hand_over(behind, kind, scenario, record)
        if kind != "train":
            return reply
        body, groups = unpack(reply, TrainReply, "honest reply")
        honest[body.round_number] = reply
        lie = LIES.get(body.round_number)
        return reply if lie is None else lie[0](body, groups, honest)

    def note(kind: str, scenario: str, text: str) -> None:
        note_refusal(behind, kind, scenario, text)

    window.rename(behind)
    try:
        threading.Thread(target=Desk(window, {os.getuid()}).serve, args=(answer, note), daemon=True).start()
        yield
    finally:
        behind.rename(window)


def test_wrong_numbers_of_a_site_are_refused_and_the_others_go_on(running: Fleet, tmp_path: Path) -> None:
    with lying(Path(running.sites[2].settings.socket)):
        done, notes = run(running, tmp_path / "run", server={"rounds": 8})
    rows = [row for row in done.metrics if row["group"] == "train"]
    assert [row["num_clients"] for row in rows] == [2 if number in LIES else 3 for number in range(1, 9)]
    refused = [note for note in notes if note.startswith("the answer of clinic-3 to 'train' is refused: ")]
    assert len(refused) == len(LIES)
    for (_, text), note in zip(LIES.values(), refused, strict=True):
        assert text in note
    assert done.summary["validation"]["accuracy"] > 0.8


# --- a server --------------------------------------------------------------------------------------------------------

HOSTILE_CLIENT = """
import glob, os, socket
try:
    open({marker!r}, "a").write("imported by user %d\\n" % os.getuid())
except OSError:
    pass
from flwr.app import Message, RecordDict, ConfigRecord
from flwr.clientapp import ClientApp

app = ClientApp()


def steal(message, context):
    found = [open(path, "rb").read()[:100].hex() for path in {data!r}]
    return Message(RecordDict({{"loot": ConfigRecord({{"data": found}})}}), reply_to=message)


app.train()(steal)
app.evaluate()(steal)
app.query("describe")(steal)
"""

HOSTILE_SERVER = """
import json, time
from flwr.app import Message, RecordDict, ConfigRecord
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    nodes = {{node.node_id: node.name for node in grid.get_nodes()}}
    asked = {{}}
    for kind in ("query.describe", "train"):
        content = RecordDict({{"x": ConfigRecord({{"y": 1}})}})
        messages = [Message(content, dst_node_id=node, message_type=kind) for node in nodes]
        asked |= dict(zip(grid.push_messages(messages), messages))
    came, ends = [], time.time() + 40
    while asked and time.time() < ends:
        for reply in grid.pull_messages(list(asked)):
            sent = asked.pop(reply.metadata.reply_to_message_id)
            error = [reply.error.code, reply.error.reason] if reply.has_error() else None
            loot = None if error else str(reply.content)
            row = {{"site": nodes[sent.metadata.dst_node_id], "kind": sent.metadata.message_type}}
            came.append({{**row, "error": error, "loot": loot}})
        time.sleep(0.2)
    with open({report!r}, "w") as file:
        json.dump(came, file)
"""

PYPROJECT = """\
[project]
name = "fedgraft"
version = "0.1.0"
description = "FedGraft"
license = "Apache-2.0"
dependencies = ["flwr"]

[tool.flwr.app]
publisher = "fedgraft"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "clients.app:app"

[tool.flwr.app.config]
scenario = "quickstart"
"""


class Hostile:
    """A bundle that calls itself FedGraft's, and what comes of it.

    Attributes:
        marker: written by its ClientApp, should it ever be imported.
        report: what came back to its ServerApp.
        content: the bundle.
    """

    def __init__(self, folder: Path, running: Fleet) -> None:
        self.marker, self.report = folder / "marker", folder / "report.json"
        data = [str(getattr(site.settings.data.source, "path")) for site in running.sites if site.settings.data]  # noqa: B009
        app = folder / "fedgraft"
        for name, text in (
            ("clients/app.py", HOSTILE_CLIENT.format(marker=str(self.marker), data=data)),
            ("server/app.py", HOSTILE_SERVER.format(report=str(self.report))),
            ("clients/__init__.py", ""),
            ("server/__init__.py", ""),
            ("pyproject.toml", PYPROJECT),
        ):
            path = app / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.content = bundle(app)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def start(self, control: Control) -> int:
        """Start a run of it, as whoever reaches the SuperLink can."""
        request = StartRunRequest(
            fab=fab_to_proto(Fab(self.digest, self.content, {})),
            override_config=user_config_to_proto({"scenario": "quickstart"}),
        )
        return int(control._client.StartRun(request).run_id)


@pytest.fixture
def hostile(running: Fleet, tmp_path: Path) -> Hostile:
    return Hostile(tmp_path, running)


def test_no_code_of_a_hostile_bundle_runs_at_a_site(running: Fleet, hostile: Hostile, log: Path) -> None:
    """Its ServerApp asks all sites; every site refuses by name, and writes that into its ledger before it says so."""
    before = {name: len(lines) for name, lines in ledgers(running).items()}
    with Control(running.server) as control:
        run_id = hostile.start(control)
        wait_for(running, lambda: control.run(run_id).finished)
        assert control.run(run_id).status == "finished:completed", control.run(run_id).details
    assert not hostile.marker.exists()
    came = json.loads(hostile.report.read_text())
    names = [site.settings.name for site in running.sites]
    assert sorted((row["site"], row["kind"]) for row in came) == [
        (name, kind) for name in names for kind in ("query.describe", "train")
    ]
    for row in came:
        code, reason = row["error"]
        assert code == 7  # Flower's INVALID_FAB
        assert reason.startswith(f"{row['site']} knows no bundle {hostile.digest[:12]}")
    text = log.read_text()
    for name, lines in ledgers(running).items():
        new = [line.entry for line in lines[before[name] :]]
        assert [entry.outcome for entry in new] == ["refusal", "refusal"]
        assert sorted(entry.request for entry in new) == ["query.describe", "train"]
        assert all(entry.text.startswith(f"{name} knows no bundle {hostile.digest[:12]}") for entry in new)
        assert not any(entry.arrays for entry in new)
        assert f"{name} messenger: refused 'train': {name} knows no bundle" in text


def test_a_bundle_that_claims_a_trusted_hash_is_not_believed(
    running: Fleet, hostile: Hostile, log: Path, tmp_path: Path
) -> None:
    """The server's owner can write into the SuperLink's database: there the trusted hash stands for hostile code.

    The SuperNodes end over it, and are started again.
    """
    trusted, runs = known_bundle(), Path(running.server.settings.runs)
    before = set(runs.glob("*/run.json"))
    written = {name: len(lines) for name, lines in ledgers(running).items()}

    def swap(_: Seen) -> Iterator[None]:
        while not set(runs.glob("*/run.json")) - before:  # the server's part runs, and no site has been asked
            yield
        with contextlib.closing(sqlite3.connect(running.server.settings.database, timeout=30)) as database, database:
            database.execute("UPDATE fab SET content = ? WHERE fab_hash = ?", (hostile.content, trusted))
            assert database.total_changes == 1

    with pytest.raises(FedGraftError, match="0 of 3 sites answered 'describe', 2 are needed"):
        run(running, tmp_path / "stolen", swap, server={"rounds": 1, "timeout_seconds": 30.0})
    assert not hostile.marker.exists()
    assert {name: len(lines) for name, lines in ledgers(running).items()} == written
    assert log.read_text().count("FAB hash mismatch") >= 3
    done, _ = run(
        running, tmp_path / "run"
    )  # and the sites, whose SuperNodes were started again, answer an honest server
    assert [row["num_clients"] for row in done.metrics if row["group"] == "train"] == [3, 3, 3]
