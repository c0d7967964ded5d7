"""Every strategy by name; a new one is one line in `StrategySettings`."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Discriminator, Tag

from fedgraft.settings import named
from strategies.base import Strategy
from strategies.bulyan import Bulyan
from strategies.ccvr import CCVR
from strategies.centralised import Centralised
from strategies.centred_clipping import CentredClipping
from strategies.ditto import Ditto
from strategies.fedadagrad import FedAdagrad
from strategies.fedadam import FedAdam
from strategies.fedavg import FedAvg
from strategies.fedavgm import FedAvgM
from strategies.fedbabu import FedBabu
from strategies.fedcof import FedCOF
from strategies.feddyn import FedDyn
from strategies.fedexp import FedExP
from strategies.fednova import FedNova
from strategies.fedper import FedPer
from strategies.fedpft import FedPFT
from strategies.fedprox import FedProx
from strategies.fedrep import FedRep
from strategies.fedrod import FedRod
from strategies.fedsam import FedSAM
from strategies.fedyogi import FedYogi
from strategies.fine_tune_after import FineTuneAfter
from strategies.flower import FlowerStrategy
from strategies.geometric_median import GeometricMedian
from strategies.krum import Krum
from strategies.lda import LinearDiscriminant
from strategies.local_only import LocalOnly
from strategies.median import Median
from strategies.multi_krum import MultiKrum
from strategies.ncm import NearestClassMean
from strategies.norm_clipping import NormClipping
from strategies.personal_ridge import PersonalRidge
from strategies.qfedavg import QFedAvg
from strategies.ridge import Ridge
from strategies.scaffold import Scaffold
from strategies.trimmed_mean import TrimmedMean
from strategies.user import UserStrategy
from strategies.zero_shot import ZeroShot

USER = "YourClass"
"""The registry's key for any class of the user's own file."""


def tag_of(value: Any) -> str | None:
    """Return the registry's key: a block's name, `flower:<Class>` for Flower's own, or `USER` for one with a file."""
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    if isinstance(value, UserStrategy) or (isinstance(value, dict) and "file" in value):
        return USER
    return "flower:<Class>" if isinstance(name, str) and name.startswith("flower:") else name


StrategySettings = Annotated[
    Annotated[FedAvg, Tag("fedavg")]
    | Annotated[FedAvgM, Tag("fedavgm")]
    | Annotated[FedAdagrad, Tag("fedadagrad")]
    | Annotated[FedAdam, Tag("fedadam")]
    | Annotated[FedYogi, Tag("fedyogi")]
    | Annotated[FedProx, Tag("fedprox")]
    | Annotated[FedSAM, Tag("fedsam")]
    | Annotated[Scaffold, Tag("scaffold")]
    | Annotated[FedDyn, Tag("feddyn")]
    | Annotated[FedNova, Tag("fednova")]
    | Annotated[FedExP, Tag("fedexp")]
    | Annotated[QFedAvg, Tag("qfedavg")]
    | Annotated[LocalOnly, Tag("local-only")]
    | Annotated[FineTuneAfter, Tag("fine-tune-after")]
    | Annotated[Ditto, Tag("ditto")]
    | Annotated[FedPer, Tag("fedper")]
    | Annotated[FedRep, Tag("fedrep")]
    | Annotated[FedBabu, Tag("fedbabu")]
    | Annotated[FedRod, Tag("fedrod")]
    | Annotated[PersonalRidge, Tag("personal-ridge")]
    | Annotated[Ridge, Tag("ridge")]
    | Annotated[NearestClassMean, Tag("ncm")]
    | Annotated[LinearDiscriminant, Tag("lda")]
    | Annotated[FedCOF, Tag("fedcof")]
    | Annotated[CCVR, Tag("ccvr")]
    | Annotated[FedPFT, Tag("fedpft")]
    | Annotated[Median, Tag("median")]
    | Annotated[TrimmedMean, Tag("trimmed-mean")]
    | Annotated[Krum, Tag("krum")]
    | Annotated[MultiKrum, Tag("multi-krum")]
    | Annotated[Bulyan, Tag("bulyan")]
    | Annotated[NormClipping, Tag("norm-clipping")]
    | Annotated[CentredClipping, Tag("centred-clipping")]
    | Annotated[GeometricMedian, Tag("geometric-median")]
    | Annotated[Centralised, Tag("centralised")]
    | Annotated[ZeroShot, Tag("zero-shot")]
    | Annotated[FlowerStrategy, Tag("flower:<Class>")]
    | Annotated[UserStrategy, Tag(USER)],
    Discriminator(tag_of),
    BeforeValidator(named),
]  # fmt: skip

ClosedFormSettings = Annotated[
    Ridge | NearestClassMean | LinearDiscriminant | FedCOF | CCVR | FedPFT,
    Discriminator("name"),
    BeforeValidator(named),
]
"""Those that make a head at once from sums, and so can make the one that others start from."""

CalibrationSettings = Annotated[CCVR | FedPFT, Discriminator("name"), BeforeValidator(named)]
"""Those that train a head further without the clients, from sums: after the last round of another strategy."""


def _registered() -> dict[str, type[Strategy]]:
    union = get_args(StrategySettings)[0]
    members = (get_args(member) for member in get_args(union))
    return {tag.tag: strategy for strategy, tag in members if tag.tag != USER}


STRATEGIES: dict[str, type[Strategy]] = _registered()
"""Registry key -> class, in the order above, without the user's own."""
