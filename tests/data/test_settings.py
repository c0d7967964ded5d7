"""Data settings: the short forms, and what the schema refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from fedgraft.data.partitions import partition_names
from fedgraft.data.settings import DataSettings, DigitsSettings, SizesSettings, TorchvisionSettings
from fedgraft.data.sources import source_names


def read(**values: Any) -> DataSettings:
    return DataSettings.model_validate_json(json.dumps(values))


def test_a_bare_name_is_short_for_a_choice_without_settings() -> None:
    settings = read(source="digits", partition="natural")
    assert settings.source == DigitsSettings()
    assert settings.partition.name == "natural"


def test_any_torchvision_name_is_a_source() -> None:
    assert read(source="torchvision:FashionMNIST", partition="natural").source == TorchvisionSettings(
        name="torchvision:FashionMNIST"
    )


def test_sizes_come_as_an_array() -> None:
    partition = read(source="digits", partition={"name": "sizes", "sizes": [3, 5]}).partition
    assert partition == SizesSettings(sizes=(3, 5))


@pytest.mark.parametrize(
    ("values", "place", "text"),
    [
        ({"source": "digit", "partition": "natural"}, ("source",), "'synthetic', 'digits', 'folder'"),
        ({"source": "digits", "partition": "irid"}, ("partition",), "'iid', 'dirichlet', 'pathological'"),
        ({"source": "digits", "partition": "iid"}, ("partition", "iid", "clients"), "Field required"),
        (
            {"source": "digits", "partition": {"name": "dirichlet", "clients": 2, "alpha": 0}},
            ("partition", "dirichlet", "alpha"),
            "greater than 0",
        ),
        (
            {"source": "digits", "partition": {"name": "iid", "clients": "2"}},
            ("partition", "iid", "clients"),
            "valid integer",
        ),
        (
            {"source": "digits", "partition": {"name": "iid", "clients": 2, "alpha": 1}},
            ("partition", "iid", "alpha"),
            "not permitted",
        ),
        ({"source": "digits", "partition": "natural", "test_fraction": 1.0}, ("test_fraction",), "less than 1"),
        ({"source": "folder", "partition": "natural"}, ("source", "folder", "path"), "Field required"),
        ({"source": "torchvision:a b", "partition": "natural"}, None, "match pattern"),
    ],
)
def test_a_fault_names_its_key(values: dict[str, Any], place: tuple[str, ...] | None, text: str) -> None:
    with pytest.raises(ValidationError, match=text) as caught:
        read(**values)
    assert place is None or caught.value.errors()[0]["loc"] == place


def test_the_listing_has_every_name_that_the_schema_has() -> None:
    text = json.dumps(DataSettings.model_json_schema()["$defs"])
    for name, description in (*source_names(), *partition_names()):
        assert f'"const": "{name}"' in text or name == "torchvision:<Dataset>"
        assert description
    assert len(partition_names()) == 7
    assert len(source_names()) == 13
