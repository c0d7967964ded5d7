"""The roster: which clients there are, which host speaks for each, and what they have."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedgraft import __version__
from fedgraft.attack_settings import AttackSettings
from fedgraft.attackers import attackers
from fedgraft.data.labels import names_differ
from fedgraft.errors import WireError, listed
from fedgraft.models.losses import Task
from fedgraft.progress import report
from fedgraft.wire.protocol import code_digest
from fedgraft.wire.records import expect, pack, unpack
from fedgraft.wire.requests import DescribeRequest, Description
from fedgraft.wire.shards import shard_of_client
from server.checkpoint import Counters
from server.exchange import exchange
from server.sites import Sites, ask_sites

NODE_WAIT_SECONDS = 120.0


@dataclass(frozen=True)
class Call:
    """One message's addressees: some clients of one shard, all at one host.

    Attributes:
        node: Flower's id of the host.
        shard: the shard's number.
        clients: `(num,)` positions in the roster, ascending.
        index: `(num,)` the same clients' positions in their host's description.
    """

    node: int
    shard: int
    clients: NDArray[np.int64]
    index: NDArray[np.int64]


@dataclass(frozen=True)
class Roster:
    """All clients in the order of their names, whatever host speaks for them.

    Attributes:
        names: the clients' names, sorted.
        nodes: `(num_clients,)` Flower's id of each client's host, of 64 bits without a sign.
        positions: `(num_clients,)` each client's position in its host's description.
        shards: `(num_clients,)` shard numbers.
        num_train: `(num_clients,)` training samples.
        num_validation: `(num_clients,)` validation samples.
        descriptions: each host's description, by node.
        task_train: `(num_clients, num_tasks)` training samples of each task's classes, where these arrive task by task.
        task_validation: the same of validation samples.
        num_unlabelled: `(num_clients,)` training samples without labels, which are not among `num_train`.
    """

    names: tuple[str, ...]
    nodes: NDArray[np.uint64]
    positions: NDArray[np.int64]
    shards: NDArray[np.int64]
    num_train: NDArray[np.int64]
    num_validation: NDArray[np.int64]
    descriptions: dict[int, Description]
    task_train: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))
    task_validation: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))
    num_unlabelled: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def with_unlabelled(self) -> Roster:
        """Return the roster for what needs no labels: all training samples, with labels or without."""
        return replace(self, num_train=self.num_train + self.num_unlabelled) if len(self.num_unlabelled) else self

    def at_task(self, number: int) -> Roster:
        """Return the roster during a task (from 1): with training samples of its classes, validation of all so far."""
        seen = self.task_validation[:, :number].sum(axis=1)
        return replace(self, num_train=self.task_train[:, number - 1], num_validation=seen)

    @property
    def task(self) -> Task:
        """What the targets are."""
        return next(iter(self.descriptions.values())).task

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return next(iter(self.descriptions.values())).label_names

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns of ready features; nothing where they have none."""
        return next(iter(self.descriptions.values())).feature_names

    def attackers(self, settings: AttackSettings, seed: int) -> tuple[str, ...]:
        """Return the names of the clients that lie, sorted."""
        return tuple(
            self.names[client] for client in np.flatnonzero(attackers(settings, seed, self.names, self.num_train))
        )

    def of(self, call: Call) -> NDArray[np.bool_]:
        """Return `(num_clients,)` which clients are of a call's shard and host, whether or not it names them."""
        found: NDArray[np.bool_] = (self.shards == call.shard) & (self.nodes == np.uint64(call.node))
        return found

    def calls(self, clients: NDArray[np.int64], to_all: bool = False) -> list[Call]:
        """Return the messages that reach the given clients: one a shard and host, in shard order.

        Args:
            clients: positions in the roster, ascending.
            to_all: whether there is a message also to a shard and host that has none of them, naming nobody.
        """
        calls = []
        reached = np.arange(len(self.names)) if to_all else clients
        for shard in np.unique(self.shards[reached]):
            members = clients[self.shards[clients] == shard]
            for node in dict.fromkeys(self.nodes[reached[self.shards[reached] == shard]].tolist()):
                chosen = members[self.nodes[members] == node]
                calls.append(Call(int(node), int(shard), chosen, self.positions[chosen]))
        return calls


def wait_for_nodes(grid: Grid, num_hosts: int) -> list[int]:
    """Return the ids of the hosts once all of them are there.

    Raises:
        WireError: some did not come within `NODE_WAIT_SECONDS`.
    """
    started = time.perf_counter()
    while len(nodes := sorted(grid.get_node_ids())) < num_hosts:
        if time.perf_counter() - started > NODE_WAIT_SECONDS:
            raise WireError(f"{len(nodes)} of {num_hosts} hosts came within {NODE_WAIT_SECONDS:g} s")
        time.sleep(0.1)
    return nodes


