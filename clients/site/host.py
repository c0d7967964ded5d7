"""The resident host of a site: answers the server's requests from the site's own data, and from nothing else.

Of a scenario it takes how to train; what to train on, where state and features are kept and which weights are read
from this machine stand in `site.yaml`, whatever the scenario says.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import RecordDict

from clients.answers import answer, read_request
from clients.members import Groups
from clients.outbound import Departure, release
from clients.settings import ClientPart
from clients.site.cohort import cohort_of
from clients.site.departures import entry_of, record_digest, refusal_entry
from clients.site.ledger import Ledger
from clients.site.ledger_lines import LedgerError
from clients.site.old_state import remove_old_state
from clients.site.policy import OF_STATISTICS, Policy, Refusal
from fedgraft.alignment.settings import AdaBn, Coral
from fedgraft.data.settings import DataSettings, NaturalSettings, OneSettings
from fedgraft.deployment.settings import SiteData, SiteSettings
from fedgraft.errors import DataError, FedGraftError, ScenarioError, TrainingError, WireError, listed
from fedgraft.models.settings import BackboneSettings
from fedgraft.settings import Settings
from fedgraft.submission import Submission, read_submission
from fedgraft.tensor_files import tensors_digest
from fedgraft.wire.records import record_bytes
from fedgraft.wire.requests import ClientsRequest, TrainReply, TrainRequest

if TYPE_CHECKING:
    from clients.host import Host

HOSTS_KEPT = 4
"""Scenarios whose clients stay loaded."""

ANSWERS_KEPT = 8
"""Last answers that can be given again."""

LONGEST_TEXT = 2000
"""Characters of an error that may leave the site."""

RECEIVED = "received"
"""In place of a backbone's weights where the server has to send them: there is no such file."""

LONGEST_NAME = 200
"""Characters of a name from the server that is written down."""

OF_THE_REQUEST = (WireError, Refusal, ScenarioError, TrainingError)
"""Errors whose texts speak of the request, of counts and of labels; they leave the site as they are."""

log = logging.getLogger("fedgraft.site.host")


@dataclass(frozen=True)
class Asked:
    """One request, as policy and ledger see it.

    Attributes:
        kind: Flower's message type, such as `train`.
        run_id: FedGraft's id of the run.
        scenario_digest: sha256 of what the scenario says; see `Submission.digest`.
        submitted: the scenario as it was sent.
        body: the request's body.
        digest: sha256 of the whole request: one that is sent again has the same.
    """

    kind: str
    run_id: str
    scenario_digest: str
    submitted: Mapping[str, Any]
    body: Settings
    digest: str

    @property
    def scenario(self) -> str:
        """The scenario's name, as it was sent."""
        return str(self.submitted.get("name", ""))[:LONGEST_NAME]

    @property
    def round_number(self) -> int | None:
        """The round that the request is of, if it is of one."""
        return getattr(self.body, "round_number", None)


