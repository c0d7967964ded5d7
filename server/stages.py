"""Stages of a run follow one another; the head, and blocks that are trained, go on from one to the next."""

from __future__ import annotations

from typing import Any

from fedgraft.metrics import metric_rows
from fedgraft.progress import report
from server.course import Course


def tell(course: Course) -> None:
    """Say which stage begins, if the run has several."""
    part = course.part
    if part.stage is None:
        return
    first, last = part.rounds_before + 1, part.server.rounds
    rounds = f"round {first}" if first == last else f"rounds {first} to {last}"
    report(
        "stage",
        text=f"stage {course.stage + 1} of {len(course.parts)}, {part.stage}: {part.strategy.title}, {rounds}",
        name=part.stage,
        number=course.stage + 1,
        of=len(course.parts),
    )


def leave_out_the_rest(course: Course) -> None:
    """End a stage before its last round, with the head of an earlier one: the numbers of the rest are passed over."""
    number = course.number_of_head
    course.round_number = course.part.server.rounds
    row = {"num_clients": 0, "head_of_round": number, "bytes_down": 0, "bytes_up": 0, "seconds": 0.0}
    course.directory.row(course.round_number, "train", row)


def begin_next(course: Course) -> None:
    """Go on to the next stage: what the strategy and the clients keep begins anew, the head does not."""
    course.enter(course.stage + 1)
    course.adapter.state = dict(course.adapter.strategy.init(course.head))
    course.best, course.head_round = None, None
    tell(course)


def stages_of(course: Course) -> list[dict[str, Any]]:
    """Return what each stage was, what it cost and what its head scored; empty for a run of one piece."""
    if course.part.stage is None:
        return []
    rows = metric_rows(course.directory.path)
    return [_entry(part.strategy.title, [row for row in rows if row["stage"] == part.stage]) for part in course.parts]


def _entry(strategy: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a stage's entry, made of its rows."""
    spent = [row for row in rows if row["group"] in ("init", "train", "calibrate")]
    had = [row for row in spent if row["group"] == "train" and "head_of_round" not in row]
    restored = next((row["head_of_round"] for row in spent if "head_of_round" in row), None)
    ends: dict[str, Any] = {
        row["group"]: {key: value for key, value in row.items() if key not in ("round", "group", "stage")}
        for row in rows
        if row["group"] in ("central", "validation")
    }
    return {
        "name": rows[0]["stage"],
        "strategy": strategy,
        "rounds": len(had),
        "first_round": had[0]["round"],
        "last_round": had[-1]["round"],
        **({} if restored is None else {"best_round": restored}),
        "bytes_down": sum(row["bytes_down"] for row in spent),
        "bytes_up": sum(row["bytes_up"] for row in spent),
        "seconds": round(sum(row["seconds"] for row in spent), 3),
        **ends,
    }
