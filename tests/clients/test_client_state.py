"""Client state: rows in tables, files a shard and version, and what a host does when it lacks a version."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_scenario import Site, head_of, naming, request

from clients.host import forget_hosts
from clients.state.files import KEPT, state_folder
from clients.state.tables import Layout, StateTable
from clients.state.versions import ClientStates
from fedgraft.errors import StoreError, WireError
from fedgraft.progress import listening
from fedgraft.submission import RunFacts
from fedgraft.tensor_files import read_tensors, save_tensors
from fedgraft.wire.requests import HalfSettings, StateSettings

SHAPES = {"weight": (2, 3), "bias": (2,)}
LAYOUT = Layout(np.array([3, 0, 5, 4, 2]), np.array([True, False, False, True, True]), 2, SHAPES)
SHARDS, NAMES = np.array([0, 0, 1, 1, 1]), list("abcde")


def filled(table: StateTable, by: float = 0.0) -> None:
    """Write numbers that name their client."""
    for client in (0, 3, 4):
        size = int(table.layout.sizes[client])
        table.keep_coefficients(np.array([client]), np.full((1, size, 2), 10.0 * client + by + 1))
    table.keep_heads(np.array([2]), {name: np.full((1, *shape), 20.0 + by + 1) for name, shape in SHAPES.items()})


def test_rows_are_each_client_s_own() -> None:
    table = StateTable(LAYOUT, "span")
    assert (table.span.shape, table.head.shape) == ((3 + 4 + 2, 2), (1, 8))
    filled(table)
    values = table.coefficients(np.array([0, 3, 4]), 5)
    assert values[:, :, 0].tolist() == [[1, 1, 1, 0, 0], [31, 31, 31, 31, 0], [41, 41, 0, 0, 0]]
    assert {name: value.tolist() for name, value in table.heads(np.array([2])).items()} == {
        "weight": [[[21.0] * 3] * 2],
        "bias": [[21.0, 21.0]],
    }
    table.keep_coefficients(np.array([3]), np.zeros((1, 4, 2)))
    assert table.span[:, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 41, 41]  # neighbours are not touched


def test_heads_come_back_in_shape() -> None:
    table = StateTable(Layout(np.array([1, 1]), np.zeros(2, dtype=np.bool_), 2, SHAPES), "head")
    values = {name: np.random.default_rng(0).normal(size=(2, *shape)) for name, shape in SHAPES.items()}
    table.keep_heads(np.array([1, 0]), values)
    for name, value in table.heads(np.array([1, 0])).items():
        np.testing.assert_array_equal(value, values[name].astype(np.float32))


def test_the_order_of_names_means_nothing() -> None:
    """A head that comes from a file names its arrays in another order than one that was made."""
    turned = Layout(LAYOUT.sizes, LAYOUT.dual, 2, dict(reversed(SHAPES.items())))
    one, other = StateTable(LAYOUT, "head"), StateTable(turned, "head")
    values = {name: np.random.default_rng(0).normal(size=(1, *shape)) for name, shape in SHAPES.items()}
    one.keep_heads(np.array([2]), values)
    other.head[...] = one.head
    for name, value in other.heads(np.array([2])).items():
        np.testing.assert_array_equal(value, values[name].astype(np.float32))


def test_of_kind_head_nothing_is_in_coefficients() -> None:
    table = StateTable(LAYOUT, "head")
    assert (table.span.shape, table.head.shape) == ((0, 2), (4, 8))  # client b has no samples, and no state


def test_a_hundred_thousand_clients_cost_two_arrays() -> None:
    """20 samples and 10 classes: 80 MB of coefficients, a 64th of the 5.1 GB that heads of 1280 x 10 would take."""
    layout = Layout(np.full(100_000, 20), np.ones(100_000, dtype=np.bool_), 10, {"weight": (10, 1280), "bias": (10,)})
    gc.collect()
    before = len(gc.get_objects())
    states = ClientStates(layout, {"control": "span"}, np.zeros(100_000, dtype=np.int64), ["x"] * 100_000, None)
    assert len(gc.get_objects()) - before < 100
    table = states.tables["control"]
    assert (table.span.nbytes, table.head.nbytes) == (100_000 * 20 * 10 * 4, 0)
    some = np.arange(0, 100_000, 7)
    table.keep_coefficients(some, np.ones((len(some), 20, 10)))
    assert float(table.span.sum()) == len(some) * 200
    assert sum(part.nbytes for part in table.part(25_000, 75_000).values()) == 50_000 * 20 * 10 * 4


def states_of(folder: Path | None) -> ClientStates:
    return ClientStates(LAYOUT, {"control": "span"}, SHARDS, NAMES, folder)


def step(states: ClientStates, shard: int, version: int, becomes: int, keep: bool = False) -> bool:
    """Have one exchange of a shard, after which its numbers name the version."""
    if not states.start_from(shard, version):
        return False
    with states.becoming(shard, becomes):
        first, last = (0, 2) if shard == 0 else (2, 5)
        for part in states.tables["control"].part(first, last).values():
            part[...] = becomes
    if keep:
        states.keep(shard)
    return True


def numbers(states: ClientStates) -> list[float]:
    """Return one number a client with state, in the order of clients."""
    table = states.tables["control"]
    return [*(float(table.span[row, 0]) for row in (0, 3, 7)), float(table.head[0, 0])]


def test_versions_follow_each_other_a_shard(tmp_path: Path) -> None:
    states = states_of(tmp_path)
    assert step(states, 0, 0, 1) and step(states, 1, 0, 1) and step(states, 1, 1, 2)  # noqa: PT018  # one course
    assert numbers(states) == [1, 2, 2, 2]
    assert list(tmp_path.iterdir()) == []  # nothing was to be kept


def test_another_host_goes_on_from_the_files(tmp_path: Path) -> None:
    states = states_of(tmp_path)
    for version in (0, 1, 2):
        step(states, 1, version, version + 1, keep=version == 1)
    step(states, 0, 0, 1, keep=True)
    other = states_of(tmp_path)
    assert other.start_from(1, 2)
    assert other.start_from(0, 1)
    assert numbers(other) == [1, 2, 2, 2]
    assert not states_of(tmp_path).start_from(1, 3)  # it stood in memory only
    assert not states_of(None).start_from(1, 2)


def test_hosts_of_other_shards_share_the_files(tmp_path: Path) -> None:
    """What one host wrote of both shards, a host of the second alone can read."""
    step(states_of(tmp_path), 1, 0, 1, keep=True)
    layout = Layout(LAYOUT.sizes[2:], LAYOUT.dual[2:], 2, SHAPES)
    alone = ClientStates(layout, {"control": "span"}, SHARDS[2:], NAMES[2:], tmp_path)
    assert alone.start_from(1, 1)
    assert alone.tables["control"].span[:, 0].tolist() == [1] * 6


def test_going_back_drops_what_is_later(tmp_path: Path) -> None:
    states = states_of(tmp_path)
    for version in range(3):
        step(states, 1, version, version + 1, keep=True)
    assert states.start_from(1, 1)
    assert numbers(states)[1:] == [1, 1, 1]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["shard-00001-version-00000001.safetensors"]
    assert states.start_from(1, 0)
    assert numbers(states) == [0, 0, 0, 0]
    assert list(tmp_path.iterdir()) == []


def test_the_last_versions_are_kept(tmp_path: Path) -> None:
    """One more than the server's two checkpoints: it may be killed before it writes the one that names the last."""
    states = states_of(tmp_path)
    for version in range(5):
        step(states, 1, version, version + 1, keep=True)
    (tmp_path / ".shard-00001-version-00000009.safetensors.x.tmp").write_text("left by a kill")
    states.keep(1)
    step(states, 1, 5, 6, keep=True)
    assert sorted(path.name[-20:-12] for path in tmp_path.iterdir()) == ["00000004", "00000005", "00000006"]
    assert KEPT == 3


