"""Text encoders of transformers: one contract of stages over tokens, for the families that can be cut at their layers.

A text is a row of tokens. What the backbone takes is `(N, T, 2)` integers: each token's number, and 1 where there is a
token or 0 where a shorter text was filled up. An activation is `(N, T, D + 1)`: the mask goes along as one more
channel, since every layer, and the pooling, has to know it.

The tokenizer and the description of the encoder are buffers of the model. So they are part of its digest, travel with
its weights, and stand in exported files: a site that lacks the encoder needs nothing else.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedgraft.errors import ModelError, listed
from fedgraft.models import download
from fedgraft.models.cuts import PENULTIMATE, Architecture, Stage, pool
from fedgraft.models.preprocessing import TextPreprocessing
from fedgraft.models.settings import BackboneSettings
from fedgraft.models.sources import Built
from fedgraft.models.text_files import TextFiles, files_of

TOKENIZER, DESCRIPTION = "tokenizer", "description"
"""Buffers of a text encoder, uint8: `tokenizer.json` as it is, and JSON of `config`, `max_length` and `pooling`."""

LAYERS = {
    "bert": "encoder.layer",
    "camembert": "encoder.layer",
    "roberta": "encoder.layer",
    "xlm-roberta": "encoder.layer",
    "distilbert": "transformer.layer",
}
"""Where the layers are of the families that can be cut at them, by transformers' name of the family."""


MOST_LAYERS = 200
"""Of an encoder, so that a description is refused before time and room are spent on it."""

OF_PROGRAMS = ("attn_implementation", "experts_implementation", "kernel_config", "quantization_config", "use_kernels")
"""Keys of a configuration by which transformers would load programs from elsewhere; like those of code of its own, and
all that begin with `_`, they are left out."""


class TextEncoder(nn.Module):
    """An encoder of transformers with its tokenizer.

    Attributes:
        encoder: as transformers made it, without the pooler that sentence embeddings have no use for.
    """

    tokenizer: Tensor
    description: Tensor

    def __init__(self, encoder: nn.Module, tokenizer: bytes, description: bytes) -> None:
        super().__init__()
        self.encoder = encoder
        for name, data in ((TOKENIZER, tokenizer), (DESCRIPTION, description)):
            self.register_buffer(name, torch.frombuffer(bytearray(data), dtype=torch.uint8).clone())

    def forward(self, tokens: Tensor) -> Tensor:
        """Return hidden states with their mask, `(N, T, D + 1)`."""
        return _whole(self, tokens)


def build(
    settings: BackboneSettings,
    *,
    pretrained: bool,
    arrays: Mapping[str, NDArray[Any]] | None = None,
    is_whole: bool = True,
) -> Built:
    """Return a text encoder.

    Args:
        settings: which one.
        pretrained: read its weights; otherwise they are random.
        arrays: of an encoder that came over the wire or stands in an exported file: its tokenizer and description are
            taken from there, and this machine needs none of its files.
        is_whole: whether `arrays` hold all weights, so that they bound its size.

    Raises:
        ModelError: it can't be had, is none of texts, or needs code of its own.
    """
    if arrays is None and settings.weights not in ("pretrained", "random"):
        raise ModelError(
            f"{settings.name}: the weights of a text encoder come with its folder; name that as the backbone, "
            "transformers:/path/to/folder, and leave weights out"
        )
    library = _library(settings.name)
    files = None if arrays is not None else files_of(settings.name)
    if files is None:
        tokenizer, facts = _carried(settings.name, arrays or {})
    else:
        tokenizer = files.tokenizer
        facts = {"config": files.config, "max_length": files.max_length, "pooling": files.pooling}
    config = _config(library, settings.name, facts["config"])
    if arrays is not None and is_whole:
        _check_size(library, settings.name, config, arrays)
    encoder: Any
    if pretrained and files is not None:
        encoder = _pretrained(library, files, config)
    else:
        encoder = _random(library, settings.name, config)
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    description = json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()
    _check_tokenizer(settings.name, tokenizer, config)
    return Built(
        model=TextEncoder(encoder, tokenizer, description),
        architecture=architecture(encoder, facts["pooling"]),
        preprocessing=TextPreprocessing(facts["max_length"], hashlib.sha256(tokenizer).hexdigest()),
        files=() if files is None else files.paths if pretrained else files.descriptions,
    )


