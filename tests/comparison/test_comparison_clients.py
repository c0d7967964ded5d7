"""What clients are like, by hand; who gains and who is harmed, by hand and of real runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats
from small_scenarios import SMALL, changed, small
from written_runs import planned

import fedgraft
from fedgraft.data.federation import Federation
from fedgraft.data.ragged import ragged
from fedgraft.data.samples import Samples
from scenarios.comparison.analysis import analyse
from scenarios.comparison.client_facts import client_facts, facts_of
from scenarios.comparison.gathered import comparison_of_runs
from scenarios.comparison.records import Comparison


def federation_of(targets: list[int], owners: list[list[int]]) -> Federation:
    """Return a federation in which each client's last sample is for validation."""
    samples = Samples(
        inputs=np.zeros((len(targets), 1), dtype=np.float32),
        targets=np.array(targets),
        task="classes",
        label_names=("a", "b"),
        sample_ids=np.arange(len(targets)).astype(str),
    )
    train = ragged(np.concatenate([own[:-1] for own in owners]).astype(np.int64), [len(own) - 1 for own in owners])
    validation = ragged(np.array([own[-1] for own in owners]), [1] * len(owners))
    names = tuple(f"client-{number}" for number in range(len(owners)))
    return Federation(samples, names, train, validation, np.zeros(0, dtype=np.int64))


def test_label_skew_by_hand() -> None:
    """Of eight samples four are of each class. Client 0 has 3 and 1: |3/4 - 1/2| = 1/4; client 1 has them turned."""
    federation = federation_of([0, 0, 0, 1, 1, 1, 1, 0], [[0, 1, 2, 3], [4, 5, 6, 7]])
    facts = facts_of(federation, None)
    assert [of.label_skew for of in facts.values()] == pytest.approx([0.25, 0.25])
    assert [(of.num_train, of.num_validation, of.distance) for of in facts.values()] == [(3, 1, None)] * 2
    alone = facts_of(federation_of([0, 0, 1, 1, 1, 1], [[0, 1], [2, 3, 4, 5]]), None)
    assert [of.label_skew for of in alone.values()] == pytest.approx([2 / 3, 1 / 3])


def test_distance_by_hand() -> None:
    """Features 0, 2 and 6, 8: mean 4, variance 40 / 3; both means are 3 off: 9 * 3 / 40 - (1/2 - 1/4) = 0.425."""
    federation = federation_of([0, 1, 0, 1], [[0, 1], [2, 3]])
    features = np.array([[0.0, 5.0], [2.0, 5.0], [6.0, 5.0], [8.0, 5.0]])  # the second never varies, and counts not
    assert [of.distance for of in facts_of(federation, features).values()] == pytest.approx([0.425**0.5] * 2)
    far = facts_of(federation, (features + 1000).astype(np.float32))
    assert [of.distance for of in far.values()] == pytest.approx([0.425**0.5] * 2, rel=1e-4)


