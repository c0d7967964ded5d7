"""The federation: every client's train and validation part, and the central test part."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fedgraft.data import cache
from fedgraft.data.partitions import assign, check_owners
from fedgraft.data.ragged import Ragged, merged, ragged
from fedgraft.data.samples import Indices, Samples
from fedgraft.data.settings import DataSettings, NaturalSettings
from fedgraft.data.sources import load_samples
from fedgraft.data.tasks import resolve_tasks
from fedgraft.errors import DataError, listed, nearest
from fedgraft.randomness import GAMMA, key, mix, name_keys

_VERSION = "2"  # of the split; a change of the rules below needs another


@dataclass(frozen=True, eq=False)
class Federation:
    """Who owns which samples. Clients stand in a fixed order, and an empty client is still a client.

    `train` and `validation` hold indices into `samples`, ascending within a client; `test` likewise. `unlabelled` are
    training samples whose labels are not there, or must not be used. No two of them share a sample.
    """

    samples: Samples
    client_names: tuple[str, ...]
    train: Ragged
    validation: Ragged
    test: Indices
    notes: tuple[str, ...] = ()
    unlabelled: Ragged = field(default_factory=lambda: ragged(np.zeros(0, dtype=np.int64), []))

    def __post_init__(self) -> None:
        """Give every client an empty list of samples without labels, where none came."""
        if len(self.unlabelled) == 0 < self.num_clients:
            none = ragged(np.zeros(0, dtype=np.int64), np.zeros(self.num_clients, dtype=np.int64))
            object.__setattr__(self, "unlabelled", none)

    @functools.cached_property
    def all_train(self) -> Ragged:
        """All training samples, with labels or without, ascending within a client."""
        return merged(self.train, self.unlabelled) if len(self.unlabelled.indices) else self.train

    @property
    def num_clients(self) -> int:
        """Return the number of clients, the empty ones included."""
        return len(self.client_names)

    def pooled(self) -> Federation:
        """Return one client, `everybody`, with the training parts of all clients, and their validation parts."""
        train, validation, unlabelled = (
            ragged(np.sort(part.indices), [len(part.indices)])
            for part in (self.train, self.validation, self.unlabelled)
        )
        return Federation(self.samples, ("everybody",), train, validation, self.test, self.notes, unlabelled)

    def label_counts(self) -> NDArray[np.int64]:
        """Return how often each label stands at each client, train and validation, `(num_clients, num_classes)`.

        With real targets there is nothing to count by: the one column is the number of samples.
        """
        counts = np.zeros((self.num_clients, self._num_columns), dtype=np.int64)
        for part in (self.train, self.validation):
            if self.samples.task == "classes":
                counts += np.bincount(self._cells(part), minlength=counts.size).reshape(counts.shape)
            elif self.samples.task == "labels":
                np.add.at(counts, part.owners, self.samples.targets[part.indices].astype(np.int64))
            else:
                counts[:, 0] += part.counts
        return counts

    def num_labels(self) -> NDArray[np.int64]:
        """Return how many different classes stand at each client, `(num_clients,)`, for the task `classes`.

        Unlike the table of counts it stays small with 100,000 clients of 1,000 classes.
        """
        cells = np.unique(np.concatenate([self._cells(part) for part in (self.train, self.validation)]))
        return np.bincount(cells // self._num_columns, minlength=self.num_clients)

    def _cells(self, part: Ragged) -> NDArray[np.int64]:
        """Return each sample's place in the flattened table of counts."""
        return part.owners * self._num_columns + self.samples.targets[part.indices].astype(np.int64)

    @property
    def _num_columns(self) -> int:
        return 1 if self.samples.task == "real" else self.samples.num_classes

    @functools.cached_property
    def _digest(self) -> str:
        parts = (self.train, self.validation, *((self.unlabelled,) if len(self.unlabelled.indices) else ()))
        arrays = [array for part in parts for array in (part.offsets, part.indices)]
        names = "\0".join(self.client_names)
        return cache.digest_of(self.samples.digest(), names, *(a.tobytes() for a in (*arrays, self.test)))

    def digest(self) -> str:
        """Return the digest of samples, clients and split (sha256, hex)."""
        return self._digest


