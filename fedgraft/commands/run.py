"""`fedgraft run` and `fedgraft check`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fedgraft.commands.terminal import JsonOption, ScenarioArgument, SetOption, err, escaped, out, shown

if TYPE_CHECKING:
    from scenarios.stages import Stage


def run(
    scenario: ScenarioArgument,
    overrides: SetOption = [],  # noqa: B006 - typer reads it, nobody changes it
    runtime: Annotated[
        Literal["inline", "ray", "flower"] | None,
        typer.Option(help="Where the clients run; instead of the scenario's setting."),
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The run directory; default: a new one below runs/.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the unfinished run in --out, or with the newest of this scenario."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: JsonOption = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show each client's part, phases, and the logs of Flower and Ray.")
    ] = False,
) -> None:
    """Run a scenario: train heads, federated, and write everything that came out into a run directory.

    Example: [bold]fedgraft run quickstart --set data.partition.alpha=0.1 --out runs/uneven[/]
    """
    options: dict[str, Any] = {"runtime": runtime, "out": directory, "resume": resume, "verbose": verbose}
    try:
        from fedgraft import api
        from fedgraft.display import RunDisplay, show_result

        if quiet or as_json:
            finished = api.run(scenario, overrides, **options)
        else:
            with RunDisplay(err, details=verbose) as display:
                finished = api.run(scenario, overrides, on_event=display.show, **options)
    except KeyboardInterrupt:
        err.print(f"\nstopped; go on with: [bold]{escaped(_resume_command())}[/]", soft_wrap=True)
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps({"directory": str(finished.directory), **finished.summary}))
    elif not quiet:
        show_result(out, finished)
        out.print(f"results: {shown(finished.directory)}", soft_wrap=True)


def _resume_command() -> str:
    words = [word for word in sys.argv[1:] if word != "--resume"]
    return shlex.join(["fedgraft", *words, "--resume"])


def _stage_line(stage: Stage, number: int, of: int) -> str:
    """Return a line about a stage that is to come."""
    rounds = "1 round" if stage.server.rounds == 1 else f"{stage.server.rounds} rounds"
    text = f"stage {number + 1} of {of}, {stage.name}: {stage.strategy.title}, {rounds}"
    if stage.server.patience is not None and stage.server.rounds > 1:
        text += f" at most (patience {stage.server.patience})"
    return text


def check(scenario: ScenarioArgument, overrides: SetOption = [], as_json: JsonOption = False) -> None:  # noqa: B006
    """Check a scenario without training: file, data, backbone, runtime; show what each client would have.

    All faults of the file are named at once, with key and line; the exit code is 2 if there is one.
    """
    import numpy as np

    from fedgraft import api
    from fedgraft.data.federation import build_federation
    from fedgraft.data.summary import partition_table
    from fedgraft.models.registry import describe
    from server.forecast import forecast, forecast_of_alignment

    resolved = api.resolve(scenario, overrides)
    api.quieten(verbose=False)
    api.check_strategy(resolved)
    where = api.runtime_line(resolved)
    federation = build_federation(resolved.data, resolved.seed)
    for part in resolved.in_stages():
        part.server.check_cohort(federation.num_clients, resolved.name)
    backbone = describe(resolved.backbone)
    feature_dim = backbone.feature_dim or federation.samples.features().shape[1]
    samples = federation.samples
    num_labels = federation.num_labels() if samples.task == "classes" else None
    num_outputs = samples.num_classes if num_labels is not None else int(np.prod(samples.targets.shape[1:]))
    api.check_cuts(resolved)
    lines = [] if resolved.align is None else [forecast_of_alignment(resolved.align, feature_dim)]
    for number, part in enumerate(resolved.in_stages()):
        if resolved.stages is not None:
            lines.append(_stage_line(resolved.stages[number], number, len(resolved.stages)))
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
