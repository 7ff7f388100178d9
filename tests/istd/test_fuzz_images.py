"""Fuzzing of image files: every kind of pixels and every damage is read rightly or refused by name."""

from __future__ import annotations

import io
import struct
import tempfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from fuzzing import answer, damaged, fuzz, in_small_child, put
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from istd.data import read_gray, read_point_image
from istd.data._imagefile import read_mask, read_mode, read_raw
from istd.errors import DataError

_MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB"),
    "GIF": ("P",),
    "WEBP": ("RGB", "RGBA"),
}


@st.composite
def pictures(draw: st.DrawFn) -> tuple[bytes, str, str]:
    """An image file, its format and its mode."""
    kind = draw(st.sampled_from(sorted(_MODES)))
    mode = draw(st.sampled_from(_MODES[kind]))
    height, width = draw(st.sampled_from([(1, 1), (1, 9), (7, 5), (16, 16), (3, 40)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.integers(0, 256, (height, width), np.uint8)
    if draw(st.booleans()):
        values = (values > 250).astype(np.uint8) * draw(st.sampled_from([1, 255]))
    if mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16) * draw(st.sampled_from([1, 16, 257])))
    elif mode in ("YCbCr", "LAB", "CMYK"):
        image = Image.merge("RGB", [Image.fromarray(values)] * 3)
        image = image.convert(mode) if mode != "LAB" else Image.merge("LAB", [Image.fromarray(values)] * 3)
    else:
        image = Image.fromarray(values).convert(mode)
    stream = io.BytesIO()
    options: dict[str, object] = {}
    if mode in ("L", "RGB", "P") and kind in ("PNG", "TIFF", "GIF") and draw(st.integers(0, 5)) == 0:
        options = {"save_all": True, "append_images": [image.copy()]}
    if kind == "TIFF" and mode == "L" and draw(st.booleans()):
        options["compression"] = "tiff_lzw"
    image.save(stream, kind, **options)
    return stream.getvalue(), kind, mode


@fuzz(2)
@given(
    pictures().flatmap(lambda one: st.tuples(damaged(one[0]), st.just(one))),
    st.sampled_from([".png", ".tif"]),
)
def test_image_files_are_read_or_refused(case: tuple[bytes, tuple[bytes, str, str]], suffix: str) -> None:
    data, (whole, kind, mode) = case
    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder) / f"picture{suffix}", data)
        gray = answer(lambda: read_gray(path), path)
        for other in (read_mask, read_raw, read_point_image):
            answer(lambda read=other: read(path), path)
        if gray is None:
            return
        assert gray.dtype == np.uint8
        assert gray.ndim == 2
        assert read_mode(path)
        if data == whole and mode in ("1", "L", "P", "RGB"):
            expected = np.asarray(Image.open(io.BytesIO(whole)).convert("L"), np.int64)
            tolerance = 12 if kind == "JPEG" else 2
            np.testing.assert_allclose(
                gray.astype(np.int64), expected, atol=tolerance, err_msg=f"{kind} {mode}"
            )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, depth: int, color: int, extra: bytes = b"", data: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _tiff(width: int, height: int) -> bytes:
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 4)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


def _looping_tiff() -> bytes:
    """A TIFF whose directory says that it is its own successor."""
    data = _tiff(4, 4)
    return data[:-4] + struct.pack("<I", 8)


_ZEROS = zlib.compress(bytes(2**27))
_BOMBS = {
    "png": _png(2**31 - 1, 2**31 - 1, 16, 6),
    "png.wide": _png(2**31 - 1, 1, 8, 0, data=zlib.compress(bytes(100))),
    "png.text": _png(4, 4, 8, 0, _chunk(b"zTXt", b"a\0\0" + _ZEROS), zlib.compress(bytes(20))),
    "png.profile": _png(4, 4, 8, 0, _chunk(b"iCCP", b"a\0\0" + _ZEROS), zlib.compress(bytes(20))),
    "png.pixels": _png(4, 4, 8, 0, data=_ZEROS),
    "tif": _tiff(2**31 - 1, 2**31 - 1),
    "tif.loop": _looping_tiff(),
    "bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0),
    "jpg": bytes.fromhex("ffd8ffc0000b08ffffffff01011100ffd9"),
}


@pytest.mark.parametrize("kind", sorted(_BOMBS))
def test_files_that_claim_to_be_huge_take_no_memory(tmp_path: Path, kind: str) -> None:
    path = put(tmp_path / f"bomb.{kind.partition('.')[0]}", _BOMBS[kind])
    told = in_small_child(lambda: read_gray(path), megabytes=100)
    assert told in ("DataError", "answer"), told


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("empty.png", lambda path: path.write_bytes(b"")),
        ("folder.png", lambda path: path.mkdir()),
        ("loop.png", lambda path: path.symlink_to(path)),
        ("nowhere.png", lambda path: path.symlink_to("absent")),
    ],
)
def test_what_is_no_image_file_is_named(tmp_path: Path, name: str, make: object) -> None:
    path = tmp_path / name
    make(path)  # type: ignore[operator]
    with pytest.raises(DataError, match=name):
        read_gray(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.png")
    assert in_small_child(lambda: read_gray(tmp_path / "pipe.png"), seconds=20) == "DataError"


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_mask_is_turned_as_its_image_is(tmp_path: Path, kind: str) -> None:
    values = np.zeros((16, 40), np.uint8)
    values[:8, :8] = 255
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown turned by 90°
    Image.fromarray(values).save(tmp_path / "turned", kind, exif=turned, quality=100)
    image, mask = read_gray(tmp_path / "turned"), read_mask(tmp_path / "turned", 0.5)
    assert image.shape == mask.shape == (40, 16)
    np.testing.assert_array_equal(mask, image > 127)


def test_colours_of_print_are_read_as_they_look(tmp_path: Path) -> None:
    gray = np.full((8, 8), 40, np.uint8)
    path = tmp_path / "print.jpg"
    Image.fromarray(gray).convert("RGB").convert("CMYK").save(path, quality=100)
    assert abs(int(read_gray(path).mean()) - 40) < 4
    cv2.imwrite(str(tmp_path / "plain.png"), gray)
    assert int(read_gray(tmp_path / "plain.png").mean()) == 40