def build_federation(settings: DataSettings, seed: int) -> Federation:
    """Read the source, hold out the test part, divide the rest among clients and split each client's samples.

    What `data.unlabelled` says comes after that, and domains come last: they change no division.

    Raises:
        DataError: the source or the partition can't be had; the text says what to change.
    """
    federation = _divided_or_kept(settings, seed)
    if settings.unlabelled is not None:
        federation = without_labels(federation, settings.unlabelled, seed)
    if not settings.domains:
        return federation
    from fedgraft.data.domains import with_domains

    return with_domains(federation, settings.domains, seed)


def _divided_or_kept(settings: DataSettings, seed: int) -> Federation:
    """Return the federation of the source's own samples.

    The division is kept in the cache, so that a second call imports no partitioner.

    Raises:
        DataError: the source or the partition can't be had; the text says what to change.
    """
    samples = _with_test_owners(load_samples(settings.source, seed), settings)
    _ = resolve_tasks(settings, samples.task, samples.label_names)  # refused before anything is divided
    if settings.tasks is not None and not samples.is_labelled.all():
        missing = int((~samples.is_labelled).sum())
        raise DataError(f"data.tasks needs the label of every sample, and {missing:,} have none; leave these out")
    versions = [importlib.metadata.version(name) for name in ("flwr-datasets", "numpy")]
    cache_key = cache.digest_of(
        _VERSION,
        *versions,
        settings.model_dump_json(exclude={"source", "tasks", "domains", "unlabelled"}),
        samples.digest(),
        str(seed),
    )
    kept = cache.read("partitions", cache_key)
    if kept is not None:
        return Federation(
            samples=samples,
            client_names=tuple(kept["client_names"].tolist()),
            train=Ragged(kept["train_offsets"], kept["train_indices"]),
            validation=Ragged(kept["validation_offsets"], kept["validation_indices"]),
            test=kept["test"],
            notes=tuple(json.loads(str(kept["notes"]))),
            unlabelled=Ragged(kept["unlabelled_offsets"], kept["unlabelled_indices"]),
        )
    federation = _divided(samples, settings, seed)
    cache.write(
        "partitions",
        cache_key,
        {
            "client_names": np.array(federation.client_names),
            "train_offsets": federation.train.offsets,
            "train_indices": federation.train.indices,
            "validation_offsets": federation.validation.offsets,
            "validation_indices": federation.validation.indices,
            "unlabelled_offsets": federation.unlabelled.offsets,
            "unlabelled_indices": federation.unlabelled.indices,
            "test": federation.test,
            "notes": np.array(json.dumps(federation.notes)),
        },
    )
    return federation


def _divided(samples: Samples, settings: DataSettings, seed: int) -> Federation:
    test = _of_clients(_held_out(samples, settings.test_fraction, seed), samples, settings)
    held = test if samples.is_test is None else np.flatnonzero(samples.is_test)
    pool = np.setdiff1d(np.arange(samples.num_samples), held, assume_unique=True)
    if samples.is_test is not None and len(pool) == 0:
        raise DataError("every sample is in the source's official test part; none is left for the clients")
    assignment = assign(samples, pool, settings.partition, seed)
    is_labelled = samples.is_labelled[assignment.members.indices]
    train, validation = split(
        assignment.members.keep(is_labelled),
        assignment.client_names,
        seed,
        validation_fraction=settings.validation_fraction,
        max_samples=settings.max_samples_per_client,
        few=None if settings.max_train_per_class is None else (_classes_of(samples), settings.max_train_per_class),
    )
    notes = [*samples.notes, *assignment.notes]
    if samples.is_test is not None and settings.test_fraction > 0:
        owners = settings.partition.test if isinstance(settings.partition, NaturalSettings) else ()
        what = f"what the source has of {listed(owners, 5)}" if owners else "the source's own test part"
        notes.append(f"{what} ({len(test)} samples) is the central test; test_fraction is ignored")
    if settings.max_train_per_class is not None:
        notes.append(
            f"no client trains on more than {settings.max_train_per_class} samples of a class (max_train_per_class)"
        )
    capped = int((assignment.members.counts > (settings.max_samples_per_client or np.inf)).sum())
    if capped:
        kept = np.minimum(assignment.members.counts, settings.max_samples_per_client or np.inf)
        left_out = int((assignment.members.counts - kept).sum())
        notes.append(
            f"{capped} of {len(train)} clients cut to {settings.max_samples_per_client} samples "
            f"(max_samples_per_client); {left_out:,} samples left out"
        )
    unlabelled = assignment.members.keep(~is_labelled)
    if len(unlabelled.indices):
        notes.append(
            f"{len(unlabelled.indices):,} samples have no label; they are training samples for what needs none, and "
            "for pseudo_labels"
        )
    federation = Federation(
        samples, assignment.client_names, train, validation, test, tuple(notes), unlabelled=unlabelled
    )
    return replace(federation, notes=(*notes, *_client_notes(federation)))


