"""Fuzzing of point files: CSV, JSON and COCO are read exactly as they say, or refused by name."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from fuzzing import JSON, altered, answer, damaged, fuzz, put
from hypothesis import given
from hypothesis import strategies as st

from istd.data import read_points
from istd.errors import DataError

_IMAGES = {"a", "b", "x.y", "ü", "with space"}
_CELL = st.sampled_from(
    [
        "1",
        "2.5",
        "-3",
        "+4",
        "1e3",
        "nan",
        "inf",
        "1e999",
        "1_0",
        "",
        " ",
        "0x1",
        "9" * 30,
        "9" * 5000,
        "１",
        "1,5",
        "a",
    ]
)
_NAME = st.sampled_from(
    ["a", "b.png", "x.y", "ü", "with space", "c", "", "../a", "a\0", "/a", "a\ud800", "A"]
)


def _read(data: str | bytes, suffix: str) -> dict[str, list[list[int]]] | None:
    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder) / f"points{suffix}", data)
        found = answer(lambda: read_points(path, _IMAGES), path)
    for some in (found or {}).values():
        assert some.dtype.kind == "i"
        assert some.shape[1:] == (2,)
    return None if found is None else {name: some.tolist() for name, some in found.items()}


@fuzz(6)
@given(
    st.sampled_from(
        ["name,y,x", "name,x,y", "x,name,y,note", "name,y", "name,y,x,y", "", "\ufeffname,y,x", "Name,Y,X"]
    ),
    st.lists(st.tuples(_NAME, _CELL, _CELL), max_size=4),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_csv_says_what_it_says(header: str, rows: list[tuple[str, str, str]], end: str) -> None:
    text = end.join([header, *(",".join(row) for row in rows)])
    found = _read(text, ".csv")
    if found is not None and header in ("name,y,x", "\ufeffname,y,x"):
        expected: dict[str, list[list[int]]] = {}
        for name, y, x in rows:
            some = expected.setdefault(name.removesuffix(".png"), [])
            if (y, x) != ("", ""):
                point = [round(float(y)), round(float(x))]
                some += [] if point in some else [point]
        assert found == expected
        assert not any("_" in cell or "１" in cell for row in rows for cell in row[1:])


_COCO = {
    "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "in/b.png"}],
    "annotations": [
        {"image_id": 1, "keypoints": [4, 3, 2]},
        {"image_id": 2, "bbox": [1, 2, 3, 4]},
        {"image_id": 2, "segmentation": [[0, 0, 4, 0, 4, 4]]},
    ],
}
_PLAIN = {"a": [[1, 2], [3.5, 4]], "b.png": [], "x.y": [["5", 6]]}


@fuzz(6)
@given(altered(_COCO) | altered(_PLAIN) | JSON)
def test_json_is_read_or_refused(value: Any) -> None:
    found = _read(json.dumps(value), ".json")
    if found is not None:
        assert set(found) <= _IMAGES


@fuzz(3)
@given(
    st.sampled_from([".csv", ".json"]).flatmap(
        lambda suffix: st.tuples(
            st.just(suffix),
            damaged(b"name,y,x\na,1,2\nb,3.5,4\nx.y,,\n" if suffix == ".csv" else json.dumps(_COCO).encode()),
        )
    )
)
def test_damaged_files_are_read_or_refused(case: tuple[str, bytes]) -> None:
    _read(case[1], case[0])


# What the fuzzing found.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,y,x\na,1e300,2\n", "line 2 is not a point"),
        ("name,y,x\na,1_0,2\n", "line 2 is not a point"),
        ("name,y,x\na,1,5,2,5\n", "line 2 has more cells"),
        ("name,y,x,y\na,1,2,3\n", "two columns of one name"),
    ],
)
def test_csv_that_would_be_misread_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_points(put(tmp_path / "points.csv", text), _IMAGES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": [[1, 2]], "a": [[3, 4]]}', "occurs twice"),
        ('{"a": [[1, 1e300]]}', "is not a point"),
        ('{"a": [[true, 1]]}', "is not a point"),
        ('{"a": ' + "[" * 100_000, "cannot be read"),
        ('{"a": [[' + "1" * 5000 + ", 2]]}", "cannot be read"),
    ],
)
def test_json_that_would_be_misread_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_points(put(tmp_path / "points.json", text), _IMAGES)


def _coco(tmp_path: Path, images: list[Any], annotation: dict[str, Any]) -> Path:
    return put(tmp_path / "points.json", json.dumps({"images": images, "annotations": [annotation]}))


def test_coco_ids_and_sizes(tmp_path: Path) -> None:
    one = {"id": 1, "file_name": "a.png"}
    with pytest.raises(DataError, match="two images have one id"):
        read_points(_coco(tmp_path, [one, {"id": 1, "file_name": "b.png"}], {"image_id": 1}), _IMAGES)
    for annotation in ({"keypoints": [10**400, 1, 2]}, {"segmentation": [[10**400, 0, 1, 1]]}):
        with pytest.raises(DataError, match="COCO file is damaged"):
            read_points(_coco(tmp_path, [one], {"image_id": 1, **annotation}), _IMAGES)


def test_coco_keypoint_that_is_not_labelled(tmp_path: Path) -> None:
    # COCO writes 0, 0, 0 for a keypoint that nobody set: the box says where the target is.
    annotation = {"image_id": 1, "keypoints": [0, 0, 0], "bbox": [4, 6, 2, 2]}
    found = read_points(_coco(tmp_path, [{"id": 1, "file_name": "a.png"}], annotation), _IMAGES)
    assert found["a"].tolist() == [[6, 4]]  # (6.5, 4.5), exact halves to the even pixel
