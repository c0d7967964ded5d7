"""The scenario: the model that composes every owner's settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from clients.settings import TrainSettings
from fedgraft.alignment.settings import WITHOUT_NORM, AdaBn, AlignSettings, Coral
from fedgraft.attack_settings import AttackSettings
from fedgraft.data.settings import DataSettings, SizesSettings
from fedgraft.features.settings import FeatureSettings
from fedgraft.models.head_settings import HeadSettings, LinearHead
from fedgraft.models.loss_settings import AutoLoss, LossSettings
from fedgraft.models.settings import BackboneSettings
from fedgraft.models.unfreeze_settings import UnfreezeSettings
from fedgraft.pseudo_label_settings import PseudoLabelSettings
from fedgraft.settings import LaidOver, Settings, named, setting_fault
from fedgraft.simulation.settings import InlineRuntime, RuntimeSettings
from fedgraft.stages import last_rounds, stage_of
from scenarios.stages import KEYS, Stage, fault_between
from scenarios.sweep.settings import CompareSettings
from server.availability_settings import AvailabilitySettings
from server.settings import EvaluationSettings, ServerSettings, Tracker
from strategies.base import Strategy
from strategies.fedavg import FedAvg
from strategies.registry import CalibrationSettings, ClosedFormSettings, StrategySettings
from strategies.user import UserStrategy


def _on_the_rest(stage: Stage, info: ValidationInfo) -> Stage:
    """Return a stage with what it leaves out as the scenario says, checked as a scenario of its own."""
    rest = info.data
    if not rest.keys() >= set(KEYS):  # their own faults are told
        return stage
    whole = {key: getattr(stage, key) if key in stage.model_fields_set else rest[key] for key in KEYS}
    try:
        Scenario.model_validate(rest | whole)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            context = detail.get("ctx") or {}
            key, text = str(context.get("key", "")), str(context.get("message", detail["msg"]))
            of_the_stage = key.partition(".")[0] in KEYS
            raise setting_fault(key if of_the_stage else "", text if of_the_stage else f"{key} {text}") from None
    return stage.model_copy(update=whole).within_rounds()


class Scenario(Settings):
    """What to run: a federation's data, backbone, head, training, strategy and runtime."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Name of the scenario; the run's folder begins with it."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """Every draw is a function of this seed: split, order of batches, clients of a round, start of the head."""
    data: DataSettings
    """Where samples come from and which client owns which."""
    backbone: Annotated[BackboneSettings, BeforeValidator(named)] = BackboneSettings()
    """The pretrained base and the cut up to which it is frozen."""
    features: FeatureSettings = FeatureSettings()
    """How activations at the cut are computed and kept."""
    head: HeadSettings = LinearHead()
    """Everything trainable after the cut."""
    loss: LossSettings = AutoLoss()
    """What training minimises and evaluation reports; by default what fits the data's targets."""
    train: TrainSettings = TrainSettings()
    """How a client trains its head in a round."""
    unfreeze: UnfreezeSettings | None = None
    """Blocks of the backbone that are trained together with the head; null: it stays frozen, which is fastest."""
    pseudo_labels: PseudoLabelSettings | None = None
    """How clients label their training samples without labels, by the head that a round begins with, and train on
    these too; null: such samples are left out."""
    align: AlignSettings | None = None
    """How features of unlike domains are brought onto common ground before any head sees them; null: not at all."""
    strategy: StrategySettings = FedAvg()
    """How the clients' updates combine."""
    init: ClosedFormSettings | None = None
    """A closed form whose head the first round starts from, e.g. `ridge`; null: zeros, or small random numbers."""
    calibrate: CalibrationSettings | None = None
    """What trains the head further after the last round, without the clients, e.g. `ccvr`; null: nothing."""
    attack: AttackSettings | None = None
    """Clients that lie, to see what the strategy makes of it; for simulations only. null: nobody does."""
    availability: AvailabilitySettings | None = None
    """Who comes to a round and how long it takes, in a simulation; null: all that are asked come."""
    server: ServerSettings = ServerSettings()
    """How many rounds, and with whom."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """What is evaluated, and how often."""
    stages: tuple[Annotated[Stage, LaidOver(), AfterValidator(_on_the_rest)], ...] | None = Field(
        default=None, examples=[[{"name": "closed-form", "strategy": "ridge"}, {"name": "head"}]]
    )
    """Parts of the run, one after another, each with some of `train`, `unfreeze`, `strategy` and `server` of its own,
    laid over the scenario's; head and trained blocks go on from one to the next. null: the run is of one piece."""
    runtime: RuntimeSettings = InlineRuntime()
    """Where the clients of a simulation run."""
    shards: PositiveInt | None = None
    """Lists into which the clients are cut; sums are added list by list, whatever the number of processes. null: 1
    with one host, otherwise 4 a host, so that work can be spread evenly; the run's `scenario.yaml` says how many."""
    tracking: tuple[Tracker, ...] = ()
    """Programs that are told of a run at its end, `tensorboard` or `mlflow`: settings, metrics over rounds, files."""
    compare: CompareSettings | None = None
    """What `fedgraft compare` runs this scenario with: contenders, conditions and seeds; null: it is one run."""
    privacy: None = None
    """Reserved for privacy settings of a later version; must be null."""

    def in_stages(self) -> tuple[Scenario, ...]:
        """Return each stage as a scenario of one piece; itself if it is one."""
        if self.stages is None:
            return (self,)
        ends = len(self.stages) - 1
        return tuple(
            self.model_copy(
                update={
                    **{key: getattr(stage, key) for key in KEYS},
                    **{"init": self.init if number == 0 else None, "stages": None},
                    "calibrate": self.calibrate if number == ends else None,
                }
            )
            for number, stage in enumerate(self.stages)
        )

    def unfrozen_in(self, round_number: int) -> tuple[UnfreezeSettings | None, str | None]:
        """Return how blocks are trained in a round, and the cut past which they are; None: the head alone."""
        parts = self.in_stages()
        last = last_rounds([part.server.rounds for part in parts])
        number = stage_of(last, round_number) if self.stages is not None else 0
        unfreeze = parts[number].unfreeze
        before = last[number - 1] if number else 0
        return unfreeze, None if unfreeze is None else unfreeze.cut_at(round_number - before)

    @model_validator(mode="after")
    def _stages_that_follow(self) -> Scenario:
        if self.stages is not None:
            if self.data.tasks is not None:
                text = "came beside data.tasks, each of which has all the rounds of the run; set one of the two to null"
                raise setting_fault("stages", text)
            fault = fault_between(self.stages, self.server)
            if fault is not None:
                raise setting_fault(*fault)
        return self

    @model_validator(mode="after")
    def _optimizer_of_the_strategy(self) -> Scenario:
        allowed, given = self.strategy.optimizers, self.train.optimizer.name
        if given not in allowed:
            text = (
                f"came {given}, but the equations of strategy {self.strategy.title} hold under {' and '.join(allowed)}"
            )
            raise setting_fault("train.optimizer.name", f"{text} only; take that, or another strategy")
        decay = self.train.optimizer.weight_decay
        if decay and not self.strategy.takes_weight_decay:
            text = f"came {decay:g}, but the equations of strategy {self.strategy.title} hold without weight decay only"
            raise setting_fault("train.optimizer.weight_decay", f"{text}; set it to 0, or take another strategy")
        return self

    @model_validator(mode="after")
    def _blocks_that_can_be_trained(self) -> Scenario:
        if self.unfreeze is None:
            return self
        frozen = "which stays as it is only with unfreeze: null"
        if self.backbone.name == "identity":
            raise setting_fault("unfreeze", "came with backbone identity, which has no blocks; set it to null")
        if not self.strategy.trains_blocks:
            text = f"came {self.strategy.title}, which needs features of a frozen backbone, {frozen}"
            raise setting_fault("strategy", f"{text}; set that, or take fedavg or another one that trains the head")
        if self.calibrate is not None:
            text = f"came {self.calibrate.name}, which needs features of a frozen backbone, {frozen}"
            raise setting_fault("calibrate", f"{text}; set one of the two to null")
        if self.train.form in ("dual", "primal"):
            text = f"came {self.train.form}, but blocks of the backbone are trained client after client"
            raise setting_fault("train.form", f"{text}; set auto or loop")
        if self.unfreeze.moves and self.unfreeze.local_norm:
            text = "came local with a schedule that moves on, but what clients keep can't grow"
            raise setting_fault("unfreeze.batch_norm", f"{text}; give one cut from round 1 on, or set frozen")
        other_half = self.strategy.other_half if self.unfreeze.local_norm else None
        if other_half is not None:
            text = f"came local, but the clients of {self.strategy.title} do more than plain steps ({other_half})"
            raise setting_fault("unfreeze.batch_norm", f"{text}; set frozen, or take fedavg or another plain strategy")
        if self.unfreeze.moves and (self.strategy.keeps_state or self.strategy.title.startswith("flower:")):
            text = f"moves on in round {self.unfreeze.steps[-1].round}, but {self.strategy.title} keeps what can't grow"
            raise setting_fault("unfreeze.schedule", f"{text}; give one cut from round 1 on, or take another strategy")
        return self

    @model_validator(mode="after")
    def _features_that_can_be_aligned(self) -> Scenario:
        if self.align is None:
            return self
        if self.unfreeze is not None:
            text = f"came {self.align.name} beside unfreeze, but trained blocks give other features in every round"
            raise setting_fault("align", f"{text}; set one of the two to null")
        local = isinstance(self.align, AdaBn)
        if self.evaluation.contribution and not local:
            text = f"came {self.align.name}, whose moments hold every client, so no head would be without one"
            raise setting_fault("align", f"{text}; set it to null, or evaluation.contribution to false")
        if self.data.num_tasks:
            text = f"came {self.align.name} beside data.tasks, but its moments hold classes that have not come yet"
            raise setting_fault("align", f"{text}; set one of the two to null")
        if local and self.backbone.name in WITHOUT_NORM:
            text = f"came adabn beside backbone {self.backbone.name}, which has no batch norm to adapt"
            raise setting_fault("align", f"{text}; take coral, or another backbone")
        if isinstance(self.align, Coral | AdaBn) and self.strategy.pools:
            why = "which has no clients whose features could differ"
            text = f"came {self.align.name} beside strategy {self.strategy.title}, {why}"
            raise setting_fault("align", f"{text}; take standardise, or another strategy")
        return self

    @model_validator(mode="after")
    def _rounds_that_can_be_gone_back_to(self) -> Scenario:
        if self.server.patience is None:
            return self
        own = "what clients keep for themselves does not go back to an earlier round with the head"
        if self.strategy.answer == "own" or (
            self.strategy.keeps_state and self.strategy.personal(self.strategy.init({})) is not None
        ):
            text = f"came {self.server.patience} with strategy {self.strategy.title}, but {own}"
            raise setting_fault("server.patience", f"{text}; set it to null")
        if self.unfreeze is not None and self.unfreeze.local_norm:
            text = f"came {self.server.patience} with unfreeze.batch_norm: local, but {own}"
            raise setting_fault("server.patience", f"{text}; set it to null, or batch_norm to frozen")
        if self.data.validation_fraction == 0 and not self.data.at_sites:
            text = f"came {self.server.patience}, but data.validation_fraction is 0, so there is no loss to judge by"
            raise setting_fault("server.patience", f"{text}; set it to null, or keep samples for validation")
        return self

    @model_validator(mode="after")
    def _tasks_that_can_be_learned(self) -> Scenario:
        if self.data.tasks is None:
            return self
        if self.data.at_sites:
            text = "is for simulations only: samples at sites do not come and go with a run's tasks"
            raise setting_fault("data.tasks", f"{text}; set it to null")
        if self.strategy.most_rounds == 0:
            raise setting_fault("data.tasks", f"came with strategy {self.strategy.title}, which learns nothing")
        if self.strategy.most_rounds == 1 and self.availability is not None:
            text = f"came with data.tasks and {self.strategy.title}, which has one round a task and may not miss it"
            raise setting_fault("availability", f"{text}; set it to null")
        if self.strategy.keeps_state or _has_own_heads(self.strategy):
            text = (
                f"came {self.strategy.title}, whose clients keep what belongs to their samples, and data.tasks changes"
            )
            raise setting_fault("strategy", f"{text} these; take fedavg or another one that keeps nothing at clients")
        clashes = {
            "server.patience": (self.server.patience, "the loss rises when new classes come; set it to null"),
            "unfreeze": (self.unfreeze, "what is learned task after task here is a head; set one of the two to null"),
            "calibrate": (self.calibrate, "it would ask for samples of all tasks at the end; set it to null"),
            "evaluation.contribution": (
                self.evaluation.contribution or None,
                "hosts have the samples of one task at a time; set it to false",
            ),
        }
        for key, (value, why) in clashes.items():
            if value is not None:
                raise setting_fault(key, f"came with data.tasks, but {why}")
        return self

    @model_validator(mode="after")
    def _labels_that_can_be_given(self) -> Scenario:
        if self.pseudo_labels is None:
            return self
        if self.strategy.most_rounds == 0:
            raise setting_fault("pseudo_labels", f"came with strategy {self.strategy.title}, which learns nothing")
        if self.strategy.keeps_state or _has_own_heads(self.strategy):
            text = f"came {self.strategy.title}, whose clients keep what belongs to their samples, and pseudo_labels"
            raise setting_fault("strategy", f"{text} change these; take fedavg or another one that keeps nothing there")
        clashes = {
            "data.tasks": (self.data.tasks, "clients are given their tasks by labels"),
            "evaluation.contribution": (
                self.evaluation.contribution or None,
                "labels come from a head that holds every client, so no head would be without one",
            ),
            "unfreeze.batch_norm": (
                (self.unfreeze is not None and self.unfreeze.local_norm) or None,
                "clients keep what belongs to their samples then",
            ),
        }
        for key, (value, why) in clashes.items():
            if value is not None:
                raise setting_fault("pseudo_labels", f"came with {key}, but {why}; set one of the two to null")
        return self

    @model_validator(mode="after")
    def _clients_that_can_lie_or_stay_away(self) -> Scenario:
        for name, block in (("attack", self.attack), ("availability", self.availability)):
            if self.strategy.pools and block is not None:
                text = f"came beside strategy {self.strategy.title}, which has no clients: all data are in one place"
                raise setting_fault(name, f"{text}; set it to null, or take another strategy")
        return self

    @model_validator(mode="after")
    def _attack_that_the_strategy_can_see(self) -> Scenario:
        if self.attack is not None and self.attack.name != "label-flip" and self.strategy.most_rounds == 1:
            text = f"came {self.attack.name}, a lie about updates, but {self.strategy.title} asks for sums of features"
            raise setting_fault("attack.name", f"{text}; take label-flip, or another strategy")
        return self

    @model_validator(mode="after")
    def _contribution_of_a_closed_form(self) -> Scenario:
        if self.evaluation.contribution and self.strategy.leaves_out == "no":
            text = (
                f"came true, but strategy {self.strategy.title} can't be made without a client unless it is trained "
                "again; take a closed form (ridge, ncm, lda, fedcof), or set false"
            )
            raise setting_fault("evaluation.contribution", text)
        return self

    @model_validator(mode="after")
    def _enough_clients_for_the_strategy(self) -> Scenario:
        partition = self.data.partition
        given = len(partition.sizes) if isinstance(partition, SizesSettings) else getattr(partition, "clients", None)
        if given is not None:  # the natural clients of a source are known only when the run begins
            shortage = self.strategy.shortage(self.server.cohort_size(given))
            if shortage:
                raise setting_fault("strategy", shortage)
        return self


def _has_own_heads(strategy: Strategy) -> bool:
    """Whether clients have heads of their own beside the global one; of a user's class its first round says so."""
    if isinstance(strategy, UserStrategy):
        return strategy.personal(strategy.init({})) is not None
    return type(strategy).personal is not Strategy.personal
