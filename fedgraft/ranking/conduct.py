"""Conducts a ranking: features of each candidate, one exchange of sums, one of cross-validation, and the verdict."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fedgraft.errors import FedGraftError, ModelError
from fedgraft.files import write_text
from fedgraft.launch import quieten
from fedgraft.models.catalogue import PLAIN, kind_of
from fedgraft.models.registry import describe
from fedgraft.models.settings import BackboneSettings
from fedgraft.preparation import prepare
from fedgraft.progress import report
from fedgraft.ranking.candidates import Named, choose, nothing_left, plain_settings
from fedgraft.ranking.records import WITHOUT_CUTS, Ranking, Role, Scored, title
from fedgraft.ranking.verdict import recommend
from fedgraft.survey import open_survey

if TYPE_CHECKING:
    from fedgraft.models.backbone import Backbone
    from fedgraft.models.info import BackboneInfo
    from fedgraft.survey import Survey
    from scenarios.schema import Scenario
    from server.ranking import Inquired

RANKING_FILE = "ranking.json"

PICTURES = 16
"""On which the seconds a picture are measured."""

REPEATS = 5
"""Of which the least counts: other work on the machine only ever adds to it."""


@dataclass(frozen=True)
class Options:
    """How a ranking is made; see `fedgraft.rank`."""

    backbones: Named | None = None
    cuts: str | Sequence[str] | None = None
    baselines: bool = True
    out: Path | None = None
    verbose: bool = False


def rank(scenario: Scenario, options: Options) -> Ranking:
    """Rank backbones for a scenario that has been checked, and write what came out.

    Raises:
        FedGraftError: anything that the user can mend.
    """
    _check_place(scenario)
    quieten(options.verbose)
    chosen = choose(scenario.name, scenario.backbone, options.backbones, options.cuts)
    for name, why in chosen.missing:
        report("note", text=f"{name} is left out: {why}")
    with open_survey(scenario, RANKING_FILE, options.out, options.verbose) as survey:
        bench = Bench(survey)
        bench.compute_together(chosen.backbones)
        missing = list(chosen.missing)
        candidates = _ordered(bench.candidates(chosen.backbones, missing))
        if not candidates:
            raise nothing_left(missing)
        baselines = _ordered(bench.baselines(candidates)) if options.baselines else ()
        ranking = bench.ranking(scenario.name, candidates, baselines, tuple(missing))
        _write(ranking, scenario)
    return ranking


class Bench:
    """Scores one backbone after another, in the same runtime."""

    def __init__(self, survey: Survey) -> None:
        self._survey = survey
        self._scenario = survey.scenario
        self._last: Inquired | None = None
        self._shared_seconds: dict[BackboneSettings, float] = {}

    def compute_together(self, backbones: Sequence[BackboneSettings]) -> None:
        """Compute the features of backbones that differ by their cut only in one pass; they share its seconds alike."""
        from fedgraft.features.cuts import replace_cut, store_at_cuts
        from fedgraft.workspace import open_workspace

        alike: dict[BackboneSettings, list[BackboneSettings]] = {}
        for backbone in backbones:
            alike.setdefault(replace_cut(backbone, ""), []).append(backbone)
        several = {key: group for key, group in alike.items() if len(group) > 1}
        for number, (key, group) in enumerate(several.items(), 1):
            what = f"features of {title(replace_cut(key, f'{len(group)} cuts'))}"
            report("candidate", number=number, of=len(several), title=what, role="features")
            scenario = self._scenario
            samples = open_workspace(scenario.data, scenario.seed, key, scenario.features).federation.samples
            started = time.perf_counter()
            cuts = [backbone.cut for backbone in group]
            if samples.kind == "features":
                continue
            with contextlib.suppress(ModelError):  # of one cut or another; each alone says why
                if store_at_cuts(samples, key, cuts, scenario.features, progress=_features_progress):
                    share = (time.perf_counter() - started) / len(group)
                    self._shared_seconds |= dict.fromkeys(group, share)

    def candidates(self, backbones: Sequence[BackboneSettings], missing: list[tuple[str, str]]) -> Iterator[Scored]:
        """Yield the backbones with their scores; what can't be ranked is told, and added to `missing`."""
        for number, backbone in enumerate(backbones, 1):
            report("candidate", number=number, of=len(backbones), title=title(backbone), role="candidate")
            try:
                yield self.scored(backbone, "candidate")
            except ModelError as error:
                missing.append((title(backbone), str(error)))
                report("note", text=f"{title(backbone)} is left out: {error}")

    def scored(self, backbone: BackboneSettings, role: Role) -> Scored:
        """Return a backbone with its scores and costs.

        Raises:
            FedGraftError: its features can't be had, or nothing can be told from them.
        """
        from fedgraft.threads import numpy_threads
        from fedgraft.transferability import h_score, log_me
        from server.ranking import inquire

        scenario = self._scenario.model_copy(update={"backbone": backbone})
        info = describe(backbone)
        prepared, feature_dim = prepare(scenario, keep_data=True)
        picture_seconds = _picture_seconds(scenario)
        started = time.perf_counter()
        self._last = found = self._survey.ask(inquire, scenario, feature_dim)
        sum_seconds = time.perf_counter() - started
        try:
            with numpy_threads(scenario.runtime.threads):
                by_evidence = log_me(found.statistics, found.task)
                by_separation = h_score(found.statistics) if found.task == "classes" else None
        except ValueError as error:
            raise ModelError(f"{title(backbone)} can't be ranked: {error}") from error
        validated, standard_error = _validated(found)
        return Scored(
            backbone=backbone,
            role=role,
            input_size=_input_size(info),
            feature_dim=found.feature_dim,
            validated=validated,
            standard_error=standard_error,
            penalty=found.validated.best,
            log_me=by_evidence,
            h_score=by_separation,
            feature_seconds=prepared["features"] + self._shared_seconds.get(backbone, 0.0),
            sum_seconds=sum_seconds,
            picture_seconds=picture_seconds,
            num_bytes=found.counters.bytes_down + found.counters.bytes_up,
        )

    def baselines(self, candidates: Sequence[Scored]) -> Iterator[Scored]:
        """Yield raw pixels, and each backbone that learned something at its best cut with random weights.

        One that gives no usable features is left out with a note: deep networks with random weights may overflow.
        """
        if all(scored.picture_seconds is None for scored in candidates):
            report("note", text="the source gives ready features, so there are no raw pixels to compare them with")
            return
        wanted: list[tuple[BackboneSettings, Role]] = []
        plain = PLAIN.get(kind_of(candidates[0].backbone.name))
        if plain is not None and not any(scored.backbone.name == plain for scored in candidates):
            wanted.append((plain_settings(plain, self._scenario.backbone), "pixels"))
        learned = [one.backbone for one in candidates if one.backbone.weights != "random"]
        for name in dict.fromkeys(one.name for one in learned if one.name not in PLAIN.values()):
            best = next(one for one in learned if one.name == name)
            wanted.append((best.model_copy(update={"weights": "random"}), "random"))
        for number, (backbone, role) in enumerate(wanted, 1):
            report("candidate", number=number, of=len(wanted), title=title(backbone), role=role)
            try:
                yield self.scored(backbone, role)
            except ModelError as error:
                report("note", text=f"the baseline {title(backbone)} is left out: {error}")

    def ranking(
        self,
        name: str,
        candidates: tuple[Scored, ...],
        baselines: tuple[Scored, ...],
        missing: tuple[tuple[str, str], ...],
    ) -> Ranking:
        """Return all of it with the verdict."""
        last = cast("Inquired", self._last)
        return Ranking(
            scenario=name,
            task=last.task,
            num_clients=last.num_clients,
            num_samples=last.validated.num_samples,
            candidates=candidates,
            baselines=baselines,
            missing=missing,
            recommendation=recommend(candidates, baselines, last.task),
            directory=self._survey.directory,
        )


