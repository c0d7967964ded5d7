"""How samples fall to clients: flwr-datasets' partitioners, fed with rows shuffled from the scenario's seed."""

from __future__ import annotations

import contextlib
import io
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.data.ragged import Ragged, ascending, ragged
from fedgraft.data.samples import Indices, Names, Samples
from fedgraft.data.settings import (
    DirichletSettings,
    IidSettings,
    NaturalSettings,
    OneSettings,
    PartitionSettings,
    PathologicalSettings,
    ShardsSettings,
    SizesSettings,
)
from fedgraft.errors import DataError, listed, nearest
from fedgraft.randomness import key, orders

_BY_CLASS = ("dirichlet", "pathological", "shards")


@dataclass(frozen=True)
class Assignment:
    """Which samples fall to which client, before a cap and a validation part are taken."""

    client_names: tuple[str, ...]
    members: Ragged
    """Indices of samples, ascending within a client."""
    notes: tuple[str, ...] = ()


def partition_names() -> tuple[tuple[str, str], ...]:
    """Return `(name, description)` of each partition, for `fedgraft list partitions`."""
    return (
        ("iid", "equal random parts"),
        ("dirichlet", "each class shared out by a draw from a Dirichlet distribution; a small alpha is uneven"),
        ("pathological", "a fixed number of classes a client"),
        ("shards", "samples sorted by class and cut into shards, some shards a client"),
        ("sizes", "random parts of given sizes"),
        ("natural", "the owners that the data name: site folders, a csv's client column, an array 'client'"),
        ("one", "one owner of all samples, by a name"),
    )


def assign(samples: Samples, pool: Indices, settings: PartitionSettings, seed: int) -> Assignment:
    """Divide the samples of `pool` (ascending indices) among clients; every client is listed, empty or not.

    Raises:
        DataError: the partition does not suit the samples (more clients than samples, no natural clients, ...).
    """
    _check_task(samples, settings)
    _check_numbers(samples, pool, settings)
    if isinstance(settings, NaturalSettings) and settings.clients is not None and samples.natural_client is not None:
        return _chosen(samples, samples.natural_client, pool, settings.clients, seed)
    if isinstance(settings, OneSettings):
        return Assignment((settings.client,), ragged(pool, [len(pool)]))
    if isinstance(settings, NaturalSettings) and settings.into is not None and samples.natural_client is not None:
        return _dealt(samples.natural_client, pool, settings.into)
    # The partitioners cut runs of rows, so the rows are shuffled first, as flwr's FederatedDataset does.
    rows = pool[orders(key(seed, "partition rows"), len(pool))[0]]
    if isinstance(settings, ShardsSettings):
        rows = rows[np.argsort(samples.targets[rows], kind="stable")]
    columns: dict[str, NDArray[Any]] = {"row": np.arange(len(rows))}
    if settings.name in _BY_CLASS:
        columns["label"] = samples.targets[rows]
    if samples.natural_client is not None and settings.name == "natural":
        columns["owner"] = samples.natural_client[rows]
    parts, owners = _divide(columns, settings, int(key(seed, "partition")[0] >> np.uint64(1)))
    if samples.natural_client is not None and settings.name == "natural":
        names, parts = _with_absent_owners(samples, samples.natural_client, owners, parts)
    else:
        width = max(4, len(str(len(parts) - 1)))
        names = tuple(f"client-{number:0{width}}" for number in range(len(parts)))
    members = ascending(ragged(rows[np.concatenate(parts)], [len(part) for part in parts]))
    left_out = len(pool) - len(members.indices)
    line = f"the partition '{settings.name}' leaves out {left_out} of {len(pool)} samples"
    return Assignment(names, members, (line,) if left_out else ())


def _chosen(samples: Samples, natural_client: Names, pool: Indices, clients: tuple[str, ...], seed: int) -> Assignment:
    """Divide the samples of some owners; the samples of others are left out."""
    check_owners(natural_client, clients, "data.partition.clients")
    theirs = np.isin(natural_client, clients)
    all_of_them = assign(samples, pool[theirs[pool]], NaturalSettings(), seed)
    numbers = [number for number, name in enumerate(all_of_them.client_names) if name in clients]
    members = ragged(
        np.concatenate([all_of_them.members.of(number) for number in numbers]),
        [len(all_of_them.members.of(number)) for number in numbers],
    )
    names = tuple(all_of_them.client_names[number] for number in numbers)
    others = np.unique(natural_client[pool[~theirs[pool]]]).tolist()
    num_left_out = len(pool) - len(members.indices)
    line = f"{num_left_out:,} samples of {len(others)} owners that are no clients left out: {listed(others, 5)}"
    return Assignment(names, members, (line,) if num_left_out else ())


