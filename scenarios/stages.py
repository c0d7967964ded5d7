"""Stages of a scenario: each is the scenario with some of its keys laid over, one run after another in one run.

A stage is written like a file that extends the scenario: what it leaves out is as the scenario says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, TypeVar

from pydantic import Field

from clients.settings import TrainSettings
from fedgraft.errors import Fault, listed
from fedgraft.models.unfreeze_settings import UnfreezeSettings
from fedgraft.pseudo_label_settings import PseudoLabelSettings
from fedgraft.settings import Settings
from fedgraft.settings_files.forms import complete
from fedgraft.settings_files.load import settled
from fedgraft.settings_files.located import Located, key_text
from fedgraft.settings_files.shape import Block, Shape
from scenarios.merging import merge
from server.settings import ServerSettings
from strategies.fedavg import FedAvg
from strategies.registry import StrategySettings

_S = TypeVar("_S", bound=Settings)

KEY = "stages"

OF_A_STAGE = ("rounds", "clients_per_round", "clients_fraction", "patience")
"""Keys of `server` that a stage may have of its own; the others are of the run."""


class Stage(Settings):
    """Some rounds of a run with settings of their own; the head, and blocks that are trained, go on to the next."""

    name: Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """What records and pictures call it."""
    train: TrainSettings = TrainSettings()
    """How a client trains its head in a round; schedules count the rounds of the stage."""
    unfreeze: UnfreezeSettings | None = None
    """Blocks of the backbone that are trained together with the head; rounds count from the stage's first."""
    pseudo_labels: PseudoLabelSettings | None = None
    """How clients label their training samples without labels, and train on these too; null: they are left out."""
    strategy: StrategySettings = FedAvg()
    """How the clients' updates combine."""
    server: ServerSettings = ServerSettings()
    """How many rounds, with whom, and when the stage ends early."""

    def within_rounds(self) -> Stage:
        """Return this stage with no more rounds than its strategy can use."""
        most = self.strategy.rounds_with(self.pseudo_labels is not None)
        if most is None or most >= self.server.rounds:
            return self
        return self.model_copy(update={"server": self.server.model_copy(update={"rounds": most})})


OF_THE_RUN = (
    *("seed", "data", "backbone", "features", "head", "loss", "align", "init", "calibrate", "attack"),
    *("availability", "evaluation", "stages", "runtime", "shards", "tracking", "compare", "privacy"),
)
"""Keys of a scenario that hold for the whole run. Which round `init` and `calibrate` stand at is no stage's."""

KEYS = tuple(name for name in Stage.model_fields if name != "name")
"""The keys of a scenario that a stage may change."""


def scenario_settled(tree: Located, model: type[_S], faults: Sequence[Fault] = ()) -> tuple[_S | None, list[Fault]]:
    """Return what a scenario's tree says, its stages laid over it, checked; None if there are faults.

    Args:
        tree: the file as it was read.
        model: its settings model.
        faults: of reading; those of checking come after them.
    """
    if KEY not in model.model_fields:
        return settled(tree, model, faults)
    tree, more = _with_stages(tree, model)
    found, told = settled(tree, model, [*faults, *more])
    return found, _once(told)


def _with_stages(tree: Located, model: type[Settings]) -> tuple[Located, list[Fault]]:
    """Return the tree with each stage as what it makes of the scenario; a fault for each key that it can't change."""
    stages = tree.child(KEY)
    if stages is None or not isinstance(stages.value, list) or not isinstance(tree.value, dict):
        return tree, []
    shape = Shape("", blocks=(Block(model),))
    base = {key: value for key, value in tree.value.items() if key in KEYS}
    faults: list[Fault] = []
    laid: list[Located] = []
    for number, stage in enumerate(stages.value):
        if not isinstance(stage.value, dict):
            laid.append(stage)
            continue
        own = {key: value for key, value in stage.value.items() if key not in OF_THE_RUN}
        faults += [_of_the_run(key, value, number) for key, value in stage.value.items() if key in OF_THE_RUN]
        laid.append(complete(merge(Located(base, stage.place), Located(own, stage.place)), shape))
    return replace(tree, value={**tree.value, KEY: replace(stages, value=laid)}), faults


