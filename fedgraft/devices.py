"""Where heads are trained, and how exactly: the device of a process, and the precision of its large products."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedgraft.compute_settings import Device
from fedgraft.errors import LaunchError

if TYPE_CHECKING:
    import torch


def device_of(name: Device) -> torch.device:
    """Return the device of a setting; `auto` is a CUDA device if this process sees one.

    Raises:
        LaunchError: `cuda`, and there is none.
    """
    import torch

    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise LaunchError(
            "runtime.device is cuda, but this process sees no CUDA device; set it to auto or cpu, or look at the "
            "driver, at CUDA_VISIBLE_DEVICES and at whether this torch is built for CUDA (torch.version.cuda)"
        )
    return torch.device("cuda", torch.cuda.current_device())


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 faster than float32; without AVX-512 it takes three times as long."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def numpy_is_faster(device: torch.device) -> bool:
    """Whether NumPy's OpenBLAS takes small and skinny products instead of torch: on the CPU."""
    return device.type == "cpu"


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let CUDA round the factors of float32 products to 10 bits within the block, or not."""
    import torch

    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
