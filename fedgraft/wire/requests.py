"""The bodies of requests and replies: everything that is said besides arrays.

| Flower message type | request | reply | arrays of the request | arrays of the reply |
| --- | --- | --- | --- | --- |
| `query.describe` | DescribeRequest | Description | | `clients` |
| `query.backbone` | BackboneRequest | BackboneReply | `weights`, once | |
| `train` | TrainRequest | TrainReply | `head`, `clients`, `extra` | sums or `stack`; `metrics`; `personal`; `clients` |
| `evaluate` | EvaluateRequest | EvaluateReply | `head`, `clients`, `extra` | `metrics`, `personal`, `clients` |
| `query.moments` | MomentsRequest | MomentsReply | `clients` | `sums` |
| `query.clusters` | ClustersRequest | ClustersReply | `clients`, `clusters` | `sums` |
| `query.statistics` | StatisticsRequest | StatisticsReply | `clients` | `sums` |
| `query.class_sums` | ClassSumsRequest | ClassSumsReply | `clients` | `rows` |
| `query.mixtures` | MixturesRequest | MixturesReply | `clients` | `rows` |
| `query.cross_validate` | CrossValidateRequest | CrossValidateReply | `clients`, `moments` | `counts` |
| `query.leave_out` | LeaveOutRequest | LeaveOutReply | `clients`, `pooled` | `heads` |

Where the scenario aligns features by moments (`align`), every request but the first three and `query.moments` carries
the group `alignment`: what its hosts bring their features onto, as `fedgraft.alignment.maps.ground_shapes` names it.

Where a request says `pseudo_labels`, its reply has the group `pseudo_labels`, int64 `(num_clients,)`: how many samples
got one (`count`), of how many of these the label is known though not used (`known`), and how many got that (`right`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from fedgraft.pseudo_label_settings import PseudoLabelSettings
from fedgraft.settings import Settings


class DescribeRequest(Settings):
    """Asks a host for which clients it speaks and what it has."""

    run_id: str


class Description(Settings):
    """What a host says of itself: names of clients, labels and columns, sizes and versions, no sample.

    Arrays, group `clients`: `names` uint8, the clients' names joined by newlines in UTF-8; `num_train` and
    `num_validation`, `(num_clients,)` int64; where there are training samples without labels, beside them
    `num_unlabelled` likewise. Where classes arrive task by task also `task_train` and `task_validation`,
    `(num_clients, num_tasks)` int64: the same of each task's classes.
    """

    code_digest: str
    release: str
    task: Literal["classes", "labels", "real"]
    label_names: tuple[str, ...]
    num_hosts: PositiveInt
    feature_dim: NonNegativeInt
    backbone_digests: tuple[str, ...]
    feature_names: tuple[str, ...] = ()
    """Names of the columns of ready features, where the source knows them; hosts must agree on them and their order."""
    host_costs: tuple[NonNegativeFloat, ...] = ()
    """Predicted nanoseconds a round of each host of the simulation; hosts must agree, or clients were lost."""
    notes: tuple[str, ...] = ()


class BackboneRequest(Settings):
    """The manifest of the backbone that the run uses; `weights` come with it only when a host lacks them."""

    run_id: str
    weights_digest: str
    feature_dim: PositiveInt
    carries_weights: bool = False


class BackboneReply(Settings):
    """Whether the host has those weights now."""

    has_weights: bool


class ClientsRequest(Settings):
    """What every request about the samples of named clients says."""

    run_id: str
    weights_digest: str
    shard: NonNegativeInt
    task_number: NonNegativeInt = 0
    """Where classes arrive task by task: during which task, from 1; 0: all samples are there."""
    pseudo_labels: PseudoLabelSettings | None = None
    """How samples without labels get some, and count as training samples: of a request to train by the head that came,
    else by that of the group `labeller`. null: such samples are left out."""


class HalfSettings(Settings):
    """A client half, by name, with its parameters."""

    name: str = "plain"
    parameters: dict[str, float] = Field(default_factory=dict)


class StateSettings(Settings):
    """Which state the clients of a shard start from, of a half that keeps one from round to round.

    A version counts the exchanges of the run that changed any client's state: with one such exchange a round it is the
    round after which the state was left so. 0 is empty.
    """

    version: NonNegativeInt
    """What the shard's state must be before; a host that does not have it says so."""
    becomes: PositiveInt
    """What it is called afterwards, if any of the shard's clients take part."""
    keep: bool = False
    """Whether it is written to a file then, since a checkpoint will name it."""
    pass_on: bool = False
    """Whether it is written to a file in any case, since another process may answer the host's next message."""


