"""The trained model of a run: backbone and head as one torch module, from pictures to probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedgraft.alignment.files import read_alignment
from fedgraft.alignment.settings import AdaBn, Coral, Standardise
from fedgraft.errors import ModelError, StoreError, listed
from fedgraft.model_card import Card
from fedgraft.models import kept
from fedgraft.models.backbone import Backbone, Identity, freeze
from fedgraft.models.blocks import split_arrays
from fedgraft.models.catalogue import without_place
from fedgraft.models.head_settings import HeadSettings
from fedgraft.models.heads import as_tensors, forward, head_shapes
from fedgraft.models.losses import Task, resolve_loss
from fedgraft.models.preprocessing import ImagePreprocessing
from fedgraft.models.registry import describe, load, rebuilt
from fedgraft.models.settings import BackboneSettings
from fedgraft.models.unfreeze_settings import UnfreezeSettings
from fedgraft.models.weights import fill, state_arrays, weights_digest
from fedgraft.progress import report
from fedgraft.tensor_files import read_tensors, save_tensors

if TYPE_CHECKING:
    from fedgraft.runs import Run

PROBE_TOLERANCE = 1e-3
"""Largest `max|a - b| / max|b|` between a model's outputs when it was exported and when it is loaded again."""


STANDARDISATION = ("mean", "scale")
"""Arrays of a standardisation, `(feature_dim,)`."""


