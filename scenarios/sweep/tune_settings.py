"""Settings of a search for learning rates and strategy parameters before contenders are compared."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PositiveInt, model_validator

from fedgraft.settings import Settings, setting_fault

Seed = Annotated[int, Field(ge=0, lt=2**63)]


class RangeSettings(Settings):
    """Numbers from `low` to `high`."""

    low: float
    """The smallest."""
    high: float
    """The largest."""
    log: bool = False
    """Whether factors count, not differences, as for learning rates; both ends are above 0 then."""

    @model_validator(mode="after")
    def _from_low_to_high(self) -> RangeSettings:
        if self.low >= self.high:
            raise setting_fault("high", f"came {self.high:g}, which is not above low {self.low:g}")
        if self.log and self.low <= 0:
            raise setting_fault("low", f"came {self.low:g}; on a logarithmic scale it must be above 0")
        return self


Values = Annotated[tuple[Any, ...], Field(min_length=1)]


class TuneSettings(Settings):
    """How settings are searched for, for each contender under each condition, by the clients' validation parts."""

    space: dict[str, RangeSettings | Values] = Field(
        min_length=1,
        examples=[
            {
                "train.optimizer.learning_rate": {"low": 0.001, "high": 0.1, "log": True},
                "strategy.mu": [0.01, 0.1, 1],
            }
        ],
    )
    """What is searched: keys in full, each with a list of values or with `{low, high, log}`. A key below `strategy` is
    searched for those contenders whose strategy has it; what a contender of the grid or list sets itself stays."""
    trials: PositiveInt = 9
    """How many settings are tried for each contender; a space that has fewer is tried whole."""
    halving: Annotated[int, Field(ge=2)] | None = 3
    """Successive halving: first tries are short, one of so many goes on to so many times the rounds, and those of the
    last step, two or more, have all rounds. null: every setting has all rounds."""
    seed: Seed = 0
    """Of the split, the first heads and the batches of the search; none of the seeds that are compared."""
