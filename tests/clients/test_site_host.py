"""The resident host of a site: its own data and weights, its own policy, and a ledger of all that leaves."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.host import Host
from clients.settings import ClientPart
from clients.site.host import SiteHost, site_backbone
from clients.site.ledger import Ledger
from clients.site.ledger_check import verify
from clients.site.policy import KNOWN_KEYS, Policy
from clients.site.settings import PolicySettings
from fedgraft.deployment.settings import SiteSettings
from fedgraft.errors import DataError, FedGraftError
from fedgraft.models.settings import BackboneSettings
from fedgraft.submission import RunFacts, Submission
from fedgraft.wire.records import pack, unpack
from fedgraft.wire.requests import (
    DescribeRequest,
    Description,
    HalfSettings,
    MomentsReply,
    MomentsRequest,
    StateSettings,
    TrainReply,
    TrainRequest,
)
from scenarios.schema import Scenario

RUN = "0123456789abcdef"
FEATURES = np.random.default_rng(3).normal(size=(80, 6)).astype(np.float32)
LABELS = np.arange(80) % 3


@pytest.fixture
def site(tmp_path: Path) -> SiteSettings:
    data = tmp_path / "data.npz"
    np.savez(data, features=FEATURES, labels=LABELS, label_names=np.array(["a", "b", "c"]))
    return SiteSettings.model_validate_json(
        json.dumps(
            {
                "name": "clinic-1",
                "federation": "lab",
                "server": {"host": "localhost"},
                "data": {"source": {"name": "arrays", "path": str(data)}},
                "state_dir": str(tmp_path / "state"),
                "cache_dir": str(tmp_path / "cache"),
                "socket": str(tmp_path / "host.sock"),
            }
        )
    )


def hosted(site: SiteSettings, **policy: Any) -> SiteHost:
    state = Path(site.state_dir)
    rules = Policy(site.name, PolicySettings(**policy), state / "policy")
    return SiteHost(site, rules, Ledger(state / "ledger.jsonl"))


def submitted(**changes: Any) -> str:
    """Return the run key of a scenario whose own data are none that any machine has."""
    scenario: dict[str, Any] = {
        "name": "pilot",
        "data": {"source": {"name": "arrays", "path": "/nowhere/of-the-server.npz"}, "partition": "natural"},
        "backbone": "identity",
        "strategy": "fedavg",
        **changes,
    }
    resolved = Scenario.model_validate_json(json.dumps(scenario))
    return Submission(resolved.model_dump_json(), RunFacts(run_id=RUN, sites=("clinic-1",))).to_run_config()


HEAD = {"weight": np.zeros((3, 6), dtype=np.float32), "bias": np.zeros(3, dtype=np.float32)}


def train(host: SiteHost, number: int = 1, **more: Any) -> tuple[TrainReply, dict[str, dict[str, np.ndarray]]]:
    request = TrainRequest(run_id=RUN, weights_digest="", round_number=number, shard=0, **more)
    extra = {"extra": {f"control.{n}": v for n, v in HEAD.items()}} if more.get("half") else {}
    groups = {"head": HEAD, "clients": {"index": np.array([0])}, **extra}
    return unpack(host.answer("train", submitted(), pack(request, groups)), TrainReply, "reply")


def ledger(site: SiteSettings) -> list[Any]:
    return [line.entry for line in verify(Path(site.state_dir) / "ledger.jsonl").lines]


def test_the_data_are_the_sites_own_whatever_the_scenario_says(site: SiteSettings) -> None:
    record = hosted(site).answer("query.describe", submitted(), pack(DescribeRequest(run_id=RUN)))
    body, groups = unpack(record, Description, "reply")
    assert groups["clients"]["names"].tobytes().decode() == "clinic-1"
    assert body.label_names == ("a", "b", "c")
    assert groups["clients"]["num_train"].tolist() == [64]  # 80 less a fifth
    assert groups["clients"]["num_validation"].tolist() == [16]


def test_an_update_is_that_of_the_same_client_in_a_simulation(site: SiteSettings, tmp_path: Path) -> None:
    """The oracle is the host of a simulation whose federation is this one client, named alike."""
    pooled = tmp_path / "pooled.npz"
    names = np.array(["clinic-1"] * 80)
    np.savez(pooled, features=FEATURES, labels=LABELS, label_names=np.array(["a", "b", "c"]), client=names)
    data = {"source": {"name": "arrays", "path": str(pooled)}, "partition": "natural", "test_fraction": 0.0}
    text = json.dumps({"name": "pilot", "data": data, "backbone": "identity", "shards": 1})
    part = ClientPart.model_validate_json(Scenario.model_validate_json(text).model_dump_json())
    request = TrainRequest(run_id=RUN, weights_digest="", round_number=1, shard=0)
    _, expected = Host(part, 0, 1).train(request, {"head": HEAD, "clients": {"index": np.array([0])}})
    _, found = train(hosted(site))
    for name in HEAD:
        np.testing.assert_array_equal(found["update"][name], expected["update"][name])
    assert np.abs(found["update"]["weight"]).max() > 0.1


def test_everything_that_leaves_is_in_the_ledger_first(site: SiteSettings) -> None:
    host = hosted(site)
    host.answer("query.describe", submitted(), pack(DescribeRequest(run_id=RUN)))
    _, groups = train(host)
    with pytest.raises(FedGraftError):
        host.answer("query.describe", submitted(attack={"name": "sign-flip"}), pack(DescribeRequest(run_id=RUN)))
    described, trained, refused = ledger(site)
    assert (described.request, described.outcome, described.round) == ("query.describe", "answer", None)
    assert (trained.request, trained.round, trained.run, trained.scenario) == ("train", 1, RUN, "pilot")
    names = {f"{group}.{name}" for group, values in groups.items() for name in values}
    assert {array.name for array in trained.arrays} == names
    assert refused.outcome == "refusal"
    assert "attack" in refused.text


def test_nothing_leaves_when_the_ledger_cannot_be_written(site: SiteSettings) -> None:
    host = hosted(site)
    path = Path(site.state_dir) / "ledger.jsonl"
    path.write_text('{"some": "line that somebody put there"}\n')
    with pytest.raises(FedGraftError, match="the site's ledger can't be written, so nothing leaves"):
        train(host)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"attack": {"name": "label-flip"}}, "attack: is for simulations only"),
        ({"strategy": "centralised"}, "pools all clients' data, which a site does not give"),
    ],
)
def test_what_only_a_simulation_may_do_is_refused(site: SiteSettings, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(FedGraftError, match=text):
        hosted(site).answer("query.describe", submitted(**changes), pack(DescribeRequest(run_id=RUN)))


def test_the_policy_is_asked_before_and_after(site: SiteSettings) -> None:
    with pytest.raises(FedGraftError, match=r"clinic-1 refuses: 'train' is not answered here"):
        train(hosted(site, requests=("describe",)))
    with pytest.raises(FedGraftError, match=r"the update's norm is .* more than 1e-06"):
        train(hosted(site, largest_update_norm=1e-6))
    assert [entry.outcome for entry in ledger(site)] == ["refusal", "refusal"]


def test_features_of_a_run_are_aligned_once(site: SiteSettings) -> None:
    """Another mean, or another epsilon around the same mean, is refused; what came first goes on."""
    host = hosted(site)

    def trained(number: int, mean: float, **align: Any) -> TrainReply:
        request = TrainRequest(run_id=RUN, weights_digest="", round_number=number, shard=0)
        ground = {"mean": np.full(6, mean), "scale": np.ones(6)}
        record = pack(request, {"head": HEAD, "clients": {"index": np.array([0])}, "alignment": ground})
        scenario = submitted(align={"name": "standardise", **align})
        return unpack(host.answer("train", scenario, record), TrainReply, "reply")[0]

    trained(1, 0.5)
    for mean, align in ((0.25, {}), (0.5, {"epsilon": 1.0})):
        with pytest.raises(FedGraftError, match="one run has one alignment"):
            trained(2, mean, **align)
    assert trained(2, 0.5).round_number == 2


def test_a_site_is_the_only_reference_if_it_agrees(site: SiteSettings) -> None:
    request = MomentsRequest(run_id=RUN, weights_digest="", shard=0, moment="diagonal")
    record = pack(request, {"clients": {"index": np.array([0])}})
    scenario = submitted(align={"name": "coral", "covariance": "diagonal", "reference": ["clinic-1"]})
    with pytest.raises(FedGraftError, match="rule `sole_reference: false`"):
        hosted(site).answer("query.moments", scenario, record)
    reply, groups = unpack(
        hosted(site, sole_reference=True).answer("query.moments", scenario, record), MomentsReply, "reply"
    )
    assert groups["sums"]["count"] == reply.num_samples == 64


def test_a_fault_of_our_own_shows_nothing_of_the_data(site: SiteSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("patient 17")

    monkeypatch.setattr(Host, "train", broken)
    with pytest.raises(FedGraftError, match=r"^'train' failed at the site clinic-1; the site's own log says why$"):
        train(hosted(site))
    assert "patient" not in (Path(site.state_dir) / "ledger.jsonl").read_text()


def test_an_error_that_names_files_of_the_site_stays_there(
    site: SiteSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """Files may be named as patients are; the site's own log has the text, the server and the ledger do not."""
    gone = {"source": {"name": "arrays", "path": "/data/Jane-Doe-1971.npz"}}
    settings = SiteSettings.model_validate_json(json.dumps({**json.loads(site.model_dump_json()), "data": gone}))
    with pytest.raises(FedGraftError) as caught:
        hosted(settings).answer("query.describe", submitted(), pack(DescribeRequest(run_id=RUN)))
    text = "'query.describe' can't be answered by the site clinic-1 as its data or files are; its log says why"
    assert str(caught.value) == text
    (line,) = verify(Path(site.state_dir) / "ledger.jsonl").lines
    assert (line.entry.outcome, line.entry.text) == ("refusal", text)
    assert "Jane-Doe-1971" in caplog.text