def check_owners(natural_client: Names, names: tuple[str, ...], key: str) -> None:
    """Refuse owners that the data do not name.

    Raises:
        DataError: names them, and those that there are.
    """
    there = np.unique(natural_client).tolist()
    unknown = [name for name in names if name not in there]
    if unknown:
        raise DataError(
            f"{key}: no samples of {listed(unknown, 5)}; the data name {listed(there, 10)}{nearest(unknown[0], there)}"
        )


def _dealt(natural_client: Names, pool: Indices, num_clients: int) -> Assignment:
    """Deal whole owners to clients: runs of owners in the order of their names, of about equal numbers of samples.

    Raises:
        DataError: there are fewer owners than clients.
    """
    owners, numbers = np.unique(natural_client[pool], return_inverse=True)
    if len(owners) < num_clients:
        raise DataError(
            f"data.partition.into came {num_clients} clients, but the samples to divide have {len(owners)} owners; "
            "use fewer clients"
        )
    order = np.array(sorted(range(len(owners)), key=lambda number: _natural_order(str(owners[number]))))
    sizes = np.bincount(numbers)[order]
    # The middle of an owner's samples says whose it is, but every client gets one owner at least.
    middles = np.cumsum(sizes) - sizes / 2
    of_owner, client = np.zeros(len(owners), dtype=np.int64), 0
    for place, wanted in enumerate((middles * num_clients / len(pool)).astype(np.int64).tolist()):
        if place:
            client = max(min(wanted, client + 1), client, place - len(owners) + num_clients)
        of_owner[order[place]] = client
    of_sample = of_owner[numbers]
    width = max(4, len(str(num_clients - 1)))
    names = tuple(f"client-{number:0{width}}" for number in range(num_clients))
    members = ragged(pool[np.argsort(of_sample, kind="stable")], np.bincount(of_sample, minlength=num_clients))
    return Assignment(names, members, (f"{len(owners):,} owners dealt out to {num_clients:,} clients, each whole",))


