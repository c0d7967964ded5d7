"""Which candidate to take, and whether its source is of use to the task: sentences that claim no more than is known.

The validated ridge head decides, since it says what a head would do for a client that it has not seen. Candidates that
the best is ahead of by less than the 95 % interval of the difference count as alike, and the cheapest of them is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedgraft.kinds import Kind
from fedgraft.models.catalogue import PLAIN, PLAIN_WORDS, kind_of
from fedgraft.models.losses import Task
from fedgraft.models.settings import BackboneSettings
from fedgraft.ranking.records import Recommendation, Scored

_SAID: dict[Task, str] = {
    "classes": "ridge heads on its features answer {value} of the samples right, of clients that they have not seen",
    "labels": "ridge heads on its features get {value} of the labels right, of clients that they have not seen",
    "real": "ridge heads on its features explain {value} of the targets' variance, of clients that they have not seen",
}


_MORE: dict[Kind, tuple[str, ...]] = {"images": ("the pictures too small for it",)}
"""What else may make a backbone useless for inputs of a kind."""


def recommend(candidates: Sequence[Scored], baselines: Sequence[Scored], task: Task) -> Recommendation:
    """Return the candidate to take, with reasons and warnings.

    Args:
        candidates: the best first, at least one.
        baselines: raw pixels, and random weights of the candidates' architectures.
        task: what the targets are.
    """
    best = candidates[0]
    baselines = [*baselines, *(scored for scored in candidates if _is_plain(scored))]
    alike = [other for other in candidates if other is best or not best.is_ahead_of(other)]
    chosen = min(alike, key=lambda scored: scored.cost)
    reasons = [
        _score(chosen, task),
        *_lead(chosen, alike, candidates, task),
        *_other_scores(chosen, candidates),
        *_help(chosen, baselines, task),
    ]
    warnings = [line for own in _backbones(candidates) for line in _warnings(own, baselines, task)]
    return Recommendation(chosen, tuple(reasons), tuple(warnings), yaml_of(chosen.backbone))


def yaml_of(backbone: BackboneSettings) -> str:
    """Return the lines of a scenario that choose a backbone."""
    from scenarios.writer import yaml_text

    return yaml_text({"backbone": {"name": backbone.name, **backbone.model_dump(mode="json", exclude_defaults=True)}})


def shown(value: float, task: Task) -> str:
    """Return a validated score as one reads it."""
    return f"{value:.3f}" if task == "real" else f"{100 * value:.1f} %"


def _score(chosen: Scored, task: Task) -> str:
    interval = chosen.interval
    within = "" if interval is None else f" (95 % interval {shown(interval[0], task)} to {shown(interval[1], task)})"
    return f"{_SAID[task].format(value=shown(chosen.validated, task))}{within}"


def _lead(chosen: Scored, alike: Sequence[Scored], candidates: Sequence[Scored], task: Task) -> list[str]:
    """Return how far the chosen one is ahead, or why it is taken of several that can't be told apart."""
    if len(candidates) == 1:
        return ["it is the only candidate"]
    best = candidates[0]
    if len(alike) == 1:
        return [f"it is {_ahead(best, candidates[1], task)} of the next, {candidates[1].title}"]
    if chosen is best:
        second = alike[1]
        others = f"{second.title} ({shown(second.validated, task)})" if len(alike) == 2 else f"{len(alike) - 1} others"
        return [f"{others} can't be told apart from it, and it is the cheapest of them{_costs(chosen, None)}"]
    lead, reach = best.lead_over(chosen)
    far = f"{_points(lead, task)}, within the ± {_points(reach or 0.0, task)} of chance"
    ahead = f"the best, {best.title}, is ahead by {far}" if lead else f"{best.title} is as good"
    which = "of the two" if len(alike) == 2 else f"of the {len(alike)} that can't be told apart"
    return [f"{ahead}; {which} it is the cheapest{_costs(chosen, best)}"]


