"""A site's policy: each rule refuses what it forbids, says so in words that help both sides, and forgets nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.settings import ClientPart
from clients.site.cohort import cohort_of
from clients.site.policy import KNOWN_KEYS, Cohort, Policy, Refusal, read_policy
from clients.site.settings import PolicySettings
from fedgraft.errors import SettingsError, StoreError
from fedgraft.wire.requests import StatisticsRequest, TrainRequest
from scenarios.loader import load_scenario
from scenarios.schema import Scenario

RUN = "5c1a7f00-0000-4000-8000-000000000001"
DIGEST = "ab" * 32


@dataclass(frozen=True)
class Question:
    """A request, as a site's host puts it to the policy."""

    kind: str
    body: Any
    digest: str = "d0"
    run_id: str = RUN
    scenario_digest: str = "11" * 32
    submitted: dict[str, Any] = field(default_factory=lambda: {"name": "s", "privacy": None})


def train(round_number: int, digest: str = "", run: str = RUN) -> Question:
    body = TrainRequest(run_id=run, weights_digest=DIGEST, round_number=round_number, shard=0)
    return Question("train", body, digest or f"round {round_number}", run)


def statistics() -> Question:
    return Question("query.statistics", StatisticsRequest(run_id=RUN, weights_digest=DIGEST, shard=0))


def policy(folder: Path, **rules: Any) -> Policy:
    return Policy("clinic-1", PolicySettings(**rules), folder)


def refused(action: Any, *arguments: Any) -> str:
    with pytest.raises(Refusal) as caught:
        action(*arguments)
    return str(caught.value)


def samples(*spans: tuple[int, int]) -> Cohort:
    return Cohort(np.concatenate([np.arange(*span, dtype=np.uint64) for span in spans]))


@pytest.mark.parametrize("kind", ["class_sums", "mixtures", "leave_out"])
def test_what_says_most_of_single_samples_needs_to_be_allowed(tmp_path: Path, kind: str) -> None:
    question = Question(f"query.{kind}", None)
    assert refused(policy(tmp_path).check, question) == (
        f"clinic-1 refuses: '{kind}' is not answered here, only describe, backbone, train, evaluate, "
        "moments, statistics, cross_validate "
        "(rule `requests: describe, backbone, train and 4 more` of the site's policy.yaml). "
        f"Allow '{kind}', if the site agrees"
    )
    policy(tmp_path, requests=(kind,)).check(question)


def test_an_unknown_request_is_refused(tmp_path: Path) -> None:
    assert "'send_all_data' is not answered here" in refused(
        policy(tmp_path).check, Question("query.send_all_data", None)
    )


@pytest.mark.parametrize("asks", [{"privacy": {"epsilon": 1}}, {"secure_aggregation": True}])
def test_what_this_version_lacks_is_refused(tmp_path: Path, asks: dict[str, Any]) -> None:
    """An older site must not answer in the clear what a newer server wanted protected."""
    question = Question("query.describe", None, submitted={"name": "s", **asks})
    text = refused(policy(tmp_path).check, question)
    assert f"asks for {next(iter(asks))}, which this version of FedGraft lacks" in text


def test_the_known_keys_are_those_of_a_scenario() -> None:
    assert set(Scenario.model_fields) == KNOWN_KEYS


def test_only_listed_scenarios_run(tmp_path: Path) -> None:
    strict = policy(tmp_path, scenarios=("22" * 32,))
    text = refused(strict.check, train(1))
    assert "the scenario 's' with digest 1111" in text
    policy(tmp_path, scenarios=("11" * 32,)).check(train(1))


def test_rounds_are_counted_over_restarts_and_a_lost_answer_is_given_again(tmp_path: Path) -> None:
    for number in (1, 2, 2, 1):
        policy(tmp_path, most_rounds=2).check(train(number))
    assert "the run has had 2 rounds of training here (rule `most_rounds: 2`" in refused(
        policy(tmp_path, most_rounds=2).check, train(3)
    )
    policy(tmp_path, most_rounds=2).check(train(2))  # the refusal has used nothing up
    policy(tmp_path, most_rounds=2).check(train(1, run="another-run-1"))


def test_one_round_asked_again_and_again_with_other_heads_is_found_out(tmp_path: Path) -> None:
    site = policy(tmp_path, most_exchanges=3)
    for number in range(3):
        site.check(train(1, f"head {number}"))
    assert "round 1 has had 3 different requests to train" in refused(site.check, train(1, "head 3"))


def test_rounds_of_all_runs_are_counted_together(tmp_path: Path) -> None:
    site = policy(tmp_path, most_rounds_in_all=3)
    site.check(train(1))
    site.check(train(2))
    site.check(train(1, run="another-run-1"))
    assert "all runs together have had 3 rounds" in refused(site.check, train(1, run="another-run-2"))
    site.check(train(2))


