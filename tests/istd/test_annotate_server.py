"""The annotation server: who gets in, what it answers, and the command that runs it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from istd.annotate import AnnotationServer, AnnotationSession
from istd.cli import app as cli
from istd.data import open_dataset
from istd.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore::istd.data.DataWarning")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"f{i}.png"), np.full((8, 9), 20 * i, np.uint16))
    (tmp_path / "f2.png").write_bytes(b"broken")
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[AnnotationServer]:
    with AnnotationServer(AnnotationSession(open_dataset(folder))) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.02,))
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def ask(
    server: AnnotationServer,
    path: str,
    body: Any = None,
    *,
    without: str = "",
    raw: bytes | None = None,
    **headers: str,
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """One request as the page makes it; `headers` with _ for -, `without` names one to leave out."""
    sent = {"Host": f"127.0.0.1:{server.port}", "X-Istd-Token": server.token}
    if body is not None or raw is not None:
        sent["Content-Type"] = "application/json"
    sent.update({name.replace("_", "-"): value for name, value in headers.items()})
    sent.pop(without, None)
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.putrequest("GET" if data is None else "POST", path, skip_host=True)
        for name, value in sent.items():
            connection.putheader(name, value)
        if data is not None and "Content-Length" not in sent:
            connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


CHANGE = {"name": "f1", "points": [[3, 4]], "revision": 0}


def test_reading_and_changing(server: AnnotationServer, folder: Path) -> None:
    status, _, body = ask(server, "/api/state")
    state = json.loads(body)
    assert status == 200
    assert [one["points"] for one in state["images"]] == [None, None, None]
    status, _, body = ask(server, "/api/points", CHANGE)
    assert (status, json.loads(body)["image"]) == (
        200,
        {"name": "f1", "points": [[3, 4]], "revision": 1, "error": None},
    )
    assert (folder / "points.csv").read_text() == "name,y,x\nf1,3,4\n"
    status, headers, body = ask(server, "/api/image?name=f1&low=0&high=100&gamma=1")
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED).shape == (8, 9)
    assert json.loads(ask(server, "/api/reference?name=f1")[2]) == {"points": [], "mask": False}
    assert ask(server, "/api/mask?name=f1")[0] == 404


def test_a_stale_change_is_a_conflict(server: AnnotationServer, folder: Path) -> None:
    assert ask(server, "/api/points", CHANGE)[0] == 200
    status, _, body = ask(server, "/api/points", {**CHANGE, "points": []})
    assert status == 409
    assert "changed elsewhere" in json.loads(body)["error"]
    assert (folder / "points.csv").read_text() == "name,y,x\nf1,3,4\n"


@pytest.mark.parametrize("token", ["", "wrong", "é"])
@pytest.mark.parametrize("path", ["/api/state", "/api/image?name=f1", "/api/points", "/api/none"])
def test_nothing_without_the_token(server: AnnotationServer, folder: Path, path: str, token: str) -> None:
    body = CHANGE if path == "/api/points" else None
    assert ask(server, path, body, X_Istd_Token=token)[0] == 403
    assert ask(server, path, body, without="X-Istd-Token")[0] == 403
    assert not (folder / "points.csv").exists()


@pytest.mark.parametrize("path", ["/", "/app.js", "/api/state", "/api/points"])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "192.168.0.1:{port}", ""])
def test_other_hosts_are_refused(server: AnnotationServer, folder: Path, path: str, host: str) -> None:
    body = CHANGE if path == "/api/points" else None
    assert ask(server, path, body, Host=host.format(port=server.port))[0] == 421
    assert ask(server, path, body, without="Host")[0] == 421
    assert not (folder / "points.csv").exists()


def test_localhost_is_this_machine(server: AnnotationServer) -> None:
    assert ask(server, "/", Host=f"localhost:{server.port}")[0] == 200
    assert server.server_address[0] == "127.0.0.1"


def test_other_sites_and_plain_forms_cannot_write(server: AnnotationServer, folder: Path) -> None:
    assert ask(server, "/api/points", CHANGE, Origin="https://evil.example")[0] == 403
    assert ask(server, "/api/points", CHANGE, Origin="null")[0] == 403
    assert ask(server, "/api/points", CHANGE, Content_Type="text/plain")[0] == 415
    assert ask(server, "/api/points", CHANGE, Content_Length="99999999")[0] == 413
    assert ask(server, "/api/points", CHANGE, Content_Length="-1")[0] == 415
    assert ask(server, "/api/state", CHANGE)[0] == 404
    assert not (folder / "points.csv").exists()
    assert ask(server, "/api/points", CHANGE, Origin=f"http://127.0.0.1:{server.port}")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py",
        "/%2e%2e/server.py",
        "/page/app.js",
        "//etc/passwd",
        "/api/image/../state",
        "/index.html",
    ],
)
def test_paths_lead_nowhere(server: AnnotationServer, path: str) -> None:
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize("name", ["../f1", "/etc/passwd", "..%2f..%2fetc%2fpasswd", "f1.png", "", "f1%00"])
def test_names_are_looked_up_not_opened(server: AnnotationServer, name: str) -> None:
    status, _, body = ask(server, f"/api/image?name={name}")
    assert status == 422
    assert "no such image" in json.loads(body)["error"]


@pytest.mark.parametrize(
    "change",
    [
        {},
        [],
        None,
        {**CHANGE, "name": 1},
        {**CHANGE, "revision": "0"},
        {**CHANGE, "revision": True},
        {**CHANGE, "points": 5},
        {**CHANGE, "points": [[1]]},
        {**CHANGE, "points": [[1, 2.5]]},
        {**CHANGE, "points": [[True, 2]]},
        {**CHANGE, "points": [["1", 2]]},
        {**CHANGE, "points": [[1, 2]] * 10_001},
    ],
)
def test_changes_that_make_no_sense(server: AnnotationServer, folder: Path, change: Any) -> None:
    assert ask(server, "/api/points", raw=json.dumps(change).encode())[0] == 400
    assert not (folder / "points.csv").exists()


def test_refusals_that_name_the_fault(server: AnnotationServer, folder: Path) -> None:
    assert ask(server, "/api/points", raw=b"\xff{")[0] == 400
    assert ask(server, "/api/points", raw=b"[" * 100_000)[0] == 400
    for change, message in (
        ({**CHANGE, "name": "../x"}, "no such image"),
        ({**CHANGE, "name": "f2"}, "cannot be read"),
        ({**CHANGE, "points": [[8, 0]]}, "outside the image"),
        ({**CHANGE, "points": [[10**30, 0]]}, "outside the image"),
    ):
        status, _, body = ask(server, "/api/points", change)
        assert (status, message in json.loads(body)["error"]) == (422, True)
    assert not (folder / "points.csv").exists()
    assert ask(server, "/api/image?name=f1&gamma=99")[0] == 400
    assert "cannot be read" in json.loads(ask(server, "/api/state")[2])["images"][2]["error"]


def test_a_full_disk_is_told(server: AnnotationServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert ask(server, "/api/points", CHANGE)[0] == 507
    assert sorted(path.name for path in folder.iterdir()) == ["f0.png", "f1.png", "f2.png"]
    assert ask(server, "/api/points", CHANGE)[0] == 200


def test_the_page_is_closed_to_the_world(server: AnnotationServer) -> None:
    page = ask(server, "/", without="X-Istd-Token")
    assert page[0] == 200
    policy = page[1]["Content-Security-Policy"]
    for rule in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'"):
        assert rule in policy
    assert "unsafe" not in policy
    assert page[1]["X-Content-Type-Options"] == "nosniff"
    assert page[1]["Cache-Control"] == "no-store"
    assert server.token.encode() not in page[2]
    for path in ("/app.js", "/api.js", "/display.js", "/panel.js", "/store.js", "/view.js", "/style.css"):
        status, headers, body = ask(server, path)
        assert (status, len(body) > 100) == (200, True)
        assert headers["Content-Type"].partition(";")[0] in ("text/javascript", "text/css")
        assert b"https://" not in body  # nothing comes from elsewhere


def test_a_port_in_use_is_named(server: AnnotationServer) -> None:
    with pytest.raises(ConfigError, match=f"port {server.port}"):
        AnnotationServer(server.session, server.port)
    with AnnotationServer(server.session) as other:
        assert other.token != server.token


def test_the_command_names_what_is_wrong(
    server: AnnotationServer,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "train.txt").write_text("f1\n")
    for arguments, message in (
        ([folder / "gone"], "no such folder"),
        ([folder, "--split", "test"], "is empty"),
        ([folder, "--split", "mine"], "no such split"),
        ([folder, "--points", folder / "points.txt"], ".csv or .json"),
        ([folder, "--port", server.port], "choose another --port"),
    ):
        monkeypatch.setattr(sys, "argv", ["istd", "annotate", "--no-open", *map(str, arguments)])
        assert cli.run() == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert not (folder / "points.csv").exists()


def test_the_command_serves_and_ends_with_a_summary(folder: Path) -> None:
    folder = shutil.copytree(folder, folder / "my images")
    command = [sys.executable, "-c", "from istd.cli import main; main()", "annotate", str(folder)]
    with subprocess.Popen(
        [*command, "--no-open", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        first, address, _ = (process.stdout.readline() for _ in range(3))
        assert "0 of 3 images annotated" in first
        port, token = address.strip().removeprefix("http://127.0.0.1:").split("/#")
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=10)
        headers = {"X-Istd-Token": token, "Content-Type": "application/json"}
        connection.request("POST", "/api/points", json.dumps(CHANGE), headers)
        assert connection.getresponse().status == 200
        # The connection is left open, as a browser leaves it.
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
        connection.close()
    assert process.returncode == 0, rest
    assert "1 of 3 images annotated (points: 1, images without target: 0, unreadable: 0)" in rest
    assert str(folder / "points.csv") in rest
    assert "2 images still to do" in rest
    assert f"istd train --data '{folder}'" in rest
    assert (folder / "points.csv").read_text() == "name,y,x\nf1,3,4\n"
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(port))) != 0