def call_the_roll(
    grid: Grid, run_id: str, num_hosts: int, num_shards: int, counters: Counters, timeout_seconds: float
) -> Roster:
    """Ask every host for whom it speaks.

    Raises:
        WireError: a host runs other code, two hosts speak for one client, hosts disagree about labels, or
            there is no client at all.
    """
    descriptions: dict[int, Description] = {}
    tables: dict[int, Table] = {}
    while len(descriptions) < num_hosts:
        nodes = [node for node in wait_for_nodes(grid, num_hosts) if node not in descriptions]
        for node, (description, table) in zip(nodes, _ask(grid, nodes, run_id, counters, timeout_seconds), strict=True):
            descriptions[node], tables[node] = description, table
        # Only the hosts know how many they are when the run was started by Flower's own command line.
        num_hosts = max(num_hosts, *(description.num_hosts for description in descriptions.values()))
    _check_agreement(descriptions)
    return _assemble(descriptions, tables, num_shards)


def call_the_sites(grid: Grid, run_id: str, sites: Sites, num_shards: int, counters: Counters) -> Roster:
    """Ask every site for whom it speaks; sites that can't take part are named and left out.

    Raises:
        HostError: too few sites can.
        WireError: two sites speak for one client, or they disagree about labels.
    """
    nodes = sites.wait(grid)
    request = DescribeRequest(run_id=run_id)
    messages = [Message(pack(request), dst_node_id=node, message_type="query.describe") for node in nodes]
    found = ask_sites(grid, sites, messages, counters, "describe")
    descriptions: dict[int, Description] = {}
    tables: dict[int, Table] = {}
    faults: dict[int, str] = {}
    for place in sorted(found):
        node = nodes[place]
        try:
            what = f"the description of {sites.named([node])}"
            description, groups = unpack(found[place].content, Description, what)
            _check_release(description)
            table = _client_table(sites.named([node]), groups.get("clients"))
            if table[3].shape[1]:
                raise WireError("it counts samples by task, and runs at sites have no tasks")
            descriptions[node], tables[node] = description, table
        except WireError as error:
            faults[node] = str(error)
            report("note", text=f"{sites.named([node])} takes no part: {error}")
    sites.check_quorum(set(descriptions), "describe", faults)
    _check_agreement(descriptions, sites)
    roster = _assemble(descriptions, tables, num_shards)
    report("note", text=f"who takes part: {_sizes(sites, tables)}")
    return roster


def _sizes(sites: Sites, tables: Mapping[int, Table]) -> str:
    return listed(
        f"{sites.named([node])} ({int(table[1].sum()):,} training samples"
        + (f" of {len(table[0])} clients)" if len(table[0]) > 1 else ")")
        for node, table in sorted(tables.items(), key=lambda entry: sites.named([entry[0]]))
    )


def _check_release(description: Description) -> None:
    """Refuse a site that runs another release; the digest of its code may differ, as it has installed its own.

    Raises:
        WireError: names both releases.
    """
    if description.release != __version__:
        raise WireError(
            f"it runs FedGraft {description.release}, the server {__version__}; install the same release on both sides"
        )


