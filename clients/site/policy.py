"""The site's policy: refuses what its owner does not allow, whatever the server asks.

Two questions are put to it: before anything is computed (`check`), and, for statistics, once it is known which
samples they would be of (`check_cohort`); a third before an answer to `train` leaves (`check_update`). What it must
remember (rounds so far, the samples that statistics were given of) is on the site's disk, so that neither a restart
nor a new run makes it forget.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clients.site.memory import PolicyMemory
from clients.site.settings import PolicySettings
from fedgraft.errors import FedGraftError, listed
from fedgraft.norms import norm, row_norms
from fedgraft.settings_files.load import FileKind, load_settings

POLICY = FileKind("policy", "that it changes", "most_rounds: 100")

KNOWN_KEYS = frozenset(
    ("name", "seed", "data", "backbone", "features", "head", "loss", "train", "strategy", "init", "calibrate")
) | {
    "attack",
    "availability",
    "server",
    "evaluation",
    "runtime",
    "shards",
    "privacy",
    "compare",
    "tracking",
    "unfreeze",
    "pseudo_labels",
    "align",
    "stages",
}
"""The keys of a scenario that this version knows; what asks for more asks for what it lacks."""

KNOWN_KEYS_OF_A_STAGE = frozenset(("name", "train", "unfreeze", "pseudo_labels", "strategy", "server"))
"""The same of one of its stages."""

OF_STATISTICS = ("moments", "statistics", "cross_validate", "class_sums", "mixtures", "leave_out")
"""Requests whose answers are functions of sums over chosen clients' samples."""

OF_SINGLE_CLIENTS = ("class_sums", "mixtures", "leave_out")
"""Requests whose answers keep clients apart."""


class Refusal(FedGraftError):  # noqa: N818 - nothing went wrong
    """What the site does not do; the text goes to the server as well as to the site's log."""


class Question(Protocol):
    """What the policy has to know of a request."""

    @property
    def kind(self) -> str:
        """Flower's type of the message: `train`, `query.statistics`."""

    @property
    def run_id(self) -> str:
        """FedGraft's id of the run."""

    @property
    def scenario_digest(self) -> str:
        """sha256 of what the scenario says."""

    @property
    def submitted(self) -> Mapping[str, Any]:
        """The scenario as it was submitted."""

    @property
    def body(self) -> Any:
        """The request's body, checked."""

    @property
    def digest(self) -> str:
        """sha256 of the whole request: a request that is sent again has the same."""


@dataclass(frozen=True)
class Cohort:
    """The training samples that statistics would be of.

    Attributes:
        samples: a number of each sample's content, uint64, in any order.
        class_counts: `(num_classes,)` samples of each class; None where targets are no classes.
        num_clients: clients that this site speaks for.
    """

    samples: NDArray[np.uint64]
    class_counts: NDArray[np.int64] | None = None
    num_clients: int = 1


def read_policy(path: Path) -> PolicySettings:
    """Read `policy.yaml`; without such a file the defaults hold, which are the safe ones.

    Raises:
        SettingsError: with every fault of the file.
    """
    if not path.exists() or not _says_anything(path):
        return PolicySettings()
    return load_settings(path, PolicySettings, POLICY)


