"""What the transfer report says in sentences."""

from __future__ import annotations

from scenarios.comparison.client_findings import Trait, Transfer
from scenarios.comparison.estimates import LEVEL, Estimate
from scenarios.comparison.findings import Metric
from scenarios.comparison.wording import amount_text

_ALONE = "heads of their own samples alone"
_MORE = {"num_train": "more training samples", "label_skew": "more label skew", "distance": "features further off"}
_MOST = {"num_train": "most samples", "label_skew": "most label skew", "distance": "features furthest off"}
_LEAST = {"num_train": "fewest samples", "label_skew": "least label skew", "distance": "features nearest"}


def transfer_verdict(found: Transfer, score: Metric) -> tuple[str, ...]:
    """Return who gains, who is harmed, and what those who are have in common.

    Args:
        found: whose gains.
        score: what scores of clients mean.
    """
    whose = "head" if found.kind == "global-against-own" else "personal heads"
    against = "the global head" if found.kind == "personal-against-global" else _ALONE
    heads, verb = f"{found.title}'s {whose}", "serves" if whose == "head" else "serve"
    gain = found.gain
    shares = f"{_percent(found.gaining)} of clients gain, {_percent(found.harmed)} lose"
    way = "better" if gain.mean > 0 else "worse"
    if gain.low is None or gain.high is None:
        first = f"On one seed {heads} {verb} clients {way} than {against}, by {amount_text(gain, score)}; {shares}."
    elif gain.low > 0 or gain.high < 0:
        first = f"{heads} {verb} clients {way} than {against}, by {amount_text(gain, score)} in the mean; {shares}."
    else:
        first = (
            f"In the mean over clients {heads} and {against} can't be told apart ({_signed(gain, score)}); {shares}."
        )
    sentences = [first]
    if found.sure_gains is not None and found.sure_harms is not None:
        total = len(found.clients)
        chance = (1 - LEVEL) / 2 * total
        sentences.append(
            f"Over the seeds {found.sure_gains} of {total} clients gain and {found.sure_harms} lose beyond their 95 % "
            f"interval; by chance alone about {chance:.1f} would seem to do each."
        )
    sentences += [text for trait in found.traits if (text := _on(trait, score)) is not None]
    return tuple(sentences)


def _on(trait: Trait, score: Metric) -> str | None:
    """Say how gains go along with a trait, where the interval of the correlation leaves zero out."""
    of = trait.correlation
    if of is None or of.low is None or of.high is None or of.low <= 0 <= of.high:
        return None
    text = f"Clients with {_MORE[trait.name]} gain {'more' if of.mean > 0 else 'less'}"
    if not trait.thirds:
        return f"{text}."
    least, most = trait.thirds[0], trait.thirds[-1]
    gains = f"{_signed(most.gain, score)} in the third with the {_MOST[trait.name]}"
    gains += f", {_signed(least.gain, score)} in that with the {_LEAST[trait.name]}"
    return f"{text}: {gains}; {_percent(most.harmed)} and {_percent(least.harmed)} of them lose."


def _signed(found: Estimate, score: Metric) -> str:
    return f"{'+' if found.mean >= 0 else '-'}{amount_text(found, score)}"


def _percent(found: Estimate) -> str:
    return f"{100 * found.mean:.0f} %"
