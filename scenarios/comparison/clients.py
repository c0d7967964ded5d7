"""Scores of each client under each contender, beside what its data are like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from scenarios.comparison.client_facts import ClientFacts, client_facts
from scenarios.comparison.client_findings import ClientRow
from scenarios.comparison.results import Result

Scores = dict[str, float]
"""Client -> score."""


def final_scores(result: Result, part: str) -> Scores:
    """Return each client's score at the run's end, of the global head (`validation`) or its own (`personal`)."""
    evaluations = result.client_scores[part]
    best = result.summary.get("best_round")  # of a run that stopped early, which goes on to write nothing of it
    judged = [one for one in evaluations if best is None or one.round == best]
    return {client: score for client, (score, _, _) in judged[-1].of.items()} if judged else {}


def served_scores(result: Result) -> Scores:
    """Return each client's score with the head that it would use: its own where there is one, else the global one."""
    return final_scores(result, "personal") or final_scores(result, "validation")


def tuned_scores(results: Sequence[Result], *, last: bool = False) -> Scores:
    """Return each client's score with its own head that had the least loss on its validation part.

    The score is not what the head is chosen by, so that choosing favours it less; a little it does.

    Args:
        results: of clients alone, all of one seed, such as with different learning rates.
        last: choose among heads after the last round only, not among those of all rounds.
    """
    best: dict[str, tuple[float, float]] = {}
    for result in results:
        evaluations = result.client_scores["personal"]
        for evaluation in evaluations[-1:] if last else evaluations:
            for client, (score, loss, _) in evaluation.of.items():
                if client not in best or loss < best[client][0]:
                    best[client] = (loss, score)
    return {client: score for client, (_, score) in best.items()}


def facts_by_seed(results: Sequence[Result], directory: Path | None) -> dict[int, dict[str, ClientFacts]]:
    """Return what clients are like, seed by seed, as far as the data are at hand."""
    found: dict[int, dict[str, ClientFacts]] = {}
    for result in results:
        if result.seed not in found and result.strategy != "centralised":
            facts = client_facts(result.planned.run.scenario, directory)
            if facts is None:
                return found  # if one split's data are not here, the others' are not either
            found[result.seed] = facts
    return found


def client_rows(
    of: Mapping[str, Sequence[Result]], facts: Mapping[int, Mapping[str, ClientFacts]]
) -> tuple[ClientRow, ...]:
    """Return a row a seed and client.

    Args:
        of: contender -> its runs under one condition.
        facts: seed -> client -> what it is like.
    """
    served: dict[tuple[int, str], Scores] = {}
    received: dict[tuple[int, str], Scores] = {}
    sizes: dict[tuple[int, str], int] = {}
    for contender, results in of.items():
        for result in results:
            if result.strategy == "centralised":  # its one client is everybody
                continue
            for client, score in served_scores(result).items():
                served.setdefault((result.seed, client), {})[contender] = score
            for client, score in final_scores(result, "validation").items():
                received.setdefault((result.seed, client), {})[contender] = score
            for part in ("validation", "personal"):
                for evaluation in result.client_scores[part][-1:]:
                    sizes |= {(result.seed, client): count for client, (_, _, count) in evaluation.of.items()}
    rows = []
    for seed, client in sorted(served, key=lambda place: place[0]):  # stable: clients stay in the federation's order
        known = facts.get(seed, {}).get(client)
        rows.append(
            ClientRow(
                client=client,
                seed=seed,
                num_train=None if known is None else known.num_train,
                num_validation=sizes[seed, client],
                label_skew=None if known is None else known.label_skew,
                distance=None if known is None else known.distance,
                scores=served[seed, client],
                global_scores=received.get((seed, client), {}),
            )
        )
    return tuple(rows)
