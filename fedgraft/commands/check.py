"""`fedgraft check`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fedgraft.commands.terminal import JsonOption, ScenarioArgument, SetOption, out

if TYPE_CHECKING:
    from fedgraft.data.federation import Federation
    from scenarios.schema import Scenario
    from scenarios.stages import Stage


def check(scenario: ScenarioArgument, overrides: SetOption = [], as_json: JsonOption = False) -> None:  # noqa: B006
    """Check a scenario without training: file, data, backbone, runtime; show what each client would have.

    All faults of the file are named at once, with key and line; the exit code is 2 if there is one.
    """
    from fedgraft.api import resolve
    from fedgraft.data.federation import build_federation
    from fedgraft.data.summary import partition_table
    from fedgraft.launch import quieten, runtime_line
    from fedgraft.models.registry import describe
    from fedgraft.preparation import check_cuts, check_strategy

    resolved = resolve(scenario, overrides)
    quieten(verbose=False)
    check_strategy(resolved)
    where = runtime_line(resolved)
    federation = build_federation(resolved.data, resolved.seed)
    for part in resolved.in_stages():
        part.server.check_cohort(federation.num_clients, resolved.name)
    backbone = describe(resolved.backbone)
    feature_dim = backbone.feature_dim or federation.samples.features().shape[1]
    check_cuts(resolved)
    lines = _forecasts(resolved, federation, feature_dim)
    if as_json:
        facts = {
            "scenario": json.loads(resolved.model_dump_json()),
            "num_clients": federation.num_clients,
            "num_train": int(federation.train.counts.sum()),
            "num_validation": int(federation.validation.counts.sum()),
            "num_test": len(federation.test),
            "label_names": list(federation.samples.label_names),
            "feature_dim": feature_dim,
            "notes": list(federation.notes),
            "forecast": lines,
            "runtime": where,
        }
        print(json.dumps(facts))
        return
    out.print(partition_table(federation))
    for note in federation.notes:
        out.print(f"[yellow]note:[/] {note}")
    out.print(f"backbone {backbone.name}, cut at {backbone.cut}: {feature_dim} features a sample")
    for line in [*lines, where]:
        out.print(line)
    out.print(f"[green]{resolved.name} can run[/]")


def _forecasts(scenario: Scenario, federation: Federation, feature_dim: int) -> list[str]:
    """Return what the run would send and keep, stage by stage, as lines."""
    import numpy as np

    from server.forecast import forecast, forecast_of_alignment

    samples = federation.samples
    num_labels = federation.num_labels() if samples.task == "classes" else None
    num_outputs = samples.num_classes if num_labels is not None else int(np.prod(samples.targets.shape[1:]))
    lines = [] if scenario.align is None else [forecast_of_alignment(scenario.align, feature_dim)]
    for number, part in enumerate(scenario.in_stages()):
        if scenario.stages is not None:
            lines.append(_stage_line(scenario.stages[number], number, len(scenario.stages)))
        for strategy in (part.init, part.strategy, part.calibrate):
            if strategy is not None:
                lines += forecast(strategy, num_outputs, feature_dim, samples.task, num_labels)
        if part.unfreeze is not None:
            from fedgraft.features.activations import forecast as forecast_of_blocks
            from fedgraft.models.heads import head_shapes

            shapes = head_shapes(part.head, feature_dim, num_outputs)
            num_head = sum(int(np.prod(shape)) for shape in shapes.values())
            about = part.backbone, part.unfreeze, part.features
            lines += forecast_of_blocks(*about, samples.num_samples, num_head)
    return lines


def _stage_line(stage: Stage, number: int, of: int) -> str:
    """Return a line about a stage that is to come."""
    rounds = "1 round" if stage.server.rounds == 1 else f"{stage.server.rounds} rounds"
    text = f"stage {number + 1} of {of}, {stage.name}: {stage.strategy.title}, {rounds}"
    if stage.server.patience is not None and stage.server.rounds > 1:
        text += f" at most (patience {stage.server.patience})"
    return text
