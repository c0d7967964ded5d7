"""Checks of the head as a whole: its classes, its course over the rounds, its confidence."""

from __future__ import annotations

import numpy as np

from fedgraft.errors import listed
from fedgraft.metrics import summarise
from server.advice.facts import Facts
from server.advice.shares import LEAST_SAMPLES, accuracy, apart, percent, standard_error

RISE = 1.1
"""Last loss over the least one from which a head counts as trained too long."""

STILL_FALLING = 0.05
"""Share of the whole fall of the loss that the last fifth of the rounds still makes, from which more rounds are due."""

LEAST_FORGETTING = 0.1
"""Forgetting from which it is told."""

LEAST_CALIBRATION_ERROR = 0.1
"""Calibration error from which probabilities are not to be trusted."""


def negative_transfer(facts: Facts) -> str | None:
    """The head is no better than the answer that needs no input."""
    confusion, ours = facts.validation.get("confusion"), accuracy(facts.validation)
    if confusion is None or ours is None:
        return None
    share_right, count = ours
    of_class = np.asarray(confusion).sum(axis=1)
    share = float(of_class.max()) / count
    if share_right > share or share == 1:
        return None
    return (
        f"the head is right in {percent(share_right)} of the validation samples, and the commonest class, "
        f"'{facts.label_names[int(of_class.argmax())]}', would be in {percent(share)}: nothing was transferred. Try "
        "another backbone or cut, a closed form (strategy: ridge) to tell a poor base from poor training, or another "
        "learning rate"
    )


def no_better_than_mean(facts: Facts) -> str | None:
    """The head's errors on real targets are no smaller than those of the answer that needs no input."""
    if float(facts.validation.get("count", 0)) < LEAST_SAMPLES or "squared_error" not in facts.validation:
        return None
    explained = summarise(facts.validation, "real").get("r_squared")
    if explained is None or explained > 0:
        return None
    return (
        f"the head's squared errors on the validation samples are no smaller than those of their mean (R² is "
        f"{explained:.2f}): nothing was transferred. Try a closed form (strategy: ridge) to tell poor features from "
        "poor training, another learning rate, or align: standardise"
    )


def too_long(facts: Facts) -> str | None:
    """The loss on validation parts rose again: over-fitting."""
    if len(facts.curve) < 3:
        return None
    best, last = min(facts.curve, key=lambda point: point.loss), facts.curve[-1]
    if last.loss <= RISE * best.loss or last.num_samples < LEAST_SAMPLES:
        return None
    if best.round_number == facts.curve[0].round_number:
        return (
            f"the loss on the validation parts was least before training ({best.loss:.3g}, now {last.loss:.3g}): lower "
            f"train.optimizer.learning_rate{'' if facts.begun else ', or start from a closed form (init: ridge)'}"
        )
    return (
        f"the loss on the validation parts was least after round {best.round_number} ({best.loss:.3g}) and rose to "
        f"{last.loss:.3g}: clients over-fit. Stop there (server.patience), train less in a round "
        "(train.local_epochs) or decay weights (train.optimizer.weight_decay)"
    )


def too_short(facts: Facts) -> str | None:
    """The loss still falls."""
    if not facts.trained or len(facts.curve) < 5:
        return None
    first, last = facts.curve[0], facts.curve[-1]
    since = last.round_number - (last.round_number - first.round_number) / 5
    before = [point for point in facts.curve if point.round_number <= since][-1]
    whole, late = first.loss - last.loss, before.loss - last.loss
    if whole <= 0 or late < STILL_FALLING * whole or last.loss > min(point.loss for point in facts.curve):
        return None
    return (
        f"the loss on the validation parts still falls ({before.loss:.3g} after round {before.round_number}, now "
        f"{last.loss:.3g}): more rounds (server.rounds) or a higher learning rate would help"
        + ("" if facts.begun else ", or a start from a closed form (init: ridge)")
    )


def forgets(facts: Facts) -> str | None:
    """Training on new classes has cost what was known of earlier ones."""
    if facts.forgetting is None or facts.forgetting[0] < LEAST_FORGETTING:
        return None
    forgetting, average = facts.forgetting
    cure = (
        "A closed form (strategy: ridge, ncm, lda) absorbs new classes without forgetting"
        if facts.trained
        else "Classes that came later were taken for them; look at the confusion matrix"
    )
    return (
        f"earlier tasks are recognised {100 * forgetting:.0f} points less often than at their best, "
        f"{percent(average)} on average over tasks: the head forgets. {cure}"
    )


def other_domain(facts: Facts) -> str | None:
    """The central test part is not like what clients have."""
    ours, theirs = (accuracy(sums) for sums in (facts.validation, facts.central))
    if ours is None or theirs is None or not apart(*ours, *theirs):
        return None
    return (
        f"the head is right in {percent(theirs[0])} of the central test part and in {percent(ours[0])} of the "
        "clients' own samples: these are different domains or class shares. Look at data.partition, or at what the "
        "test part was held out from"
    )


def weak_classes(facts: Facts) -> str | None:
    """Some classes are hardly ever recognised."""
    confusion, ours = facts.validation.get("confusion"), accuracy(facts.validation)
    if confusion is None or ours is None or forgets(facts) is not None:
        return None
    actual, hits = np.asarray(confusion).sum(axis=1), np.diag(np.asarray(confusion))
    weak = [
        number
        for number in np.flatnonzero(actual >= LEAST_SAMPLES / 2).tolist()
        if hits[number] / actual[number] + 2 * standard_error(hits[number] / actual[number], actual[number])
        < ours[0] / 2
    ]
    if not weak or len(weak) == len(actual):
        return None
    named = (f"'{facts.label_names[number]}' ({percent(hits[number] / actual[number])})" for number in weak)
    return (
        f"recognised less than half as often as the rest: {listed(named, 5)}. Weigh classes (loss.class_weights), or "
        "look whether their samples are few or come from a single client"
    )


def unequal_groups(facts: Facts) -> str | None:
    """A group of samples is served worse than the rest."""
    total = sum(count for count, _ in facts.groups.values())
    right = sum(hits for _, hits in facts.groups.values())
    worse = []
    for name, (count, hits) in facts.groups.items():
        others = total - count
        if count < LEAST_SAMPLES or others < LEAST_SAMPLES:
            continue
        own, rest = hits / count, (right - hits) / others
        if own < rest and apart(own, count, rest, others):
            worse.append(f"'{name}' ({percent(own)} of {count}, the rest {percent(rest)})")
    if not worse:
        return None
    return f"served worse than the other groups: {listed(worse, 5)}. Look whether the federation has enough of them"


def unsure(facts: Facts) -> str | None:
    """Probabilities do not mean what they say."""
    sums = facts.central if "bin_count" in facts.central else facts.validation
    if "bin_count" not in sums or float(sums["bin_count"].sum()) < 5 * LEAST_SAMPLES:
        return None
    count = float(sums["bin_count"].sum())
    confidence, right = float(sums["bin_confidence"].sum()) / count, float(sums["bin_correct"].sum()) / count
    error = float(np.abs(sums["bin_confidence"] - sums["bin_correct"]).sum()) / count
    if error < LEAST_CALIBRATION_ERROR:
        return None
    return (
        f"probabilities are off by {100 * error:.0f} points: the head is {percent(confidence)} sure and right in "
        f"{percent(right)}. Use its answers, not its probabilities, or set loss.label_smoothing"
    )