def architecture(encoder: nn.Module, pooling: str) -> Architecture:
    """Return how an encoder is cut; families that aren't known here have the penultimate cut alone.

    Args:
        encoder: as transformers made it.
        pooling: `mean` or `class_token`, what its own embeddings of sentences are.
    """
    family = str(getattr(encoder.config, "model_type", ""))
    last = Stage("embedding", (), partial(_embedding, pooling))
    layers = LAYERS.get(family)
    if layers is None:
        return Architecture((Stage(PENULTIMATE, (), _whole),), last, pooling, num_prefix_tokens=1, is_masked=True)
    names = [f"encoder.{layers}.{number}" for number, _ in encoder.get_submodule(layers).named_children()]
    blocks = [Stage(f"layer.{number}", (name,), partial(_layer, name)) for number, name in enumerate(names)]
    stages = (Stage("embeddings", (), _embed), *blocks, Stage(PENULTIMATE, (), _same))
    return Architecture(stages, last, pooling, num_prefix_tokens=1, is_masked=True)


# The steps, as functions of (model, x) so that a description holds no module.
def _embed(model: nn.Module, tokens: Tensor) -> Tensor:
    encoder: Any = model.get_submodule("encoder")
    numbers, mask = _parts(tokens)
    hidden: Tensor = encoder.embeddings(input_ids=numbers)
    return _with_mask(hidden, mask)


def _layer(name: str, model: nn.Module, x: Tensor) -> Tensor:
    hidden, mask = x[..., :-1], x[..., -1]
    least = torch.finfo(hidden.dtype).min
    unseen = ((1 - mask) * least)[:, None, None, :]  # added to the scores of attention
    result = model.get_submodule(name)(hidden, attention_mask=unseen)
    return _with_mask(result[0] if isinstance(result, tuple) else result, mask)


def _same(_: nn.Module, x: Tensor) -> Tensor:
    return x


def _whole(model: nn.Module, tokens: Tensor) -> Tensor:
    encoder: Any = model.get_submodule("encoder")
    numbers, mask = _parts(tokens)
    return _with_mask(encoder(input_ids=numbers, attention_mask=mask).last_hidden_state, mask)


def _embedding(pooling: str, _: nn.Module, x: Tensor) -> Tensor:
    return pool(x, pooling, None, is_masked=True)


