"""The last head with other label priors: each client's own and the test part's, as the head's answers tell them."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.errors import Fault, ScenarioError
from fedgraft.evaluation import Objective
from fedgraft.files import write_text
from fedgraft.label_shift import condition, label_weights
from fedgraft.metrics import LARGEST_CONFUSION, answer_counts, summarise
from fedgraft.progress import report
from fedgraft.wire.records import array_record
from server.answers import answers
from server.round_record import RoundRecord
from server.settings import ServerPart
from strategies.base import Half, Request

if TYPE_CHECKING:
    from server.course import Course

LABEL_SHIFT = "label_shift"
LABEL_SHIFT_FILE = "label_shift.csv"


def check_label_shift(part: ServerPart, objective: Objective, num_validation: int) -> None:
    """Refuse to correct label priors where there are none, or where nothing could tell them.

    Args:
        part: what the server reads of the scenario.
        objective: what the head is for.
        num_validation: validation samples of all clients.

    Raises:
        ScenarioError: the targets are not classes, or too many, the loss is not softmax, or there are no such samples.
    """
    if part.evaluation.label_shift is None:
        return
    faults = []
    if objective.task != "classes" or objective.loss.name != "softmax":
        came = f"the targets are {objective.task} and the loss is {objective.loss.name}"
        faults.append(f"needs one class a sample and the softmax loss; {came}; set it to null")
    elif objective.num_outputs > LARGEST_CONFUSION:
        text = f"needs a confusion matrix, which is kept up to {LARGEST_CONFUSION} classes"
        faults.append(f"{text}; there are {objective.num_outputs:,}; set it to null")
    if not num_validation:
        faults.append("needs validation samples of clients, and there are none; raise data.validation_fraction")
    if faults:
        raise ScenarioError(part.name, [Fault("evaluation.label_shift", text) for text in faults])


def correct(course: Course) -> dict[str, Any]:
    """Return what the last head reaches with other label priors; write what each client gains.

    Empty where it is not asked for, or can't be told.
    """
    settings, adapter = course.part.evaluation.label_shift, course.adapter
    before = adapter.record
    if settings is None or before is None or "confusion" not in before.metrics:
        return {}
    counts = np.asarray(before.metrics["confusion"], dtype=np.float64)
    number = condition(counts) if counts.sum() else float("inf")
    told = None if np.isinf(number) else number
    if number > settings.largest_condition and settings.penalty == 0:
        text = (
            f"label priors are not corrected: the condition number of the confusion matrix is {number:.4g}, more than "
            f"{settings.largest_condition:g}; set evaluation.label_shift.penalty, such as 0.01"
        )
        report("note", text=text)
        return {"condition": told, "refused": text}
    found: dict[str, Any] = {"condition": told, "penalty": settings.penalty, **_clients(course, before, counts)}
    if course.central is not None and course.central_sums is not None:
        weights = label_weights(counts, answer_counts(course.central_sums), settings.penalty)
        sums = course.central.evaluate(course.head, course.cut_of_head, tuple(np.log(weights).tolist()))
        found["central"] = summarise(sums, "classes")
        found["central_weights"] = dict(zip(course.roster.label_names, weights.tolist(), strict=True))
    return found


def _clients(course: Course, before: RoundRecord, counts: NDArray[np.float64]) -> dict[str, Any]:
    """Have clients evaluate the head with their own priors; the adapter's record stays that of the head as it is."""
    settings, adapter = course.part.evaluation.label_shift, course.adapter
    parameters = {"penalty": 0.0 if settings is None else settings.penalty}
    request = Request(Half(LABEL_SHIFT, parameters), arrays={"confusion": counts})
    round_number = course.number_of_head
    messages = adapter.evaluate_now(round_number, array_record(course.head), request)
    adapter.aggregate_evaluate(round_number, answers(course, messages, adapter, round_number) or [])
    after, adapter.record = adapter.record, before
    if after is None or after is before:
        return {}
    if "personal_score" in after.per_client:
        names = [course.roster.names[client] for client in after.clients]
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(("client", "num_samples", "loss", "score", "loss_corrected", "score_corrected"))
        kinds = ("validation_loss", "validation_score", "personal_loss", "personal_score")
        columns = [after.per_client["num_validation"].tolist(), *(after.per_client[kind].tolist() for kind in kinds)]
        for name, count, *values in zip(names, *columns, strict=True):
            if count:
                writer.writerow((name, int(count), *(f"{value:.7g}" for value in values)))
        write_text(course.directory.path / LABEL_SHIFT_FILE, buffer.getvalue())
    return {"validation": after.summarised("personal", "classes")}
