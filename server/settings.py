"""Settings of the rounds and of evaluation, owned by the server side."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from fedgraft.alignment.settings import AlignSettings
from fedgraft.attack_settings import AttackSettings
from fedgraft.data.settings import DataSettings
from fedgraft.errors import Fault, ScenarioError
from fedgraft.features.settings import FeatureSettings
from fedgraft.models.head_settings import HeadSettings
from fedgraft.models.loss_settings import LossSettings
from fedgraft.models.losses import Task
from fedgraft.models.settings import BackboneSettings
from fedgraft.models.unfreeze_settings import UnfreezeSettings
from fedgraft.pseudo_label_settings import PseudoLabelSettings
from fedgraft.settings import Settings, setting_fault
from fedgraft.simulation.settings import ResolvedShards
from fedgraft.stages import last_rounds
from server.availability_settings import AvailabilitySettings
from strategies.registry import CalibrationSettings, ClosedFormSettings, StrategySettings

Tracker = Literal["tensorboard", "mlflow"]
"""A program that keeps and shows what came out of runs."""


class ServerSettings(Settings):
    """How many rounds, with whom, and how often the server writes a checkpoint."""

    rounds: PositiveInt = 20
    """Rounds of training."""
    clients_per_round: PositiveInt | None = None
    """How many clients train in a round, drawn anew for each; null: all of them."""
    clients_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """The same as a fraction of all clients (rounded, at least one); instead of `clients_per_round`."""
    patience: PositiveInt | None = None
    """Early stopping: rounds without a lower loss on the clients' validation parts after which the run ends, with the
    head that had the lowest. With clients drawn for each round the loss is theirs, and varies. null: all rounds run."""
    checkpoint_every: PositiveInt = 5
    """Rounds between two checkpoints; a killed run resumes from the last one."""
    timeout_seconds: PositiveFloat = 3600.0
    """How long the server waits for the replies to one exchange."""
    retries: NonNegativeInt = 0
    """How often a message that was not answered in that time is sent again before the run fails."""
    quorum: PositiveInt | None = None
    """Between sites: how many must answer for a round to count; null: more than half. A simulation needs all."""
    resend_seconds: PositiveFloat = 60.0
    """Between sites: after how long without an answer a message is sent again, in case that it was lost on the way."""
    absent_seconds: PositiveFloat = 90.0
    """Between sites: how long a site that can't be reached is waited for once enough others are there; Flower lets a
    SuperNode that was killed in again after up to 60 s."""
    largest_update_norm: PositiveFloat | None = 1000.0
    """Between sites: largest Euclidean norm of what a site sends to be added, over its weight; an answer with more is
    refused; null: not limited."""

    @model_validator(mode="after")
    def _count_or_fraction(self) -> ServerSettings:
        if self.clients_per_round is not None and self.clients_fraction is not None:
            raise setting_fault(
                "clients_fraction",
                f"came {self.clients_fraction} beside clients_per_round {self.clients_per_round}; keep one of the two",
            )
        return self

    def saves_after(self, round_number: int) -> bool:
        """Return whether a checkpoint is written after a round (0: the start)."""
        return round_number % self.checkpoint_every == 0 or round_number == self.rounds

    def cohort_size(self, num_clients: int) -> int:
        """Return how many of a federation's clients take part in a round."""
        chosen = self.clients_per_round or num_clients
        if self.clients_fraction is not None:
            chosen = max(1, round(self.clients_fraction * num_clients))
        return min(chosen, num_clients)

    def check_cohort(self, num_clients: int, scenario: str) -> None:
        """Refuse a cohort that the federation can't fill.

        Raises:
            ScenarioError: more clients a round than there are.
        """
        wanted = self.clients_per_round
        if wanted is not None and wanted > num_clients:
            text = f"came {wanted}, but the federation has {num_clients} clients; lower it, or set null for all"
            raise ScenarioError(scenario, [Fault("server.clients_per_round", text)])


