"""Words for where heads are trained and how exactly, for settings of several owners."""

from typing import Literal

Device = Literal["auto", "cpu", "cuda"]
"""What computes; `auto`: CUDA if the process sees a device, else the CPU."""

Precision = Literal["float32", "tf32", "bfloat16"]
"""Of the large products."""