def without_labels(federation: Federation, which: float | tuple[str, ...], seed: int) -> Federation:
    """Return the federation with some training samples as samples without labels.

    Args:
        federation: as it was divided.
        which: a fraction of each client's, `floor(fraction n + 0.5)` of n; or the names of clients, all of whose.
        seed: the scenario's; which samples of a client it draws depends on no other client.

    Raises:
        DataError: there are no such clients, the targets are no classes, or nobody would have a label.
    """
    names, train = federation.client_names, federation.train
    if federation.samples.task != "classes":
        raise DataError(
            f"data.unlabelled is for samples of one class each; the targets are {federation.samples.task!r}; set null"
        )
    if isinstance(which, tuple):
        unknown = [name for name in which if name not in names]
        if unknown:
            raise DataError(
                f"data.unlabelled: there is no client {listed(map(repr, unknown), 5)}{nearest(unknown[0], names)}; the "
                f"clients are {listed(names, 10)}"
            )
        hidden = np.isin(np.array(names), np.array(which))[train.owners]
    else:
        ranks = _ranks(train, key(seed, "unlabelled", 0, name_keys(names)))
        sizes = np.floor(which * train.counts + 0.5)
        hidden = ranks < np.repeat(sizes, train.counts)
    if hidden.all():
        raise DataError(
            f"data.unlabelled leaves none of the {len(hidden):,} training samples a label; leave some, or use "
            "`fedgraft cluster`, which needs none"
        )
    note = f"the labels of {int(hidden.sum()):,} of {len(hidden):,} training samples are not used (data.unlabelled)"
    return replace(
        federation,
        train=train.keep(~hidden),
        unlabelled=merged(federation.unlabelled, train.keep(hidden)),
        notes=(*federation.notes, note),
    )


def _with_test_owners(samples: Samples, settings: DataSettings) -> Samples:
    """Return the samples with those of some natural owners as their test part, where the partition names any."""
    partition = settings.partition
    if not isinstance(partition, NaturalSettings) or not partition.test or samples.natural_client is None:
        return samples
    column = getattr(settings.source, "split_column", None)
    if column is not None:
        raise DataError(
            "data.partition.test says whose samples are the test part, and data.source.split_column "
            f"('{column}') which rows are; leave one of them out"
        )
    check_owners(samples.natural_client, partition.test, "data.partition.test")
    return replace(samples, is_test=np.isin(samples.natural_client, partition.test))


def _of_clients(test: Indices, samples: Samples, settings: DataSettings) -> Indices:
    """Return a test part without the samples of owners that the partition leaves out."""
    partition = settings.partition
    if not isinstance(partition, NaturalSettings) or partition.test or partition.clients is None:
        return test
    return test if samples.natural_client is None else test[np.isin(samples.natural_client[test], partition.clients)]


def _held_out(samples: Samples, fraction: float, seed: int) -> Indices:
    """Return the central test part, ascending: the official one, or a fraction of each class.

    A class with one sample keeps it; several labels and real targets are drawn without regard to the target. Samples
    without a label are never in it.
    """
    if samples.is_test is not None:
        return np.flatnonzero(samples.is_test & samples.is_labelled).astype(np.int64)
    rows = np.flatnonzero(samples.is_labelled)
    strata = samples.targets[rows] if samples.task == "classes" else np.zeros(len(rows), dtype=np.int64)
    sizes = np.bincount(strata)
    quotas = np.minimum(np.floor(fraction * sizes + 0.5), np.maximum(sizes - 1, 0)).astype(np.int64)
    by_stratum = ragged(rows[np.argsort(strata, kind="stable")], sizes)
    ranks = _ranks(by_stratum, key(seed, "test part", 0, np.arange(len(sizes), dtype=np.uint64)))
    return np.sort(by_stratum.indices[ranks < np.repeat(quotas, sizes)])