class LabelShiftSettings(Settings):
    """Correction of the last head for other label priors (BBSE; Lipton et al., 2018, arXiv:1802.03916)."""

    penalty: Annotated[float, Field(ge=0)] = 0.0
    """Above 0, weights of classes are pulled towards 1, for confusion matrices that hardly tell classes apart (RLLS;
    Azizzadenesheli et al., 2019, arXiv:1903.09734); try 0.01."""
    largest_condition: Annotated[float, Field(ge=1)] = 100.0
    """Condition number of the confusion matrix above which nothing is corrected without a penalty."""


class EvaluationSettings(Settings):
    """What is evaluated, and how often."""

    every: PositiveInt = 1
    """Rounds between two evaluations; the last round is always evaluated."""
    central: bool = True
    """Evaluate on the central test part, where the data have one."""
    per_client: bool = True
    """Keep metrics of each client (client_metrics.csv, and label_shift.csv), not only their sums."""
    label_shift: LabelShiftSettings | None = None
    """Evaluate the last head also with each client's label priors, and the test part's, as its answers tell them; `{}`
    for the defaults, null: not."""
    contribution: bool = False
    """With a closed form: keep the head without each client, and what its samples changed on the central test part."""


class StagePart(Settings):
    """What the server side reads of a stage: all that may differ from stage to stage."""

    model_config = ConfigDict(extra="ignore")

    name: str
    unfreeze: UnfreezeSettings | None = None
    pseudo_labels: PseudoLabelSettings | None = None
    strategy: StrategySettings
    server: ServerSettings


class ServerPart(StagePart):
    """What the server side reads of a resolved scenario; the rest is none of its business."""

    seed: int
    data: DataSettings
    backbone: BackboneSettings
    features: FeatureSettings
    head: HeadSettings
    loss: LossSettings
    align: AlignSettings | None = None
    init: ClosedFormSettings | None
    calibrate: CalibrationSettings | None
    attack: AttackSettings | None = None
    availability: AvailabilitySettings | None = None
    evaluation: EvaluationSettings
    tracking: tuple[Tracker, ...] = ()
    shards: ResolvedShards = 1
    stages: tuple[StagePart, ...] | None = None
    stage: str | None = None
    """The name of the stage that this is, as `in_stages` gives it; None: the run is of one piece."""
    place: str = ""
    """What keys of the stage begin with, in texts: `stages[1].`."""
    rounds_before: NonNegativeInt = 0
    """The number of the last round before the stage. `server.rounds` of a stage is the number of its own last one."""

    def cut_at(self, round_number: int) -> str | None:
        """Return the cut past which a round trains blocks with the head; None: the head alone."""
        return None if self.unfreeze is None else self.unfreeze.cut_at(round_number - self.rounds_before)

    def in_stages(self) -> tuple[ServerPart, ...]:
        """Return what is read of each stage, rounds numbered through; of a run of one piece itself."""
        if self.stages is None:
            return (self.within_rounds(),)
        last = last_rounds([stage.server.rounds for stage in self.stages])
        keys = [key for key in StagePart.model_fields if key != "name"]
        return tuple(
            self.model_copy(
                update={
                    **{key: getattr(stage, key) for key in keys},
                    "server": stage.server.model_copy(update={"rounds": last[number]}),
                    "stage": stage.name,
                    "place": f"stages[{number}].",
                    "rounds_before": last[number - 1] if number else 0,
                }
            )
            for number, stage in enumerate(self.stages)
        )

    def within_rounds(self) -> ServerPart:
        """Return this part with no more rounds than the strategy can use, of all tasks together if there are some."""
        rounds, most = self.server.rounds, self.strategy.rounds_with(self.pseudo_labels is not None)
        rounds = rounds if most is None else min(rounds, most)
        rounds *= max(self.data.num_tasks, 1)
        return self.model_copy(update={"server": self.server.model_copy(update={"rounds": rounds})})

    def check_task(self, task: Task) -> None:
        """Refuse a strategy that can't serve what the targets are.

        Raises:
            ScenarioError: says what each strategy can.
        """
        for key, strategy in (
            (f"{self.place}strategy", self.strategy),
            ("init", self.init),
            ("calibrate", self.calibrate),
        ):
            if strategy is not None and task not in strategy.tasks:
                text = f"{strategy.name} serves {' and '.join(strategy.tasks)}; the data's targets are {task}"
                raise ScenarioError(self.name, [Fault(key, f"{text}; take another strategy (ridge serves all)")])
