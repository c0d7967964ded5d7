"""Who takes part in a round: a pure function of settings, seed, round and the clients' names.

A round goes as in Bonawitz et al., "Towards federated learning at scale", MLSys 2019, arXiv:1902.01046: of the clients
that are there some are asked, a few more than are needed; some never answer; of those that answer before the deadline
the first count. A simulation knows beforehand who will answer in time, and has nobody else train.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedgraft.errors import DataError, listed
from fedgraft.randomness import key, name_keys, orders, uniforms
from server.availability_settings import AvailabilitySettings

MOST_ATTEMPTS = 100
"""How often a round asks before it is skipped after all, with `too_few: wait`."""

Trace = Mapping[int, tuple[NDArray[np.int64], NDArray[np.float64]]]
"""By round: positions of the clients that are there, and the seconds that they take (NaN: not told)."""


@dataclass(frozen=True)
class Present:
    """Who takes part in a round.

    Attributes:
        clients: positions of those whose answers count, ascending.
        num_asked: how many were asked, in all attempts.
        num_missing: how many of them never answered.
        num_late: how many answered after the deadline, or after enough others.
        seconds: simulated seconds until the last answer that counts, or the deadline if some were waited for.
    """

    clients: NDArray[np.int64]
    num_asked: int
    num_missing: int = 0
    num_late: int = 0
    seconds: float = 0.0


class Attendance:
    """The availability of a federation's clients.

    Args:
        settings: of availability; None: everybody is always there.
        seed: the scenario's.
        names: the clients' names.
        num_train: `(num_clients,)` their training samples.

    Raises:
        DataError: the trace can't be read, or speaks of others than these clients.
    """

    def __init__(
        self, settings: AvailabilitySettings | None, seed: int, names: Sequence[str], num_train: NDArray[np.int64]
    ) -> None:
        self.settings, self._seed, self._num_train = settings, seed, num_train
        self._num_clients = len(names)
        self._keys = name_keys(names)
        self._trace = None if settings is None or settings.trace is None else read_trace(Path(settings.trace), names)
        self._last: tuple[tuple[int, int], Present] | None = None

    def present(self, round_number: int, cohort_size: int) -> Present:
        """Return who takes part in a round of which `cohort_size` clients are wanted."""
        if self._last is None or self._last[0] != (round_number, cohort_size):
            self._last = (round_number, cohort_size), self._present(round_number, cohort_size)
        return self._last[1]

    def shortage(self, present: Present) -> str | None:
        """Return why these are too few; None: they are not."""
        if self.settings is None:
            return None
        able, least = int((self._num_train[present.clients] > 0).sum()), self.settings.minimum_clients
        if able >= least:
            return None
        return f"{able} clients with training samples answered in time, availability.minimum_clients is {least}"

    def _present(self, round_number: int, cohort_size: int) -> Present:
        if self.settings is None:
            order = orders(key(self._seed, "cohort", round_number), self._num_clients)[0]
            return Present(np.sort(order[:cohort_size]), cohort_size)
        asked = missing = late = 0
        seconds = 0.0
        for attempt in range(MOST_ATTEMPTS if self.settings.too_few == "wait" else 1):
            found = self._attempt(self.settings, round_number, cohort_size, attempt)
            asked, missing, late = asked + found.num_asked, missing + found.num_missing, late + found.num_late
            seconds += found.seconds
            if self.shortage(found) is None:
                break
        return Present(found.clients, asked, missing, late, seconds)

    def _attempt(self, settings: AvailabilitySettings, round_number: int, cohort_size: int, attempt: int) -> Present:
        """Ask once."""
        there, traced_seconds = self._there(settings, round_number)
        order = orders(key(self._seed, "cohort", round_number, epoch=attempt), self._num_clients)[0]
        wanted = int(np.ceil(cohort_size * (1 + settings.over_selection) - 1e-9))
        asked = order[there[order]][:wanted]
        keys = self._keys[asked]
        answers = uniforms(key(self._seed, "dropout", round_number, keys, attempt)) >= settings.dropout
        took = self._seconds(settings, round_number, asked, attempt)
        took = np.where(np.isnan(traced_seconds[asked]), took, traced_seconds[asked])
        deadline = np.inf if settings.deadline_seconds is None else settings.deadline_seconds
        in_time = np.flatnonzero(answers & (took <= deadline))
        first = in_time[np.argsort(took[in_time], kind="stable")[:cohort_size]]
        if len(first) < min(cohort_size, len(asked)) and np.isfinite(deadline):
            seconds = deadline  # somebody was waited for in vain
        else:
            seconds = float(took[first].max(initial=0.0))
        num_answered = int(answers.sum())
        return Present(
            np.sort(asked[first]), len(asked), len(asked) - num_answered, num_answered - len(first), float(seconds)
        )

    def _there(
        self, settings: AvailabilitySettings, round_number: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Return who can be asked in a round, and the seconds that a trace says that they take."""
        seconds = np.full(self._num_clients, np.nan)
        if self._trace is not None:
            there = np.zeros(self._num_clients, dtype=np.bool_)
            cycle = max(self._trace)
            clients, told = self._trace.get((round_number - 1) % cycle + 1, (np.zeros(0, np.int64), np.zeros(0)))
            there[clients], seconds[clients] = True, told
            return there, seconds
        late = self._share("late", settings.late_fraction)
        later = uniforms(key(self._seed, "joins", 0, self._keys))
        joins = np.where(late, 2 + np.floor(later * (settings.last_joins_in - 1)), 1)
        return joins <= round_number, seconds

    def _share(self, purpose: str, fraction: float) -> NDArray[np.bool_]:
        """Return a fixed share of the clients (rounded): those of the smallest draws."""
        chosen = np.zeros(self._num_clients, dtype=np.bool_)
        draws = uniforms(key(self._seed, purpose, 0, self._keys))
        chosen[np.argsort(draws, kind="stable")[: round(fraction * self._num_clients)]] = True
        return chosen

    def _seconds(
        self, settings: AvailabilitySettings, round_number: int, clients: NDArray[np.int64], attempt: int
    ) -> NDArray[np.float64]:
        """Return how long clients take: log-normal around the median, stragglers a multiple of it."""
        keys = self._keys[clients]
        one, two = (uniforms(key(self._seed, name, round_number, keys, attempt)) for name in ("seconds", "seconds-2"))
        normal = np.sqrt(-2 * np.log1p(-one)) * np.cos(2 * np.pi * two)  # Box and Muller, 1958
        slow = np.where(self._share("stragglers", settings.straggler_fraction)[clients], settings.straggler_factor, 1.0)
        return np.asarray(settings.seconds * slow * np.exp(settings.seconds_spread * normal))


