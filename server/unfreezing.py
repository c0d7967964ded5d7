"""Blocks of the backbone join what is trained, in the rounds that the schedule names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedgraft.errors import Fault, ScenarioError
from fedgraft.models.info import BackboneInfo
from fedgraft.models.settings import BackboneSettings
from fedgraft.models.unfreeze_settings import BLOCKS, UnfreezeSettings, fault_of_stages
from fedgraft.progress import report
from server.course import Course
from server.settings import ServerPart

if TYPE_CHECKING:
    from fedgraft.models.blocks import Blocks


def check_targets(backbone: BackboneSettings, unfreeze: UnfreezeSettings) -> None:
    """Refuse modules to adapt that the blocks of some round do not have.

    Raises:
        ModelError: says which there are.
    """
    from fedgraft.models.registry import load

    loaded = load(backbone)
    for step in unfreeze.steps:
        loaded.blocks(step.cut, unfreeze)


def check_cuts(parts: Sequence[ServerPart], info: BackboneInfo) -> None:
    """Refuse cuts that the backbone does not have, or past which nothing lies before the head.

    Raises:
        ScenarioError: says which there are.
    """
    fault = fault_of_stages([part.unfreeze for part in parts], info.cuts, info.cut)
    if fault is not None:
        number, key, text = fault
        raise ScenarioError(parts[number].name, [Fault(f"{parts[number].place}{key}", text)])
    for part in parts:
        if part.data.at_sites and part.unfreeze is not None and part.unfreeze.adds:
            check_targets(part.backbone, part.unfreeze)


def unfreeze(course: Course, round_number: int) -> None:
    """Let what a round trains of blocks join the head, such that the blocks are the pretrained ones.

    What is trained already goes on as it is. The strategy's state, such as momentum, starts anew for what joins.

    Raises:
        ScenarioError: the clients keep state of the arrays that there were.
    """
    cut = course.part.cut_at(round_number)
    if cut is None or (
        cut == course.part.cut_at(round_number - 1) and any(name.startswith(BLOCKS) for name in course.head)
    ):
        return
    blocks = _blocks(course.part, cut)
    joining = {name: value for name, value in blocks.start(course.part.seed).items() if name not in course.head}
    if not joining:
        return
    if course.adapter.versions.any():
        text = f"unfreezes '{cut}' in round {round_number}, but {course.adapter.strategy.title} has clients keep state"
        fault = Fault(
            f"{course.part.place}unfreeze.schedule", f"{text}, which can't grow; give one cut from round 1 on"
        )
        raise ScenarioError(course.part.name, [fault])
    course.head = {**course.head, **joining}
    course.adapter.state = {**course.adapter.strategy.init(course.head), **(course.adapter.state or {})}
    numbers = sum(value.size for value in joining.values())
    num_bytes = 4 * sum(value.size for value in course.head.values())
    report(
        "note",
        text=f"round {round_number}: {blocks.what}{numbers:,} parameters past '{cut}' are trained with the head from "
        f"here on ({num_bytes:,} bytes each way a shard)",
    )


def tuned(course: Course, round_number: int) -> dict[str, Any]:
    """Return what travels in place of whole blocks, and what these would take; nothing where it is they that travel.

    Args:
        course: at its end.
        round_number: the round that its head came out of.
    """
    part = course.parts[course.of(round_number)]
    cut = part.cut_at(round_number)
    num_trained = sum(value.size for name, value in course.head.items() if name.startswith(BLOCKS))
    if part.unfreeze is None or part.unfreeze.method.name == "full" or cut is None or not num_trained:
        return {}
    num_head = sum(value.size for name, value in course.head.items() if not name.startswith(BLOCKS))
    numbers = {"num_trained": num_trained, "bytes": 4 * (num_trained + num_head)}
    full = 4 * (_blocks(part, cut).num_parameters + num_head)
    return {"tuned": {"method": part.unfreeze.method.name, "cut": cut, **numbers, "full_bytes": full}}


def tuned_text(tuned: Mapping[str, Any]) -> str:
    """Return in words what `tuned` says."""
    full = f"{tuned['full_bytes']:,} ({tuned['full_bytes'] / tuned['bytes']:,.1f} times)"
    return f"{tuned['bytes']:,} each way a shard and round; full fine-tuning past '{tuned['cut']}' would be {full}"


def _blocks(part: ServerPart, cut: str) -> Blocks:
    """Return the blocks past a cut."""
    if not part.data.at_sites:
        from fedgraft.workspace import open_workspace

        workspace = open_workspace(part.data, part.seed, part.backbone, part.features)
        return workspace.unfrozen(cut, part.unfreeze).blocks
    from fedgraft.models.registry import load

    return load(part.backbone).blocks(cut, part.unfreeze)