def test_clients_that_are_random_draws_are_near_and_a_moved_one_is_not() -> None:
    """The chance of few samples is taken off: mean squares around 0; one moved by 2 deviations is about 2 off."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(3, 60, 40)
    owners = np.split(np.arange(sizes.sum()), np.cumsum(sizes)[:-1])
    federation = federation_of([0] * int(sizes.sum()), [own.tolist() for own in owners])
    features = generator.normal(5, 3, (int(sizes.sum()), 200))
    near = np.array([of.distance for of in facts_of(federation, features).values()])
    assert (np.square(near) < 4 * np.sqrt(2 / 200) / sizes).all()
    features[owners[7]] += 6
    moved = [of.distance for of in facts_of(federation, features).values()]
    assert moved[7] == pytest.approx(2, rel=0.2)
    assert np.argmax(moved) == 7


def test_facts_are_kept_and_made_again_if_damaged(tmp_path: Path) -> None:
    scenario = small()
    first = client_facts(scenario, tmp_path)
    (path,) = (tmp_path / "clients").iterdir()
    assert client_facts(scenario, tmp_path) == first
    path.write_text("client,num_train\nx,y\n")
    assert client_facts(scenario, tmp_path) == first
    assert len(list((tmp_path / "clients").iterdir())) == 1
    gone = small(**{"data.source": {"name": "arrays", "path": str(tmp_path / "none.npz")}})
    assert client_facts(gone, tmp_path) is None


ScoresOf = Callable[[int, int], float]
"""Score by seed and client."""


def with_clients(
    plan: Comparison, parts: dict[str, dict[str, ScoresOf]], num_clients: int = 12, partition: str = "dirichlet"
) -> Comparison:
    """Give the runs of a plan client rows after round 2: contender -> part -> score."""
    changes: dict[str, Any] = {"data.partition.clients": num_clients}
    if partition == "natural":
        changes = {"data": {"source": {"name": "arrays", "path": "/nowhere.npz"}, "partition": {"name": "natural"}}}
    for run in plan.runs:
        settings = changed(SMALL, changes | {"seed": run.seed})
        (run.directory / "scenario.yaml").write_text(yaml.safe_dump(settings))
        with (run.directory / "client_metrics.csv").open("a") as file:
            for part, score in parts[run.contender].items():
                for client in range(num_clients):
                    value = score(run.seed, client)
                    file.write(f"1,client-{client:04d},{part},10,,0.9,{value / 2},,\n")
                    file.write(f"2,client-{client:04d},{part},10,,{0.5 + (client == 3)},{value},,\n")
    return plan


MADE = {"fedavg": lambda seed: [0.1, 0.5], "local-only": lambda seed: [0.1, 0.1], "ditto": lambda seed: [0.1, 0.5]}
PARTS: dict[str, dict[str, ScoresOf]] = {
    "fedavg": {"validation": lambda seed, client: 0.8 + 0.01 * seed},
    "local-only": {"validation": lambda seed, client: 0.1, "personal": lambda seed, client: 0.6 if client < 9 else 1.0},
    "ditto": {
        "validation": lambda seed, client: 0.7,
        "personal": lambda seed, client: 0.9 + 0.01 * (client % 2) * seed,
    },
}


def test_gains_by_hand(tmp_path: Path) -> None:
    """Clients 0 to 8 reach 0.6 alone, but 3 stays with the 0.3 of its best round; 9, 10 and 11 reach 1.0 alone."""
    plan = with_clients(planned(tmp_path, MADE, [1, 2, 3]), PARTS)
    report = analyse(plan).conditions[0].transfer
    assert report is not None
    assert report.own == "local-only"
    assert not report.same_clients
    assert [(entry.contender, entry.kind) for entry in report.transfers] == [
        ("fedavg", "global-against-own"),
        ("ditto", "personal-against-own"),
        ("ditto", "personal-against-global"),
    ]
    fedavg, _, above = report.transfers
    # on seed 1: eight gain 0.21, one 0.51, three lose 0.19
    assert fedavg.gain.values[1] == pytest.approx((8 * 0.21 + 0.51 - 3 * 0.19) / 12)
    assert fedavg.gain_against_last is not None
    assert fedavg.gain_against_last.values[1] == pytest.approx((9 * 0.21 - 3 * 0.19) / 12)
    assert fedavg.gaining.mean == pytest.approx(9 / 12)
    assert fedavg.harmed.mean == pytest.approx(3 / 12)
    assert fedavg.sure_harms is None
    assert len(fedavg.clients) == 36
    assert above.gain.values[2] == pytest.approx(0.2 + 0.01)
    assert above.gain_against_last is None
    assert fedavg.verdict[0] == (
        "FedAvg's head serves clients better than heads of their own samples alone, by 14.5 ± 2.5 points in the mean; "
        "75 % of clients gain, 25 % lose."
    )
    assert any("Each seed divides the samples anew" in note for note in report.notes)


def test_clients_that_are_the_same_have_intervals_of_their_own(tmp_path: Path) -> None:
    plan = with_clients(planned(tmp_path, MADE, [1, 2, 3]), PARTS, partition="natural")
    report = analyse(plan).conditions[0].transfer
    assert report is not None
    assert report.same_clients
    fedavg = report.transfers[0]
    assert len(fedavg.clients) == 12
    assert (fedavg.sure_gains, fedavg.sure_harms) == (9, 3)
    # gains 0.21, 0.22, 0.23: mean 0.22, deviation 0.01, t(0.975, 2) = 4.303
    first = fedavg.clients[0]
    assert first.seed is None
    assert (first.gain, first.high) == pytest.approx((0.22, 0.22 + 4.303 * 0.01 / 3**0.5), rel=1e-4)
    assert "9 of 12 clients gain and 3 lose beyond their 95 % interval; by chance alone about 0.3" in fedavg.verdict[1]
    assert any("The data are not at hand" in note for note in report.notes)
    assert all(trait.name == "num_train" for trait in fedavg.traits) or fedavg.traits == ()


def test_without_local_only_it_says_what_is_missing(tmp_path: Path) -> None:
    made = {name: MADE[name] for name in ("fedavg", "ditto")}
    report = analyse(with_clients(planned(tmp_path, made, [1]), PARTS)).conditions[0].transfer
    assert report is not None
    assert report.own is None
    assert [entry.kind for entry in report.transfers] == ["personal-against-global"]
    assert any(
        "with compare.transfer: true (--set compare.transfer=true --resume adds them)" in note for note in report.notes
    )
    assert report.transfers[0].verdict[0].startswith("On one seed ditto's".replace("ditto", "Ditto"))


def test_what_those_who_gain_have_in_common(tmp_path: Path) -> None:
    """Gains that grow with the number of training samples: the correlation is SciPy's, the thirds are four each."""
    plan = with_clients(planned(tmp_path, {name: MADE[name] for name in ("fedavg", "local-only")}, [1, 2]), PARTS)
    for run in plan.runs:
        facts = client_facts(small(**{"data.partition.clients": 12, "seed": run.seed}), None)
        assert facts is not None
        if run.contender == "fedavg":
            rows = [f"2,{name},validation,10,,0.5,{0.6 + of.num_train / 200}" for name, of in facts.items()]
        else:
            rows = [f"2,{name},personal,10,,0.5,0.6" for name in facts]
        header = "round,client,part,num_samples,steps,loss,score,loss_before,loss_after\n"
        (run.directory / "client_metrics.csv").write_text(header + "".join(f"{row},,\n" for row in rows))
    condition = analyse(plan).conditions[0]
    assert condition.transfer is not None
    traits = {trait.name: trait for trait in condition.transfer.transfers[0].traits}
    assert set(traits) == {"num_train", "label_skew", "distance"}
    assert traits["num_train"].correlation is not None
    assert traits["num_train"].correlation.mean == pytest.approx(1)
    of_seed = [row for row in condition.clients if row.seed == 1]
    gains = [row.scores["fedavg"] - row.scores["local-only"] for row in of_seed]
    for name in ("label_skew", "distance"):
        expected = stats.spearmanr([getattr(row, name) for row in of_seed], gains).statistic
        correlation = traits[name].correlation
        assert correlation is not None
        assert correlation.values[1] == pytest.approx(expected)
    thirds = traits["num_train"].thirds
    sizes = sorted(row.num_train for row in of_seed if row.num_train is not None)
    expected = [np.mean(sizes[first : first + 4]) / 200 for first in (0, 4, 8)]
    assert [third.gain.values[1] for third in thirds] == pytest.approx(expected)
    assert "Clients with more training samples gain more" in " ".join(condition.transfer.transfers[0].verdict)


