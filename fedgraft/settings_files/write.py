"""Writing a file of settings for people: every key with what it means above it."""

from __future__ import annotations

import textwrap
from collections.abc import Collection

import yaml

from fedgraft.settings import Settings
from fedgraft.settings_files.located import CoreDumper
from fedgraft.settings_files.shape import Block


def commented(settings: Settings, heading: str, out_of_use: Collection[str] = ()) -> str:
    """Return settings as YAML, each key below its description; loading the text gives equal settings.

    Args:
        settings: what is written, with all its defaults.
        heading: comment at the top.
        out_of_use: keys that are left out, for their defaults.
    """
    values = settings.model_dump(mode="json")
    parts = [_comment(heading)]
    for name, key in Block(type(settings)).keys.items():
        if name not in out_of_use:
            text = yaml.dump({name: values[name]}, Dumper=CoreDumper, sort_keys=False, allow_unicode=True, width=100)
            parts.append(f"{_comment(key.description)}{text}")
    return "\n".join(parts)


def _comment(text: str) -> str:
    paragraphs = [textwrap.fill(" ".join(part.split()), 98) for part in text.split("\n\n")]
    return "".join(f"# {line}".rstrip() + "\n" for line in "\n\n".join(paragraphs).splitlines())