def _once(faults: Sequence[Fault]) -> list[Fault]:
    """Return the faults without those of stages that stand in the scenario itself, whose value they took."""
    told = {(fault.key, fault.message, fault.line, fault.source) for fault in faults}
    return [
        fault
        for fault in faults
        if not fault.key.startswith(f"{KEY}[")
        or (fault.key.partition("].")[2], fault.message, fault.line, fault.source) not in told
    ]


def _of_the_run(key: str, value: Located, number: int) -> Fault:
    text = f"holds for the whole run: give it once, outside of stages; a stage takes {listed(Stage.model_fields)}"
    return Fault(key_text((KEY, number, key)), text, value.place.line, value.place.source)


def fault_between(stages: Sequence[Stage], server: ServerSettings) -> tuple[str, str] | None:
    """Return the key and the text of what does not go on from one stage to the next; None: nothing.

    Args:
        stages: each with all that it leaves out filled in.
        server: the scenario's own.
    """
    if not stages:
        return KEY, "came an empty list; give some, such as {name: head, strategy: fedavg}, or null for none"
    for number, stage in enumerate(stages):
        found = _fault_of(stage, stages[:number], server)
        if found is not None:
            return f"{KEY}.{number}.{found[0]}", found[1]
    return None


def _fault_of(stage: Stage, before: Sequence[Stage], server: ServerSettings) -> tuple[str, str] | None:
    """Return what is wrong with a stage after others."""
    for key in type(server).model_fields:
        came, has = getattr(stage.server, key), getattr(server, key)
        if key not in OF_A_STAGE and came != has:
            text = f"came {_shown(came)}, and the scenario has {_shown(has)}; it holds for the whole run"
            return f"server.{key}", f"{text}, so give it once, in server"
    if stage.strategy.most_rounds == 0:
        return "strategy", f"came {stage.strategy.title}, which learns nothing in rounds; leave the stage out"
    if not before:
        return None
    if stage.name in [other.name for other in before]:
        return "name", f"came '{stage.name}' twice; give each stage a name of its own"
    if stage.strategy.pools != before[0].strategy.pools:
        one, other = before[0].strategy.title, stage.strategy.title
        return "strategy", f"came {other} after {one}, but data that are pooled are so in all stages or in none"
    tuned = [other.unfreeze for other in before if other.unfreeze is not None]
    return _fault_of_blocks(stage, tuned) if tuned else None


def _shown(value: object) -> str:
    return "null" if value is None else str(value)


def _fault_of_blocks(stage: Stage, tuned: Sequence[UnfreezeSettings]) -> tuple[str, str] | None:
    """Return what is wrong with a stage after others that trained blocks of the backbone."""
    hold = "to hold them as they are, set unfreeze.rate to 0"
    if stage.unfreeze is None:
        why = (
            f", and {stage.strategy.title} needs features of the frozen backbone" if stage.strategy.most_rounds else ""
        )
        text = f"is null after a stage that trained blocks, which can't be put back{why}; give a cut ({hold})"
        return "unfreeze", text
    if stage.unfreeze.cut_at(1) is None:
        return (
            "unfreeze.schedule",
            f"begins in round {stage.unfreeze.steps[0].round}, but blocks are trained already; {hold}",
        )
    if stage.unfreeze.method != tuned[-1].method:
        one, other = stage.unfreeze.method.name, tuned[-1].method.name
        text = f"came {one}, otherwise set than the {other} of the stage before, whose parameters would be lost"
        return "unfreeze.method", f"{text}; give both the same"
    if stage.unfreeze.local_norm or tuned[-1].local_norm:
        text = "came beside another stage that trains blocks, but what clients keep does not go on to the next stage"
        return "unfreeze.batch_norm", f"{stage.unfreeze.batch_norm} {text}; have one stage train them, or set frozen"
    return None
