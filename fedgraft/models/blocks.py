"""What lies between a cut and the head: blocks of a backbone that are trained, as a function of named arrays.

What is trained are the blocks' own parameters, or new ones that were put into them (`fedgraft.models.additions`).
Arrays of blocks stand beside those of the head, as `backbone.<full name>`. Whatever speaks of named arrays (messages,
sums, strategies, checkpoints) needs to know no more of them.
"""

from __future__ import annotations

import copy
import functools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedgraft.errors import ModelError, listed
from fedgraft.models.additions import Additions, add
from fedgraft.models.cuts import Architecture, Segment, Stage, pool_stages, stages_between, tensors_between
from fedgraft.models.info import FEATURES_SCHEMA, BackboneInfo
from fedgraft.models.method_settings import BitFit, WithTargets
from fedgraft.models.preprocessing import digest_of
from fedgraft.models.unfreeze_settings import BLOCKS, INPUT, UnfreezeSettings

RUNNING = ("running_mean", "running_var")
"""What a batch norm calls its running statistics."""


class Blocks:
    """The blocks from a cut up to where the head sits, batch norm, dropout and stochastic depth still.

    Nothing here changes: the arrays are given with every call, so that several threads may call at once.

    Args:
        model: the whole frozen model.
        architecture: how it is cut.
        info: what it is; `info.cut` is where the head sits.
        cut: where the blocks begin.
        unfreeze: what of them is trained, and whose batch norm is; by default all, and everybody's.

    Attributes:
        cut: where the blocks begin.
        feature_dim: length of a feature vector.
        activation_shape: of one input's activation at the cut.
        pretrained: the parameters that are trained, under `backbone.<full name>`, float32, such that the blocks are the
            pretrained ones.
        num_parameters: of the blocks themselves, all that full fine-tuning would train.
        norm: scales, shifts and running statistics of batch norm that is each client's own, likewise.
        running: which of `norm` are running statistics.
        bound_to: the running statistics of one client, which its training changes.
    """

    def __init__(
        self,
        model: nn.Module,
        architecture: Architecture,
        info: BackboneInfo,
        cut: str,
        unfreeze: UnfreezeSettings | None = None,
    ) -> None:
        self.cut, self.feature_dim, self._info = cut, info.feature_dim, info
        self._model = model
        self._prefix = functools.partial(_run, stages_between(architecture, None, cut))
        own_stages = stages_between(architecture, cut, info.cut)
        self._suffix = functools.partial(pool_stages, architecture, info.pooling, own_stages)
        self._length = info.preprocessing.input_shape[0] if architecture.is_masked else 0
        self._idle: deque[nn.Module] = deque()
        example = self.activations(info.preprocessing.example())
        self.activation_shape = tuple(example.shape[1:])
        own = Segment(model, (), tensors_between(model, architecture, cut, info.cut))
        self.num_parameters = sum(value.numel() for value in own.parameters())
        self._added: Additions | None = None
        method = None if unfreeze is None else unfreeze.method
        if isinstance(method, WithTargets):
            where = f"past '{cut}' of {info.name}"
            self._added = add(model, own, method, lambda whole: self._suffix(whole, _fast(example)), where)
            self._model = self._added.model
            state = self._added.start
        else:
            state = {name: value.detach().numpy() for name, value in own.named_parameters()}
            if isinstance(method, BitFit):
                state = {name: value for name, value in state.items() if name.endswith("bias")}
        self.pretrained: dict[str, NDArray[np.float32]] = {
            f"{BLOCKS}{name}": np.array(value, dtype=np.float32, order="C") for name, value in state.items()
        }
        self.norm: dict[str, NDArray[np.float32]] = {}
        self.bound_to: dict[str, Tensor] = {}
        self._normalising: tuple[str, ...] = ()
        if unfreeze is not None and unfreeze.local_norm:
            self._keep_norm_apart(own)
        self.running = frozenset(name for name in self.norm if name.endswith(RUNNING))
        if not self.pretrained:
            raise ModelError(f"between '{cut}' and '{info.cut}' of {info.name} there is nothing to train")
        self._places = {f"{BLOCKS}{name}": _place(architecture, name) for name in state}
        self._order = (INPUT, *info.cuts)

    def _keep_norm_apart(self, own: nn.Module) -> None:
        """Take batch norm out of what all share."""
        kind = nn.modules.batchnorm._BatchNorm
        self._normalising = tuple(name for name, part in own.named_modules() if isinstance(part, kind))
        state = own.state_dict()
        for module in self._normalising:
            for part in ("weight", "bias", *RUNNING):
                name = f"{module}.{part}"
                if name in state:
                    self.norm[f"{BLOCKS}{name}"] = np.array(state[name].numpy(), dtype=np.float32)
                    self.pretrained.pop(f"{BLOCKS}{name}", None)

    def bound(self, running: Mapping[str, Tensor]) -> Blocks:
        """Return the same blocks with one client's running statistics; training changes these tensors in place."""
        other = copy.copy(self)
        other.bound_to = dict(running)
        return other

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of all arrays that are trained, those of the clients' own batch norm included."""
        return tuple(self._places)

    def start(self, seed: int) -> dict[str, NDArray[np.float32]]:
        """Return what a run starts from: `pretrained`, or of new parameters other values that change nothing either."""
        if self._added is None:
            return self.pretrained
        return {f"{BLOCKS}{name}": value for name, value in self._added.drawn(seed).items()}

    @property
    def what(self) -> str:
        """What is trained, in a few words: `lora in 8 modules`, or nothing where it is whole blocks."""
        return "" if self._added is None else f"{self._added.method.name} in {len(self._added.targets)} modules, "

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the blocks' arrays, by name."""
        return {name: value.shape for name, value in self.pretrained.items()}

    @property
    def key(self) -> str:
        """The digest of everything that decides the activations of an input at the cut."""
        info = self._info
        parts = (info.name, self.cut, info.preprocessing.key(), info.weights_digest, info.library)
        return digest_of([FEATURES_SCHEMA, "activations", *parts])

    def distance(self, name: str) -> int:
        """Return how many blocks that hold parameters lie between an array's own and the head."""
        return len({place for place in self._places.values() if place > self._places[name]})

    def lies_past(self, name: str, cut: str) -> bool:
        """Return whether an array belongs to a block past a cut."""
        return self._order.index(cut) <= self._places[name]

    def activations(self, inputs: Tensor) -> Tensor:
        """Return the activation at the cut, `(N, *activation_shape)`, of inputs as the backbone takes them."""
        with torch.inference_mode():
            activations = self._prefix(self._model, _fast(inputs)).float().contiguous()
            if self._length > activations.shape[1]:  # texts of a batch are as long as its longest one
                activations = nn.functional.pad(activations, (0, 0, 0, self._length - activations.shape[1]))
        return activations.clone()  # an inference tensor could not meet blocks that are trained

    def features(self, parameters: Mapping[str, Tensor], activations: Tensor, training: bool = False) -> Tensor:
        """Return features `(N, feature_dim)`, which gradients can be taken through.

        Args:
            parameters: those of the blocks, and perhaps others, as in `pretrained`.
            activations: `(N, *activation_shape)`.
            training: whether a client's own batch norm takes the statistics of the batch, and updates its running ones;
                a single sample has none.
        """
        given = {**parameters, **self.bound_to}
        own = {f"model.{self._full(name)}": value for name, value in given.items() if name.startswith(BLOCKS)}
        try:
            model = self._idle.pop()
        except IndexError:  # every thread has a copy of its own, since parameters are put into it for a moment
            with torch.inference_mode(False):  # the copy of an evaluation is used in training, too
                model = copy.deepcopy(self._model)
        normalising = self._normalising if training and len(activations) > 1 else ()
        try:
            for name in normalising:
                model.get_submodule(name).training = True
            features: Tensor = torch.func.functional_call(_Part(model, self._suffix), own, (_fast(activations),))
            return features
        finally:
            for name in normalising:
                model.get_submodule(name).training = False
            self._idle.append(model)

    def _full(self, name: str) -> str:
        """Return the name that an array has in the model."""
        name = name.removeprefix(BLOCKS)
        return name if self._added is None else self._added.names[name]

    def fill(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Put trained arrays into the model itself: new parameters merged into its weights, adapters as modules.

        Raises:
            ModelError: they are not those of these blocks.
        """
        came = {name: value.shape for name, value in arrays.items()}
        if came != self.shapes:
            wrong = sorted(name for name in came.keys() | self.shapes if came.get(name) != self.shapes.get(name))
            raise ModelError(
                f"the trained blocks don't fit {self._info.name} past '{self.cut}': {listed(wrong, 5)} "
                "are missing, unexpected or of another shape"
            )
        if self._added is not None:
            self._added.settle({name.removeprefix(BLOCKS): value for name, value in arrays.items()})
            return
        state = self._model.state_dict()
        with torch.no_grad():
            for name, value in arrays.items():
                state[name.removeprefix(BLOCKS)].copy_(torch.from_numpy(np.asarray(value)))


class _Part(nn.Module):
    """A model as a module whose call runs a part of it."""

    def __init__(self, model: nn.Module, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self._run = model, run

    def forward(self, x: Tensor) -> Tensor:
        return self._run(self.model, x)


def split_arrays(
    arrays: Mapping[str, NDArray[Any]],
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return the arrays of the head and those of trained blocks."""
    head = {name: value for name, value in arrays.items() if not name.startswith(BLOCKS)}
    return head, {name: value for name, value in arrays.items() if name.startswith(BLOCKS)}


def _run(stages: Sequence[Stage], model: nn.Module, x: Tensor) -> Tensor:
    for stage in stages:
        x = stage.run(model, x)
    return x


def _fast(x: Tensor) -> Tensor:
    """Return activations over space in the order of memory in which convolutions are fastest on a CPU."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _place(architecture: Architecture, name: str) -> int:
    """Return the number of the stage that a parameter belongs to; what no stage names belongs to the first."""
    for number, stage in enumerate(architecture.stages):
        if any(name == module or name.startswith(f"{module}.") for module in stage.modules):
            return number
    return 0