def _stages(submitted: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the stages of a scenario as they were sent; what is none is refused where it is read."""
    stages = submitted.get("stages")
    return [stage for stage in stages if isinstance(stage, dict)] if isinstance(stages, list) else []


def _says_anything(path: Path) -> bool:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return any(line.strip() and not line.lstrip().startswith("#") for line in lines)


class Policy:
    """Judges requests.

    Args:
        site: the site's name, for texts.
        settings: its rules.
        folder: where it remembers.
    """

    def __init__(self, site: str, settings: PolicySettings, folder: Path) -> None:
        self._site, self._settings = site, settings
        self._memory = PolicyMemory(folder)

    def check(self, question: Question) -> None:
        """Refuse what is not allowed, before anything is computed for it.

        Raises:
            Refusal: says what was asked, which rule refuses it, and what to do.
        """
        asked = question.kind.removeprefix("query.")
        if asked not in self._settings.requests:
            allowed = listed(self._settings.requests) or "nothing"
            raise self._refusal(f"'{asked}' is not answered here, only {allowed}", "requests", f"allow '{asked}'")
        self._check_scenario(question)
        if asked == "train":
            self._check_rounds(question)

    def check_alignment(self, question: Question, weights_digest: str, alignment: str) -> None:
        """Refuse to align a run's features by anything but what it aligned them by at first.

        Whoever could choose it again and again would learn of single samples from how features round.

        Args:
            question: what was asked.
            weights_digest: of the backbone whose features are aligned.
            alignment: digest of what they are aligned by: what came with the request, and the scenario's settings.

        Raises:
            Refusal: it is another.
        """
        if self._memory.alignment(question.run_id, weights_digest, alignment) != alignment:
            text = "the run's features were aligned by other moments, or in another way, before"
            raise Refusal(f"{self._site} refuses: {text}; one run has one alignment, so start a new run")

    def check_reference(self, question: Question, reference: Collection[str] | None, names: Collection[str]) -> None:
        """Refuse to be the only reference that features are aligned onto, since every site gets its moments.

        Args:
            question: what was asked.
            reference: clients that the scenario names; None: all of the federation.
            names: clients of this site.

        Raises:
            Refusal: the reference are clients of this site alone.
        """
        alone = reference is not None and set(reference) <= set(names)
        if question.kind == "query.moments" and alone and not self._settings.sole_reference:
            text = f"the mean and covariance of {listed(sorted(set(reference or ())))} would go to all other sites"
            raise self._refusal(text, "sole_reference", "name clients of other sites too in align.reference")

    def check_cohort(self, question: Question, weights_digest: str, cohort: Cohort, alignment: str = "") -> None:
        """Refuse statistics of too few samples, or of a set too near to an earlier one.

        Args:
            question: what was asked.
            weights_digest: of the backbone whose features are summed.
            cohort: what they would be of.
            alignment: digest of what features are aligned by; empty: they are not.

        Raises:
            Refusal: says how many samples they are, and which rule refuses them.
        """
        settings, asked = self._settings, question.kind.removeprefix("query.")
        count = len(cohort.samples)
        if count < settings.smallest_cohort:
            text = f"'{asked}' would be of {count} training samples, fewer than {settings.smallest_cohort}"
            raise self._refusal(text, "smallest_cohort", "ask for more of the site's clients together")
        by_class = cohort.class_counts is not None and asked != "moments"
        counts = cohort.class_counts if by_class and cohort.class_counts is not None else np.zeros(0, dtype=np.int64)
        few = counts[(counts > 0) & (counts < settings.smallest_class)]
        if len(few):
            text = f"{len(few)} classes have fewer than {settings.smallest_class} training samples in '{asked}'"
            raise self._refusal(text, "smallest_class", "leave rare classes out of the data, or lower the number")
        if asked in OF_SINGLE_CLIENTS and cohort.num_clients > 1 and not settings.individual_clients:
            text = f"'{asked}' keeps the {cohort.num_clients} clients of this site apart"
            raise self._refusal(text, "individual_clients", "set it to true")
        self._check_difference(asked, weights_digest, np.unique(cohort.samples), alignment)

    def check_update(self, question: Question, groups: Mapping[str, Mapping[str, NDArray[Any]]], weight: float) -> None:
        """Refuse to let an update leave that is too large, or that shows clients apart.

        Args:
            question: the request to train.
            groups: the arrays of the answer.
            weight: what the sum of updates was weighted with, in all.

        Raises:
            Refusal: says how large it is, or how many clients it would show.
        """
        rows = row_norms(groups.get("stack", {}).values())
        if len(rows) > 1 and not self._settings.individual_clients:
            text = f"'{question.kind}' keeps the updates of this site's {len(rows)} clients apart"
            raise self._refusal(text, "individual_clients", "set it to true, or take a strategy that needs sums only")
        norms = [norm(groups["update"].values()) / weight] if "update" in groups and weight > 0 else []
        norms += rows
        largest = self._settings.largest_update_norm
        if largest is not None and norms and not max(norms) <= largest:  # NaN is refused as well
            text = f"the update's norm is {max(norms):.6g}, more than {largest:.6g}"
            raise self._refusal(text, "largest_update_norm", "train with a smaller learning rate")

    def _check_scenario(self, question: Question) -> None:
        settings, submitted = self._settings, question.submitted
        stages = _stages(submitted)
        unknown = sorted(key for key, value in submitted.items() if key not in KNOWN_KEYS and value is not None)
        unknown += sorted(
            f"stages.{key}"
            for key in {key for stage in stages for key, value in stage.items() if value is not None}
            if key not in KNOWN_KEYS_OF_A_STAGE
        )
        if unknown or submitted.get("privacy") is not None:
            what = listed(unknown) or "privacy"
            text = f"the scenario asks for {what}, which this version of FedGraft lacks"
            raise Refusal(f"{self._site} refuses: {text}; install the server's release here, or leave it out")
        if settings.scenarios is not None and question.scenario_digest not in settings.scenarios:
            text = f"the scenario '{submitted.get('name', '')}' with digest {question.scenario_digest} is not allowed"
            raise self._refusal(text, "scenarios", "add the digest")
        trains_blocks = any(part.get("unfreeze") is not None for part in (submitted, *stages))
        if trains_blocks and not settings.backbone_training:
            text = "the scenario trains blocks of the backbone (unfreeze)"
            raise self._refusal(text, "backbone_training", "set it to true")

    def _check_rounds(self, question: Question) -> None:
        settings, body = self._settings, question.body
        with self._memory.run(question.run_id) as rounds:
            known = rounds.exchanges.setdefault(body.round_number, [])
            if question.digest in known:  # sent again, since an answer was lost: nothing new leaves
                return
            if not known and len(rounds.exchanges) > settings.most_rounds:
                text = f"the run has had {len(rounds.exchanges) - 1} rounds of training here"
                raise self._refusal(text, "most_rounds", "allow more")
            if not known and settings.most_rounds_in_all is not None:
                given = self._memory.num_rounds()
                if given >= settings.most_rounds_in_all:
                    text = f"all runs together have had {given} rounds of training here"
                    raise self._refusal(text, "most_rounds_in_all", "allow more")
            if len(known) >= settings.most_exchanges:
                text = f"round {body.round_number} has had {len(known)} different requests to train"
                raise self._refusal(text, "most_exchanges", "allow more")
            known.append(question.digest)

    def _check_difference(self, asked: str, weights_digest: str, samples: NDArray[np.uint64], alignment: str) -> None:
        settings = self._settings
        with self._memory.statistics(weights_digest) as given:
            for earlier, aligned in zip(given.sets, given.alignments, strict=True):
                differ = len(np.setxor1d(samples, earlier, assume_unique=True))
                if differ == 0 and aligned == alignment:
                    return
                if 0 < differ < settings.smallest_difference:
                    text = f"'{asked}' would be of samples of which all but {differ} were in an earlier answer"
                    raise self._refusal(text, "smallest_difference", "ask for the same clients as then, or far others")
            if len(given.sets) >= settings.most_statistics:
                text = f"{len(given.sets)} different sets of samples (or alignments of them) have been summed"
                raise self._refusal(text, "most_statistics", "ask for the same clients as before, or allow more")
            given.add(samples, alignment)

    def _refusal(self, text: str, rule: str, advice: str) -> Refusal:
        value = getattr(self._settings, rule)
        shown = f"{listed(value, 3)}" if isinstance(value, tuple) else "true" if value is True else str(value).lower()
        return Refusal(
            f"{self._site} refuses: {text} (rule `{rule}: {shown}` of the site's policy.yaml). "
            f"{advice[0].upper()}{advice[1:]}, if the site agrees"
        )