class Head(nn.Module):
    """A head as a module; its parameters have the names of its arrays."""

    def __init__(self, settings: HeadSettings, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__()
        self.settings = settings
        for name, value in as_tensors(arrays).items():
            *folders, last = name.split(".")
            place: nn.Module = self
            for folder in folders:
                if folder not in place._modules:
                    place.add_module(folder, nn.Module())
                place = place.get_submodule(folder)
            place.register_parameter(last, nn.Parameter(value))

    def forward(self, features: Tensor) -> Tensor:
        """Return outputs `(N, num_outputs)` of features `(N, feature_dim)`."""
        return forward(self.settings, dict(self.named_parameters()), features)


class Standardisation(nn.Module):
    """Takes the federation's mean off features and divides by its deviation; buffers, float64 until here."""

    mean: Tensor
    scale: Tensor

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__()
        for name in STANDARDISATION:
            self.register_buffer(name, torch.tensor(arrays[name], dtype=torch.float32))

    def forward(self, features: Tensor) -> Tensor:
        """Return standardised features, `(N, feature_dim)`."""
        return (features - self.mean) / self.scale


class TrainedModel(nn.Module):
    """Backbone and head, frozen: a module from pictures (or ready features) to named outputs.

    Attributes:
        card: what it is: label names, task, input.
        backbone: the frozen base, up to the cut.
        head: what the federation trained.
        standardisation: what lies between, where the run standardised features.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        card: Card,
        backbone: Backbone | Identity,
        head: Mapping[str, NDArray[Any]],
        standardisation: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        super().__init__()
        self.card = card
        self.backbone = backbone
        self.head = Head(card.head, head)
        self.standardisation = None if standardisation is None else Standardisation(standardisation)
        mean, std = (torch.tensor(value)[:, None, None] for value in _normalisation(card))
        self.register_buffer("scale", 1 / std, persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)
        freeze(self)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the outputs, in their order."""
        return self.card.label_names

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return `logits` and `probabilities`, or `values` for real numbers, each `(N, num_outputs)`.

        Args:
            inputs: images `(N, 3, size, size)` float32, RGB from 0 to 1, ready features `(N, feature_dim)`, or the
                tokens of texts with their mask, `(N, T, 2)` int64.
        """
        if self.card.takes == "images":
            inputs = inputs * self.scale + self.shift
        return self.outputs(self.backbone(inputs))

    def outputs(self, features: Tensor) -> dict[str, Tensor]:
        """Return what `forward` does, for features `(N, feature_dim)` of the backbone."""
        logits = self.head(features if self.standardisation is None else self.standardisation(features))
        if self.card.task == "real":
            return {"values": logits}
        return {"logits": logits, "probabilities": probabilities(logits, self.card.loss, self.card.task)}

    def probe(self) -> Tensor:
        """Return the outputs for one fixed input, `(num_outputs,)`: they tell whether a rebuilt model is the same."""
        if self.card.takes == "texts":
            probe = torch.stack([torch.arange(4), torch.ones(4, dtype=torch.int64)], dim=-1)[None]  # four tokens
        else:
            probe = torch.linspace(0, 1, torch.Size(self.card.input_shape).numel()).reshape(1, *self.card.input_shape)
        with torch.inference_mode():
            outputs = self.forward(probe)
        return outputs[self.card.output_names[0]][0].clone()


def probabilities(logits: Tensor, loss: str, task: Task) -> Tensor:
    """Return probabilities `(N, num_outputs)` of a head's outputs, as the loss that trained it means them.

    Softmax: they sum to 1. Sigmoid: each for itself. Squared: a regression on zeros and ones (classes), or on -1
    and 1 (several labels), estimates the probability itself, but not inside its bounds; it is cut off there.
    """
    if loss == "softmax":
        return logits.softmax(dim=1)
    if loss == "sigmoid":
        return logits.sigmoid()
    return ((logits + 1) / 2 if task == "labels" else logits).clamp(0, 1)


def trained_model(run: Run) -> TrainedModel:
    """Return the trained model of a finished run, with the very weights that it was trained on.

    Raises:
        StoreError: the run is not finished or its files don't fit together.
        ModelError: the backbone can't be had, or has other weights than it had then.
    """
    summary, scenario = run.summary, run.scenario
    arrays, blocks = split_arrays(run.head)
    backbone = _backbone(scenario.backbone, summary.get("weights_digest"), run.directory)
    task: Task = summary["task"]
    labels = tuple(summary["label_names"])
    first = next((value for name, value in sorted(arrays.items()) if name.endswith("weight")), None)
    feature_dim = backbone.info.feature_dim or (first.shape[1] if first is not None and first.ndim == 2 else 0)
    expected = head_shapes(scenario.head, feature_dim, len(labels))
    came = {name: value.shape for name, value in arrays.items()}
    if came != expected:
        raise StoreError(
            f"{run.directory / 'head.safetensors'} holds {came}; the run's scenario and backbone need {expected}; "
            "it is another run's head, or damaged"
        )
    adapters: UnfreezeSettings | None = None
    if blocks:
        number = summary.get("head_round", summary.get("best_round", summary["rounds"]))
        unfreeze = _unfreezing(*scenario.unfrozen_in(number))
        backbone = _with_blocks(backbone, blocks, unfreeze)
        adapters = unfreeze if unfreeze.method.name == "adapter" else None
    name = without_place(scenario.backbone.name)  # no path of this machine goes along
    card = Card(
        name=scenario.name,
        run_id=str(run.facts["run_id"]),
        task=task,
        loss=resolve_loss(scenario.loss, task, labels).name,
        label_names=labels,
        head=scenario.head,
        backbone=scenario.backbone.model_copy(update={"weights": "random", "name": name}),
        info=replace(backbone.info, feature_dim=feature_dim, name=name),
        adapters=adapters,
        align=scenario.align if isinstance(scenario.align, Coral | AdaBn) else None,
        feature_names=tuple(summary.get("feature_names", ())),
    )
    if card.align is not None:
        text = f"the run {_done_by(card.align)}, which the model does not"
        report("note", text=f"{text}: what the run scored need not hold for features as they come")
    return TrainedModel(card, backbone, arrays, _standardisation(run, feature_dim))


def _done_by(align: Coral | AdaBn) -> str:
    """Return what a run did to each client's features, in words."""
    if isinstance(align, AdaBn):
        return "gave batch norm the statistics of each client's own images (adabn)"
    onto = "all clients" if align.reference is None else listed(align.reference)
    return f"brought each client's features onto the moments of {onto} (coral)"


def _standardisation(run: Run, feature_dim: int) -> dict[str, NDArray[Any]] | None:
    """Return the arrays by which a run standardised features; None if it did not.

    Features that were brought onto a reference by each client's own moments have none: each domain needs a map of its
    own, so the model takes them as they come, which is right for those of a reference of one client alone.
    """
    align = run.scenario.align
    return read_alignment(run.directory, align, feature_dim) if isinstance(align, Standardise) else None


def save_safetensors(model: TrainedModel, path: Path) -> None:
    """Write a model's tensors, `backbone.*` up to the cut, `standardisation.*` and `head.*`, and all that rebuilds it.

    Raises:
        StoreError: the folder can't be written or the disk is full.
    """
    arrays = {f"backbone.{name}": value for name, value in state_arrays(_part(model.backbone)).items()}
    arrays |= {f"head.{name}": value for name, value in state_arrays(model.head).items()}
    if model.standardisation is not None:
        arrays |= {f"standardisation.{name}": value for name, value in state_arrays(model.standardisation).items()}
    save_tensors(path, arrays, {**model.card.to_metadata(), "probe": model.probe().tolist()})


def load_safetensors(path: str | Path) -> TrainedModel:
    """Return the model in an exported file; needs neither the run nor a network, but the backbone's library.

    Raises:
        StoreError: no such file, damaged, or none of FedGraft's.
        ModelError: no exported model, or a library that builds another model now.
    """
    arrays, facts = read_tensors(Path(path))
    card = Card.from_metadata(facts, str(path))
    backbone: Backbone | Identity = Identity(card.info)
    if card.takes != "features":
        backbone = rebuilt(card.backbone, card.info, _below(arrays, "backbone."))
        if card.adapters is not None:
            blocks = backbone.blocks(card.adapters.steps[0].cut, card.adapters)
            blocks.fill(blocks.pretrained)
        tensors = {name: torch.from_numpy(value) for name, value in _below(arrays, "backbone.").items()}
        fill(_part(backbone), tensors, origin=str(path))
        backbone.info = card.info
    head = _below(arrays, "head.")
    expected = head_shapes(card.head, card.info.feature_dim, len(card.label_names))
    if {name: value.shape for name, value in head.items()} != expected:
        raise ModelError(f"the head in {path} doesn't fit its description; export the run again")
    between = _below(arrays, "standardisation.") or None
    if between is not None and {name: value.shape for name, value in between.items()} != dict.fromkeys(
        STANDARDISATION, (card.info.feature_dim,)
    ):
        raise ModelError(f"the standardisation in {path} doesn't fit the model's features; export the run again")
    model = TrainedModel(card, backbone, head, between)
    _check_probe(model, torch.tensor(facts.get("probe", [])), path)
    return model


def relative_difference(came: Tensor, wanted: Tensor) -> float:
    """Return `max|came - wanted| / max|wanted|`; infinite where shapes differ or a value is not finite."""
    if came.shape != wanted.shape:
        return float("inf")
    largest = (came.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp_min(1e-30)
    return float(largest.nan_to_num(float("inf")))


def _check_probe(model: TrainedModel, wanted: Tensor, path: str | Path) -> None:
    difference = relative_difference(model.probe(), wanted)
    if difference > PROBE_TOLERANCE:
        then, now = model.card.info.library, describe(model.card.backbone).library
        raise ModelError(
            f"the model rebuilt from {path} gives other outputs than when it was exported (by {difference:.1e}); "
            f"its backbone was built by {then or 'FedGraft'} then, by {now or 'FedGraft'} here: install that version"
        )


def _backbone(settings: BackboneSettings, digest: str | None, directory: Path) -> Backbone | Identity:
    """Return the backbone with the weights of a digest: this machine's own, or those that came over the wire."""
    came = None
    try:
        came = describe(settings).weights_digest
        if digest is None or came == digest:
            return load(settings)
    except ModelError:
        if digest not in kept.digests():
            raise
    if digest is not None and digest in kept.digests():
        return load(settings, kept.load(digest))
    raise ModelError(
        f"the run in {directory} was trained on {settings.name} with weights {str(digest)[:12]}, but "
        f"`weights: {settings.weights}` gives {str(came)[:12]} here; put the weights of the run back"
    )


def _unfreezing(unfreeze: UnfreezeSettings | None, cut: str | None) -> UnfreezeSettings:
    """Return what of the blocks a head was trained with, with the cut of its round alone.

    Raises:
        StoreError: the run's scenario trains none.
    """
    if unfreeze is None or cut is None:
        raise StoreError("the run's head comes with trained blocks, of which its scenario knows nothing; it is damaged")
    return unfreeze.model_copy(update={"cut": cut, "schedule": ()})


def _with_blocks(
    backbone: Backbone | Identity, blocks: Mapping[str, NDArray[Any]], unfreeze: UnfreezeSettings
) -> Backbone | Identity:
    """Return the backbone with the blocks that were trained in place of the pretrained ones.

    Raises:
        ModelError: they are not those of this backbone.
    """
    backbone.blocks(unfreeze.steps[0].cut, unfreeze).fill(blocks)
    backbone.info = replace(backbone.info, weights_digest=weights_digest(backbone.state_arrays()))
    return backbone


def _part(backbone: Backbone | Identity) -> nn.Module:
    """Return the module that holds what lies before the cut, under the full names."""
    return backbone.prefix(backbone.info.cut)


def _below(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _normalisation(card: Card) -> tuple[tuple[float, ...], tuple[float, ...]]:
    steps = card.info.preprocessing
    return (steps.mean, steps.std) if isinstance(steps, ImagePreprocessing) else ((0.0,), (1.0,))
