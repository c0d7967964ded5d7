"""Checks of single clients: how much each brought, and how well each is served."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from server.advice.facts import Facts
from server.advice.shares import LEAST_GAP, apart, percent


def one_source(facts: Facts) -> str | None:
    """One client outweighs all others."""
    total = int(facts.num_train.sum())
    if len(facts.num_train) < 3 or not total:
        return None
    largest = int(facts.num_train.argmax())
    share = float(facts.num_train[largest]) / total
    if share <= 0.5:
        return None
    return (
        f"'{facts.client_names[largest]}' has {percent(share)} of all training samples, so the head is mostly its "
        "own: look at the other clients' scores, and at strategies that weigh the worse served more (strategy: qfedavg)"
    )


def unequal_clients(facts: Facts) -> str | None:
    """Clients differ by more than the chance of their small validation parts."""
    known = _by_client(facts)
    if known is None or facts.own_heads:
        return None
    counts, scores, _ = known
    mean = float(counts @ scores / counts.sum())
    if not 0 < mean < 1 or len(counts) < 3:
        return None
    square = float((counts * (scores - mean) ** 2).sum()) / (mean * (1 - mean))
    freedom = len(counts) - 1
    beyond = max(square - freedom, 0) * mean * (1 - mean) / float(counts.sum())
    if square < freedom + 3 * (2 * freedom) ** 0.5 or beyond**0.5 < LEAST_GAP:
        return None
    return (
        f"how well the head serves clients differs by {100 * beyond**0.5:.0f} points (standard deviation) beyond the "
        "chance of their few samples: try own heads (strategy: fine-tune-after, ditto or personal-ridge)"
    )


def small_clients(facts: Facts) -> str | None:
    """Clients with few samples are served worse."""
    known = _by_client(facts)
    if known is None or len(known[0]) < 6:
        return None
    counts, scores, sizes = known
    order = np.argsort(sizes, kind="stable")
    third = len(order) // 3
    few, many = order[:third], order[-third:]
    if sizes[few[-1]] >= sizes[many[0]]:
        return None
    rates = [
        (float(counts[some] @ scores[some] / counts[some].sum()), float(counts[some].sum())) for some in (few, many)
    ]
    if not apart(*rates[0], *rates[1]) or rates[0][0] > rates[1][0]:
        return None
    return (
        f"the third of clients with the fewest samples ({int(sizes[few[-1]])} or fewer) is served worse: "
        f"{percent(rates[0][0])} right, against {percent(rates[1][0])} for the third with the most. Closed forms "
        "(strategy: ridge) and fewer local steps (train.local_epochs) favour small clients"
    )


def own_heads(facts: Facts) -> str | None:
    """Own heads serve their clients worse than the shared one."""
    known = _by_client(facts)
    if known is None or facts.personal_scores is None or facts.num_validation is None:
        return None
    _, shared, _ = known
    own = facts.personal_scores[facts.num_validation > 0]
    gain = float((own - shared).mean())
    error = float((own - shared).std(ddof=1) / len(own) ** 0.5) if len(own) > 1 else np.inf
    if gain > -2 * error or gain > -LEAST_GAP / 5:
        return None
    harmed = float((own < shared).mean())
    return (
        f"own heads serve clients worse than the global head, by {-100 * gain:.1f} points in the mean; "
        f"{percent(harmed)} of clients lose. Share more (strategy: fedavg or ridge), or pull own heads harder to the "
        "global one"
    )


def _by_client(facts: Facts) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]] | None:
    """Return validation samples, score and training samples of each client that has validation samples."""
    if facts.scores is None or facts.num_validation is None:
        return None
    some = facts.num_validation > 0
    if not some.any():
        return None
    return facts.num_validation[some], facts.scores[some], facts.num_train[some]
