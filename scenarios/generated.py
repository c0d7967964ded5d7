"""Files that are generated from the settings models: write them, or check that they are true."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fedgraft.files import write_text


def main(path: Path, text: str, command: str, arguments: Sequence[str] | None = None) -> int:
    """Write `text` to `path`, or with `--check` compare them; return the exit status.

    Args:
        path: the generated file.
        text: what it must hold.
        command: what a user types to write it.
        arguments: the command line; None: that of the process.
    """
    parser = argparse.ArgumentParser(prog=command, description=f"Write {path.name} from the settings models.")
    parser.add_argument("--check", action="store_true", help="only say whether the file is true; exit with 1 if not")
    if not parser.parse_args(arguments).check:
        write_text(path, text)
        print(f"wrote {path}")
        return 0
    true = path.is_file() and path.read_text(encoding="utf-8") == text
    print(f"{path.name} is true" if true else f"{path.name} is out of date; run `{command}`")
    return 0 if true else 1