def test_what_failed_is_no_version() -> None:
    states = states_of(None)
    step(states, 1, 0, 1)
    with pytest.raises(ZeroDivisionError), states.becoming(1, 2):
        raise ZeroDivisionError
    assert not states.start_from(1, 1)
    assert states.start_from(1, 0)


@pytest.mark.parametrize("damage", ["a bit", "the end"])
def test_damaged_files_are_noticed(tmp_path: Path, damage: str) -> None:
    step(states_of(tmp_path), 1, 0, 1, keep=True)
    path = next(tmp_path.iterdir())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data) if damage == "a bit" else bytes(data[:-7]))
    notes: list[Any] = []
    with listening(notes.append):
        assert not states_of(tmp_path).start_from(1, 1)
    assert [event["text"] for event in notes] == [f"client state {path.name} is damaged"]


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    step(states_of(tmp_path), 1, 0, 1, keep=True)
    path = next(tmp_path.iterdir())
    other = ClientStates(LAYOUT, {"control": "span"}, SHARDS, list("abxyz"), tmp_path)
    with pytest.raises(
        StoreError, match=r"is of other clients than shard 1 has now: .*put them back, or start a new run"
    ):
        other.start_from(1, 1)
    arrays, facts = read_tensors(path)
    save_tensors(path, arrays, {**facts, "schema": 99})
    with pytest.raises(StoreError, match=r"has schema 99, this release knows 1; resume with the release that wrote it"):
        states_of(tmp_path).start_from(1, 1)


def test_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert state_folder(RunFacts(run_id="12345678", directory="/a/run")) == Path("/a/run/client-state")
    assert state_folder(RunFacts(run_id="12345678")) == tmp_path / "fedgraft" / "client-state" / "12345678"


SCAFFOLD = {"half": HalfSettings(name="control_variate"), "sums": ("update", "control")}


def extra(head: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"control.{name}": np.full(value.shape, 0.01, dtype=np.float32) for name, value in head.items()}


