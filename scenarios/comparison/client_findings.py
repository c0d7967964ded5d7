"""What a comparison found client by client: scores, and who gains and who is harmed, by whose head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from scenarios.comparison.estimates import Estimate


@dataclass(frozen=True)
class ClientRow:
    """One client of one seed's split. Another seed may have divided the samples otherwise; see `same_clients`.

    Attributes:
        client: its name.
        seed: of the split.
        num_train: training samples; None where the data are not at hand.
        num_validation: samples that scores are over.
        label_skew: distance of its labels from the federation's: half the summed differences of shares, 0 to 1; None
            for real targets, and where the data are not at hand.
        distance: of its mean feature from the federation's mean, in standard deviations of the features, without what
            the chance of few samples adds: 0 for a client like the others; None where the data are not at hand.
        scores: contender -> score of the head that this client would use: its own where the strategy makes own heads,
            the global one otherwise. Share of right answers; for real targets the squared error.
        global_scores: contender -> score of the global head.
    """

    client: str
    seed: int
    num_train: int | None
    num_validation: int
    label_skew: float | None
    distance: float | None
    scores: Mapping[str, float]
    global_scores: Mapping[str, float]


@dataclass(frozen=True)
class Gain:
    """What a client gets from one head instead of another. Above 0 it gains.

    Attributes:
        client: its name.
        seed: of the split; None: over all seeds, of clients that are the same in each.
        gain: difference of scores, turned round where less is better.
        low: lower end of the 95 % interval over seeds; None for a single seed.
        high: its upper end.
        num_validation: samples that the scores are over.
    """

    client: str
    seed: int | None
    gain: float
    low: float | None
    high: float | None
    num_validation: int

    @property
    def sure(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Third:
    """Clients of a third by some trait: what they gain, and how many of them lose.

    Attributes:
        low: the trait's smallest value in the third, mean over seeds.
        high: its largest.
        gain: mean over its clients.
        harmed: share of its clients that lose.
    """

    low: float
    high: float
    gain: Estimate
    harmed: Estimate


@dataclass(frozen=True)
class Trait:
    """How gains go along with a property of the clients.

    Attributes:
        name: `num_train`, `label_skew` or `distance`.
        title: in words.
        correlation: Spearman's, over clients, within each seed; None where all clients are alike.
        thirds: the clients in three parts of like number, ascending by the trait; empty with fewer than 6 clients.
    """

    name: str
    title: str
    correlation: Estimate | None
    thirds: tuple[Third, ...]


TransferKind = Literal["global-against-own", "personal-against-own", "personal-against-global"]


@dataclass(frozen=True)
class Transfer:
    """Whether clients do better with one head than with another, client by client.

    Attributes:
        kind: which heads: the federation's global head or a client's personal one, against what the client makes of
            its own samples alone (`own`: local-only, each client at its best round) or against the global one.
        contender: whose head.
        title: of the contender.
        gain: mean over clients.
        gain_against_last: the same against own heads after the last round instead of the best; None for other kinds.
        gaining: share of clients that gain.
        harmed: share of clients that lose: negative transfer.
        clients: each client's gain; with `same_clients` one entry a client, over all seeds, otherwise one a client
            and seed.
        sure_gains: clients whose interval over seeds lies above 0; None where clients differ between seeds.
        sure_harms: clients whose interval lies below 0.
        traits: what those who gain and those who lose have in common.
        verdict: in words.
    """

    kind: TransferKind
    contender: str
    title: str
    gain: Estimate
    gain_against_last: Estimate | None
    gaining: Estimate
    harmed: Estimate
    clients: tuple[Gain, ...]
    sure_gains: int | None
    sure_harms: int | None
    traits: tuple[Trait, ...]
    verdict: tuple[str, ...]


@dataclass(frozen=True)
class TransferReport:
    """Who gains from the federation and who is harmed.

    Attributes:
        own: the contender that is each client alone (`local-only`); None: there is none.
        same_clients: whether a client's name means the same samples whatever the seed.
        transfers: one a contender and kind.
        notes: what is missing, and why.
    """

    own: str | None
    same_clients: bool
    transfers: tuple[Transfer, ...]
    notes: tuple[str, ...]
