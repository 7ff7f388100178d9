"""The web server behind `istd annotate`: this machine only, one page, a handful of requests.

What keeps others out: it listens on 127.0.0.1; it answers only requests whose Host header names this
machine, so that a foreign site cannot reach it by pointing its own name here (DNS rebinding); every request
for data, reading and writing, carries a token made for this run, in a header that a foreign page cannot set;
and there is no path in any request, only names that are looked up in the list of images.
"""

from __future__ import annotations

import hmac
import json
import secrets
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ..errors import ConfigError, DataError, IstdError, WriteError
from .display import mask_png, parse_display, to_png
from .session import MAX_POINTS, AnnotationSession, StaleRevisionError

HOST = "127.0.0.1"
TOKEN_HEADER = "X-Istd-Token"
_MAX_BODY = 2**20
_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    **{
        f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8")
        for name in ("api", "app", "display", "panel", "store", "view")
    },
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_STATUS: tuple[tuple[type[IstdError], HTTPStatus], ...] = (
    (StaleRevisionError, HTTPStatus.CONFLICT),
    (WriteError, HTTPStatus.INSUFFICIENT_STORAGE),
    (DataError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (IstdError, HTTPStatus.BAD_REQUEST),
)


class AnnotationServer(ThreadingHTTPServer):
    """Serves one session on 127.0.0.1.

    Args:
        session: the images and their points.
        port: where to listen; 0 for any free port.

    Attributes:
        token: what a request for data has to carry, new with every server.
        url: the address to open; the token stands behind '#', which browsers keep to themselves.

    Raises:
        ConfigError: the port is taken or not allowed.
    """

    daemon_threads = True

    def __init__(self, session: AnnotationSession, port: int = 0) -> None:
        self.session = session
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                "the page cannot be served on this port",
                where=f"port {port}",
                found=error,
                fix="choose another --port, or --port 0 for any free one",
            ) from error
        self.port = self.server_address[1]
        self.hosts = {f"{name}:{self.port}" for name in (HOST, "localhost")}
        self.url = f"http://{HOST}:{self.port}/#{self.token}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away mid-answer is nothing to report; a fault of ours is."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: AnnotationServer
    protocol_version = "HTTP/1.1"
    server_version = "istd"
    sys_version = ""
    timeout = 120

    def do_GET(self) -> None:
        if not self._from_this_machine():
            return
        url = urlsplit(self.path)
        if url.path in _PAGE:
            name, kind = _PAGE[url.path]
            self._send(HTTPStatus.OK, kind, (resources.files(__package__) / "page" / name).read_bytes())
            return
        answers: dict[str, Callable[[dict[str, str]], None]] = {
            "/api/state": lambda _: self._send_json(self.server.session.state()),
            "/api/image": self._image,
            "/api/reference": self._reference,
            "/api/mask": self._mask,
        }
        self._answer(answers.get(url.path), dict(parse_qsl(url.query)))

    def do_POST(self) -> None:
        if self._from_this_machine():
            self._answer({"/api/points": self._points}.get(urlsplit(self.path).path), {})

    def _answer(self, answer: Callable[[dict[str, str]], None] | None, query: dict[str, str]) -> None:
        if not hmac.compare_digest(
            self.headers.get(TOKEN_HEADER, "").encode("utf-8", "replace"), self.server.token.encode()
        ):
            self._refuse(HTTPStatus.FORBIDDEN, "this page is of an earlier run: open the address now printed")
        elif answer is None:
            self._refuse(HTTPStatus.NOT_FOUND, "there is nothing here")
        else:
            try:
                answer(query)
            except IstdError as error:
                status = next(code for kind, code in _STATUS if isinstance(error, kind))
                self._refuse(status, str(error))

    def _image(self, query: dict[str, str]) -> None:
        values = self.server.session.values(query.get("name", ""))
        self._send(HTTPStatus.OK, "image/png", to_png(values, parse_display(query)))

    def _reference(self, query: dict[str, str]) -> None:
        mask, points = self.server.session.reference(query.get("name", ""))
        self._send_json({"points": points, "mask": mask is not None})

    def _mask(self, query: dict[str, str]) -> None:
        mask, _ = self.server.session.reference(query.get("name", ""))
        if mask is None:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no mask")
        else:
            self._send(HTTPStatus.OK, "image/png", mask_png(mask))

    def _points(self, _: dict[str, str]) -> None:
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{host}" for host in self.server.hosts}:
            self._refuse(HTTPStatus.FORBIDDEN, "another site sent this")
            return
        length = self.headers.get("Content-Length", "")
        if (
            self.headers.get_content_type() != "application/json"
            or not length.isascii()
            or not length.isdigit()
        ):
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "JSON of a stated length is expected")
        elif int(length) > _MAX_BODY:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {_MAX_BODY} bytes")
        else:
            change = parse_change(self.rfile.read(int(length)))
            self._send_json(self.server.session.save(*change))

    def _from_this_machine(self) -> bool:
        if self.headers.get("Host", "").lower() in self.server.hosts:
            return True
        self._refuse(HTTPStatus.MISDIRECTED_REQUEST, "this page is for the machine it runs on only")
        return False

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        # The body of a refused request was not read, so the connection cannot be used again.
        self.close_connection = True
        self._send_json({"error": message}, status)

    def _send_json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(status, "application/json", json.dumps(value).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, text in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, text)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged: the terminal is for the summary."""


def parse_change(body: bytes) -> tuple[str, list[tuple[int, int]] | None, int]:
    """Name, points (or None) and revision of a request to change an image.

    Raises:
        ConfigError: not `{"name": text, "points": null or [[y, x], …], "revision": number}`.
    """
    try:
        change = json.loads(body)
        name, points, revision = change["name"], change["points"], change["revision"]
        good = isinstance(name, str) and type(revision) is int
        if points is not None:
            good = good and isinstance(points, list) and len(points) <= MAX_POINTS
            good = good and all(isinstance(one, list) and len(one) == 2 for one in points)
            good = good and all(type(side) is int for one in points for side in one)
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good:
        raise ConfigError(
            "the request to change points makes no sense",
            found=body[:100],
            expected='{"name": "…", "points": null or [[y, x], …], "revision": 0}',
        )
    return name, None if points is None else [(y, x) for y, x in points], revision
