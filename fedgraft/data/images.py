"""Decode image files as a person sees them: turned by EXIF, on white where transparent, RGB of 8 bits."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

DECODER = b"decoded-1"  # part of each sample's digest: stored features are void when the rules below change
_PORTABLE_MAPS = frozenset({".pbm", ".pgm", ".pnm", ".ppm", ".tga"})
_COMMON = frozenset({".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
SUFFIXES = _COMMON | _PORTABLE_MAPS


def decode(file: Path | io.BytesIO) -> NDArray[np.uint8]:
    """Return the (first) picture of an image file as `(H, W, 3)` uint8.

    Raises:
        OSError, ValueError, SyntaxError, MemoryError: the file is damaged, cut off or no image.
    """
    from PIL import Image, ImageOps

    with Image.open(file) as opened:
        turned = ImageOps.exif_transpose(opened)
        return np.asarray(_to_rgb(turned), dtype=np.uint8)


def _to_rgb(picture: Image) -> Image:
    from PIL import Image

    if picture.mode.startswith("I"):
        # 16-bit grey (also where Pillow widens it to 32): full range to full range.
        grey = np.clip(np.asarray(picture).astype(np.float64) / 257, 0, 255)
        return Image.fromarray(np.rint(grey).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise ValueError("a picture of floating-point numbers has no known range")
    if picture.has_transparency_data:
        coloured = picture.convert("RGBA")
        white = Image.new("RGBA", coloured.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, coloured).convert("RGB")
    return picture.convert("RGB")


def inspect(path: Path) -> tuple[bytes, str]:
    """Return the digest of a file's content (16 bytes), and why it can't be decoded, or an empty text.

    JPEGs are decoded at an eighth of their size: every byte is read, at a fraction of the time.
    """
    from PIL import Image

    try:
        data = path.read_bytes()
        state = hashlib.blake2b(data, digest_size=16, person=DECODER)
        with Image.open(io.BytesIO(data)) as picture:
            if picture.mode == "F":
                raise ValueError("a picture of floating-point numbers has no known range")
            picture.draft(picture.mode, (max(picture.width // 8, 1), max(picture.height // 8, 1)))
            picture.load()
    except (OSError, ValueError, SyntaxError, MemoryError, ArithmeticError, LookupError) as error:
        return bytes(16), str(error).splitlines()[0] if str(error) else type(error).__name__
    except Image.DecompressionBombError:
        return bytes(16), "too many pixels"
    return state.digest(), ""
