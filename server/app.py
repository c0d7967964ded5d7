"""The Flower ServerApp: reads what was submitted and conducts the run."""

from __future__ import annotations

import logging

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedgraft.submission import read_submission
from server.rounds import conduct

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Conduct the run that this app was started with."""
    directory = conduct(grid, read_submission(context.run_config))
    # For `flwr run`, whose stream shows Flower's log; our own command line keeps it silent.
    logging.getLogger("flwr").info("FedGraft's results: %s", directory)
