"""A runtime whose hosts are asked for sums and train nothing, and a folder for what comes of them.

Rankings of backbones and clusterings are made so.
"""

from __future__ import annotations

import contextlib
import math
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fedgraft.errors import StoreError
from fedgraft.files import write_text
from fedgraft.launch import begin_ray, num_hosts, start_here, with_shards
from fedgraft.submission import RunFacts, Submission

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from fedgraft.simulation.ray_session import RaySession
    from scenarios.schema import Scenario

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Survey:
    """Asks the hosts of a runtime.

    Attributes:
        scenario: whose data are asked about; its shards are known.
        num_hosts: processes that speak for the clients.
        directory: of what comes out.
        session: Ray, started, or None for the runtime `inline`.
        verbose: let Flower and Ray log to the terminal.
    """

    scenario: Scenario
    num_hosts: int
    directory: Path
    session: RaySession | None
    verbose: bool

    def ask(self, ask: Callable[[Grid, Submission], Answer], scenario: Scenario, feature_dim: int) -> Answer:
        """Return what `ask` learned of the scenario, whose features `feature_dim` long are in the store."""
        from server.survey import asking_app

        facts = RunFacts(
            run_id=str(uuid.uuid4()),
            directory=str(self.directory),
            num_hosts=self.num_hosts,
            threads=scenario.runtime.threads,
            feature_dim=feature_dim,
            device=scenario.runtime.device,
        )
        answers: list[Answer] = []
        submission = Submission(scenario.model_dump_json(), facts)
        start_here(asking_app(ask, answers), submission, self.session, self.verbose)
        return answers[0]


@contextlib.contextmanager
def open_survey(scenario: Scenario, file: str, out: Path | None, verbose: bool) -> Iterator[Survey]:
    """Yield a survey of a scenario that has been checked.

    Args:
        scenario: what does not bear on sums is left out of it.
        file: what comes out, such as `ranking.json`; a folder with such a file is not written to again.
        out: its folder; None: a new one below `rankings/`, or as the file is called.
        verbose: let Flower and Ray log to the terminal.

    Raises:
        FedGraftError: anything that the user can mend.
    """
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(_directory(scenario.name, file, out))
        session, room = begin_ray(scenario, stack, verbose)
        asked = with_shards(for_sums(scenario), None, room)
        hosts = num_hosts(asked, room)
        if session is not None:
            session.start(math.ceil(hosts * session.settings.cpus_per_host))
        yield Survey(asked, hosts, directory, session, verbose)


def for_sums(scenario: Scenario) -> Scenario:
    """Return the scenario with nothing that sums of features do not need: nobody trains, lies or stays away."""
    from fedgraft.models.head_settings import LinearHead
    from strategies.ridge import Ridge

    blocks = ("init", "calibrate", "attack", "availability", "compare", "unfreeze", "align", "stages")
    nothing: dict[str, Any] = dict.fromkeys(blocks)
    return scenario.model_copy(update={"strategy": Ridge(), "head": LinearHead(), "tracking": (), **nothing})


@contextlib.contextmanager
def _directory(name: str, file: str, out: Path | None) -> Iterator[Path]:
    """Yield the folder of what comes out, checked to be writable; leave no empty one behind.

    Raises:
        StoreError: such a file is in it, or it can't be written.
    """
    from server.run_directory import new_directory

    kind = file.removesuffix(".json")
    path = out.absolute() if out is not None else new_directory(Path(f"{kind}s").absolute(), name)
    if (path / file).exists():
        raise StoreError(f"{path} already holds a {kind}; give another folder with --out")
    write_text(path / ".writable", "")
    (path / ".writable").unlink()
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.rmdir()
            if path.parent.name == f"{kind}s":
                path.parent.rmdir()
