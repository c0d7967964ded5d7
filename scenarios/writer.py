"""Writing a scenario out in full: every default filled in, every path absolute."""

from __future__ import annotations

from typing import Any

import yaml

from fedgraft.settings import Settings
from fedgraft.settings_files.located import CoreDumper

HEADER = "# The resolved scenario: every default is filled in; loading it gives the same scenario.\n"


def to_yaml(scenario: Settings) -> str:
    """Return the resolved scenario as YAML; loading the text gives an equal scenario."""
    return HEADER + yaml_text(scenario.model_dump(mode="json"))


def yaml_text(value: Any) -> str:
    """Return bare values as YAML in the order given, innermost blocks in one line each."""
    text = yaml.dump(value, Dumper=CoreDumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=100)
    return str(text)
