"""Settings of who comes to a round, and how long it takes: a federation that changes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from fedgraft.settings import LocalPath, Settings, setting_fault

Share = Annotated[float, Field(ge=0, lt=1)]


class AvailabilitySettings(Settings):
    """Who answers in a round, in a simulation: all that is drawn is a function of seed, round and client."""

    dropout: Share = 0.0
    """Probability that a client that was asked does not answer in that round."""
    trace: LocalPath | None = None
    """A csv file with the columns `round` and `client`, and `seconds` if wanted; a row: that client is there then."""
    late_fraction: Share = 0.0
    """Share of the clients that join later than round 1; which ones and when, the seed draws."""
    last_joins_in: Annotated[int, Field(ge=2)] = 10
    """Late clients join in rounds from 2 to this one, each round as likely."""
    seconds: PositiveFloat = 1.0
    """Simulated seconds that a client takes to answer: the median."""
    seconds_spread: NonNegativeFloat = 0.0
    """Standard deviation of the logarithm of these seconds, drawn for each client and round."""
    straggler_fraction: Share = 0.0
    """Share of the clients that are slow in every round."""
    straggler_factor: Annotated[float, Field(ge=1)] = 10.0
    """How many times as long a slow client takes."""
    deadline_seconds: PositiveFloat | None = None
    """Answers that come later than this many simulated seconds do not count; null: all are waited for."""
    over_selection: NonNegativeFloat = 0.0
    """Share of clients that are asked beyond the cohort; the first answers, as many as the cohort has, count."""
    minimum_clients: PositiveInt = 1
    """Clients with training samples whose answers a round needs."""
    too_few: Literal["skip", "wait"] = "skip"
    """When fewer answer: `skip` the round and keep the head, or `wait` and ask again, others as the draw has it."""

    @model_validator(mode="after")
    def _a_trace_says_it_all(self) -> AvailabilitySettings:
        if self.trace is not None and self.late_fraction > 0:
            raise setting_fault(
                "late_fraction", "is above 0 beside a trace, which says who is there; keep one of the two"
            )
        return self
