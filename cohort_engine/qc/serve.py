"""The pages from a server of this machine, which saves ratings: loopback alone, with a token that nobody else knows."""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import unquote, urlsplit

from cohort_engine.errors import CohortError, StorageError
from cohort_engine.io.exclusions import Rating, rating_of
from cohort_engine.qc.pages import IMAGES, INDEX, SUBJECTS
from cohort_engine.store.ratings import ratings_of, take_ratings

LOOPBACK = "127.0.0.1"
TYPES = {".html": "text/html; charset=utf-8", ".webp": "image/webp"}
LARGEST = 32 * 2**20
"""Bytes of ratings that are taken at once."""
RATINGS = "ratings"
NO_TOKEN = '"save":""'
"""How the page of the cohort says that nobody saves its ratings."""


class PageServer(ThreadingHTTPServer):
    """Serves a folder of quality pages.

    Parameters
    ----------
    store : str
        Whose ratings are saved.
    folder : Path
        From `pages.write_pages`.
    port : int
        0: any that is free.
    token : str, optional
        By default drawn anew.

    Notes
    -----
    The token is part of the address of every page: ``http://127.0.0.1:<port>/<token>/index.html``. A request by another name of this machine, or
    without the token, gets nothing; ratings need it in a header as well, which no page of another site can send.
    """

    daemon_threads = True

    def __init__(self, store: str, folder: Path, port: int = 0, token: str = "") -> None:
        self.store, self.folder, self.token, self.lock = store, folder.resolve(), token or secrets.token_urlsafe(24), Lock()
        super().__init__((LOOPBACK, port), _Handler)

    @property
    def address(self) -> str:
        """Where a browser finds the page of the cohort."""
        return f"http://{LOOPBACK}:{self.server_port}/{self.token}/{INDEX}"


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with a page or a picture of the folder."""
        place = self._place()
        if place is None:
            return
        if place == RATINGS:
            told = [asdict(r) for r in ratings_of(self.server.store)]
            self._answer(HTTPStatus.OK, json.dumps(told).encode(), "application/json")
            return
        folder, _, name = place.rpartition("/")
        path = self.server.folder / place
        if folder not in ("", IMAGES, SUBJECTS) or name != Path(name).name or name.startswith(".") or path.suffix not in TYPES or not path.is_file():
            self._answer(HTTPStatus.NOT_FOUND, b"Nothing there.")
            return
        content = path.read_bytes()
        if place == INDEX:
            content = content.replace(NO_TOKEN.encode(), f'"save":{json.dumps(self.server.token)}'.encode(), 1)
        self._answer(HTTPStatus.OK, content, TYPES[path.suffix])

    def do_POST(self) -> None:
        """Save ratings."""
        place = self._place()
        if place is None:
            return
        if place != RATINGS or not hmac.compare_digest(self.headers.get("X-Token", "").encode(), self.server.token.encode()):
            self._answer(HTTPStatus.FORBIDDEN, b"Not from this page.")
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > LARGEST:
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, b"Too much at once.")
            return
        try:
            given, removed = _read(self.rfile.read(int(length)))
            with self.server.lock:
                kept = take_ratings(self.server.store, given, removed)
        except StorageError as error:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, str(error).encode())
        except (CohortError, ValueError, TypeError, KeyError, AttributeError) as error:
            self._answer(HTTPStatus.BAD_REQUEST, str(error).encode())
        else:
            self._answer(HTTPStatus.OK, json.dumps({"kept": kept}).encode(), "application/json")

    def _place(self) -> str | None:
        """Find what is asked for, inside the folder; None where the request is not from this machine's own page, and was answered."""
        host = self.headers.get("Host", "")
        token, _, place = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        if host != f"{LOOPBACK}:{self.server.server_port}" or not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._answer(HTTPStatus.FORBIDDEN, b"The address is the one that cohort-engine qc --serve printed.")
            return None
        return place or INDEX

    def _answer(self, status: HTTPStatus, content: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind, "Content-Length": str(len(content)), "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin",
        }  # fmt: skip
        for name, value in headers.items():
            self.send_header(name, value)
        if status >= HTTPStatus.BAD_REQUEST:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: addresses hold the token."""


def _read(body: bytes) -> tuple[list[Rating], list[Rating]]:
    told = json.loads(body)
    given, removed = (told.get(name, []) for name in ("ratings", "removed"))
    return [rating_of(r, where=RATINGS) for r in given], [rating_of(r, where=RATINGS) for r in removed]


def serve(store: str, folder: Path, *, port: int = 0, say: Callable[[str], None] | None = None) -> None:
    """Serve pages until the process is interrupted."""
    tell = say or partial(print, flush=True)
    with PageServer(store, folder, port) as server:
        tell(server.address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            tell("stopped")