def read_trace(path: Path, names: Sequence[str]) -> Trace:
    """Return who is there in each round.

    Raises:
        DataError: the file can't be read, lacks a column, or has a row that makes no sense; the line is named.
    """
    positions = {name: position for position, name in enumerate(names)}
    rounds: dict[int, dict[int, float]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if not {"round", "client"} <= set(rows.fieldnames or ()):
                raise DataError(
                    f"the trace {path} has the columns {listed(rows.fieldnames or ()) or 'none'}; "
                    "expected round, client and, if wanted, seconds"
                )
            for row in rows:
                number, client, seconds = _trace_row(row, positions, f"{path}, line {rows.line_num}")
                rounds.setdefault(number, {})[client] = seconds
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the trace {path} can't be read: {error}") from error
    if not rounds:
        raise DataError(f"the trace {path} has no rows; nobody would ever be there")
    return {
        number: (np.array(list(found), dtype=np.int64), np.array(list(found.values())))
        for number, found in rounds.items()
    }


def _trace_row(row: Mapping[str, str | None], positions: Mapping[str, int], what: str) -> tuple[int, int, float]:
    try:
        number, seconds = int(row["round"] or ""), float(row.get("seconds") or "nan")
    except ValueError as error:
        raise DataError(
            f"{what}: came round {row['round']!r}, seconds {row.get('seconds')!r}; expected numbers"
        ) from error
    client = row["client"] or ""
    if client not in positions:
        raise DataError(f"{what}: the federation has no client {client!r}; it has {listed(positions, 5)}")
    if number < 1 or seconds < 0:
        raise DataError(f"{what}: came round {number}, seconds {seconds:g}; rounds count from 1, seconds from 0")
    return number, positions[client], seconds
