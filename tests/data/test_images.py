"""Decoding: what a person sees in the file is what comes, whatever the file's mode."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fedgraft.data.images import decode, inspect

GREY = np.arange(0, 240, 20, dtype=np.uint8).reshape(3, 4)


def through(picture: Image.Image, kind: str = "png", **options: object) -> NDArray[np.uint8]:
    """Return what is decoded of a picture saved in memory."""
    file = io.BytesIO()
    picture.save(file, format=kind, **options)
    file.seek(0)
    return decode(file)


def test_grey_becomes_three_equal_channels() -> None:
    decoded = through(Image.fromarray(GREY))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, np.stack([GREY] * 3, axis=-1))


def test_black_and_white_becomes_0_and_255() -> None:
    decoded = through(Image.fromarray(GREY > 100))
    np.testing.assert_array_equal(decoded[..., 0], np.where(GREY > 100, 255, 0))


def test_the_exif_orientation_is_honoured() -> None:
    """Orientation 6: the camera was turned, the picture is shown after 90 degrees clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = through(Image.fromarray(GREY), exif=exif)
    np.testing.assert_array_equal(decoded[..., 0], np.rot90(GREY, k=-1))


def test_transparency_is_laid_on_white() -> None:
    """Of red with alpha 0, 51 and 255: white, a fifth of red over white, and red."""
    pixels = np.array([[[255, 0, 0, 0], [255, 0, 0, 51], [255, 0, 0, 255]]], dtype=np.uint8)
    expected = [[[255, 255, 255], [255, 204, 204], [255, 0, 0]]]
    np.testing.assert_allclose(through(Image.fromarray(pixels)), expected, atol=1)


def test_palette_and_its_transparent_colour() -> None:
    picture = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), mode=None).convert("L")
    paletted = Image.new("P", picture.size)
    paletted.putpalette([10, 20, 30, 200, 100, 0, 1, 2, 3])
    paletted.putdata([0, 1, 2])
    np.testing.assert_array_equal(through(paletted), [[[10, 20, 30], [200, 100, 0], [1, 2, 3]]])
    np.testing.assert_array_equal(through(paletted, transparency=1), [[[10, 20, 30], [255, 255, 255], [1, 2, 3]]])


def test_16_bit_grey_keeps_its_full_range() -> None:
    deep = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    np.testing.assert_array_equal(through(Image.fromarray(deep))[0, :, 0], [0, 1, 128, 255])
    np.testing.assert_array_equal(through(Image.fromarray(deep), "tiff")[0, :, 0], [0, 1, 128, 255])


def test_cmyk_jpeg_is_shown_in_its_colours() -> None:
    decoded = through(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "jpeg", quality=100)
    np.testing.assert_allclose(decoded, np.broadcast_to([255, 0, 0], (8, 8, 3)), atol=6)


def test_the_first_picture_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    decoded = through(frames[0], "gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decoded, np.broadcast_to([255, 0, 0], (4, 4, 3)))


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "tiff", "webp"])
def test_a_file_cut_off_is_found(tmp_path: Path, kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"a.{kind}"
    Image.fromarray(pixels).save(path)
    digest, fault = inspect(path)
    assert fault == ""
    assert len(digest) == 16
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert inspect(path)[1] != ""


def test_what_is_no_image_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    (tmp_path / "b.png").write_bytes(b"")
    Image.fromarray(np.zeros((2, 2), dtype=np.float32)).save(tmp_path / "c.tiff")
    assert "cannot identify image file" in inspect(tmp_path / "a.png")[1]
    assert "cannot identify image file" in inspect(tmp_path / "b.png")[1]
    assert "floating-point" in inspect(tmp_path / "c.tiff")[1]
    with pytest.raises(ValueError, match="floating-point"):
        decode(tmp_path / "c.tiff")
    assert inspect(tmp_path / "absent.png")[1] != ""


def test_equal_content_has_an_equal_digest(tmp_path: Path) -> None:
    for name, grey in (("a", 1), ("b", 1), ("c", 2)):
        Image.new("L", (4, 4), grey).save(tmp_path / f"{name}.png")
    digests = [inspect(tmp_path / f"{name}.png")[0] for name in "abc"]
    assert digests[0] == digests[1] != digests[2]
