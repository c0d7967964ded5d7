"""What a trained model is, as plain values that stand in every exported file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedgraft import __version__
from fedgraft.alignment.settings import AdaBn, Coral
from fedgraft.errors import ModelError, WireError, listed
from fedgraft.kinds import Kind
from fedgraft.models.head_settings import HeadSettings
from fedgraft.models.info import BackboneInfo
from fedgraft.models.losses import Task
from fedgraft.models.preprocessing import ImagePreprocessing, SoundPreprocessing, TextPreprocessing
from fedgraft.models.settings import BackboneSettings
from fedgraft.models.unfreeze_settings import UnfreezeSettings
from fedgraft.wire.protocol import check_number

SCHEMA = 1
"""Number of the layout of exported files."""

TOKEN_INPUTS = ("input_ids", "attention_mask")
"""What exported models call the two inputs of a text, as transformers does."""

_HEAD: TypeAdapter[HeadSettings] = TypeAdapter(HeadSettings)
_TASK: TypeAdapter[Task] = TypeAdapter(Task)
_LOCAL: TypeAdapter[Coral | AdaBn] = TypeAdapter(Coral | AdaBn)


@dataclass(frozen=True)
class Card:
    """What a trained model is, as plain values; it stands in every exported file.

    Attributes:
        name: of the scenario.
        run_id: of the run that trained the head.
        task: what the targets are.
        loss: `softmax`, `sigmoid` or `squared`; it decides how outputs become probabilities.
        label_names: of the outputs, in their order.
        head: its kind and parameters.
        backbone: the settings that build it; its weights are in the model, not there.
        info: what the backbone is; `info.feature_dim` is the length of what the head takes.
        release: of FedGraft, when the model was made.
        align: how features have to be aligned before they are right for the head, which the model does not do; None:
            as they come.
        feature_names: of ready features, in the order in which the model takes them, where the run knew them.
        adapters: the cut past which the backbone has modules of a method's own, and the method; None: it has none.
    """

    name: str
    run_id: str
    task: Task
    loss: str
    label_names: tuple[str, ...]
    head: HeadSettings
    backbone: BackboneSettings
    info: BackboneInfo
    release: str = __version__
    adapters: UnfreezeSettings | None = None
    align: Coral | AdaBn | None = None
    feature_names: tuple[str, ...] = ()

    @property
    def takes(self) -> Kind:
        """The kind of the input: `images`, `features` and so on; also its name."""
        return self.info.takes

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input: `(3, size, size)`, `(feature_dim,)` and so on."""
        return (self.info.feature_dim,) if self.takes == "features" else self.info.preprocessing.input_shape

    @property
    def output_names(self) -> tuple[str, ...]:
        """`values` for real numbers, otherwise `logits` and `probabilities`."""
        return ("values",) if self.task == "real" else ("logits", "probabilities")

    @property
    def input_text(self) -> str:
        """What a caller gives, in words."""
        shape = ", ".join(["batch", *map(str, self.input_shape)])
        what = f"{self.takes}: float32 ({shape})"
        steps = self.info.preprocessing
        if isinstance(steps, TextPreprocessing):
            return (
                f"texts: int64 {' and '.join(TOKEN_INPUTS)} (batch, tokens), {steps.max_length} tokens at most, of the "
                f"tokenizer {steps.tokenizer[:12]} (sha256 of its tokenizer.json); the mask is 1 where there is a token"
            )
        if self.feature_names:
            what = f"{what}: {listed(self.feature_names, 10)}"
        if isinstance(steps, SoundPreprocessing):
            heard = f"{steps.seconds:g} s at {steps.sample_rate} Hz"
            return (
                f"{what}, mono from -1 to 1, {heard}, longer ones cut and shorter ones filled up with zeros at the end"
            )
        if not isinstance(steps, ImagePreprocessing):
            return what
        resized = f"resized with {steps.interpolation} interpolation"
        return f"{what}, RGB from 0 to 1, the whole picture {resized}; normalisation is inside"

    def to_metadata(self) -> dict[str, str]:
        """Return it as texts by name, which every kind of file can carry; lists and settings are JSON."""
        steps, of_images = self.info.preprocessing, {}
        if isinstance(steps, ImagePreprocessing):
            of_images = {"input_size": str(steps.input_size), "interpolation": steps.interpolation}
        return {
            "format": "fedgraft",
            "schema": str(SCHEMA),
            "fedgraft": self.release,
            "name": self.name,
            "run_id": self.run_id,
            "task": self.task,
            "loss": self.loss,
            "label_names": json.dumps(self.label_names, ensure_ascii=False),
            "input": self.input_text,
            **of_images,
            "head": self.head.model_dump_json(),
            "backbone": self.backbone.model_dump_json(),
            "backbone_info": json.dumps(self.info.as_json()),
            **({} if self.adapters is None else {"adapters": self.adapters.model_dump_json()}),
            **({} if self.align is None else {"align": self.align.model_dump_json()}),
            **({"feature_names": json.dumps(self.feature_names, ensure_ascii=False)} if self.feature_names else {}),
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], origin: str) -> Card:
        """Return the card that `to_metadata` wrote; `origin` names the file in errors.

        Raises:
            ModelError: it is no card, damaged, or of another release's layout.
        """
        if metadata.get("format") != "fedgraft":
            raise ModelError(
                f"{origin} holds no model that FedGraft exported; write one with: fedgraft export RUN --to FILE"
            )
        try:
            check_number("schema", int(metadata["schema"]), SCHEMA, origin)
            return cls(
                name=metadata["name"],
                run_id=metadata["run_id"],
                task=_TASK.validate_python(metadata["task"]),
                loss=metadata["loss"],
                label_names=tuple(json.loads(metadata["label_names"])),
                head=_HEAD.validate_json(metadata["head"]),
                backbone=BackboneSettings.model_validate_json(metadata["backbone"]),
                info=BackboneInfo.from_json(json.loads(metadata["backbone_info"])),
                release=metadata["fedgraft"],
                adapters=UnfreezeSettings.model_validate_json(metadata["adapters"]) if "adapters" in metadata else None,
                align=_LOCAL.validate_json(metadata["align"]) if "align" in metadata else None,
                feature_names=tuple(json.loads(metadata.get("feature_names", "[]"))),
            )
        except WireError as error:
            raise ModelError(str(error)) from error
        except (KeyError, TypeError, ValueError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else repr(error)
            raise ModelError(f"the description in {origin} is damaged: {reason}; export the run again") from error