def _parts(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return numbers and mask of tokens, `(N, T)` int64; activations of the cut `input` are the same as floats."""
    whole = tokens.round().long() if tokens.is_floating_point() else tokens
    return whole[..., 0], whole[..., 1]


def _with_mask(hidden: Tensor, mask: Tensor) -> Tensor:
    return torch.cat([hidden, mask[..., None].to(hidden.dtype)], dim=-1)


def _library(name: str) -> Any:
    """Return the library, quiet.

    Raises:
        ModelError: it isn't installed.
    """
    download.no_telemetry()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else it warns at each fork that it may deadlock
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise ModelError(f'{name} needs the package transformers; pip install "fedgraft[text]"') from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _config(library: Any, name: str, facts: Mapping[str, Any]) -> Any:
    """Return the configuration of an encoder whose code transformers has itself.

    Raises:
        ModelError: its code isn't part of transformers, it is no encoder, or it is damaged.
    """
    kind = str(facts.get("model_type", ""))
    if kind not in library.models.auto.configuration_auto.CONFIG_MAPPING_NAMES:
        raise ModelError(
            f"{name} is of the family '{kind or 'unknown'}', which this transformers has no code for; a model's own "
            "code is never run; choose another encoder, or a newer transformers"
        )
    plain = {key: value for key, value in _plain(facts).items() if key not in ("model_type", "architectures")}
    try:
        config: Any = library.AutoConfig.for_model(kind, **plain)
    except Exception as error:  # what a damaged configuration raises differs by family
        raise ModelError(f"{name}: its config.json makes no sense to transformers: {_first_line(error)}") from error
    layers = getattr(config, "num_hidden_layers", 0)
    if not isinstance(layers, int) or layers > MOST_LAYERS:
        raise ModelError(f"{name} is described with {layers} layers, expected {MOST_LAYERS} at most; get it again")
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "vocab_size", None) is None:
        raise ModelError(f"{name} is no encoder of texts alone ({kind}); choose an encoder, such as BERT's family")
    return config


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration, and those inside it, without what would load programs."""
    return {
        key: _plain(value) if isinstance(value, dict) else value
        for key, value in facts.items()
        if not key.startswith("_") and key not in ("auto_map", *OF_PROGRAMS)
    }


def _random(library: Any, name: str, config: Any) -> nn.Module:
    try:
        model: nn.Module = library.AutoModel.from_config(config, dtype=torch.float32)
    except Exception as error:  # what a configuration of impossible sizes raises differs by family
        raise ModelError(f"transformers can't make {name}: {_first_line(error)}") from error
    return model


def _pretrained(library: Any, files: TextFiles, config: Any) -> nn.Module:
    """Return the encoder with the weights in its folder.

    Raises:
        ModelError: they are damaged, or tensors of the encoder are missing or of another shape.
    """
    _ = files.weights  # refused where there are none
    try:
        model, told = library.AutoModel.from_pretrained(
            files.folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # what a damaged file raises differs by damage
        raise ModelError(f"can't read the weights of {files.name} in {files.folder}: {_first_line(error)}") from error
    lacking = sorted(name for name in told["missing_keys"] if not name.startswith("pooler."))
    unlike = sorted(str(key[0] if isinstance(key, tuple) else key) for key in told["mismatched_keys"])
    if lacking or unlike:
        raise ModelError(
            f"the weights of {files.name} in {files.folder} don't fit its config.json: {len(lacking)} tensors missing "
            f"({listed(lacking, 3) or 'none'}), {len(unlike)} of another shape ({listed(unlike, 3) or 'none'})"
        )
    encoder: nn.Module = model
    return encoder


def _carried(name: str, arrays: Mapping[str, NDArray[Any]]) -> tuple[bytes, dict[str, Any]]:
    """Return the tokenizer and the description among the arrays of an encoder.

    Raises:
        ModelError: they are not there, or make no sense.
    """
    lacking = [part for part in (TOKENIZER, DESCRIPTION) if part not in arrays]
    if lacking:
        raise ModelError(f"the weights of {name} came without its {listed(lacking)}; they are of another backbone")
    try:
        facts = json.loads(np.asarray(arrays[DESCRIPTION], dtype=np.uint8).tobytes())
        length, pooling = facts["max_length"], facts["pooling"]
        if not isinstance(facts["config"], dict) or not isinstance(length, int) or not 1 < length <= 1_000_000:
            raise ValueError("values out of range")
        if pooling not in ("mean", "class_token") or set(facts) != {"config", "max_length", "pooling"}:
            raise ValueError("unknown values")
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the description of {name} that came with its weights makes no sense: {error}") from error
    return np.asarray(arrays[TOKENIZER], dtype=np.uint8).tobytes(), facts


def _check_size(library: Any, name: str, config: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Refuse a description of a larger model than the weights that came with it, before room is made for it.

    Raises:
        ModelError: it is larger.
    """
    with torch.device("meta"):
        described = _random(library, name, config)
    wanted = sum(value.numel() for key, value in described.state_dict().items() if not key.startswith("pooler."))
    came = sum(int(value.size) for key, value in arrays.items() if key not in (TOKENIZER, DESCRIPTION))
    if came < wanted:
        raise ModelError(f"{name} is described as {wanted:,} numbers, and {came:,} came; the weights are damaged")


def _check_tokenizer(name: str, tokenizer: bytes, config: Any) -> None:
    """Refuse a tokenizer that can't be read, or that knows more tokens than the encoder has vectors for.

    Raises:
        ModelError: it is so.
    """
    from tokenizers import Tokenizer

    try:
        known = Tokenizer.from_str(tokenizer.decode()).get_vocab_size()
    except Exception as error:  # the library raises bare exceptions
        raise ModelError(f"the tokenizer of {name} can't be read: {_first_line(error)}") from error
    if known > config.vocab_size:
        raise ModelError(
            f"the tokenizer of {name} knows {known:,} tokens, its encoder {config.vocab_size:,}; take both of one model"
        )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
