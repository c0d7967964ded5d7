"""What is settled before a run starts: its strategy and cuts are there, samples are divided, features are computed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedgraft.alignment.settings import AdaBn
from fedgraft.errors import Fault, ScenarioError
from fedgraft.progress import report

if TYPE_CHECKING:
    from scenarios.schema import Scenario
    from strategies.user import UserStrategy


def check_strategy(scenario: Scenario) -> None:
    """Refuse a strategy that does not make such a head, or one of Flower's that it does not have.

    Raises:
        ScenarioError: says what there is.
    """
    if scenario.stages is not None:
        for number, part in enumerate(scenario.in_stages()):
            with _in_stage(number):
                check_strategy(part)
        return
    from strategies.flower import FlowerStrategy
    from strategies.user import UserStrategy

    if isinstance(scenario.strategy, UserStrategy):
        _check_user_strategy(scenario.strategy, scenario.name)
    for key, strategy in (
        ("strategy", scenario.strategy),
        ("init", scenario.init),
        ("calibrate", scenario.calibrate),
    ):
        if strategy is not None and scenario.head.name not in strategy.heads:
            kinds = " or ".join(strategy.heads)
            a = "an" if kinds[0] in "aeiou" else "a"
            text = f"came {scenario.head.name}, but {key} {strategy.name} makes {a} {kinds} head; set head: {kinds}"
            raise ScenarioError(scenario.name, [Fault("head", text)])

    if isinstance(scenario.strategy, FlowerStrategy):
        from server.flower_strategy import UnpackedStrategy

        UnpackedStrategy.of(scenario.strategy)


@contextlib.contextmanager
def _in_stage(number: int) -> Iterator[None]:
    """Let faults of the strategy that are found in the block be told as those of a stage."""
    try:
        yield
    except ScenarioError as error:
        faults = [
            replace(fault, key=f"stages[{number}].{fault.key}") if fault.key.startswith("strategy") else fault
            for fault in error.faults
        ]
        raise ScenarioError(error.source, faults) from error


def _check_user_strategy(strategy: UserStrategy, scenario: str) -> None:
    """Load a strategy from the user's file and run one round dry.

    Raises:
        ScenarioError: says what is wrong with it.
    """
    from server.dry_round import check_by_a_dry_round
    from strategies.user import forget

    forget()
    if not Path(strategy.file).is_absolute():
        text = f"came '{strategy.file}'; a scenario that is made in Python needs the absolute path"
        raise ScenarioError(scenario, [Fault("strategy.file", text)])
    try:
        check_by_a_dry_round(strategy.mine)
    except ValueError as error:
        raise ScenarioError(scenario, [Fault("strategy", str(error))]) from error


def prepare(scenario: Scenario, keep_data: bool = False) -> tuple[dict[str, float], int]:
    """Divide the samples and compute their features, or find both as kept.

    The hosts would do it too; here it is done once, with its progress shown, before they start.

    Returns:
        Seconds by phase, and the length of a feature vector.
    """
    from fedgraft.workspace import open_workspace

    if not keep_data:
        open_workspace.cache_clear()
    seconds = {}
    if scenario.runtime.name != "inline" and scenario.shards == 1 and scenario.runtime.hosts != 1:
        report("note", text="shards is 1, so one process trains all clients; more shards use more processes")
    started = time.perf_counter()
    report("phase", name="data")
    workspace = open_workspace(scenario.data, scenario.seed, scenario.backbone, scenario.features)
    scenario.server.check_cohort(workspace.federation.num_clients, scenario.name)
    for note in workspace.federation.notes:
        report("note", text=note)
    report("partition", federation=workspace.federation)
    seconds["data"] = time.perf_counter() - started
    started = time.perf_counter()
    report("phase", name="features")
    align = scenario.align
    features = workspace.adapted(align) if isinstance(align, AdaBn) else workspace.features
    feature_dim = int(features.shape[1])
    check_cuts(scenario)
    for part in scenario.in_stages():
        cut = None if part.unfreeze is None else part.unfreeze.cut_at(1)
        if part.unfreeze is not None and cut is not None:
            workspace.unfrozen(cut, part.unfreeze)
    seconds["features"] = time.perf_counter() - started
    return seconds, feature_dim


def check_cuts(scenario: Scenario) -> None:
    """Refuse blocks to train, or modules to adapt, that the backbone does not have.

    Raises:
        ScenarioError: says which cuts there are.
        ModelError: says which modules there are, past the cuts of a schedule.
    """
    from fedgraft.models.registry import describe
    from fedgraft.models.unfreeze_settings import fault_of_stages

    unfreezes = [part.unfreeze for part in scenario.in_stages()]
    if any(unfreeze is not None for unfreeze in unfreezes):
        info = describe(scenario.backbone)
        fault = fault_of_stages(unfreezes, info.cuts, info.cut)
        if fault is not None:
            number, key, text = fault
            place = "" if scenario.stages is None else f"stages[{number}]."
            raise ScenarioError(scenario.name, [Fault(f"{place}{key}", text)])
        for unfreeze in unfreezes:
            if unfreeze is not None and unfreeze.adds and unfreeze.moves:
                from server.unfreezing import check_targets

                check_targets(scenario.backbone, unfreeze)