def _natural_order(name: str) -> list[tuple[int, str]]:
    """Return a key by which `a_2` comes before `a_10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _check_task(samples: Samples, settings: PartitionSettings) -> None:
    if settings.name in _BY_CLASS and samples.task != "classes":
        targets = "several labels a sample" if samples.task == "labels" else "real targets"
        raise DataError(
            f"the partition '{settings.name}' divides by class, but this source has {targets}; "
            "use iid, sizes or natural"
        )
    if settings.name in _BY_CLASS and not samples.is_labelled.all():
        raise DataError(
            f"the partition '{settings.name}' divides by class, but {int((~samples.is_labelled).sum()):,} of "
            f"{samples.num_samples:,} samples have no label; use iid, sizes or natural"
        )
    if settings.name == "natural" and samples.natural_client is None:
        raise DataError(
            "the partition 'natural' needs to know who owns each sample, and this source doesn't say: set "
            "sites (folder), client_column (csv) or num_clients (synthetic), add an array 'client' (arrays), "
            "or use iid, dirichlet, pathological, shards or sizes"
        )
    if isinstance(settings, PathologicalSettings):
        present = len(np.unique(samples.targets))
        if settings.classes_per_client > present:
            raise DataError(
                f"the partition 'pathological' asks for {settings.classes_per_client} classes a client, but the "
                f"samples have {present}; make classes_per_client at most {present}"
            )


def _check_numbers(samples: Samples, pool: Indices, settings: PartitionSettings) -> None:
    held_out = samples.num_samples - len(pool)
    left = f"only {len(pool)} samples are left to divide ({held_out} of {samples.num_samples} are held out)"
    if isinstance(settings, NaturalSettings):
        if len(pool) == 0:
            raise DataError(f"{left}; make test_fraction smaller")
    elif isinstance(settings, SizesSettings):
        if sum(settings.sizes) > len(pool):
            raise DataError(
                f"the partition 'sizes' asks for {sum(settings.sizes)} samples, but {left}; "
                "make the sizes or test_fraction smaller"
            )
    elif not isinstance(settings, OneSettings) and settings.clients > len(pool):
        raise DataError(
            f"more clients than samples: the partition '{settings.name}' asks for {settings.clients} clients, "
            f"but {left}; use fewer clients or more samples"
        )
    elif isinstance(settings, ShardsSettings) and settings.clients * settings.shards_per_client > len(pool):
        raise DataError(
            f"the partition 'shards' asks for {settings.clients} x {settings.shards_per_client} shards, but "
            f"{left}; use fewer clients or fewer shards_per_client"
        )


def _divide(
    columns: Mapping[str, NDArray[Any]], settings: PartitionSettings, seed: int
) -> tuple[list[Indices], tuple[str, ...]]:
    """Return for each partition the numbers of its rows, and the natural owners' names in that order.

    The partitioners' warnings (a class that no client gets) and natural id's progress bar are kept quiet: what
    is left out is counted afterwards.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets
        from flwr_datasets.partitioner import NaturalIdPartitioner

        class Rows(datasets.Dataset):  # type: ignore[misc]
            """A table in memory whose selections are plain row numbers: no Arrow table a client."""

            def select(self, indices: Indices | range, **_: object) -> Indices:
                return np.asarray(indices, dtype=np.int64)

            def sort(self, *_: object, **__: object) -> Rows:
                return self  # shards ask for rows sorted by label, and they come sorted

        datasets.disable_progress_bars()
        partitioner = _partitioner(settings, seed)
        partitioner.dataset = Rows(datasets.Dataset.from_dict(dict(columns)).data)
        try:
            parts = [partitioner.load_partition(number) for number in range(partitioner.num_partitions)]
        except ValueError as error:
            raise DataError(
                f"the partition '{settings.name}' can't divide these {len(columns['row'])} samples: {error}"
            ) from error
        owners: tuple[str, ...] = ()
        if isinstance(partitioner, NaturalIdPartitioner):
            owners = tuple(partitioner.partition_id_to_natural_id[number] for number in range(len(parts)))
    return parts, owners


def _partitioner(settings: PartitionSettings, seed: int) -> Any:
    """Build flwr-datasets' partitioner; rows are shuffled before, so theirs is off (it costs a list a client)."""
    from flwr_datasets import partitioner as flower

    if isinstance(settings, IidSettings):
        return flower.IidPartitioner(num_partitions=settings.clients)
    if isinstance(settings, DirichletSettings):
        return flower.DirichletPartitioner(
            num_partitions=settings.clients,
            partition_by="label",
            alpha=settings.alpha,
            min_partition_size=0,
            self_balancing=False,
            shuffle=False,
            seed=seed,
        )
    if isinstance(settings, PathologicalSettings):
        return flower.PathologicalPartitioner(
            num_partitions=settings.clients,
            partition_by="label",
            num_classes_per_partition=settings.classes_per_client,
            class_assignment_mode="first-deterministic",  # the paper's own; uses every class
            shuffle=False,
            seed=seed,
        )
    if isinstance(settings, ShardsSettings):
        return flower.ShardPartitioner(
            num_partitions=settings.clients,
            partition_by="label",
            num_shards_per_partition=settings.shards_per_client,
            shuffle=False,
            seed=seed,
        )
    if isinstance(settings, SizesSettings):
        return flower.SizePartitioner(partition_sizes=settings.sizes)
    return flower.NaturalIdPartitioner(partition_by="owner")


def _with_absent_owners(
    samples: Samples, natural_client: Names, owners: tuple[str, ...], parts: list[Indices]
) -> tuple[tuple[str, ...], list[Indices]]:
    """Add, as empty clients, the owners whose samples all went into the held-out test."""
    listed = natural_client if samples.is_test is None else natural_client[~samples.is_test]
    names = tuple(np.unique(listed).tolist())
    found = dict(zip(owners, parts, strict=True))
    return names, [found.get(name, np.empty(0, dtype=np.int64)) for name in names]