def test_statistics_of_few_samples_are_refused(tmp_path: Path) -> None:
    site = policy(tmp_path, smallest_cohort=50)
    assert "would be of 49 training samples, fewer than 50" in refused(
        site.check_cohort, statistics(), DIGEST, samples((0, 49))
    )
    site.check_cohort(statistics(), DIGEST, samples((0, 50)))


def test_rare_classes_are_not_summed(tmp_path: Path) -> None:
    cohort = Cohort(np.arange(100, dtype=np.uint64), np.array([90, 0, 4, 6]))
    assert "1 classes have fewer than 5" in refused(policy(tmp_path).check_cohort, statistics(), DIGEST, cohort)


def test_two_statistics_that_differ_by_few_samples_are_refused(tmp_path: Path) -> None:
    """Sums over 0..99 and over 0..98 would give sample 99 by subtraction; so would another run, another day."""
    policy(tmp_path).check_cohort(statistics(), DIGEST, samples((0, 100)))
    for near in (samples((0, 99)), samples((0, 101)), samples((0, 95), (100, 105)), samples((0, 119))):
        assert "(rule `smallest_difference: 20`" in refused(policy(tmp_path).check_cohort, statistics(), DIGEST, near)
    policy(tmp_path).check_cohort(statistics(), DIGEST, samples((0, 100)))
    policy(tmp_path).check_cohort(statistics(), DIGEST, samples((0, 120)))
    policy(tmp_path).check_cohort(statistics(), "cd" * 32, samples((0, 99)))


def test_the_number_of_different_statistics_is_limited(tmp_path: Path) -> None:
    site = policy(tmp_path, most_statistics=2)
    for start in (0, 100):
        site.check_cohort(statistics(), DIGEST, samples((start, start + 80)))
    assert "2 different sets of samples" in refused(site.check_cohort, statistics(), DIGEST, samples((200, 300)))


def test_the_same_samples_aligned_otherwise_are_another_set(tmp_path: Path) -> None:
    """Whoever may choose the alignment again and again sees by rounding what single samples are."""
    for alignment in ("", "aa" * 32, "aa" * 32, ""):
        policy(tmp_path, most_statistics=2).check_cohort(statistics(), DIGEST, samples((0, 80)), alignment)
    site = policy(tmp_path, most_statistics=2)
    assert "2 different sets" in refused(site.check_cohort, statistics(), DIGEST, samples((0, 80)), "bb" * 32)
    assert "smallest_diff" in refused(site.check_cohort, statistics(), DIGEST, samples((0, 79)), "aa" * 32)


def test_features_that_no_backbone_gave_are_remembered_too(tmp_path: Path) -> None:
    policy(tmp_path).check_cohort(statistics(), "", samples((0, 80)))
    assert "smallest_difference" in refused(policy(tmp_path).check_cohort, statistics(), "", samples((0, 79)))


def test_a_site_is_not_the_only_reference(tmp_path: Path) -> None:
    asked = replace(statistics(), kind="query.moments")
    text = refused(policy(tmp_path).check_reference, asked, ("clinic-1", "clinic-1"), ("clinic-1",))
    assert "the mean and covariance of clinic-1 would go to all other sites (rule `sole_reference: false`" in text
    policy(tmp_path).check_reference(asked, ("clinic-1", "clinic-2"), ("clinic-1",))
    policy(tmp_path).check_reference(asked, None, ("clinic-1",))
    policy(tmp_path, sole_reference=True).check_reference(asked, ("clinic-1",), ("clinic-1",))


def test_a_run_has_one_alignment(tmp_path: Path) -> None:
    policy(tmp_path).check_alignment(train(1), DIGEST, "aa" * 32)
    policy(tmp_path).check_alignment(train(2), DIGEST, "aa" * 32)
    policy(tmp_path).check_alignment(train(2), "cd" * 32, "bb" * 32)
    policy(tmp_path).check_alignment(train(2, run="another-run-1"), DIGEST, "bb" * 32)
    text = refused(policy(tmp_path).check_alignment, train(2), DIGEST, "bb" * 32)
    assert "aligned by other moments, or in another way, before; one run has one alignment" in text
    (tmp_path / "alignments" / f"{RUN}.json").write_text("[1, 2")
    with pytest.raises(StoreError, match="can't be read"):
        policy(tmp_path).check_alignment(train(2), DIGEST, "aa" * 32)


def test_clients_are_not_shown_apart(tmp_path: Path) -> None:
    cohort = Cohort(np.arange(100, dtype=np.uint64), None, num_clients=3)
    question = Question("query.class_sums", None)
    assert "keeps the 3 clients of this site apart" in refused(policy(tmp_path).check_cohort, question, DIGEST, cohort)
    stack = {"stack": {"weight": np.ones((2, 4, 3), dtype=np.float32)}}
    assert "updates of this site's 2 clients apart" in refused(policy(tmp_path).check_update, train(1), stack, 2.0)
    policy(tmp_path, individual_clients=True).check_update(train(1), stack, 2.0)
    policy(tmp_path).check_update(train(1), {"stack": {"weight": stack["stack"]["weight"][:1]}}, 1.0)


