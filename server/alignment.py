"""The common ground of a run's features: asked of all clients once, before the first round, and kept with the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedgraft.alignment.files import ALIGNMENT_FILE, read_alignment, save_alignment
from fedgraft.alignment.maps import ground
from fedgraft.alignment.moments import Array, MomentKind, Sums, moments_of
from fedgraft.alignment.settings import Coral, MapSettings
from fedgraft.errors import Fault, ScenarioError, WireError, listed, nearest
from fedgraft.progress import report
from server.checkpoint import Counters
from server.exchange import exchange
from server.roster import Call, Roster
from server.sites import Sites, ask_sites
from server.statistics import Questions
from server.sums import combine_moments


@dataclass(frozen=True)
class Ground:
    """Asks for the moments that features are aligned by.

    Attributes:
        grid: Flower's.
        questions: whom to ask; without an alignment, since there is none yet.
        counters: where bytes and seconds are counted.
        timeout_seconds: how long to wait for the replies.
        sites: of a deployed run; None for a simulation.
        scenario: its name, for texts.
    """

    grid: Grid
    questions: Questions
    counters: Counters
    timeout_seconds: float
    sites: Sites | None
    scenario: str

    def of_run(self, settings: MapSettings, folder: Path) -> dict[str, Array]:
        """Return what hosts bring features onto: as the run's folder has it, or asked for now and written there.

        Raises:
            ScenarioError: the reference names clients that there are not, or that have no samples.
            WireError: moments would be too large, or a reply does not fit.
            HostError: a host failed.
            StoreError: the file is damaged or can't be written.
        """
        if (folder / ALIGNMENT_FILE).exists():
            return read_alignment(folder, settings, self.questions.feature_dim)
        roster = self.questions.roster
        clients = np.arange(len(roster.names))
        moment: MomentKind = "diagonal"
        sites = self.sites
        if isinstance(settings, Coral):
            moment = settings.covariance
            if settings.reference is not None:
                clients = self._reference(settings.reference, roster)
        calls = roster.calls(clients)
        if sites is not None and len(clients) < len(roster.names):
            sites = sites.all_of(
                {call.node for call in calls}, "align.reference"
            )  # without one it is another reference
        sums = self._moments(calls, moment, sites)
        arrays = ground(settings, moments_of(sums))
        still = int((moments_of(sums).variance == 0).sum())
        if still:
            report(
                "note", text=f"{still:,} of {self.questions.feature_dim:,} features never vary; they become constant"
            )
        save_alignment(folder, settings, arrays, int(sums["count"]))
        return arrays

    def _reference(self, names: Sequence[str], roster: Roster) -> NDArray[np.int64]:
        """Return the positions of the clients that are the reference, ascending."""
        unknown = [name for name in names if name not in roster.names]
        if unknown:
            text = f"there is no client {listed(unknown)}{nearest(unknown[0], roster.names)}"
            some = listed(roster.names, 10)
            raise ScenarioError(self.scenario, [Fault("align.reference", f"{text}; the clients are {some}")])
        positions = np.array(sorted({roster.names.index(name) for name in names}), dtype=np.int64)
        if not roster.with_unlabelled().num_train[positions].sum():
            text = f"{listed(names)} have no training samples; name clients that have some"
            raise ScenarioError(self.scenario, [Fault("align.reference", text)])
        return positions

    def _moments(self, calls: list[Call], moment: MomentKind, sites: Sites | None) -> Sums:
        """Return the sum of the clients' moments: of all in a simulation, of enough sites between institutions."""
        questions = self.questions
        messages = questions.moments(calls, moment)
        if sites is None:
            replies = exchange(self.grid, messages, self.counters, "moments", self.timeout_seconds)
            return combine_moments(calls, replies, questions.roster, questions.feature_dim, moment)
        found = ask_sites(self.grid, sites, messages, self.counters, "moments")
        return self._of_sites(sites, calls, messages, found, moment)

    def _of_sites(
        self,
        sites: Sites,
        calls: list[Call],
        messages: Sequence[Message],
        found: Mapping[int, Message],
        moment: MomentKind,
    ) -> Sums:
        """Add up what sites answered; one whose answer does not fit is left out, if enough others answered."""
        roster, feature_dim = self.questions.roster, self.questions.feature_dim
        good, faults = [], {}
        for place, reply in sorted(found.items()):
            try:
                combine_moments([calls[place]], [reply], roster, feature_dim, moment)
                good.append(place)
            except WireError as error:
                node = messages[place].metadata.dst_node_id
                faults[node] = str(error)
                report("note", text=f"the answer of {sites.named([node])} to 'moments' is refused: {error}")
        sites.check_quorum({messages[place].metadata.dst_node_id for place in good}, "moments", faults)
        kept = [calls[place] for place in good]
        return combine_moments(kept, [found[place] for place in good], roster, feature_dim, moment)