def _costs(chosen: Scored, other: Scored | None) -> str:
    """Return what one candidate costs, beside another."""
    parts: list[str] = []
    amounts: tuple[Callable[[Scored], str], ...] = (
        lambda scored: "" if scored.picture_seconds is None else f"{1000 * scored.picture_seconds:.2f} ms a picture",
        lambda scored: f"{scored.feature_dim:,} features",
    )
    for amount in amounts:
        own = amount(chosen)
        if own:
            parts.append(own if other is None else f"{own} (the other {amount(other)})")
    return f": {', '.join(parts)}"


def _other_scores(chosen: Scored, candidates: Sequence[Scored]) -> list[str]:
    """Return where LogME and the H-score put the chosen one."""
    if len(candidates) == 1:
        return []
    places = [f"LogME puts it {_ordinal(1 + sum(other.log_me > chosen.log_me for other in candidates))}"]
    own = chosen.h_score
    if own is not None:
        higher = sum(other.h_score is not None and other.h_score > own for other in candidates)
        places.append(f"the H-score {_ordinal(1 + higher)}")
    return [f"{', '.join(places)} of {len(candidates)}; neither decides"]


def _help(chosen: Scored, baselines: Sequence[Scored], task: Task) -> list[str]:
    """Return by how much what it learned helps, if it does."""
    against = _against(chosen, baselines)
    if not against or not all(chosen.is_ahead_of(other) for other in against):
        return []
    parts = [f"{_ahead(chosen, other, task)} of {_called(other)}" for other in against]
    return [f"what it learned helps here: it is {' and '.join(parts)}"]


def _backbones(candidates: Sequence[Scored]) -> list[Scored]:
    """Return the best candidate of each backbone that learned something, the best first."""
    best: dict[tuple[str, str], Scored] = {}
    for scored in candidates:
        if scored.backbone.weights != "random" and scored.picture_seconds is not None and not _is_plain(scored):
            best.setdefault((scored.backbone.name, scored.backbone.weights), scored)
    return list(best.values())


def _warnings(own: Scored, baselines: Sequence[Scored], task: Task) -> list[str]:
    """Return what speaks against a backbone at its best cut: those that learned nothing and are as good."""
    worse = [other for other in _against(own, baselines) if other.is_ahead_of(own)]
    alike = [other for other in _against(own, baselines) if other not in worse and not own.is_ahead_of(other)]
    if not worse and not alike:
        return []
    value = shown(own.validated, task)
    parts = []
    if worse:
        others = " and ".join(f"{_called(other)} ({shown(other.validated, task)})" for other in worse)
        parts.append(f"is worse than {others}")
    if alike:
        others = " and ".join(f"{_called(other)} ({shown(other.validated, task)})" for other in alike)
        parts.append(f"can't be told apart from {others}")
    reasons = [
        "its source may be too far from this task",
        "its cut too deep",
        *_MORE.get(kind_of(own.backbone.name), ()),
    ]
    return [
        f"likely negative transfer: {own.title} ({value}) {' and '.join(parts)}; nothing shows that what it learned is "
        f"of use here: {', '.join(reasons[:-1])}{',' if len(reasons) > 2 else ''} or {reasons[-1]}"
    ]


def _against(own: Scored, baselines: Sequence[Scored]) -> list[Scored]:
    """Return the baselines of a candidate: raw pixels, and its own architecture with random weights."""
    if _is_plain(own) or own.backbone.weights == "random":
        return []
    return [other for other in baselines if _is_plain(other) or other.backbone.name == own.backbone.name]


def _is_plain(scored: Scored) -> bool:
    """Return whether a backbone learned nothing of any kind of inputs."""
    return scored.backbone.name in PLAIN.values()


def _called(baseline: Scored) -> str:
    return PLAIN_WORDS.get(baseline.backbone.name, "the same architecture with random weights")


def _ahead(one: Scored, other: Scored, task: Task) -> str:
    lead, reach = one.lead_over(other)
    return f"{_points(lead, task)}{'' if reach is None else f' (± {_points(reach, task)})'} ahead"


def _points(difference: float, task: Task) -> str:
    return f"{difference:.3f}" if task == "real" else f"{100 * difference:.1f} points"


def _ordinal(number: int) -> str:
    teen = 10 <= number % 100 <= 20
    return f"{number}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"
