"""The received head with each client's own label priors, told by its answers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.members import Asked, Members
from fedgraft.errors import WireError
from fedgraft.evaluation import evaluate_rows
from fedgraft.label_shift import label_weights
from fedgraft.metrics import add_sums, answer_counts, metric_shapes
from fedgraft.wire.records import Arrays, expect

LABEL_SHIFT = "label_shift"
"""What a request to evaluate names in place of a half that keeps heads."""


def corrected(
    members: Members, asked: Asked, extra: Arrays, parameters: Mapping[str, float]
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Evaluate the head on each client's validation part, corrected for the head's answers there.

    The weights are told without the labels. Answers on the training part would not do: the head was fitted to its
    labels, so that they are another distribution than the confusion matrix speaks of.

    Args:
        members: all clients of the host.
        asked: the head, and which clients.
        extra: `confusion` `(C, C)` float64, counts over all clients' validation parts; rows: true class.
        parameters: `penalty` on the weights of classes.

    Raises:
        WireError: the targets are not classes, the loss is not softmax, or the counts are none.
    """
    objective = asked.objective
    if objective.task != "classes" or objective.loss.name != "softmax":
        came = f"the targets are {objective.task!r} and the loss {objective.loss.name}"
        raise WireError(f"label priors are those of classes under the softmax loss; {came}")
    expect(extra, {"confusion": (objective.num_outputs,) * 2}, "the request's counts of answers", np.dtype(np.float64))
    federation, index = members.workspace.federation, asked.index
    targets = federation.samples.targets
    shapes = metric_shapes("classes", objective.num_outputs, with_confidence=True)
    sums: dict[str, NDArray[np.float64]] = {name: np.zeros(shape) for name, shape in shapes.items()}
    losses, scores = np.zeros(len(index)), np.zeros(len(index))
    for turn, client in enumerate(members.clients[index].tolist()):
        rows = federation.validation.of(client)
        if not len(rows):
            continue
        known = evaluate_rows(asked.features, targets, rows, asked.head, objective)
        try:
            weights = label_weights(extra["confusion"], answer_counts(known.sums), parameters.get("penalty", 0.0))
        except (ValueError, np.linalg.LinAlgError) as error:
            raise WireError(f"the request's counts of answers: {error}") from error
        shifted = replace(objective, offset=tuple(np.log(weights).tolist()))
        found = evaluate_rows(asked.features, targets, rows, asked.head, shifted, with_confidence=True)
        sums = add_sums([sums, found.sums])
        losses[turn], scores[turn] = found.losses.mean(), found.scores.mean()
    return {**sums}, {"personal_loss": losses, "personal_score": scores}