def _features_progress(done: int, total: int) -> None:
    report("progress", what="features", done=done, total=total)


def _ordered(scored: Iterator[Scored]) -> tuple[Scored, ...]:
    """Return candidates, the best first; of equal ones the cheaper."""
    return tuple(sorted(scored, key=lambda one: (-one.validated, one.cost)))


def _check_place(scenario: Scenario) -> None:
    """Refuse what a ranking can't run on.

    Raises:
        FedGraftError: says what to do instead.
    """
    if scenario.data.at_sites:
        raise FedGraftError(
            "the data lie at sites, and a ranking has to read them: rank at one site, with its own data in a scenario "
            "(data.source: folder, csv, arrays), or submit the closed form `ridge` once for each backbone (fedgraft "
            "submit --set strategy=ridge --set backbone=NAME): its left_out_score is the accuracy that decides here"
        )
    if scenario.runtime.name == "flower":
        raise FedGraftError("a ranking runs inline or on ray, not in Flower's runtime; give --runtime inline")


def _validated(found: Inquired) -> tuple[float, float | None]:
    """Return the score of the best penalty's heads, and its standard error where counts tell it.

    Of a share of right answers it is the binomial one, with two right and two wrong answers added (Agresti and Coull,
    "Approximate is better than 'exact' for interval estimation of binomial proportions", The American Statistician 52,
    1998), so that it is not 0 at 100 %. A sample with several labels counts as one answer.
    """
    score, num_samples = float(found.validated.scores.max()), found.validated.num_samples
    if found.task == "real":
        sums = found.statistics
        spread = float((sums["target_square"] - sums["target_sum"] ** 2 / sums["count"]).sum())
        if spread <= 0:
            raise FedGraftError("all targets are equal, so there is nothing to predict; look at the data")
        return 1 + score / spread, None
    share = score / (num_samples * (len(found.label_names) if found.task == "labels" else 1))
    middle = (share * num_samples + 2) / (num_samples + 4)
    return share, math.sqrt(middle * (1 - middle) / (num_samples + 4))


