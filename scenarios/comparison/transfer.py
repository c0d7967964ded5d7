"""The transfer report: does a client do better with the federation's head than with what it makes of its own samples?

A client's own head is that of `local-only`: trained from the same start, in the same rounds, with as many steps. Each
client takes it from the round, and of several learning rates with that, with which its loss on its validation part was
least, which is what a careful owner would do; since these samples are also what heads are judged by, the own head is
favoured a little and gains are a little understated. The same gains against own heads after the last round stand beside
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scenarios.comparison.client_findings import (
    ClientRow,
    Gain,
    Third,
    Trait,
    Transfer,
    TransferKind,
    TransferReport,
)
from scenarios.comparison.clients import Scores, final_scores, served_scores, tuned_scores
from scenarios.comparison.estimates import Estimate, Values, estimate
from scenarios.comparison.findings import Metric
from scenarios.comparison.records import condition_key
from scenarios.comparison.results import Result
from scenarios.comparison.transfer_verdict import transfer_verdict

OWN = "local-only"
HOW_HEADS_COMBINE = ("strategy", "init", "calibrate")
"""Blocks of a scenario that say nothing of how a client alone would train."""
TRAITS = {
    "num_train": "training samples",
    "label_skew": "label skew",
    "distance": "distance of features from the federation's",
}
FEWEST_FOR_THIRDS = 6
NO_CHANGE = 1e-9
"""Differences of scores below it are rounding."""

SeedGains = dict[int, dict[str, float]]
"""Seed -> client -> gain."""

Own = Mapping[int, Sequence[Result]]
"""Seed -> the runs of which each client takes its own head."""


@dataclass(frozen=True)
class Sides:
    """What is held against what: for each run of the one side the scores of both, by client."""

    kind: TransferKind
    ours: Callable[[Result], Scores]
    theirs: Mapping[int, Scores]


def transfer_report(
    of: Mapping[str, Sequence[Result]],
    alone: Sequence[Result],
    titles: Mapping[str, str],
    rows: Sequence[ClientRow],
    score: Metric,
    *,
    facts_at_hand: bool,
) -> TransferReport | None:
    """Return who gains and who is harmed under one condition; None where clients have no scores.

    Args:
        of: contender -> its runs.
        alone: runs in which clients train by themselves, beside the contenders.
        titles: contender -> its name in a text.
        rows: the condition's clients.
        score: what scores of clients mean: shares of right answers, or squared errors.
        facts_at_hand: whether the rows say what the clients' data are like.
    """
    if not rows:
        return None
    alone = [*alone, *(result for results in of.values() for result in results if result.strategy == OWN)]
    same = _same_clients([results[0] for results in of.values() if results])
    sign = 1.0 if score.higher_is_better else -1.0
    found = []
    for contender, results in of.items():
        if any(result.strategy in (OWN, "centralised") for result in results):
            continue
        own = _own_heads(results, alone)
        for sides in _sides(results, own):
            gains = _gains(results, sides, sign)
            if gains:
                last = _against_last(results, sides, own, sign)
                found.append(_transfer(contender, titles[contender], sides.kind, gains, last, rows, score, same))
    notes = []
    if not alone:
        notes.append(
            "No runs train each client alone; with compare.transfer: true (--set compare.transfer=true --resume adds "
            "them) the report says who gains from the federation and who is harmed."
        )
    if not facts_at_hand:
        notes.append("The data are not at hand, so it is not known what those who gain or lose have in common.")
    if not same:
        notes.append("Each seed divides the samples anew, so that a client of one seed is not that of another.")
    return TransferReport(alone[0].planned.contender if alone else None, same, tuple(found), tuple(notes))


def _own_heads(results: Sequence[Result], alone: Sequence[Result]) -> Own:
    """Return the runs alone that trained as a contender did, by seed; those of the first kind if none did."""
    wanted = {_training(result) for result in results}
    alike = [result for result in alone if _training(result) in wanted]
    if not alike and alone:
        alike = [result for result in alone if _training(result) == _training(alone[0])]
    found: dict[int, list[Result]] = {}
    for result in alike:
        found.setdefault(result.seed, []).append(result)
    return found


def _training(result: Result) -> str:
    """Return what a run changes in how clients train, as a text that is the same for equal changes."""
    settings = result.planned.settings
    return condition_key({key: settings[key] for key in settings if key.split(".")[0] not in HOW_HEADS_COMBINE})


def _same_clients(results: Sequence[Result]) -> bool:
    """Return whether a name means the same owner whatever the seed: the data name their owners, and are real."""
    data = [result.planned.run.scenario.data for result in results]
    return all(entry.partition.name == "natural" and entry.source.name != "synthetic" for entry in data)


def _sides(results: Sequence[Result], own: Own) -> list[Sides]:
    """Return which heads of a contender are held against which others."""
    tuned = {seed: tuned_scores(found) for seed, found in own.items()}
    if not any(result.client_scores["personal"] for result in results):
        return [Sides("global-against-own", lambda result: final_scores(result, "validation"), tuned)]
    received = {result.seed: final_scores(result, "validation") for result in results}
    return [
        Sides("personal-against-own", served_scores, tuned),
        Sides("personal-against-global", served_scores, received),
    ]


def _gains(results: Sequence[Result], sides: Sides, sign: float) -> SeedGains:
    found: SeedGains = {}
    for result in results:
        theirs = sides.theirs.get(result.seed, {})
        ours = sides.ours(result)
        gains = {client: sign * (ours[client] - theirs[client]) for client in ours if client in theirs}
        if gains:
            found[result.seed] = {client: 0.0 if abs(gain) < NO_CHANGE else gain for client, gain in gains.items()}
    return found


def _against_last(results: Sequence[Result], sides: Sides, own: Own, sign: float) -> Estimate | None:
    """Return the mean gain against own heads after the last round."""
    if sides.kind == "personal-against-global":
        return None
    last = Sides(sides.kind, sides.ours, {seed: tuned_scores(found, last=True) for seed, found in own.items()})
    return estimate(_means(_gains(results, last, sign)))


def _means(gains: SeedGains) -> Values:
    return {seed: float(np.mean(list(of.values()))) for seed, of in gains.items()}


def _share(gains: SeedGains, counts: Callable[[float], bool]) -> Estimate:
    shares = {seed: float(np.mean([counts(gain) for gain in of.values()])) for seed, of in gains.items()}
    return _estimated(shares)


def _estimated(values: Values) -> Estimate:
    """Return the estimate of values of which there is at least one."""
    found = estimate(values)
    if found is None:
        raise ValueError("there is no seed to estimate from")
    return found


def _transfer(
    contender: str,
    title: str,
    kind: TransferKind,
    gains: SeedGains,
    last: Estimate | None,
    rows: Sequence[ClientRow],
    score: Metric,
    same: bool,
) -> Transfer:
    sizes = {(row.seed, row.client): row.num_validation for row in rows}
    over_seeds = same and len(gains) > 1
    clients = _over_seeds(gains, sizes) if over_seeds else _by_seed(gains, sizes)
    made = Transfer(
        kind=kind,
        contender=contender,
        title=title,
        gain=_estimated(_means(gains)),
        gain_against_last=last,
        gaining=_share(gains, lambda gain: gain > 0),
        harmed=_share(gains, lambda gain: gain < 0),
        clients=clients,
        sure_gains=sum(entry.sure and entry.gain > 0 for entry in clients) if over_seeds else None,
        sure_harms=sum(entry.sure and entry.gain < 0 for entry in clients) if over_seeds else None,
        traits=tuple(trait for name in TRAITS if (trait := _trait(name, gains, rows)) is not None),
        verdict=(),
    )
    return Transfer(**{**vars(made), "verdict": transfer_verdict(made, score)})


def _by_seed(gains: SeedGains, sizes: Mapping[tuple[int, str], int]) -> tuple[Gain, ...]:
    return tuple(
        Gain(client, seed, gain, None, None, sizes.get((seed, client), 0))
        for seed, of in gains.items()
        for client, gain in of.items()
    )


def _over_seeds(gains: SeedGains, sizes: Mapping[tuple[int, str], int]) -> tuple[Gain, ...]:
    found = []
    for client in dict.fromkeys(client for of in gains.values() for client in of):
        of_seeds = {seed: of[client] for seed, of in gains.items() if client in of}
        over = _estimated(of_seeds)
        count = sum(sizes.get((seed, client), 0) for seed in of_seeds) // len(of_seeds)
        found.append(Gain(client, None, over.mean, over.low, over.high, count))
    return tuple(found)


def _trait(name: str, gains: SeedGains, rows: Sequence[ClientRow]) -> Trait | None:
    """Return how gains go along with a property of clients; None where it is not known."""
    known = {(row.seed, row.client): value for row in rows if (value := getattr(row, name)) is not None}
    correlations: dict[int, float] = {}
    thirds: list[dict[int, tuple[float, float, float, float]]] = [{}, {}, {}]
    some = False
    for seed, of in gains.items():
        pairs = sorted((known[seed, client], gain) for client, gain in of.items() if (seed, client) in known)
        some = some or bool(pairs)
        values, gained = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
        if len(pairs) >= 3 and np.ptp(values) > 0 and np.ptp(gained) > 0:
            correlations[seed] = _spearman(values, gained)
        if len(pairs) >= FEWEST_FOR_THIRDS and np.ptp(values) > 0:
            for third, places in zip(thirds, np.array_split(np.arange(len(pairs)), 3), strict=True):
                part = gained[places]
                third[seed] = (values[places[0]], values[places[-1]], float(part.mean()), float((part < 0).mean()))
    if not some:
        return None
    whole = thirds if all(thirds) else []
    return Trait(name, TRAITS[name], estimate(correlations), tuple(_third(third) for third in whole))


def _spearman(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation: Pearson's, of ranks, equal values sharing theirs."""
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(ours), rankdata(theirs))[0, 1])


def _third(seeds: Mapping[int, tuple[float, float, float, float]]) -> Third:
    low, high = (float(np.mean([of[place] for of in seeds.values()])) for place in (0, 1))
    gain, harmed = (_estimated({seed: of[place] for seed, of in seeds.items()}) for place in (2, 3))
    return Third(low, high, gain, harmed)
