"""Which settings a search tries: all of a small space, of others a sequence that fills it evenly, from Optuna."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import warnings
from typing import Any

from fedgraft.errors import FedGraftError
from scenarios.sweep.searches import Space
from scenarios.sweep.tune_settings import RangeSettings

MOST_DRAWS = 20
"""For each setting that is wanted; a space of lists soon repeats what it has given."""


def check_installed() -> None:
    """See to it that Optuna is there, before anything is run.

    Raises:
        FedGraftError: it is not.
    """
    if importlib.util.find_spec("optuna") is None:
        raise FedGraftError(
            "compare.tune needs optuna, which is not installed; install with: pip install 'fedgraft[tune]', or compare "
            "without it: --set compare.tune=null"
        )


def proposals(space: Space, number: int, seed: int) -> list[dict[str, Any]]:
    """Return settings to try, each another, the same for the same seed.

    Args:
        space: what each key may be.
        number: how many; a space of lists that has fewer gives all it has.
        seed: of the draws.
    """
    lists = {key: values for key, values in space.items() if not isinstance(values, RangeSettings)}
    if len(lists) == len(space) and math.prod(map(len, lists.values())) <= number:
        return [dict(zip(lists, chosen, strict=True)) for chosen in itertools.product(*lists.values())]
    return _drawn(space, number, seed)


def _drawn(space: Space, number: int, seed: int) -> list[dict[str, Any]]:
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of the sampler
            study = optuna.create_study(sampler=optuna.samplers.QMCSampler(scramble=True, seed=seed % 2**32))
        distributions = {key: _distribution(values) for key, values in space.items()}
        found: dict[str, dict[str, Any]] = {}
        for _ in range(MOST_DRAWS * number):
            drawn = study.ask(distributions).params
            settings = {key: _value(values, drawn[key]) for key, values in space.items()}
            found.setdefault(json.dumps(settings, sort_keys=True), settings)
            if len(found) == number:
                break
        return list(found.values())
    finally:
        optuna.logging.set_verbosity(before)


def _distribution(values: RangeSettings | tuple[Any, ...]) -> Any:
    """Return how Optuna draws from a range; of a list it draws places, since values may be whole blocks."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(values, RangeSettings):
        return FloatDistribution(values.low, values.high, log=values.log)
    return CategoricalDistribution(list(range(len(values))))


def _value(values: RangeSettings | tuple[Any, ...], drawn: Any) -> Any:
    """Return what was drawn, numbers with four digits: more decide nothing, and people read them."""
    if isinstance(values, RangeSettings):
        return min(values.high, max(values.low, float(f"{drawn:.4g}")))
    return values[drawn]
