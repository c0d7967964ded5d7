"""A strategy class from the user's own file: `strategy: {file: my_strategy.py, name: Mine, parameters: {beta: 0.5}}`.

The class is one like those of this folder, a subclass of `strategies.base.Strategy`. This block stands for it in the
scenario and passes everything on. The file runs where the server runs, and in what checks the scenario before; clients
never see it, since a strategy reaches them only as requests.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from fedgraft.recipes import Recipe
from fedgraft.settings import LocalPath
from strategies.base import Answer, Arrays, Exchange, Outcome, Replies, Request, Strategy, Task

CALLED_WITH: Mapping[str, tuple[str, ...]] = {
    "init": ("head",),
    "plan": ("state", "round_number"),
    "completed": ("request", "head", "replies"),
    "aggregate": ("state", "head", "replies"),
}


class UserStrategy(Strategy):
    """A strategy class of your own file; see docs/add-a-strategy.md."""

    file: LocalPath
    """The Python file; it runs on the server's machine, with all that its code may do."""
    name: Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9_]*$")]
    """The class in that file, a subclass of strategies.base.Strategy."""
    parameters: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Values of the class's fields, e.g. `{momentum: 0.5}`."""

    @property
    def mine(self) -> Strategy:
        """The strategy itself.

        Raises:
            ValueError: the file or the class can't be had, or its fields don't take the parameters.
        """
        return _built(self.file, self.name, json.dumps(self.parameters, sort_keys=True))

    @property
    def _facts(self) -> Strategy | type[Strategy]:
        """Whose facts hold: those of the class, or of any while there is none, so that old runs can be read."""
        try:
            return self.mine if Path(self.file).is_absolute() else Strategy
        except ValueError:  # the run itself says so, before anything is done
            return Strategy

    @property
    def reply(self) -> Literal["sum", "stack"]:  # type: ignore[override]  # a fact of the user's class, not of this one
        """What replies carry."""
        return self._facts.reply

    @property
    def most_rounds(self) -> int | None:  # type: ignore[override]
        """Rounds after which nothing more can come."""
        return self._facts.most_rounds

    @property
    def everybody(self) -> bool:  # type: ignore[override]
        """Whether every round asks all clients."""
        return self._facts.everybody

    @property
    def answer(self) -> Answer:  # type: ignore[override]
        """By what it is judged: the global head, or the clients' own."""
        return self._facts.answer

    @property
    def leaves_out(self) -> Literal["no", "hosts", "server"]:  # type: ignore[override]
        """Who can make its head without one client's samples."""
        return self._facts.leaves_out

    @property
    def heads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Kinds of heads that it can make."""
        return self._facts.heads

    @property
    def tasks(self) -> tuple[Task, ...]:  # type: ignore[override]
        """Kinds of targets that it can serve."""
        return self._facts.tasks

    @property
    def takes_weight_decay(self) -> bool:  # type: ignore[override]
        """Whether its equations hold with weight decay."""
        return self._facts.takes_weight_decay

    @property
    def optimizers(self) -> tuple[str, ...]:  # type: ignore[override]
        """Local optimisers under which its equations hold."""
        return self._facts.optimizers

    @property
    def trains_blocks(self) -> bool:
        """As the user's class says."""
        facts = self._facts
        return facts.trains_blocks if isinstance(facts, Strategy) else True

    @property
    def keeps_state(self) -> bool:
        """As the plan of the user's class says; of one that plans by the head's arrays it is not known beforehand."""
        facts = self._facts
        try:
            return isinstance(facts, Strategy) and facts.keeps_state
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            return False

    @property
    def other_half(self) -> str | None:
        """As the plan of the user's class says; of one that plans by the head's arrays it is not known beforehand."""
        facts = self._facts
        try:
            return facts.other_half if isinstance(facts, Strategy) else None
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            return None

    def rounds_with(self, pseudo_labels: bool) -> int | None:
        """Return how many rounds are of use."""
        facts = self._facts
        return facts.rounds_with(pseudo_labels) if isinstance(facts, Strategy) else super().rounds_with(pseudo_labels)

    def shortage(self, num_clients: int) -> str | None:
        """Return why a round of so few clients is not enough, if it is not."""
        facts = self._facts
        return facts.shortage(num_clients) if isinstance(facts, Strategy) else None

    def init(self, head: Arrays) -> Arrays:
        """Return the state before the first round."""
        return self.mine.init(head)

    def plan(self, state: Arrays, round_number: int) -> tuple[Exchange, ...]:
        """Return the exchanges of a round."""
        return self.mine.plan(state, round_number)

    def completed(self, request: Request, head: Arrays, replies: tuple[Replies, ...]) -> Request:
        """Return a request with what earlier replies of the round add to it."""
        return self.mine.completed(request, head, replies)

    def personal(self, state: Arrays) -> Request | None:
        """Return how each client gets the head that is judged as its own."""
        return self.mine.personal(state)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Combine the replies."""
        return self.mine.aggregate(state, head, replies)

    def recipe(self, head: Arrays, replies: tuple[Replies, ...]) -> Recipe:
        """Return how the head is made of sums."""
        return self.mine.recipe(head, replies)


@functools.lru_cache(maxsize=16)
def _built(file: str, name: str, parameters: str) -> Strategy:
    kind = _class(Path(file), name)
    _check_signatures(kind, file)
    try:
        return kind.model_validate_json(parameters)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:5])
        fields = ", ".join(kind.model_fields) or "none"
        raise ValueError(
            f"class {name} of {file} does not take these parameters: {faults}; its fields: {fields}"
        ) from None


def forget() -> None:
    """Let files be read anew, as they are when the next run begins."""
    _built.cache_clear()


def _class(path: Path, name: str) -> type[Strategy]:
    """Return a class of a file, whose code runs for it."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(f"the file {path} can't be read: {error.strerror or error}") from None
    module_name = f"fedgraft_user_strategy_{hashlib.sha256(str(path).encode() + text).hexdigest()[:16]}"
    module = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise ValueError(f"{path} is no Python file; its name must end in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # pydantic looks annotations up there
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # whatever the user's code raises
            del sys.modules[module_name]
            raise ValueError(
                f"{path} can't be imported: {type(error).__name__}: {error}{_line(error, path)}"
            ) from error
    found = getattr(module, name, None)
    if not (inspect.isclass(found) and issubclass(found, Strategy)):
        there = [key for key, value in vars(module).items() if _is_strategy(value) and value.__module__ == module_name]
        came = "has no" if found is None else "has no strategy"
        raise ValueError(
            f"{path} {came} class {name}; its subclasses of strategies.base.Strategy: {', '.join(there) or 'none'}"
        )
    return found


def _is_strategy(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, Strategy)


def _line(error: BaseException, path: Path) -> str:
    """Return ` (line 12)`, the last line of the file that an error came through."""
    if isinstance(error, SyntaxError):
        return ""  # its text names the line
    found, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            found = f" (line {trace.tb_lineno})"
        trace = trace.tb_next
    return found


def _check_signatures(kind: type[Strategy], file: str) -> None:
    """Refuse functions that can't be called as the server calls them."""
    if kind.aggregate is Strategy.aggregate:
        raise ValueError(f"class {kind.__name__} of {file} lacks aggregate(self, state, head, replies)")
    for function, arguments in CALLED_WITH.items():
        signature = inspect.signature(getattr(kind, function))
        try:
            signature.bind(None, *arguments)
        except TypeError as error:
            call = f"{function}({', '.join(arguments)})"
            raise ValueError(f"{kind.__name__}.{function}{signature} of {file} is called as {call}: {error}") from None
