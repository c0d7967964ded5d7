"""What a ranking says: the scores and costs of each candidate, and which to take."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fedgraft.models.catalogue import PIXELS
from fedgraft.models.losses import Task
from fedgraft.models.settings import BackboneSettings

SCHEMA = 1
"""Of `ranking.json`."""

Z_95 = 1.959963984540054
"""Of the normal distribution: 95 % lie within so many standard deviations."""

Role = Literal["candidate", "pixels", "random"]
"""A candidate, or a baseline that learned nothing: raw pixels, or a candidate's architecture with random weights."""

METRICS: dict[Task, str] = {"classes": "accuracy", "labels": "right labels", "real": "R2"}
"""What cross-validation gives: shares of right answers, or of the variance that is explained."""


WITHOUT_CUTS = ("identity", PIXELS)
"""Backbones that have one place for a head, and no weights."""


def name_and_cut(backbone: BackboneSettings) -> tuple[str, str]:
    """Return what a backbone is called, with its weights if they are not the pretrained ones, and its cut or ''."""
    name, weights = backbone.name, backbone.weights
    if name in WITHOUT_CUTS:
        return name, ""
    return (name if weights == "pretrained" else f"{name} ({Path(weights).name} weights)"), backbone.cut


def title(backbone: BackboneSettings) -> str:
    """Return what a backbone at its cut is called in a line."""
    return " at ".join(part for part in name_and_cut(backbone) if part)


@dataclass(frozen=True)
class Scored:
    """A backbone at a cut, with what was found out about it.

    Attributes:
        backbone: its settings.
        role: what it is there for.
        input_size: of its pictures, px; 0 where the source gives features.
        feature_dim: features a sample.
        validated: share of right answers of ridge heads on samples of clients that they have not seen; R2 for real
            targets.
        standard_error: of it; None where sums do not tell it.
        penalty: of the best of those heads.
        log_me: mean log evidence by sample.
        h_score: shrunk H-score; None where targets are not classes.
        feature_seconds: that computing the features took, or finding them in the store.
        sum_seconds: that the two exchanges took, with everything around them.
        picture_seconds: for one picture up to the cut, measured on a few; None where the source gives features.
        num_bytes: that were sent, both ways.
    """

    backbone: BackboneSettings
    role: Role
    input_size: int
    feature_dim: int
    validated: float
    standard_error: float | None
    penalty: float
    log_me: float
    h_score: float | None
    feature_seconds: float
    sum_seconds: float
    picture_seconds: float | None
    num_bytes: int

    @property
    def title(self) -> str:
        """What it is called in a line."""
        return title(self.backbone)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of `validated`; None where there is no standard error."""
        if self.standard_error is None:
            return None
        reach = Z_95 * self.standard_error
        return max(self.validated - reach, 0.0), min(self.validated + reach, 1.0)

    def lead_over(self, other: Scored) -> tuple[float, float | None]:
        """Return how far it is ahead, and the half width of the difference's 95 % interval if that is known.

        Both were judged on the same samples, which this does not use: an interval of pairs would be narrower.
        """
        lead = self.validated - other.validated
        if self.standard_error is None or other.standard_error is None:
            return lead, None
        return lead, Z_95 * math.hypot(self.standard_error, other.standard_error)

    def is_ahead_of(self, other: Scored) -> bool:
        """Whether it is better by more than chance would make it; without intervals, by anything at all."""
        lead, reach = self.lead_over(other)
        return lead > (reach or 0.0)

    @property
    def cost(self) -> tuple[float, int]:
        """What candidates that can't be told apart are ordered by: seconds a picture, then features."""
        return self.picture_seconds or 0.0, self.feature_dim

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "backbone": self.backbone.model_dump(mode="json"), "interval": self.interval}


@dataclass(frozen=True)
class Recommendation:
    """Which candidate to take, and why.

    Attributes:
        chosen: the candidate.
        reasons: one sentence each.
        warnings: one sentence each, of likely negative transfer.
        yaml: the lines for the scenario.
    """

    chosen: Scored
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    yaml: str


@dataclass(frozen=True)
class Ranking:
    """Backbones in the order of what they are worth to a federation's task.

    Attributes:
        scenario: its name.
        task: what the targets are.
        num_clients: of the federation.
        num_samples: training samples, all of which were predicted.
        candidates: the best first.
        baselines: raw pixels and random weights, the best first.
        missing: what can't be ranked, with the reason: weights that can't be fetched, features that are not finite.
        recommendation: which to take.
        directory: where `ranking.json` and the winner's `scenario.yaml` lie.
    """

    scenario: str
    task: Task
    num_clients: int
    num_samples: int
    candidates: tuple[Scored, ...]
    baselines: tuple[Scored, ...]
    missing: tuple[tuple[str, str], ...]
    recommendation: Recommendation
    directory: Path

    @property
    def best(self) -> Scored:
        """The candidate to take."""
        return self.recommendation.chosen

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values, as `ranking.json` holds it."""
        told = self.recommendation
        return {
            "schema": SCHEMA,
            "scenario": self.scenario,
            "directory": str(self.directory),
            "task": self.task,
            "metric": METRICS[self.task],
            "num_clients": self.num_clients,
            "num_samples": self.num_samples,
            "candidates": [scored.as_json() for scored in self.candidates],
            "baselines": [scored.as_json() for scored in self.baselines],
            "missing": [{"name": name, "reason": reason} for name, reason in self.missing],
            "recommendation": {
                "backbone": told.chosen.backbone.model_dump(mode="json"),
                "reasons": list(told.reasons),
                "warnings": list(told.warnings),
                "yaml": told.yaml,
            },
        }
