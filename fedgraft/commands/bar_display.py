"""Bars on the terminal for a command that is not a run: what several commands' displays share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from fedgraft.commands.terminal import escaped

if TYPE_CHECKING:
    from rich.console import Console


class BarDisplay:
    """Bars while something goes on, and its notes, each once; use it as a context manager."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=28), TimeElapsedColumn(), console=console
        )
        self._said: set[str] = set()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        """Print a note, unless it was said before."""
        if text not in self._said:
            self._said.add(text)
            self._console.print(f"[yellow]note:[/] {escaped(text)}", soft_wrap=True)
