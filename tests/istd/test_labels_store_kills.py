"""The label store when its process is killed or its disk is full: the last whole version stays."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from label_store_recipe import NAMES, SIZES, assert_same, label, new_store, sparse_label

from istd.errors import WriteError
from istd.labels import LabelStore

# Labels are a function of (version, image), so a child process and its parent agree on what must be there.
CHILD = """
import os, resource, signal, sys
from pathlib import Path
import numpy as np
from istd.errors import WriteError
from istd.labels import LabelStore
from istd.labels import _store_format as disk

def label(version, image, size):
    return np.random.default_rng([version, image]).random(size, dtype=np.float32)

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

path, mode = Path(sys.argv[1]), sys.argv[2]
store = LabelStore.open(path)
print("ready", flush=True)
if mode == "assemble":
    disk._put_parts = die
elif mode == "flush":
    os.fsync = die
elif mode == "rename":
    Path.replace = die
elif mode.startswith("limit"):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = int(mode.removeprefix("limit"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        store.commit(1, {0: label(1, 0, store.sizes[0])})
    except WriteError as error:
        print("refused", store.latest)
    sys.exit(0)
while True:
    version = store.latest + 1
    changes = {i: label(version, i, size) for i, size in enumerate(store.sizes)}
    store.commit(version, changes, note=str(version))
"""


def run_child(path: Path, mode: str) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), mode], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "ready"
    return child


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is a POSIX signal")
@pytest.mark.parametrize("moment", ["assemble", "flush", "rename"])
def test_a_kill_inside_a_commit_leaves_the_previous_version(tmp_path: Path, moment: str) -> None:
    store = new_store(tmp_path)
    before = store.path.read_bytes()
    child = run_child(store.path, moment)
    assert child.wait(60) == -signal.SIGKILL
    assert store.path.read_bytes() == before
    assert LabelStore.open(store.path).latest == 0


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is a POSIX signal")
def test_kills_at_random_moments_lose_at_most_the_commit_in_progress(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    rng = np.random.default_rng(0)
    for _ in range(3):
        before, written = LabelStore.open(store.path).latest, store.path.stat().st_mtime_ns
        child = run_child(store.path, "run")
        while store.path.stat().st_mtime_ns == written and child.poll() is None:
            time.sleep(0.001)
        time.sleep(float(rng.uniform(0.0, 0.05)))
        child.kill()
        child.wait(60)
        found = LabelStore.open(store.path, names=NAMES, sizes=SIZES)
        assert found.latest > before
        assert_same(found.labels(), [label(found.latest, i, size) for i, size in enumerate(SIZES)])
    assert [entry.note for entry in found.history()] == [
        "first",
        *(str(v) for v in range(1, found.latest + 1)),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="a file size limit stands in for a full disk")
@pytest.mark.parametrize("share", [0.1, 0.9, 1.05])
def test_a_full_disk_is_an_error_and_the_store_stays(tmp_path: Path, share: float) -> None:
    store = new_store(tmp_path)
    before = store.path.read_bytes()
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(store.path), f"limit{int(len(before) * share)}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == ["ready", "refused", "0"]
    assert store.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["labels.h5"]


def test_a_disk_that_fails_to_flush_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = store.path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(WriteError, match="No space left"):
            store.commit(1, {1: sparse_label(1, SIZES[1])})
    assert store.path.read_bytes() == before
    assert store.latest == 0
    assert_same([store.label(1)], [label(0, 1, SIZES[1])])
    assert store.commit(1, {1: sparse_label(1, SIZES[1])}) == 1  # once there is space, the same store goes on
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(WriteError, match="No space left"):
            store.truncate(0)
    assert store.latest == LabelStore.open(store.path).latest == 1
    assert_same([store.label(1)], [sparse_label(1, SIZES[1])])
