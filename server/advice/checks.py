"""What a finished run's own validation says about the known failures of transfer and federated learning.

Each check looks at sums that the run has anyway, speaks only beyond what chance explains (two standard errors, and a
least size that matters), and gives one line: what was seen, and which setting answers it. The failures are those that
reviews of transfer learning warn of (Pan and Yang, "A survey on transfer learning", IEEE TKDE 2010; Zhuang et al., "A
comprehensive survey on transfer learning", Proc. IEEE 2021): negative transfer, domains that do not match, over-fitting
on few samples, and biased sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from server.advice import client_checks, head_checks
from server.advice.facts import Facts

CHECKS: Mapping[str, Callable[[Facts], str | None]] = {
    "negative_transfer": head_checks.negative_transfer,
    "forgets": head_checks.forgets,
    "trained_too_long": head_checks.too_long,
    "other_domain": head_checks.other_domain,
    "one_source": client_checks.one_source,
    "weak_classes": head_checks.weak_classes,
    "unequal_groups": head_checks.unequal_groups,
    "unequal_clients": client_checks.unequal_clients,
    "small_clients": client_checks.small_clients,
    "own_heads_harm": client_checks.own_heads,
    "unsure": head_checks.unsure,
    "trained_too_short": head_checks.too_short,
}
"""Every check by its name, the gravest first."""

FOR_NUMBERS: Mapping[str, Callable[[Facts], str | None]] = {"no_better_than_mean": head_checks.no_better_than_mean}
"""Checks of real targets alone."""

FOR_ALL_TASKS = ("trained_too_long", "one_source", "trained_too_short")
"""Checks that do not speak of right answers."""


@dataclass(frozen=True)
class Advice:
    """One line of advice.

    Attributes:
        check: the name of the check.
        text: what was seen, and what to do.
    """

    check: str
    text: str


def advice(facts: Facts) -> list[Advice]:
    """Return what the checks have to say, the gravest first; nothing where all is well."""
    checks = CHECKS if facts.task == "classes" else {name: CHECKS[name] for name in FOR_ALL_TASKS}
    checks = {**FOR_NUMBERS, **checks} if facts.task == "real" else checks
    found = ((name, check(facts)) for name, check in checks.items())
    return [Advice(name, text) for name, text in found if text is not None]
