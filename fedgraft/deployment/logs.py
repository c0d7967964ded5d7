"""Logs of deployed processes: lines of text or of JSON, on the terminal and in files that rotate.

They hold names, times, counts and sizes, never values of data.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
import time
from pathlib import Path

from fedgraft.deployment.settings import LogSettings

FLOWERS_COLOURS = "\x1b["


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, process, text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        row = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "process": getattr(record, "process_name", record.name),
            "text": record.getMessage(),
        }
        if record.exc_info:
            row["traceback"] = self.formatException(record.exc_info)
        return json.dumps(row, ensure_ascii=False)


class TextLines(logging.Formatter):
    """The same as a line of text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        name = getattr(record, "process_name", record.name)
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        text = f"{when} {record.levelname.lower():<7} {name}: {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def log_to_stderr(settings: LogSettings) -> None:
    """Have this process's FedGraft log go to standard error, from which its supervisor takes it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    _set(logging.getLogger("fedgraft"), settings, [handler])


def start_log(settings: LogSettings) -> logging.Logger:
    """Return the supervisor's log, which all its processes' lines go into."""
    formatter = JsonLines() if settings.format == "json" else TextLines()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if settings.file is not None:
        path = Path(settings.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(
            logging.handlers.RotatingFileHandler(
                path, maxBytes=settings.largest_bytes, backupCount=settings.kept_files, encoding="utf-8"
            )
        )
    for handler in handlers:
        handler.setFormatter(formatter)
    log = logging.getLogger("fedgraft.processes")
    _set(log, settings, handlers)
    return log


def _set(log: logging.Logger, settings: LogSettings, handlers: list[logging.Handler]) -> None:
    log.handlers[:] = handlers
    log.setLevel(settings.level.upper())
    log.propagate = False