def split(
    members: Ragged,
    client_names: tuple[str, ...],
    seed: int,
    *,
    validation_fraction: float,
    max_samples: int | None = None,
    few: tuple[NDArray[np.int64], int] | None = None,
) -> tuple[Ragged, Ragged]:
    """Split each client's samples into train and validation; no client's split depends on another client.

    A client's split is a pure function of the seed, its name and its samples. Of `n` samples (after the cap)
    `floor(validation_fraction * n + 0.5)` go to validation, but one at least stays for training.

    Args:
        members: each client's samples.
        client_names: of the clients.
        seed: the scenario's.
        validation_fraction: see above.
        max_samples: cap on a client's samples.
        few: the class of each of all samples, and how many training samples of a class a client keeps.
    """
    ranks = _ranks(members, key(seed, "validation part", 0, name_keys(client_names)))
    counts = members.counts if max_samples is None else np.minimum(members.counts, max_samples)
    sizes = np.minimum(np.floor(validation_fraction * counts + 0.5), np.maximum(counts - 1, 0))
    in_validation = ranks < np.repeat(sizes, members.counts)
    in_train = ~in_validation & (ranks < np.repeat(counts, members.counts))
    if few is not None:
        classes, most = few
        drawn = np.flatnonzero(in_train)
        owners, own = members.owners[drawn], classes[members.indices[drawn]]
        in_train[drawn] = _first_of_each(owners, own, ranks[drawn], most)
    return members.keep(in_train), members.keep(in_validation)


def _first_of_each(
    owners: Indices, classes: NDArray[np.int64], ranks: NDArray[np.int64], most: int
) -> NDArray[np.bool_]:
    """Return which samples are among the first `most` by rank of their owner's samples of their class."""
    order = np.lexsort((ranks, classes, owners))
    starts = np.ones(len(order), dtype=np.bool_)
    starts[1:] = (np.diff(owners[order]) != 0) | (np.diff(classes[order]) != 0)
    places = np.arange(len(order))
    chosen = np.zeros(len(order), dtype=np.bool_)
    chosen[order] = places - np.maximum.accumulate(np.where(starts, places, 0)) < most
    return chosen


def _classes_of(samples: Samples) -> NDArray[np.int64]:
    if samples.task != "classes":
        raise DataError(
            f"data.max_train_per_class counts samples of a class, but the task is '{samples.task}'; leave it out, or "
            "cap whole clients by max_samples_per_client"
        )
    return samples.targets.astype(np.int64)


def _ranks(lists: Ragged, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return each index's place in a random order of its list; list `k`'s order is a function of key `k`."""
    owners = lists.owners
    positions = np.arange(len(owners), dtype=np.int64) - lists.offsets[:-1][owners]
    with np.errstate(over="ignore"):
        draws = mix(keys[owners] + (positions + 1).astype(np.uint64) * GAMMA)
    ranks = np.empty(len(owners), dtype=np.int64)
    ranks[np.lexsort((draws, owners))] = positions
    return ranks


def _client_notes(federation: Federation) -> list[str]:
    """Return one line each about empty clients, clients of one class and label sets that differ."""
    sizes = federation.all_train.counts + federation.validation.counts
    notes = []

    def note(which: NDArray[np.bool_], text: str) -> None:
        if which.any():
            names = listed((federation.client_names[number] for number in np.flatnonzero(which)), 5)
            notes.append(f"{int(which.sum()):,} of {federation.num_clients:,} clients {text}: {names}")

    note(sizes == 0, "without samples (listed all the same, with weight 0)")
    if federation.samples.task == "classes":
        present = federation.num_labels()
        note(present == 1, "with a single class")
        lacking = int(((present < federation.samples.num_classes) & (sizes > 0)).sum())
        if lacking:
            notes.append(
                f"label sets differ: {lacking:,} of {federation.num_clients:,} clients without some of the "
                f"{federation.samples.num_classes} classes (the head has all of them)"
            )
    return notes