def test_a_request_that_is_sent_again_gets_the_same_bits_without_training_again(
    site: SiteSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = hosted(site)
    _, first = train(host)
    monkeypatch.setattr(Host, "train", lambda *_: pytest.fail("trained again"))
    _, again = train(host)
    np.testing.assert_array_equal(first["update"]["weight"], again["update"]["weight"])
    assert len(ledger(site)) == 2  # it left twice


def test_client_state_outlives_the_process(site: SiteSettings) -> None:
    """SCAFFOLD's second round from a new process equals the one from the process that trained the first."""
    options: dict[str, Any] = {"half": HalfSettings(name="control_variate"), "sums": ("update", "control")}

    def second(host: SiteHost) -> np.ndarray:
        body, groups = train(host, 2, state=StateSettings(version=1, becomes=2), **options)
        assert body.has_state
        return groups["update"]["weight"]

    host = hosted(site)
    train(host, 1, state=StateSettings(version=0, becomes=1), **options)
    restarted = second(hosted(site))
    np.testing.assert_array_equal(restarted, second(host))
    fresh, _ = train(hosted(site), 2, state=StateSettings(version=7, becomes=8), **options)
    assert not fresh.has_state  # a version that nobody has is not made up


def test_a_refusal_of_the_messengers_own_is_in_the_ledger_whatever_the_run_says_of_itself(site: SiteSettings) -> None:
    host = hosted(site)
    host.note_refusal("train", submitted(), "clinic-1 knows no bundle")
    host.note_refusal("x" * 5000, "no submission", "y" * 5000)
    known, unknown = ledger(site)
    assert (known.outcome, known.request, known.run, known.scenario) == ("refusal", "train", RUN, "pilot")
    assert known.text == "clinic-1 knows no bundle"
    assert (len(unknown.request), len(unknown.text), unknown.run) == (200, 2000, "")


def test_old_client_state_is_removed_but_not_that_of_the_run_in_progress(site: SiteSettings) -> None:
    """Age counts from the last change; 90 days by default, and never with null."""
    folder = Path(site.state_dir) / "client-state"
    for run, days in ((RUN, 400), ("a-run-that-ended", 91), ("a-run-of-late", 89)):
        (folder / run).mkdir(parents=True)
        (folder / run / "shard").write_bytes(b"state")
        for path in (folder / run / "shard", folder / run):
            then = path.stat().st_mtime - days * 86_400
            os.utime(path, (then, then))
    hosted(site.model_copy(update={"client_state_days": None})).remove_old_state()
    assert len(list(folder.iterdir())) == 3
    hosted(site).answer("query.describe", submitted(), pack(DescribeRequest(run_id=RUN)))
    assert {path.name for path in folder.iterdir()} == {RUN, "a-run-of-late"}
    hosted(site).remove_old_state()
    assert {path.name for path in folder.iterdir()} == {"a-run-of-late"}


def test_threads_of_the_site_do_not_change_its_numbers(site: SiteSettings) -> None:
    _, one = train(hosted(site))
    _, two = train(hosted(site.model_copy(update={"threads": 2, "device": "cpu"})))
    np.testing.assert_array_equal(one["update"]["weight"], two["update"]["weight"])


def test_labels_that_are_not_the_federations_are_refused(site: SiteSettings) -> None:
    other = site.model_copy(update={"labels": ("a", "c", "b")})
    with pytest.raises(FedGraftError, match="have the labels a, b, c; the federation's are a, c, b, in that order"):
        hosted(other).answer("query.describe", submitted(), pack(DescribeRequest(run_id=RUN)))


def test_a_site_without_data_does_not_start(site: SiteSettings) -> None:
    with pytest.raises(DataError, match="names no data yet; fill in `data:`"):
        hosted(site.model_copy(update={"data": None}))


def test_no_file_of_the_site_is_read_because_a_scenario_names_it() -> None:
    asked = BackboneSettings(name="timm:resnet18", weights="/etc/passwd.pth")
    assert site_backbone(asked, None).weights == "random"
    assert site_backbone(BackboneSettings(name="timm:resnet18"), None).weights == "random"  # would be downloaded
    bundled = BackboneSettings()
    assert site_backbone(bundled, None) == bundled
    own = BackboneSettings(name="timm:resnet18", weights="/data/ours.pth")
    assert site_backbone(asked, own).weights == "/data/ours.pth"
    assert site_backbone(asked, BackboneSettings(name="timm:resnet50", weights="/data/x.pth")).weights == "random"


def test_a_site_knows_every_key_of_a_scenario() -> None:
    """A key that its policy does not know is refused, so a new one of the scenario belongs there too."""
    assert set(Scenario.model_fields) <= KNOWN_KEYS