Table = tuple[list[str], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Names, training and validation samples, the same of each task, `(num_clients, num_tasks)`, and samples without
labels."""


def _ask(
    grid: Grid, nodes: Sequence[int], run_id: str, counters: Counters, timeout_seconds: float
) -> list[tuple[Description, Table]]:
    """Return what some hosts say of themselves, in order."""
    request = DescribeRequest(run_id=run_id)
    messages = [Message(pack(request), dst_node_id=node, message_type="query.describe") for node in nodes]
    answers = []
    for node, reply in zip(nodes, exchange(grid, messages, counters, "describe", timeout_seconds), strict=True):
        description, groups = unpack(reply.content, Description, f"description from host {node}")
        _check_code(node, description)
        answers.append((description, _client_table(f"host {node}", groups.get("clients"))))
    return answers


def _client_table(host: str, arrays: Any) -> Table:
    what = f"clients of {host}"
    if not arrays or "names" not in arrays or arrays["names"].dtype != np.uint8:
        raise WireError(f"{what}: names are missing")
    try:
        text = arrays["names"].tobytes().decode()
    except UnicodeDecodeError as error:
        raise WireError(f"{what}: names are not UTF-8: {error}") from error
    names = text.split("\n") if text else []
    num_tasks = arrays["task_train"].shape[-1] if "task_train" in arrays and arrays["task_train"].ndim else 0
    columns = {"num_train": (len(names),), "num_validation": (len(names),)}
    more = {"num_unlabelled": (len(names),)} if "num_unlabelled" in arrays else {}
    by_task = {"task_train": (len(names), num_tasks), "task_validation": (len(names), num_tasks)} if num_tasks else {}
    expect(arrays, {"names": arrays["names"].shape, **columns, **more, **by_task}, what)
    for column in (*columns, *more, *by_task):
        if arrays[column].dtype.kind not in "iu" or (arrays[column] < 0).any():
            raise WireError(f"{what}: {column} must be whole numbers from 0")
    none = np.zeros((len(names), 0), dtype=np.int64)
    for part in ("train", "validation"):
        if num_tasks and (arrays[f"task_{part}"].sum(axis=1) != arrays[f"num_{part}"]).any():
            raise WireError(f"{what}: task_{part} does not add up to num_{part}")
    train, validation, task_train, task_validation = (
        np.asarray(arrays.get(name, none), dtype=np.int64) for name in (*columns, "task_train", "task_validation")
    )
    unlabelled = np.asarray(arrays.get("num_unlabelled", np.zeros(len(names))), dtype=np.int64)
    return names, train, validation, task_train, task_validation, unlabelled


def _check_code(node: int, description: Description) -> None:
    if description.code_digest != code_digest():
        raise WireError(
            f"host {node} runs other code ({description.code_digest[:12]}, release {description.release}) than "
            f"the server ({code_digest()[:12]}); start both from the same checkout, and Flower's local SuperLink "
            "from a folder without packages of these names"
        )


def _check_agreement(descriptions: dict[int, Description], sites: Sites | None = None) -> None:
    for what in ("task", "label_names", "feature_dim"):
        values = {getattr(description, what) for description in descriptions.values()}
        if len(values) > 1 and sites is not None:
            said = "; ".join(
                f"{sites.named([node])} says {getattr(one, what)}" for node, one in sorted(descriptions.items())
            )
            raise WireError(f"the sites disagree about {what.replace('_', ' ')}: {said}")
        if len(values) > 1:
            raise WireError(f"hosts disagree about {what}: {listed(str(value) for value in sorted(values))}")
    _check_feature_names(descriptions, sites)
    if len({description.host_costs for description in descriptions.values()}) > 1:
        raise WireError(
            "hosts disagree about which host speaks for which clients: they divide other data, or know the backbone "
            "differently; let all of them see the same files"
        )


def _check_feature_names(descriptions: dict[int, Description], sites: Sites | None) -> None:
    """Refuse hosts whose columns have other names or stand in another order: their numbers would be mixed up."""
    (first, ours), *others = sorted(descriptions.items())
    for node, theirs in others:
        if theirs.feature_names != ours.feature_names:
            one, other = [f"host {n}" if sites is None else sites.named([n]) for n in (first, node)]
            difference = names_differ(one, ours.feature_names, other, theirs.feature_names)
            raise WireError(
                f"all must have the same features in the same order: {difference}; name the columns in "
                "feature_columns at each"
            )


def _assemble(descriptions: dict[int, Description], tables: dict[int, Table], num_shards: int) -> Roster:
    names = [name for table in tables.values() for name in table[0]]
    if not names:
        raise WireError("no host speaks for any client")
    doubles = _doubles(names)
    if doubles:
        raise WireError(f"two hosts speak for {listed(doubles)}; each client needs one host")
    order = np.argsort(np.array(names), kind="stable")

    def column(values: Iterable[Sequence[int] | NDArray[np.int64]]) -> NDArray[np.int64]:
        return np.concatenate([np.asarray(value, dtype=np.int64) for value in values])[order]

    return Roster(
        names=tuple(names[position] for position in order),
        nodes=np.array([node for node, table in tables.items() for _ in table[0]], dtype=np.uint64)[order],
        positions=column(np.arange(len(table[0])) for table in tables.values()),
        shards=shard_of_client(len(names), num_shards),
        num_train=column(table[1] for table in tables.values()),
        num_validation=column(table[2] for table in tables.values()),
        descriptions=descriptions,
        task_train=_by_task([table[3] for table in tables.values()])[order],
        task_validation=_by_task([table[4] for table in tables.values()])[order],
        num_unlabelled=column(table[5] for table in tables.values()),
    )


def _by_task(tables: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the hosts' tables of clients by task, one below the other."""
    if len({table.shape[1] for table in tables if len(table)}) > 1:
        raise WireError("hosts disagree about the number of tasks; let all of them see the same files")
    num_tasks = max(table.shape[1] for table in tables)
    return np.concatenate([table.reshape(len(table), num_tasks) for table in tables])


def _doubles(names: list[str]) -> list[str]:
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