def ask(
    site: Site, version: int, becomes: int, *index: int, keep: bool = False, pass_on: bool = False, **changes: Any
) -> Any:
    head = head_of()
    groups = {"head": head, "clients": naming(*index), "extra": extra(head)}
    state = StateSettings(version=version, becomes=becomes, keep=keep, pass_on=pass_on)
    return site.ask(request(**{**SCAFFOLD, "state": state, "shard": 0, **changes}), groups)


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    """Every test starts with hosts that remember nothing, and a run without files."""
    forget_hosts()
    shutil.rmtree(state_folder(RunFacts(run_id="00000000-0000-0000-0000-000000000001")), ignore_errors=True)


@pytest.mark.parametrize("form", ["loop", "dual", "primal"])
def test_a_host_goes_on_from_what_it_wrote(form: str) -> None:
    """Forgotten between two exchanges: the same bits as a host that stayed."""
    train = {"local_epochs": 2, "batch_size": 4, "form": form, "optimizer": {"name": "sgd", "learning_rate": 0.1}}
    site = Site(train=train)
    _, first = ask(site, 0, 1, 0, 1, 2, keep=True)
    _, expected = ask(site, 1, 2, 0, 2, round_number=2)
    forget_hosts()
    body, second = ask(site, 1, 2, 0, 2, round_number=2)
    assert body.has_state
    assert set(second) >= {"update", "control"}
    for group in ("update", "control"):
        for name, value in expected[group].items():
            np.testing.assert_array_equal(second[group][name], value)
            assert np.abs(value).max() > 0
            assert not np.array_equal(value, first[group][name])


def test_processes_take_turns_at_being_a_host() -> None:
    """The second has nothing in memory, the third an old version; what a checkpoint names outlives them all."""
    site, stays = Site(), []
    for version in range(7):
        stays.append(ask(site, version, version + 1, 0, 1, 2, round_number=version + 1)[1])
    forget_hosts()
    for version in range(7):
        body, groups = ask(
            site, version, version + 1, 0, 1, 2, keep=version == 0, pass_on=True, round_number=version + 1
        )
        assert body.has_state
        for group in ("update", "control"):
            for name, value in stays[version][group].items():
                np.testing.assert_array_equal(groups[group][name], value)
        if version != 3:  # here the same process goes on
            forget_hosts()
    assert ask(site, 1, 2, 0, 1, 2, round_number=2)[0].has_state
    forget_hosts()
    assert not ask(site, 7, 8, 0, 1, 2, round_number=8)[0].has_state  # the run went back


def test_a_host_that_lacks_a_version_says_so_and_does_nothing() -> None:
    site = Site()
    ask(site, 0, 1, 0, 1, 2, keep=True)
    ask(site, 1, 2, 0, 1, 2, round_number=2)
    forget_hosts()
    body, groups = ask(site, 2, 3, 0, 1, 2, round_number=3)
    assert (body.has_state, body.num_clients, body.scalars, groups) == (False, 3, {}, {})
    assert ask(site, 1, 2, 0, 1, 2, round_number=2)[0].has_state


def test_who_takes_no_part_is_kept_too() -> None:
    """A checkpoint's exchange reaches all hosts; one that names nobody changes nothing, and writes what there is."""
    site = Site()
    ask(site, 0, 1, 0, 1, 2)
    body, groups = ask(site, 1, 2, keep=True, round_number=2)
    assert (body.num_clients, body.scalars) == (0, {"weight": 0})
    assert all(not value.any() for name in ("update", "control") for value in groups[name].values())
    forget_hosts()
    assert ask(site, 1, 3, 0, round_number=3)[0].has_state


def test_bad_requests_are_refused() -> None:
    site, head = Site(), head_of()
    groups = {"head": head, "clients": naming(0), "extra": extra(head)}
    with pytest.raises(WireError, match="names no version of client state, but the half 'control_variate' keeps some"):
        site.ask(request(**SCAFFOLD), groups)
    with pytest.raises(WireError, match="names a version of client state, but the half 'plain' keeps none"):
        site.ask(request(state=StateSettings(version=0, becomes=1)), {"head": head, "clients": naming(0)})
    with pytest.raises(WireError, match=r"for the half 'plain': unexpected control\.bias, control\.weight"):
        site.ask(request(), groups)
    state = StateSettings(version=0, becomes=1)
    for name, value, text in (
        ("control.bias", np.zeros(2, dtype=np.float32), r"control\.bias has shape \(2,\), expected \(3,\)"),
        ("control.bias", np.zeros(3), "control.bias is float64, expected float32"),
        ("control.bias", np.full(3, np.nan, dtype=np.float32), "3 of 3 values that are not finite"),
        ("other", np.zeros(3, dtype=np.float32), "unexpected other"),
    ):
        with pytest.raises(WireError, match=text):
            site.ask(request(**SCAFFOLD, state=state), {**groups, "extra": {**extra(head), name: value}})
    with pytest.raises(WireError, match="names clients of other shards than 1, whose state it names"):
        site.ask(request(**SCAFFOLD, state=state, shard=1), groups)