class TrainRequest(ClientsRequest):
    """Asks a host to train some of its clients from the given head.

    Arrays: `head`, the global head; `clients.index`, `(num,)` int64 positions in the host's description; `extra`, what
    the half has from the server, `<group>.<parameter>` of the head's shapes (see `clients.halves`), and the `point.*`
    of sums that weigh updates by nearness.
    """

    round_number: PositiveInt
    half: HalfSettings = HalfSettings()
    state: StateSettings | None = None
    reply: Literal["sum", "stack"] = "sum"
    sums: tuple[str, ...] = ("update",)
    scalars: tuple[str, ...] = ("weight",)
    loss_power: NonNegativeFloat = 0.0
    """The power of a client's loss by which fair sums weigh it."""
    smoothing: NonNegativeFloat = 0.0
    """Distances from the point below it count as it, in sums that weigh updates by nearness."""
    again: bool = False
    """Nobody trains: what was trained in the round before this request is summed anew, or trained again if lost."""
    evaluate: bool = True
    per_client: bool = True


class TrainReply(Settings):
    """What training gave, beside the arrays.

    Arrays: one group a sum, float32, of the head's shapes (added in float64, rounded once); or `stack`,
    `(num_clients, *shape)`, and `weights.weight`, `(num_clients,)`. `metrics`: sums over the clients'
    validation parts of the head that was received (see `fedgraft.metrics`), and `train_loss`. `personal`: the same
    sums of the clients' own heads, as they stood before the training, where the half keeps some. `clients`: the same a
    client, when asked for.
    """

    round_number: PositiveInt
    shard: NonNegativeInt
    num_clients: NonNegativeInt
    scalars: dict[str, float]
    seconds: float
    has_state: bool = True
    """False: the host lacks the version of its clients' state that it was to start from, and has done nothing."""


class EvaluateRequest(ClientsRequest):
    """Asks a host to evaluate a head on its clients' validation parts, and perhaps each client's own head beside it.

    Arrays: `head` and `clients`, as in TrainRequest; `extra`, for the half `blended_ridge` `moments.<name>` of all
    clients' training samples, float64, as `fedgraft.closed_form` names them.
    """

    round_number: NonNegativeInt
    per_client: bool = True
    personal: HalfSettings | None = None
    """The half that makes the clients' own heads; None: there are none."""
    state_version: NonNegativeInt = 0
    """The version of the clients' state that own heads are read from; 0 where they are not kept."""


class EvaluateReply(Settings):
    """What evaluation gave, beside the arrays `metrics`, `clients`, and for own heads `personal`, as `metrics`."""

    round_number: NonNegativeInt
    shard: NonNegativeInt
    num_clients: NonNegativeInt
    seconds: float
    has_state: bool = True
    """False: the host lacks the version of its clients' state that it was to read, and has done nothing."""


class MomentsRequest(ClientsRequest):
    """Asks for additive moments of the clients' training features, without their labels; exact under any split.

    Arrays: `clients.index`, as in TrainRequest; with the group `alignment`, of aligned features.
    """

    moment: Literal["diagonal", "full"] = "diagonal"


class MomentsReply(Settings):
    """How many clients and training samples are in the sums.

    Arrays, group `sums`, float64: names and shapes as `fedgraft.alignment.moments.moments_shapes` says.
    """

    shard: NonNegativeInt
    num_clients: NonNegativeInt
    num_samples: NonNegativeInt


class ClustersRequest(ClientsRequest):
    """Sends the centres of clusters; each training sample goes to the nearest, and sums by cluster come back.

    Arrays: `clients.index`; group `clusters`, float64: `centres` `(num_starts, num_clusters, d)`, several of which are
    tried at once, `mean` `(D,)`, which is taken off the features, and perhaps `axes` `(d, D)`, onto which they are
    projected then.
    """

    describe: bool = False
    """Whether sizes by client come too, and where samples have classes, counts by class and cluster; of one start."""
    labelled: NonNegativeInt = 0
    """How many samples of each class each client lets say which classes its clusters are; with `describe`."""


