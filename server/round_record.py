"""What the replies of one exchange said beside the updates: metrics of the head that was sent, and of each client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedgraft.errors import WireError
from fedgraft.evaluation import Objective
from fedgraft.metrics import Sums, add_sums, metric_shapes, over_clients, summarise
from fedgraft.models.losses import Task
from fedgraft.wire.records import Arrays, expect
from server.roster import Call

CLIENT_ARRAYS = (
    "num_train",
    "steps",
    "train_loss",
    "train_loss_before",
    "train_loss_after",
    "train_score",
    "num_validation",
    "validation_loss",
    "validation_score",
    "personal_loss",
    "personal_score",
)


@dataclass
class RoundRecord:
    """What the replies of one exchange said beside the updates.

    Attributes:
        clients: positions in the roster, `(num,)`, ascending.
        metrics: metric sums of the head that was sent, over the clients' validation parts.
        personal: the same of the clients' own heads, where they have some.
        train_loss: mean over the training samples of the clients' mean losses.
        per_client: `(num,)` arrays of `CLIENT_ARRAYS`, as far as they were asked for.
        pseudo_labels: samples without labels, and how many of them got one; empty where they get none.
    """

    clients: NDArray[np.int64]
    metrics: Sums = field(default_factory=dict)
    personal: Sums = field(default_factory=dict)
    train_loss: float | None = None
    per_client: dict[str, NDArray[Any]] = field(default_factory=dict)
    pseudo_labels: Sums = field(default_factory=dict)

    def summarised(self, group: Literal["validation", "personal"], task: Task) -> dict[str, float]:
        """Return the metrics of the head that was sent, or of the clients' own; empty where no sample was seen.

        With each client's score at hand, also how these are spread over the clients.
        """
        sums = self.metrics if group == "validation" else self.personal
        if not sums or not float(sums["count"]):
            return {}
        scores, counts = self.per_client.get(f"{group}_score"), self.per_client.get("num_validation")
        spread = {} if scores is None or counts is None else over_clients(scores, counts, task)
        return summarise(sums, task) | spread


def recorded(
    calls: Sequence[Call],
    groups_of_calls: Sequence[Mapping[str, Arrays]],
    objective: Objective,
    with_confidence: bool = False,
) -> RoundRecord:
    """Return what replies said beside the updates, in the order of the roster.

    Args:
        calls: whom was asked.
        groups_of_calls: the arrays of the replies, in the order of the calls.
        objective: head, loss and task.
        with_confidence: whether metrics were asked for that say how sure heads are.

    Raises:
        WireError: metrics have other names or shapes than they must, or only some replies carry them.
    """
    order = np.argsort(clients_of(calls))
    record = RoundRecord(clients_of(calls)[order])
    shapes = metric_shapes(objective.task, objective.num_outputs, with_confidence)
    metrics: list[Arrays] = []
    personal: list[Arrays] = []
    count = loss = 0.0
    for call, groups in zip(calls, groups_of_calls, strict=True):
        sums = dict(groups.get("metrics", {}))
        trained: Arrays = {name: sums.pop(name) for name in ("train_loss", "train_count") if name in sums}
        if trained:
            expect(trained, {"train_loss": (), "train_count": ()}, f"metrics of shard {call.shard}")
            loss, count = loss + float(trained["train_loss"]), count + float(trained["train_count"])
        if sums:
            expect(sums, shapes, f"metrics of shard {call.shard}")
            metrics.append(sums)
        if "personal" in groups:
            expect(groups["personal"], shapes, f"metrics of own heads of shard {call.shard}")
            personal.append(groups["personal"])
    for kind, parts in (("validation metrics", metrics), ("metrics of own heads", personal)):
        if parts and len(parts) < len(calls):
            raise WireError(f"only {len(parts)} of {len(calls)} replies carry {kind}")
    record.metrics = add_sums(list(metrics)) if metrics else {}
    record.personal = add_sums(list(personal)) if personal else {}
    record.train_loss = loss / count if count else None
    if all("clients" in groups for groups in groups_of_calls):
        record.per_client = {
            name: column(groups_of_calls, name)[order]
            for name in CLIENT_ARRAYS
            if all(name in groups["clients"] for groups in groups_of_calls)
        }
    return record


def clients_of(calls: Sequence[Call]) -> NDArray[np.int64]:
    """Return the positions in the roster of all that were asked, in the order of the calls."""
    return np.concatenate([call.clients for call in calls])


def column(groups_of_calls: Sequence[Mapping[str, Arrays]], name: str) -> NDArray[Any]:
    """Return what replies say of each client by one name, in the order of the calls."""
    return np.concatenate([groups["clients"][name] for groups in groups_of_calls])
