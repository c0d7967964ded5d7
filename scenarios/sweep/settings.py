"""Settings of a comparison: which contenders meet, under which conditions, how often."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PositiveInt, field_validator, model_validator

from fedgraft.settings import Settings, setting_fault
from scenarios.sweep.tune_settings import Seed, TuneSettings

PARTS = ("central", "validation", "personal", "clients")
"""Of a run's evaluation: the first half of a metric's name."""


class CompareSettings(Settings):
    """What `fedgraft compare` runs: every combination of a grid, entries of a list, each with every seed."""

    grid: dict[str, tuple[Any, ...]] = Field(
        default_factory=dict, examples=[{"strategy": ["fedavg", "ridge"], "data.partition.alpha": [0.1, 100]}]
    )
    """Values of keys, written in full as for `--set`; every combination of them is run."""
    list: tuple[dict[str, Any], ...] = ()
    """More combinations that no grid makes, such as `{strategy: fedavg, init: ridge}`; each is run with all values of
    the grid's other keys."""
    seeds: PositiveInt | Annotated[tuple[Seed, ...], Field(min_length=1)] = Field(default=5, examples=[5])
    """Each combination is run with these seeds: a list, or a number for 1, 2, 3 up to it. Runs of equal seeds have
    equal splits, first heads and batches, so contenders are compared pair by pair."""
    conditions: tuple[str, ...] | None = None
    """Keys of the grid or list that make circumstances rather than contenders; null: those below `data`, `attack` and
    `availability`."""
    baseline: Annotated[str, Field(min_length=1)] | None = Field(default=None, examples=["fedavg"])
    """The contender that the others are measured against, by its name as `--dry-run` shows it; null: the first."""
    metric: Annotated[str, Field(min_length=1)] | None = None
    """What decides: `central/accuracy`, `validation/loss`, `clients/client_mean`, ... (`clients` is the head that a
    client uses: its own under personal strategies, else the global one); null: the main metric of the task on the
    central test part, or on the clients' validation parts where there is none."""
    target: float | None = None
    """A value of the metric; rounds, bytes and seconds until a run reaches it are reported. null: none."""
    transfer: bool | dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(
        default=False, examples=[{"train.optimizer.learning_rate": [0.001, 0.005, 0.02]}]
    )
    """Whether each client is also trained alone (`local-only`), with every contender's own training settings, so that
    the report says who gains from the federation and who is harmed. Values of keys: alone with each of these, of which
    every client takes what its own validation part likes best."""
    tune: TuneSettings | None = None
    """Settings that are searched for before the comparison, by validation parts, with the same budget for every
    contender; needs the extra `tune`. null: all run as they are given."""
    most_runs: PositiveInt = 10_000
    """A plan of more runs is refused, since it is rarely meant."""

    @field_validator("metric")
    @classmethod
    def _metric_of_a_part(cls, metric: str | None) -> str | None:
        part, _, name = (metric or "central/accuracy").partition("/")
        if part not in PARTS or not name.replace("_", "a").isalnum() or name != name.lower():
            raise ValueError(
                f"came '{metric}'; expected a part ({', '.join(PARTS)}), a stroke and a metric, as central/accuracy"
            )
        return metric

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if isinstance(seeds, tuple) and len(set(seeds)) < len(seeds):
            raise ValueError(f"came {[*seeds]}, in which a seed stands twice; write each once")
        return seeds

    @model_validator(mode="after")
    def _something_to_compare(self) -> CompareSettings:
        if not self.grid and not self.list:
            raise setting_fault("", "nothing to compare: give a grid, such as {strategy: [fedavg, ridge]}, or a list")
        for key, values in self.grid.items():
            if not values:
                raise setting_fault("grid", f"of size zero: {key} has no values; give it some, or leave it out")
        for number, entry in enumerate(self.list):
            if not entry:
                raise setting_fault(f"list.{number}", "an empty entry; give it keys, or leave it out")
        return self

    @model_validator(mode="after")
    def _tuned_on_another_seed(self) -> CompareSettings:
        seeds = range(1, self.seeds + 1) if isinstance(self.seeds, int) else self.seeds
        if self.tune is not None and self.tune.seed in seeds:
            raise setting_fault(
                "tune.seed",
                f"came {self.tune.seed}, which is compared too; take another, so that nobody is tuned to it",
            )
        return self

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds one by one."""
        return tuple(range(1, self.seeds + 1)) if isinstance(self.seeds, int) else self.seeds
