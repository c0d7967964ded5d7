"""Blocks of the backbone join what is trained, in the rounds that the schedule names."""

from __future__ import annotations

from fedgraft.errors import Fault, ScenarioError
from fedgraft.models.info import BackboneInfo
from fedgraft.models.unfreeze_settings import BLOCKS
from fedgraft.progress import report
from fedgraft.wire.records import Arrays
from server.course import Course
from server.settings import ServerPart


def check_cuts(part: ServerPart, info: BackboneInfo) -> None:
    """Refuse cuts that the backbone does not have, or past which nothing lies before the head.

    Raises:
        ScenarioError: says which there are.
    """
    if part.unfreeze is None:
        return
    fault = part.unfreeze.fault(info.cuts, info.cut)
    if fault is not None:
        raise ScenarioError(part.name, [Fault(*fault)])


def unfreeze(course: Course, round_number: int) -> None:
    """Let the blocks that a round trains join the head, with their pretrained weights.

    What is trained already goes on as it is. The strategy's state, such as momentum, starts anew for what joins.

    Raises:
        ScenarioError: the clients keep state of the arrays that there were.
    """
    cut = course.part.cut_at(round_number)
    if cut is None or (
        cut == course.part.cut_at(round_number - 1) and any(name.startswith(BLOCKS) for name in course.head)
    ):
        return
    pretrained = _pretrained(course.part, cut)
    joining = {name: value for name, value in pretrained.items() if name not in course.head}
    if not joining:
        return
    if course.adapter.versions.any():
        text = f"unfreezes '{cut}' in round {round_number}, but {course.adapter.strategy.title} has clients keep state"
        fault = Fault("unfreeze.schedule", f"{text}, which can't grow; give one cut from round 1 on")
        raise ScenarioError(course.part.name, [fault])
    course.head = {**course.head, **joining}
    course.adapter.state = {**course.adapter.strategy.init(course.head), **(course.adapter.state or {})}
    numbers = sum(value.size for value in joining.values())
    report(
        "note",
        text=f"round {round_number}: {numbers:,} parameters past '{cut}' are trained with the head from here on "
        f"({4 * sum(value.size for value in course.head.values()):,} bytes each way a shard)",
    )


def _pretrained(part: ServerPart, cut: str) -> Arrays:
    """Return the pretrained parameters past a cut, as far as all share them."""
    local = part.unfreeze is not None and part.unfreeze.local_norm
    if not part.data.at_sites:
        from fedgraft.workspace import open_workspace

        return open_workspace(part.data, part.seed, part.backbone, part.features).unfrozen(cut, local).blocks.pretrained
    from fedgraft.models.registry import load

    return load(part.backbone).blocks(cut, local).pretrained