def _input_size(info: BackboneInfo) -> int:
    """Return the size of a backbone's pictures, px; 0 where it takes none."""
    from fedgraft.models.preprocessing import ImagePreprocessing

    return info.preprocessing.input_size if isinstance(info.preprocessing, ImagePreprocessing) else 0


def _picture_seconds(scenario: Scenario) -> float | None:
    """Return the seconds that one picture takes up to the cut, read and resized; None where there are no pictures."""
    import numpy as np

    from fedgraft.features.extract import compute
    from fedgraft.models.registry import load
    from fedgraft.threads import torch_threads
    from fedgraft.workspace import open_workspace

    samples = open_workspace(scenario.data, scenario.seed, scenario.backbone, scenario.features).federation.samples
    if samples.kind == "features":
        return None
    backbone, few = cast("Backbone", load(scenario.backbone)), np.arange(min(PICTURES, samples.num_samples))
    seconds = []
    with torch_threads(scenario.runtime.threads):
        for _ in range(REPEATS + 1):  # the first one warms up
            started = time.perf_counter()
            compute(samples, backbone, few, lambda rows, values: None, scenario.features.batch_size)
            seconds.append((time.perf_counter() - started) / len(few))
    return min(seconds[1:])


def _write(ranking: Ranking, scenario: Scenario) -> None:
    """Write the ranking, and the scenario with the backbone that it recommends."""
    from scenarios.writer import to_yaml

    settled = _with_backbone(scenario, ranking.best.backbone)
    write_text(ranking.directory / "scenario.yaml", to_yaml(settled))
    write_text(ranking.directory / RANKING_FILE, json.dumps(ranking.as_json(), indent=1) + "\n")


def _with_backbone(scenario: Scenario, chosen: BackboneSettings) -> Scenario:
    """Return the scenario with another backbone; blocks that this one does not have are not trained, with a note."""
    changed: dict[str, Any] = {"backbone": chosen}
    fault = _unfreeze_fault(scenario, chosen)
    if fault is not None:
        text = f"{title(chosen)} does not fit the scenario's unfreeze, which scenario.yaml sets to null"
        report("note", text=f"{text} ({fault}); to train blocks as well, give cuts that lie before the head's")
        changed["unfreeze"] = None
    return scenario.model_copy(update=changed)


def _unfreeze_fault(scenario: Scenario, chosen: BackboneSettings) -> str | None:
    if scenario.unfreeze is None:
        return None
    if chosen.name in WITHOUT_CUTS:
        return "it has no blocks"
    info = describe(chosen)
    fault = scenario.unfreeze.fault(info.cuts, info.cut)
    return None if fault is None else " ".join(fault)