class SiteHost:
    """Answers requests for the clients of one site.

    Args:
        settings: `site.yaml`, paths absolute.
        policy: what the site allows; asked before anything is computed, and before an update leaves.
        ledger: what left the site; told before anything does.

    Raises:
        DataError: `site.yaml` names no data yet.
    """

    def __init__(self, settings: SiteSettings, policy: Policy, ledger: Ledger) -> None:
        if settings.data is None:
            raise DataError(f"the site {settings.name} names no data yet; fill in `data:` in its site.yaml")
        self._settings, self._data = settings, settings.data
        self._policy, self._ledger = policy, ledger
        self._hosts: dict[str, Host] = {}
        self._answered: dict[str, RecordDict] = {}

    @property
    def _state_folder(self) -> Path:
        return Path(self._settings.state_dir) / "client-state"

    def remove_old_state(self, current: str = "") -> None:
        """Remove the client state of runs that have long ended; see `client_state_days` in `site.yaml`."""
        days = self._settings.client_state_days
        if days is not None:
            for run in remove_old_state(self._state_folder, days, current):
                log.info("removed the client state of run %s, unchanged for more than %d days", run[:8], days)

    def answer(self, kind: str, scenario: str, record: RecordDict) -> RecordDict:
        """Answer a request.

        Args:
            kind: Flower's message type.
            scenario: the run key `scenario`, which holds the submission.
            record: the request's content.

        Raises:
            FedGraftError: it is refused, or can't be answered; the text may leave the site, and is in its ledger.
        """
        started = time.perf_counter()
        asked: Asked | None = None
        try:
            submission = read_submission({"scenario": scenario})
            asked = _asked(kind, submission, record)
            released = self._released(asked, submission, record)
        except LedgerError as error:
            log.error("nothing leaves: %s", error)
            raise LedgerError(
                "the site's ledger can't be written, so nothing leaves; the site's log says why"
            ) from None
        except Exception as error:
            raise self._refused(kind, asked, error) from None
        of_round = f", round {asked.round_number}" if asked.round_number else ""
        seconds = time.perf_counter() - started
        log.info("answered '%s' of run %s%s in %.3f s", kind, asked.run_id[:8], of_round, seconds)
        return released

    def note_refusal(self, kind: str, scenario: str, text: str) -> None:
        """Write down a text by which the messenger refuses a message that it does not hand over.

        Args:
            kind: Flower's message type.
            scenario: the run key `scenario`; it may hold anything.
            text: what the server is told.

        Raises:
            LedgerError: it can't be written; then the text does not leave.
        """
        run_id, name = "", ""
        with contextlib.suppress(FedGraftError):
            submission = read_submission({"scenario": scenario})
            run_id, name = submission.run.run_id, str(json.loads(submission.scenario_json).get("name", ""))
        log.warning("'%s' was refused by the messenger: %s", kind[:LONGEST_NAME], text[:LONGEST_TEXT])
        entry = refusal_entry(text[:LONGEST_TEXT], kind[:LONGEST_NAME], run_id, name[:LONGEST_NAME])
        self._ledger.append(entry)

    def _refused(self, kind: str, asked: Asked | None, error: Exception) -> FedGraftError:
        """Return what is said instead of an answer, once it is in the ledger."""
        if isinstance(error, OF_THE_REQUEST):
            text = str(error)[:LONGEST_TEXT]
            log.warning("'%s' was not answered: %s", kind, text)
        elif isinstance(error, FedGraftError):  # its text may name files of the site, and files may be named as people
            name = self._settings.name
            text = f"'{kind}' can't be answered by the site {name} as its data or files are; its log says why"
            log.warning("'%s' was not answered: %s", kind, error)
        else:  # its text may hold anything
            text = f"'{kind}' failed at the site {self._settings.name}; the site's own log says why"
            log.error("'%s' failed", kind, exc_info=error)
        facts = ("", "", None) if asked is None else (asked.run_id, asked.scenario, asked.round_number)
        self._ledger.append(refusal_entry(text, kind[:LONGEST_NAME], *facts))
        return WireError(text)

    def _released(self, asked: Asked, submission: Submission, record: RecordDict) -> RecordDict:
        """Return the answer, once the policy has allowed it and the ledger holds it."""
        part = ClientPart.model_validate_json(submission.scenario_json)
        part.check_for_a_site()
        self._check_weights(asked.body)
        self._policy.check(asked)
        kept = self._answered.get(asked.digest)
        if kept is not None:  # it was answered, and the answer lost: the same bits leave again
            self._enter(asked, Departure(asked.kind, kept, record_bytes(kept)))
            return kept
        host = self._host(submission, part)
        body, groups = read_request(asked.kind, record)
        reference = part.align.reference if isinstance(part.align, Coral) else None
        self._policy.check_reference(asked, reference, host.members.names)
        weights_digest, alignment = str(getattr(body, "weights_digest", "")), _alignment_digest(part, groups)
        if alignment:
            self._policy.check_alignment(asked, weights_digest, alignment)
        if asked.kind.removeprefix("query.") in OF_STATISTICS and isinstance(body, ClientsRequest):
            self._policy.check_cohort(asked, weights_digest, cohort_of(host.members, body, groups), alignment)
        if isinstance(body, TrainRequest) and body.state is not None:
            # On disk after every round, not only before the server's checkpoints: a restart here loses nothing.
            body = body.model_copy(update={"state": body.state.model_copy(update={"keep": True})})
        folder = self._state_folder / submission.run.run_id
        reply, answered = answer(host, asked.kind, body, groups, folder)
        if isinstance(reply, TrainReply):
            self._policy.check_update(asked, answered, float(reply.scalars.get("weight", 0.0)))
        released = release(asked.kind, reply, answered, lambda departure: self._enter(asked, departure))
        self._keep(asked, released)
        return released

    def _enter(self, asked: Asked, departure: Departure) -> None:
        head = self._ledger.append(entry_of(departure, asked.run_id, asked.scenario, asked.round_number))
        log.info("%d bytes leave, ledger %s", departure.num_bytes, head)

    def _keep(self, asked: Asked, released: RecordDict) -> None:
        """Keep the last answers, in case that they are lost on the way; those with client state only are kept by it."""
        if asked.kind in ("query.describe", "query.backbone"):
            return
        while len(self._answered) >= ANSWERS_KEPT:
            del self._answered[next(iter(self._answered))]
        self._answered[asked.digest] = released

    def _host(self, submission: Submission, part: ClientPart) -> Host:
        """Return the clients of a scenario, which stay loaded."""
        from clients.host import Host  # a second of imports

        scenario_json = submission.scenario_json
        host = self._hosts.pop(scenario_json, None)
        if host is None:
            self.remove_old_state(submission.run.run_id)
            while len(self._hosts) >= HOSTS_KEPT:
                del self._hosts[next(iter(self._hosts))]
            settings = self._settings
            own = site_part(part, settings, self._data)
            host = Host(own, 0, 1, settings.threads, device=settings.device)
            self._check_labels(host)
        self._hosts[scenario_json] = host
        return host

    def _check_labels(self, host: Host) -> None:
        """Refuse data whose labels are not the federation's: an output would mean something else here.

        Raises:
            DataError: names both.
        """
        expected = self._settings.labels
        found = tuple(host.members.workspace.federation.samples.label_names)
        if expected is not None and found != expected:
            raise WireError(
                f"the data of the site {self._settings.name} have the labels {listed(found)}; the federation's are "
                f"{listed(expected)}, in that order; set labels in site.yaml's data.source"
            )

    def _check_weights(self, body: Settings) -> None:
        """Refuse another backbone than the site's settings name.

        Raises:
            WireError: names both digests.
        """
        wanted, came = self._settings.backbone_digest, getattr(body, "weights_digest", None)
        if wanted and came and came != wanted:
            raise WireError(
                f"the run's backbone has weights {came[:12]}; the site {self._settings.name} takes {wanted[:12]} only "
                "(backbone_digest in its site.yaml)"
            )