def test_real_runs_have_clients_and_a_transfer_report(tmp_path: Path) -> None:
    for strategy in ("fedavg", "local-only", "fine-tune-after"):
        fedgraft.run(small(**{"strategy": {"name": strategy}, "server.rounds": 2}), out=tmp_path / strategy)
    found = analyse(comparison_of_runs(sorted(tmp_path.iterdir()), baseline="fedavg"))
    (condition,) = found.conditions
    rows = [row for row in condition.clients if row.seed == 1]
    assert set(rows[0].scores) == {"fedavg", "local-only", "fine-tune-after"}
    assert rows[0].num_train is not None
    assert rows[0].distance is not None
    for row in condition.rows:
        assert row.value is not None  # on the clients' parts, which judge all three
        judged = {"central/log_loss", "central/calibration_error", "validation/client_spread"} & set(row.metrics)
        assert len(judged) == (0 if row.contender == "local-only" else 3)
    assert found.metric.name == "clients/accuracy"
    mean = np.mean([row.scores["fine-tune-after"] for row in rows])
    run = next(row for row in condition.rows if row.contender == "fine-tune-after")
    assert run.metrics["clients/client_mean"].values[1] == pytest.approx(mean, rel=1e-5)
    assert condition.transfer is not None
    assert {entry.kind for entry in condition.transfer.transfers} == {
        "global-against-own",
        "personal-against-own",
        "personal-against-global",
    }
    assert [entry.contender for entry in condition.calibrations] == ["fedavg", "fine-tune-after"]
    bins = condition.calibrations[0].bins
    assert len(bins) == 15
    assert sum(entry.count for entry in bins) == sum(map(sum, condition.confusions[0].counts))
