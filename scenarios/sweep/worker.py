"""A worker process of a sweep: `python -m scenarios.sweep.worker`.

It reads one task a line from standard input, as JSON, and writes one message a line to standard output. It ends when
its input does, so that it does not outlive whoever conducts the sweep, however that ends.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from typing import Any, TextIO

from fedgraft.launch import load_apps
from scenarios.sweep.bench import Message, Task, perform


def main() -> None:
    """Make runs until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the conductor decides what it means
    messages = _own_output()
    tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(tasks,), daemon=True).start()
    load_apps()  # what the first run would else be seen to wait for
    while True:
        task = Task(**tasks.get())

        def tell(message: Message, task: Task = task) -> None:
            messages.write(json.dumps({"task": task.id, **message}) + "\n")
            messages.flush()

        perform(task, tell)


def _own_output() -> TextIO:
    """Return standard output, and let all else that prints print to standard error."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(kept, "w", encoding="utf-8")


def _read(tasks: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        tasks.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main()