def _asked(kind: str, submission: Submission, record: RecordDict) -> Asked:
    body, _ = read_request(kind, record)
    digest = hashlib.sha256(f"{kind} {submission.run.run_id} {record_digest(record)}".encode()).hexdigest()
    submitted = json.loads(submission.scenario_json)
    return Asked(kind, submission.run.run_id, submission.digest, submitted, body, digest)


def _alignment_digest(part: ClientPart, groups: Groups) -> str:
    """Return sha256 over what features are aligned by; empty where they are not."""
    local = isinstance(part.align, AdaBn)  # by the client's own images: nothing comes
    if part.align is None or not (local or "alignment" in groups):
        return ""
    return tensors_digest(groups.get("alignment", {}), part.align.model_dump(mode="json"))


def site_part(part: ClientPart, settings: SiteSettings, data: SiteData) -> ClientPart:
    """Return what the client side reads of a scenario, with the site's own data and backbone."""
    own = DataSettings(
        source=data.source,
        partition=OneSettings(client=settings.name) if data.clients == "one" else NaturalSettings(),
        validation_fraction=data.validation_fraction,
        test_fraction=0.0,
        max_samples_per_client=data.max_samples_per_client,
    )
    return part.model_copy(
        update={"data": own, "backbone": site_backbone(part.backbone, settings.backbone), "shards": 1}
    )


def site_backbone(asked: BackboneSettings, own: BackboneSettings | None) -> BackboneSettings:
    """Return the backbone that a run asks for, with weights that this site may read.

    Those are the site's own, or the bundled ones. Any other file of this machine is none of the run's business, and
    nothing is downloaded: random weights stand in for them, which the server's digest will not match, so that it sends
    its own.
    """
    if own is not None and own.name == asked.name:
        return asked.model_copy(update={"weights": own.weights, "random_seed": own.random_seed})
    if asked.name == "identity" or (asked.name.startswith("bundled:") and asked.weights == "pretrained"):
        return asked
    if asked.name.startswith("transformers:"):  # its description too would be read from a folder, or fetched
        return asked.model_copy(update={"weights": RECEIVED})
    return asked.model_copy(update={"weights": "random"})