class ClustersReply(Settings):
    """How many clients and training samples the sums are of.

    Arrays, group `sums`: names, shapes and types as `fedgraft.wire.clusters` says.
    """

    shard: NonNegativeInt
    num_clients: NonNegativeInt
    num_samples: NonNegativeInt


class StatisticsRequest(ClientsRequest):
    """Asks for additive sums of the clients' training features; sums are exact under any split.

    Arrays: `clients.index`, as in TrainRequest. What each `second_moment` holds, and its bytes, is told by
    `fedgraft.wire.statistics`.
    """

    second_moment: Literal["none", "diagonal", "shared", "per_class"] = "none"
    radial_moments: bool = False
    """Whether sums of `|x|^2 x` and `|x|^4` come too, which tell how far a covariance is to be shrunk."""


class StatisticsReply(Settings):
    """How many clients and training samples are in the sums.

    Arrays, group `sums`, float64: names and shapes as `fedgraft.wire.statistics.statistics_shapes` says.
    """

    shard: NonNegativeInt
    num_clients: NonNegativeInt
    num_samples: NonNegativeInt


class ClassSumsRequest(ClientsRequest):
    """Asks for each client's counts and summed features of its classes, not added to those of others.

    Arrays: `clients.index`, as in TrainRequest.
    """


class ClassSumsReply(Settings):
    """How many clients and training samples are in the rows.

    Arrays, group `rows`: one row a client and class of which it has samples, ordered by client, then class; names,
    shapes and types as `fedgraft.wire.statistics.class_rows_shapes` says.
    """

    shard: NonNegativeInt
    num_clients: NonNegativeInt
    num_samples: NonNegativeInt


class MixturesRequest(ClientsRequest):
    """Asks each client for Gaussian mixtures of its features of each class.

    Arrays: `clients.index`, as in TrainRequest.
    """

    components: PositiveInt = Field(le=100)
    covariance: Literal["spherical", "diagonal", "full"]


class MixturesReply(Settings):
    """How many clients and training samples the mixtures are of.

    Arrays, group `rows`: one row a component; names, shapes and types as `fedgraft.wire.mixtures` says.
    """

    shard: NonNegativeInt
    num_clients: NonNegativeInt
    num_samples: NonNegativeInt


class CrossValidateRequest(ClientsRequest):
    """Sends pooled moments; each client's rows are taken out and its own samples predicted, for each lambda.

    Arrays: `clients.index`; group `moments`, float64, as `fedgraft.closed_form` names them: sums over the training
    samples of at least the clients that the request names, labels coded as -1 and 1.
    """

    lambdas: tuple[PositiveFloat, ...] = Field(min_length=1, max_length=100)
    bias: bool = True


class CrossValidateReply(Settings):
    """How many clients and training samples were predicted.

    Arrays, group `counts`: for classes and labels `correct` `(num_lambdas,)` int64, right answers, or right decisions
    over all labels; for real targets `squared_error` `(num_lambdas, num_outputs)` float64, summed over samples.
    """

    shard: NonNegativeInt
    num_clients: NonNegativeInt
    num_samples: NonNegativeInt


class LeaveOutRequest(ClientsRequest):
    """Sends pooled sums and how a head is made of them; each client's rows are taken out and the head made again.

    Arrays: `clients.index`; group `pooled`, float64, as `fedgraft.wire.statistics.statistics_shapes` names them with
    the second moment that the form needs. Form and parameters are those of `fedgraft.recipes.Recipe`.
    """

    form: Literal["ridge", "nearest_mean", "mean_directions", "discriminant"]
    parameters: dict[str, float]
    temperature: PositiveFloat


class LeaveOutReply(Settings):
    """How many clients were left out, each alone, and how many training samples they have together.

    Arrays, group `heads`, float32: `(num_clients, *shape)` of each array that the form makes.
    """

    shard: NonNegativeInt
    num_clients: NonNegativeInt
    num_samples: NonNegativeInt
