"""Conducts a ranking: features of each candidate, one exchange of sums, one of cross-validation, and the verdict."""

from __future__ import annotations

import contextlib
import json
import math
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fedgraft import api
from fedgraft.errors import FedGraftError, ModelError, StoreError
from fedgraft.files import write_text
from fedgraft.models.catalogue import PIXELS
from fedgraft.models.registry import describe
from fedgraft.models.settings import BackboneSettings
from fedgraft.progress import report
from fedgraft.ranking.candidates import Named, choose, nothing_left
from fedgraft.ranking.records import WITHOUT_CUTS, Ranking, Role, Scored, title
from fedgraft.ranking.verdict import recommend
from fedgraft.submission import RunFacts, Submission

if TYPE_CHECKING:
    from fedgraft.models.backbone import Backbone
    from fedgraft.simulation.ray_session import RaySession
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
    api.quieten(options.verbose)
    chosen = choose(scenario.name, scenario.backbone, options.backbones, options.cuts)
    for name, why in chosen.missing:
        report("note", text=f"{name} is left out: {why}")
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(_directory(scenario, options.out))
        session, room = api.begin_ray(scenario, stack, options.verbose)
        asked = api.with_shards(for_sums(scenario), None, room)
        if session is not None:
            session.start(math.ceil(api.num_hosts(asked, room) * session.settings.cpus_per_host))
        bench = Bench(asked, api.num_hosts(asked, room), directory, session, options.verbose)
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
    """Scores one backbone after another, in the same runtime.

    Args:
        scenario: whose data are used; its shards are known.
        num_hosts: processes that speak for the clients.
        directory: of the ranking.
        session: Ray, started, or None for the runtime `inline`.
        verbose: let Flower and Ray log to the terminal.
    """

    def __init__(
        self, scenario: Scenario, num_hosts: int, directory: Path, session: RaySession | None, verbose: bool
    ) -> None:
        self._scenario = scenario
        self._num_hosts = num_hosts
        self._directory = directory
        self._session = session
        self._verbose = verbose
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
            if samples.kind != "images":
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

        scenario = self._scenario.model_copy(update={"backbone": backbone})
        info = describe(backbone)
        prepared, feature_dim = api.prepare(scenario, keep_data=True)
        picture_seconds = _picture_seconds(scenario)
        started = time.perf_counter()
        found = self._inquired(scenario, feature_dim)
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
            input_size=info.preprocessing.input_size,
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
        if not any(scored.backbone.name == PIXELS for scored in candidates):
            wanted.append((BackboneSettings(name=PIXELS), "pixels"))
        learned = [one.backbone for one in candidates if one.backbone.weights != "random"]
        for name in dict.fromkeys(one.name for one in learned if one.name != PIXELS):
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
            directory=self._directory,
        )

    def _inquired(self, scenario: Scenario, feature_dim: int) -> Inquired:
        """Run both exchanges."""
        from server.ranking import asking

        facts = RunFacts(
            run_id=str(uuid.uuid4()),
            directory=str(self._directory),
            num_hosts=self._num_hosts,
            threads=scenario.runtime.threads,
            feature_dim=feature_dim,
            device=scenario.runtime.device,
        )
        found: list[Inquired] = []
        submission = Submission(scenario.model_dump_json(), facts)
        api.start_here(asking(found), submission, self._session, self._verbose)
        self._last = found[0]
        return found[0]


def _features_progress(done: int, total: int) -> None:
    report("progress", what="features", done=done, total=total)


def _ordered(scored: Iterator[Scored]) -> tuple[Scored, ...]:
    """Return candidates, the best first; of equal ones the cheaper."""
    return tuple(sorted(scored, key=lambda one: (-one.validated, one.cost)))


def for_sums(scenario: Scenario) -> Scenario:
    """Return the scenario with nothing that sums of features do not need: nobody trains, lies or stays away."""
    from fedgraft.models.head_settings import LinearHead
    from strategies.ridge import Ridge

    blocks = ("init", "calibrate", "attack", "availability", "compare", "unfreeze", "align", "stages")
    nothing: dict[str, Any] = dict.fromkeys(blocks)
    return scenario.model_copy(update={"strategy": Ridge(), "head": LinearHead(), "tracking": (), **nothing})


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


def _picture_seconds(scenario: Scenario) -> float | None:
    """Return the seconds that one picture takes up to the cut, read and resized; None where there are no pictures."""
    import numpy as np

    from fedgraft.features.extract import compute
    from fedgraft.models.registry import load
    from fedgraft.threads import torch_threads
    from fedgraft.workspace import open_workspace

    samples = open_workspace(scenario.data, scenario.seed, scenario.backbone, scenario.features).federation.samples
    if samples.kind != "images":
        return None
    backbone, few = cast("Backbone", load(scenario.backbone)), np.arange(min(PICTURES, samples.num_samples))
    seconds = []
    with torch_threads(scenario.runtime.threads):
        for _ in range(REPEATS + 1):  # the first one warms up
            started = time.perf_counter()
            compute(samples, backbone, few, lambda rows, values: None, scenario.features.batch_size)
            seconds.append((time.perf_counter() - started) / len(few))
    return min(seconds[1:])


@contextlib.contextmanager
def _directory(scenario: Scenario, out: Path | None) -> Iterator[Path]:
    """Yield the folder of the ranking, checked to be writable; leave no empty one behind.

    Raises:
        StoreError: there is a ranking in it, or it can't be written.
    """
    from server.run_directory import new_directory

    path = out.absolute() if out is not None else new_directory(Path("rankings").absolute(), scenario.name)
    if (path / RANKING_FILE).exists():
        raise StoreError(f"{path} already holds a ranking; give another folder with --out")
    write_text(path / ".writable", "")
    (path / ".writable").unlink()
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.rmdir()
            if path.parent.name == "rankings":
                path.parent.rmdir()


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
