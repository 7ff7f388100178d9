from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from istd.data import read_gray, read_mask
from istd.errors import DataError

GRAY = np.random.default_rng(0).integers(0, 256, (12, 17), np.uint8)


def save(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(path)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_gray_in_any_dress(tmp_path: Path, suffix: str, mode: str) -> None:
    np.testing.assert_array_equal(read_gray(save(tmp_path / f"a.{suffix}", GRAY, mode)), GRAY)


def test_alpha_is_dropped(tmp_path: Path) -> None:
    array = np.dstack([GRAY, GRAY, GRAY, np.full_like(GRAY, 7)])
    np.testing.assert_array_equal(read_gray(save(tmp_path / "a.png", array)), GRAY)


def test_colour_is_weighted(tmp_path: Path) -> None:
    array = np.zeros((4, 4, 3), np.uint8)
    array[..., 1] = 100
    # 0.587 of 100; decoders round or truncate.
    assert read_gray(save(tmp_path / "a.png", array)).tolist() in ([[58] * 4] * 4, [[59] * 4] * 4)


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.tile(np.arange(0, 160, 5, dtype=np.uint8), (32, 1))
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth).save(path, quality=95)
    image = read_gray(path)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - smooth).max() <= 4


def test_sixteen_bits_are_stretched_from_minimum_to_maximum(tmp_path: Path) -> None:
    raw = np.array([[7000, 7100], [7150, 7200]], np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), raw)
    assert read_gray(tmp_path / "a.png").tolist() == [[0, 128], [191, 255]]
    cv2.imwrite(str(tmp_path / "b.tif"), np.full((3, 3), 4000, np.uint16))
    assert read_gray(tmp_path / "b.tif").tolist() == [[0] * 3] * 3


def test_eight_bits_in_a_sixteen_bit_file_stay_as_they_are(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), GRAY.astype(np.uint16))
    np.testing.assert_array_equal(read_gray(tmp_path / "a.png"), GRAY)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png.*missing"):
        read_gray(tmp_path / "gone.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_truncated_images_are_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"cut.{suffix}", np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    path.write_bytes(path.read_bytes()[:-1500])
    with pytest.raises(DataError, match=rf"cut\.{suffix}"):
        read_gray(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(40)])
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"odd\.png"):
        read_gray(path)


def test_damaged_pixels_are_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(GRAY).save(stream, "png")
    data = bytearray(stream.getvalue())
    data[60] ^= 0xFF
    (tmp_path / "flip.png").write_bytes(data)
    with pytest.raises(DataError, match=r"flip\.png"):
        read_gray(tmp_path / "flip.png")


def test_float_images_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "f.tiff"), GRAY.astype(np.float32))
    with pytest.raises(DataError, match="float32"):
        read_gray(tmp_path / "f.tiff")


def test_several_pages_are_refused(tmp_path: Path) -> None:
    page = Image.fromarray(GRAY)
    page.save(tmp_path / "two.tif", save_all=True, append_images=[page])
    with pytest.raises(DataError, match="several pages"):
        read_gray(tmp_path / "two.tif")


@pytest.mark.parametrize("side", [9000, 30000])
def test_decompression_bombs_are_refused_before_they_are_decoded(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )
    with pytest.raises(DataError, match="too large"):
        read_gray(path)


@pytest.mark.parametrize("value", [1, 38, 255])
def test_masks_of_two_values(tmp_path: Path, value: int) -> None:
    mask = GRAY > 200
    path = save(tmp_path / "m.png", (mask * value).astype(np.uint8))
    found = read_mask(path)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, mask)


def test_masks_in_other_formats(tmp_path: Path) -> None:
    mask = GRAY > 200
    Image.fromarray(mask).save(tmp_path / "bits.png")
    colour = np.zeros((*mask.shape, 3), np.uint8)
    colour[mask, 0] = 128
    save(tmp_path / "red.png", colour)
    for name in ("bits.png", "red.png"):
        np.testing.assert_array_equal(read_mask(tmp_path / name), mask)


@pytest.mark.parametrize("value", [0, 255])
def test_masks_of_one_value(tmp_path: Path, value: int) -> None:
    assert read_mask(save(tmp_path / "m.png", np.full((3, 4), value, np.uint8))).all() == (value > 0)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.array([[0, 100, 255]], np.uint8), "3 values: 0, 100, 255"),
        (np.array([[1, 2]], np.uint8), "2 values: 1, 2"),
        (GRAY, "values: "),
    ],
)
def test_gray_masks_are_refused_and_the_values_named(tmp_path: Path, array: np.ndarray, found: str) -> None:
    path = save(tmp_path / "soft.png", array)
    with pytest.raises(DataError, match=found) as caught:
        read_mask(path)
    assert "soft.png" in str(caught.value)
    assert "--mask-threshold" in str(caught.value)


def test_soft_edges_are_cut_where_the_caller_says(tmp_path: Path) -> None:
    soft = np.zeros((20, 20), np.uint8)
    soft[5:9, 5:9] = 255
    soft[5, 5], soft[8, 8] = 100, 180
    path = save(tmp_path / "soft.png", soft)
    with pytest.raises(DataError):
        read_mask(path)
    assert read_mask(path, threshold=0.5).sum() == 15
    assert read_mask(path, threshold=0.25).sum() == 16


def test_jpeg_masks_are_cut_where_the_caller_says(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[20:28, 30:37] = 255
    path = tmp_path / "m.jpg"
    Image.fromarray(mask).save(path, quality=80)
    with pytest.raises(DataError):
        read_mask(path)
    np.testing.assert_array_equal(read_mask(path, threshold=0.5), mask > 0)


def test_a_photograph_is_no_mask_whatever_the_threshold(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not binary"):
        read_mask(save(tmp_path / "photo.png", GRAY), threshold=0.5)
