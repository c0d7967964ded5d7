"""Settings of local training: what is refused, and that each field's refusal points at it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError
from small_scenario import scenario_of

from clients.settings import Adam, AdamW, ClientPart, Cosine, Sgd, Step, TrainSettings


@pytest.mark.parametrize(
    ("values", "key", "message"),
    [
        ({"local_epochs": 2, "local_steps": 3}, "local_steps", "came 3 beside local_epochs 2; keep one of the two"),
        (
            {"optimizer": {"name": "sgd", "nesterov": True}},
            "nesterov",
            "is true but momentum is 0; set momentum above 0 or nesterov to false",
        ),
        ({"local_epochs": 0}, "local_epochs", "greater than 0"),
        ({"batch_size": 0}, "batch_size", "greater than 0"),
        ({"batch_size": 2.5}, "batch_size", "valid integer"),
        ({"clip_norm": 0}, "clip_norm", "greater than 0"),
        ({"optimizer": {"name": "sgd", "learning_rate": -1}}, "learning_rate", "greater than 0"),
        ({"optimizer": {"name": "sgd", "momentum": 1}}, "momentum", "less than 1"),
        ({"optimizer": {"name": "adam", "momentum": 0.9}}, "momentum", "Extra inputs"),
        ({"optimizer": {"name": "adam", "beta_2": 1}}, "beta_2", "less than 1"),
        ({"optimizer": {"name": "adagrad"}}, "optimizer", "'sgd', 'adam', 'adamw'"),
        ({"schedule": {"name": "step", "factor_per_step": 0}}, "factor_per_step", "greater than 0"),
        ({"schedule": {"name": "cosine", "final_factor": 2}}, "final_factor", "less than or equal to 1"),
        ({"lr": 0.1}, "lr", "Extra inputs"),
    ],
)
def test_ill_settings_are_refused(values: dict[str, Any], key: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainSettings.model_validate_json(json.dumps(values))
    (fault,) = caught.value.errors()
    named = fault.get("ctx", {}).get("key") or str(fault["loc"][-1])
    assert named == key
    assert message in fault["msg"]


@pytest.mark.parametrize("optimizer", [Sgd(momentum=0.9, nesterov=True), Adam(epsilon=1e-6), AdamW(weight_decay=0.1)])
@pytest.mark.parametrize("schedule", [Step(every=3), Cosine(warmup_rounds=2)])
def test_settings_survive_json(optimizer: Any, schedule: Any) -> None:
    settings = TrainSettings(local_steps=3, optimizer=optimizer, schedule=schedule, clip_norm=1.5)
    again = TrainSettings.model_validate_json(settings.model_dump_json())
    assert again == settings
    assert type(again.optimizer) is type(optimizer)


def test_a_client_reads_its_part_of_a_scenario_and_no_more() -> None:
    scenario = scenario_of(server={"rounds": 3})
    part = ClientPart.model_validate_json(scenario.model_dump_json())
    assert part.server.rounds == 3
    assert part.train == scenario.train
    assert part.data == scenario.data
    assert part.strategy is not None
    assert set(type(part.strategy).model_fields) == {"name", "data"}
    assert not hasattr(part, "name")
