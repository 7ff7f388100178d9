"""Fuzzing of dataset folders and split files: every layout, with every fault, is read or refused by name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from fuzzing import answer, fuzz, put
from hypothesis import given
from hypothesis import strategies as st

from istd.data import SPLITS, open_dataset
from istd.data.layouts._files import read_split
from istd.doctor import diagnose
from istd.errors import DataError


def _png(values: np.ndarray) -> bytes:
    return cv2.imencode(".png", values)[1].tobytes()


_IMAGE = _png(np.arange(96, dtype=np.uint8).reshape(8, 12))
_SPOT = np.zeros((8, 12), np.uint8)
_SPOT[3:5, 4:6] = 255
_MASK = _png(_SPOT)
_DOT = np.zeros((8, 12), np.uint8)
_DOT[3, 4] = 255
_POINT = _png(_DOT)
_CONTENTS = {
    "image": _IMAGE,
    "mask": _MASK,
    "point": _POINT,
    "empty": b"",
    "text": b"not an image",
    "cut": _IMAGE[:40],
    "deep": _png(np.full((8, 12), 4000, np.uint16)),
    "alpha": _png(np.full((8, 12, 4), 90, np.uint8)),
    "tiny": _png(np.zeros((1, 1), np.uint8)),
    "double": _png(np.zeros((16, 24), np.uint8)),
    "odd": _png(np.zeros((9, 5), np.uint8)),
    "gray": _png(np.arange(96, dtype=np.uint8).reshape(8, 12)),
    "white": _png(np.full((8, 12), 255, np.uint8)),
}

# Layout → where images, masks and point images lie, and the split files.
_TREES: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "sirst-v1": (
        "images/{}.png",
        "masks/{}_pixels0.png",
        "points/{}.png",
        {s: f"idx_427/{s}.txt" for s in SPLITS},
    ),
    "sirst-v2": (
        "mixed/{}.png",
        "annotations/masks/{}_pixels0.png",
        "points/{}.png",
        {s: f"splits/{s}_full.txt" for s in SPLITS},
    ),
    "dnanet": (
        "images/{}.png",
        "masks/{}.png",
        "masks_centroid/{}.png",
        {s: f"50_50/{s}.txt" for s in SPLITS},
    ),
    "sirst3": (
        "images/{}.png",
        "labels/{}.png",
        "masks_centroid/{}.png",
        {s: f"mode/{s}.txt" for s in SPLITS},
    ),
    "pal": ("origin/img/{}.png", "origin/mask/{}.png", "origin/masks_centroid/{}.png", {}),
    "folder": ("images/{}.png", "masks/{}.png", "points/{}.png", {s: f"{s}.txt" for s in SPLITS}),
}

_NAMES = st.sampled_from(
    [
        "a",
        "b",
        "A",
        "Misc_1",
        "x.y",
        "x.png",
        "with space",
        "ü",
        "e\u0301",
        "é",
        "目标",
        "a:b",
        "-rf",
        "a" * 120,
        "~",
    ]
)


def _text_of(names: list[str], style: str) -> bytes:
    joined = {"crlf": "\r\n", "blank": "\n\n \n"}.get(style, "\n").join(names)
    data = joined.encode()
    return b"\xef\xbb\xbf" + data if style == "bom" else data


@st.composite
def folders(draw: st.DrawFn) -> tuple[str, dict[str, list[str]], list[Callable[[Path], None]]]:
    """A layout, its splits, and what makes the folder: files first, then faults."""
    layout = draw(st.sampled_from(sorted(_TREES)))
    names = draw(st.lists(_NAMES, min_size=1, max_size=5, unique=True))
    cut = sorted(draw(st.tuples(st.integers(0, len(names)), st.integers(0, len(names)))))
    splits = {"train": names[: cut[0]], "val": names[cut[0] : cut[1]], "test": names[cut[1] :]}
    image, mask, point, lists = _TREES[layout]
    actions: list[Callable[[Path], None]] = []

    def write(name: str, data: bytes) -> None:
        actions.append(lambda root: put(root / name, data) and None)

    for name in names:
        write(image.format(name), _IMAGE)
        if draw(st.integers(0, 3)):
            write(mask.format(name), _MASK)
        if draw(st.booleans()):
            write(point.format(name), _POINT)
    if draw(st.integers(0, 4)) or layout != "folder":
        style = draw(st.sampled_from(["plain", "crlf", "bom", "blank"]))
        for split, path in lists.items():
            write(path, _text_of(splits[split], style))
    if draw(st.integers(0, 3)) == 0:
        rows = [f"{name},3,4" for name in names]
        write("points.csv", "\n".join(["name,y,x", *rows]).encode())
    return layout, splits, actions


@st.composite
def faults(draw: st.DrawFn) -> Callable[[Path], None]:
    """Something that goes wrong with one path of a folder, whichever it holds."""
    kind = draw(
        st.sampled_from(
            ["remove", "content", "folder", "loop", "astray", "rename", "copy", "text", "extra", "bytes"]
        )
    )
    which, content = draw(st.integers(0, 40)), draw(st.sampled_from(sorted(_CONTENTS)))
    text = draw(
        st.binary(max_size=30) | st.sampled_from([b"../a", b"/etc/passwd", b"a\0b", b"a\na\n", b"\xff\xfe"])
    )

    def spoil(root: Path) -> None:
        paths = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
        if not paths:
            return
        path = paths[which % len(paths)]
        match kind:
            case "remove":
                path.unlink()
            case "content":
                path.write_bytes(_CONTENTS[content])
            case "folder":
                path.unlink()
                path.mkdir()
            case "loop":
                path.unlink()
                path.symlink_to(path.name)
            case "astray":
                path.unlink()
                path.symlink_to("/etc/hostname")
            case "rename":
                path.rename(path.with_suffix(path.suffix.upper()))
            case "copy":
                put(path.with_suffix(".bmp"), path.read_bytes())
            case "text":
                path.write_bytes(text)
            case "extra":
                put(path.with_name("extra" + path.suffix), path.read_bytes())
            case "bytes":
                Path(os.fsdecode(os.fsencode(path.parent) + b"/\xff\xfe.png")).write_bytes(_IMAGE)

    return spoil


@fuzz(2)
@given(folders(), st.lists(faults(), max_size=2), st.booleans())
def test_folders_are_read_or_refused(
    made: tuple[str, dict[str, list[str]], list[Callable[[Path], None]]],
    spoils: list[Callable[[Path], None]],
    named: bool,
) -> None:
    layout, splits, actions = made
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        root.mkdir()
        for action in (*actions, *spoils):
            action(root)
        dataset = answer(lambda: open_dataset(root, layout=layout if named else None), root)
        if dataset is not None:
            assert len(dataset.split_hash()) == 64
            for name in dataset.names:
                record = answer(lambda name=name: dataset.read(name), root, name)
                if record is not None:
                    assert record.mask is None or record.mask.shape == record.image.shape
                    assert (record.points >= 0).all()
                    assert (record.points < record.image.shape).all()
            if not spoils and layout != "pal" and dataset.layout == layout and _listed(root, layout):
                assert {split: list(names) for split, names in dataset.splits.items()} == {
                    split: [_plain(name) for name in names] for split, names in splits.items()
                }
        report = answer(lambda: diagnose(root, layout=layout if named else None, scenes=False), root)
        assert report is None or report.layout


def _listed(root: Path, layout: str) -> bool:
    return all((root / path).exists() for path in _TREES[layout][3].values())


def _plain(name: str) -> str:
    return name.removesuffix(".png")


@fuzz(4)
@given(
    st.binary(max_size=60)
    | st.lists(
        st.sampled_from(
            ["a", "b.png", "", " ", "../a", "/a", "C:\\a", "a\0", "ü", "x" * 300, "\u2028", "..", "a b"]
        )
    ).flatmap(lambda lines: st.sampled_from(["\n", "\r\n", "\r"]).map(lambda end: end.join(lines).encode()))
)
def test_split_files_are_read_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder) / "train.txt", data)
        names = answer(lambda: read_split(path, Path(folder)), path)
    for name in names or ():
        assert name == name.strip() != ""
        assert not set(name) & set("/\\:\0\n\r")
        assert name not in (".", "..")
    if names is not None:
        # Nothing that stands in the file is left out.
        kept = data.decode("utf-8-sig")
        assert all(name in kept for name in names)
        assert bool(names) == bool(kept.strip())


# What the fuzzing found.


def test_a_loop_of_links_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.png").symlink_to("x.png")
    with pytest.warns(UserWarning, match="split by a hash"):
        dataset = open_dataset(tmp_path)
    with pytest.raises(DataError, match=r"x\.png: the file cannot be reached"):
        dataset.read("x")


@pytest.mark.parametrize("layout", ["folder", "dnanet"])
def test_a_split_file_that_leads_nowhere_is_not_passed_over(tmp_path: Path, layout: str) -> None:
    put(tmp_path / "images" / "a.png", _IMAGE)
    put(tmp_path / "masks" / "a.png", _MASK)
    lists = tmp_path if layout == "folder" else tmp_path / "50_50"
    for split in ("train", "test"):
        put(lists / f"{split}.txt", "a" if split == "train" else "")
    (lists / "val.txt").symlink_to("gone.txt")
    with pytest.raises(DataError, match=r"val\.txt"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("name", [b"\xff\xfe.png", b"two\nlines.png"])
def test_file_names_that_are_no_text_are_named(tmp_path: Path, name: bytes) -> None:
    (tmp_path / "images").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "images") + b"/" + name)).write_bytes(_IMAGE)
    with pytest.raises(DataError, match="a name that cannot be written"):
        open_dataset(tmp_path)
    report = diagnose(tmp_path)
    assert [finding.severity for finding in report.findings] == ["error"]


@pytest.mark.parametrize("path", ["~nobody-of-that-name/data", "a" * 5000, "nul\0byte"])
def test_paths_that_cannot_be_are_named(path: str) -> None:
    with pytest.raises(DataError, match=r"cannot be used|no such folder"):
        open_dataset(path)
    with pytest.raises(DataError, match=r"cannot be used|no such folder"):
        diagnose(path)


def test_a_pipe_for_a_split_file_is_not_waited_for(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.png", _IMAGE)
    os.mkfifo(tmp_path / "train.txt")
    with pytest.raises(DataError, match="not a file"):
        open_dataset(tmp_path)