def test_an_update_that_is_too_large_stays(tmp_path: Path) -> None:
    """A sum of weight 2 with arrays (6, 0) and (8): the mean update is (3, 0, 4), its norm 5."""
    groups = {"update": {"weight": np.array([6.0, 0.0]), "bias": np.array([8.0])}}
    policy(tmp_path, largest_update_norm=5.0).check_update(train(1), groups, 2.0)
    text = refused(policy(tmp_path, largest_update_norm=4.9).check_update, train(1), groups, 2.0)
    assert "the update's norm is 5, more than 4.9" in text
    groups["update"]["bias"][0] = np.nan
    assert "norm is nan" in refused(policy(tmp_path).check_update, train(1), groups, 2.0)


@pytest.mark.parametrize("name", ["runs/{run}.json", "statistics/{digest}.npz"])
def test_a_damaged_memory_is_not_an_empty_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / name.format(run=RUN, digest=DIGEST)
    path.parent.mkdir()
    path.write_bytes(b"[1, 2")
    with pytest.raises(StoreError, match="can't be read"):
        policy(tmp_path).check(train(1)) if "run" in name else policy(tmp_path).check_cohort(
            statistics(), DIGEST, samples((0, 100))
        )


def test_a_policy_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    assert read_policy(path) == PolicySettings()
    path.write_text("# all as it comes\n")
    assert read_policy(path) == PolicySettings()
    path.write_text("requests: [train, trian]\nmost_round: 3\n")
    with pytest.raises(SettingsError) as caught:
        read_policy(path)
    assert "line 1: requests[1]: came 'trian'" in str(caught.value)
    assert "did you mean 'train'?" in str(caught.value)
    assert "line 2: most_round: unknown key" in str(caught.value)


def test_a_sample_is_known_by_its_content(tmp_path: Path) -> None:
    """The same digits under another seed: other train parts, the same samples known by the same numbers."""
    from clients.host import Host

    def cohort(seed: int) -> Cohort:
        changes = [f"seed={seed}", "backbone=identity", "data.source={name: synthetic, num_samples: 200}"]
        scenario = load_scenario("quickstart", [*changes, "data.partition={name: iid, clients: 2}", "shards=1"])
        host = Host(ClientPart.model_validate_json(scenario.model_dump_json()), 0, 1)
        request = StatisticsRequest(run_id="r", weights_digest="", shard=0)
        return cohort_of(host.members, request, {"clients": {"index": np.array([0, 1])}})

    first, again = cohort(1), cohort(1)
    assert first.class_counts is not None
    assert len(first.samples) == first.class_counts.sum() == 128  # 200 samples, 0.8 not for test, 0.8 not validation
    assert set(first.samples.tolist()) == set(again.samples.tolist())
    assert len(np.unique(first.samples)) == 128


def test_blocks_of_the_backbone_are_trained_only_where_the_site_agrees(tmp_path: Path) -> None:
    asked = replace(train(1), submitted={"name": "s", "privacy": None, "unfreeze": {"cut": "blocks.5"}})
    text = refused(policy(tmp_path).check, asked)
    assert (
        "clinic-1 refuses: the scenario trains blocks of the backbone (unfreeze) (rule `backbone_training: false`"
        in text
    )
    policy(tmp_path, backbone_training=True).check(asked)
    policy(tmp_path).check(replace(asked, submitted={"name": "s", "privacy": None, "unfreeze": None}))


def test_moments_without_labels_are_given_of_enough_samples_whatever_their_classes(tmp_path: Path) -> None:
    """Rare classes show in sums by class alone; few samples, and sets that differ by few, show in any sum."""
    asked = replace(statistics(), kind="query.moments")
    rare = replace(samples((0, 100)), class_counts=np.array([99, 1]))
    clinic = policy(tmp_path)
    clinic.check(asked)
    clinic.check_cohort(asked, DIGEST, rare)
    assert "smallest_class" in refused(policy(tmp_path / "other").check_cohort, statistics(), DIGEST, rare)
    assert "smallest_difference" in refused(clinic.check_cohort, asked, DIGEST, samples((0, 99)))
    assert "smallest_cohort" in refused(clinic.check_cohort, asked, DIGEST, samples((0, 49)))


def test_a_site_looks_into_stages(tmp_path: Path) -> None:
    """What a stage asks for is asked of the site, whatever the scenario itself says."""
    stages = [{"name": "head", "unfreeze": None}, {"name": "blocks", "unfreeze": {"cut": "blocks.5"}}]
    asked = replace(train(1), submitted={"name": "s", "privacy": None, "unfreeze": None, "stages": stages})
    assert "the scenario trains blocks of the backbone (unfreeze)" in refused(policy(tmp_path).check, asked)
    policy(tmp_path, backbone_training=True).check(asked)
    newer = replace(asked, submitted={"name": "s", "stages": [{"name": "head", "secret": 1}]})
    assert "asks for stages.secret, which this version of FedGraft lacks" in refused(policy(tmp_path).check, newer)
