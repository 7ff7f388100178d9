"""What the fuzz tests share: how many cases, what counts as a sound answer, and a child with little memory.

`ISTD_FUZZ_EXAMPLES` sets the cases of a test (12 by default, the same ones every time; any other number draws
new ones).
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from istd.errors import IstdError

T = TypeVar("T")

_CASES = os.environ.get("ISTD_FUZZ_EXAMPLES")

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**30, 10**400, -1, 0, 2**31, 2**63])
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["\ud800", "a\0b", "../x", "é", "ä" * 300]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
"""Anything that JSON can hold, and some things that it can hold in Python only."""


def fuzz(share: float = 1.0) -> settings:
    """Settings of a fuzz test that takes `share` of the usual number of cases."""
    return settings(
        max_examples=max(3, round(int(_CASES or 12) * share)),
        deadline=None,  # a busy machine is not a fault; pytest-timeout ends what hangs
        derandomize=_CASES is None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate),  # shrinking takes minutes; the blob repeats a failure
        print_blob=True,
    )


def answer(action: Callable[[], T], *mentions: object) -> T | None:
    """What `action` answers; None if it raises an error of `istd` whose message has one of `mentions`.

    Any other exception goes through and fails the test.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return action()
        except IstdError as error:
            text = str(error)
            text.encode("utf-8")
            assert text.strip(), "an error without a word"
            assert not mentions or any(str(one) in text for one in mentions), text
            return None


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """`data`, cut, extended, or with some bytes changed."""
    kind = draw(st.sampled_from(["cut", "flip", "zero", "insert", "append", "nothing"]))
    at = draw(st.integers(0, max(0, len(data) - 1)))
    some = draw(st.binary(min_size=1, max_size=8))
    if kind == "cut":
        return data[:at]
    if kind == "flip":
        return data[:at] + some + data[at + len(some) :]
    if kind == "zero":
        return data[:at] + bytes(min(64, len(data) - at)) + data[at + 64 :]
    if kind == "insert":
        return data[:at] + some + data[at:]
    return data + some if kind == "append" else data


@st.composite
def altered(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with one part of it, or all, replaced, removed or added."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value)))
        match draw(st.integers(0, 5)):
            case 0:
                return {name: one for name, one in value.items() if name != key}
            case 1:
                return {**value, draw(st.text(max_size=4)): draw(JSON)}
            case _:
                return {**value, key: draw(altered(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 5)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(altered(value[at])), *value[at + 1 :]]
    return draw(JSON)


def put(path: Path, data: bytes | str) -> Path:
    """Write a file, and the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)
    return path


def in_small_child(action: Callable[[], object], megabytes: int = 400, seconds: int = 60) -> str:
    """Run `action` in a copy of this process that may take only so much more memory and time.

    Returns:
        "answer", the name of the class of an error of `istd`, or what else went wrong.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            limit = used + megabytes * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            signal.alarm(seconds)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    action()
                told = "answer"
            except IstdError as error:
                told = type(error).__name__
            except BaseException:
                told = traceback.format_exc(limit=-3)
            os.write(writer, told.encode("utf-8", "replace")[:4000])
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        told = stream.read().decode()
    _, status = os.waitpid(child, 0)
    return told or f"the child ended with status {status}"
