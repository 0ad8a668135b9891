"""A bucket of S3 in a thread, as far as a cohort needs one, that can be told to fail: for tests, on loopback.

`Bucket` keeps objects in memory and notes what it is asked. `Faults` says which requests go wrong, and how, by a seed. A request whose answer is lost
after its work was done (`LOST`) tells a sound client from a lucky one.
"""

from __future__ import annotations

import hashlib
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

ERROR, SLOW_DOWN, CUT, DROPPED, LOST, LATE, REFUSED = "500", "503", "cut", "dropped", "lost", "late", "403"
"""An internal error; throttling; half an answer; none, with nothing done; none, although it was done; one that comes late; no entrance."""
PASSING = (ERROR, SLOW_DOWN, CUT, DROPPED, LOST)
NAME = "cohorts"


@dataclass
class Faults:
    """Which share of requests goes wrong, in which ways; `seconds` is how late a late answer is."""

    share: float = 0.0
    kinds: tuple[str, ...] = PASSING
    seed: int = 0
    seconds: float = 3.0
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random, self._lock = random.Random(self.seed), threading.Lock()

    def next(self) -> str:
        with self._lock:
            kind = self._random.choice(self.kinds) if self._random.random() < self.share else ""
            self.done[kind] += 1
            return kind


@dataclass
class Request:
    method: str
    key: str
    status: int
    sent: int
    """Bytes of the answer."""


@dataclass
class Bucket:
    """Objects by key, with what was asked of them. `stale` seconds pass before a listing shows a change."""

    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    requests: list[Request] = field(default_factory=list)
    stale: float = 0.0
    url: str = ""
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    past: list[tuple[float, str, tuple[bytes, float] | None]] = field(default_factory=list)
    """Changes: when, of which key, and what was there before."""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def change(self, key: str, data: bytes | None) -> None:
        with self.lock:
            self.past.append((time.monotonic(), key, self.objects.get(key)))
            if data is None:
                self.objects.pop(key, None)
            else:
                self.objects[key] = data, time.time()

    def listed(self) -> dict[str, tuple[bytes, float]]:
        """What a listing shows: the bucket as it was `stale` seconds ago."""
        with self.lock:
            seen, since = dict(self.objects), time.monotonic() - self.stale
            for when, key, before in reversed(self.past):
                if when < since:
                    break
                if before is None:
                    seen.pop(key, None)
                else:
                    seen[key] = before
            return seen

    def counts(self) -> Counter[str]:
        return Counter(r.method for r in self.requests)

    @contextmanager
    def counting(self) -> Iterator[list[Request]]:
        """Give the requests that are made inside."""
        first = len(self.requests)
        found: list[Request] = []
        yield found
        found += self.requests[first:]


def etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def stamp(seconds: float, form: str = "%a, %d %b %Y %H:%M:%S GMT") -> str:
    return time.strftime(form, time.gmtime(seconds))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    bucket: Bucket

    def log_message(self, *args: Any) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionError):
            super().handle()

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, *, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        sent = b"" if self.command == "HEAD" else body
        if self.fault == CUT and len(sent) > 1:
            sent = sent[: len(sent) // 2]
            self.close_connection = True
        self.bucket.requests.append(Request(self.command, self.key, status, len(sent)))
        self.wfile.write(sent)
        self.wfile.flush()
        if self.close_connection:
            self.connection.shutdown(2)

    def error(self, status: int, code: str) -> None:
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message><Resource>/{NAME}/{escape(self.key)}</Resource></Error>"
        self.answer(status, text.encode())

    def serve(self) -> None:
        parts = urlsplit(self.path)
        self.query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
        name, _, key = unquote(parts.path).lstrip("/").partition("/")
        self.key = key
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.fault = self.bucket.faults.next()
        if self.fault == ERROR:
            return self.error(500, "InternalError")
        if self.fault == SLOW_DOWN:
            return self.error(503, "SlowDown")
        if self.fault == REFUSED or not self.headers.get("Authorization"):
            return self.error(403, "AccessDenied")
        if self.fault == DROPPED:
            return self.hang_up()
        if self.fault == LATE:
            time.sleep(self.bucket.faults.seconds)
        if name != NAME:
            return self.error(404, "NoSuchBucket")
        if self.fault == LOST:
            self.answer = lambda *a, **k: self.hang_up()  # type: ignore[method-assign]
        try:
            getattr(self, f"{self.command.lower()}_object" if key else f"{self.command.lower()}_bucket")(body)
        finally:
            self.__dict__.pop("answer", None)
        return None

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = serve

    def hang_up(self) -> None:
        self.bucket.requests.append(Request(self.command, self.key, 0, 0))
        self.close_connection = True
        self.connection.shutdown(2)

    # --- objects ---
    def get_object(self, body: bytes) -> None:
        del body
        found = self.bucket.objects.get(self.key)
        if found is None:
            return self.error(404, "NoSuchKey")
        data, when = found
        headers = {"ETag": etag(data), "Last-Modified": stamp(when)}
        part = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if part is None:
            return self.answer(200, data if self.command == "GET" else b"", headers, length=len(data))
        start, end = part[1], part[2]
        first = int(start) if start else max(0, len(data) - int(end))
        last = min(int(end), len(data) - 1) if start and end else len(data) - 1
        if first > last:
            return self.error(416, "InvalidRange")
        return self.answer(206, data[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"})

    head_object = get_object

    def put_object(self, body: bytes) -> None:
        if "partNumber" in self.query:
            self.bucket.uploads[self.query["uploadId"]][int(self.query["partNumber"])] = body
            return self.answer(200, b"", {"ETag": etag(body)})
        source = self.headers.get("x-amz-copy-source")
        if source:
            found = self.bucket.objects.get(unquote(source).lstrip("/").partition("/")[2])
            if found is None:
                return self.error(404, "NoSuchKey")
            self.bucket.change(self.key, found[0])
            return self.answer(200, f"<CopyObjectResult><ETag>{etag(found[0])}</ETag></CopyObjectResult>".encode())
        with self.bucket.lock:
            if self.headers.get("If-None-Match") == "*" and self.key in self.bucket.objects:
                return self.error(412, "PreconditionFailed")
            self.bucket.change(self.key, body)
        return self.answer(200, b"", {"ETag": etag(body)})

    def post_object(self, body: bytes) -> None:
        if "uploads" in self.query:
            number = f"u{len(self.bucket.uploads)}-{random.random()}"
            self.bucket.uploads[number] = {}
            return self.answer(200, f"<InitiateMultipartUploadResult><UploadId>{number}</UploadId></InitiateMultipartUploadResult>".encode())
        parts = self.bucket.uploads.get(self.query["uploadId"])
        if parts is None:
            return self.error(404, "NoSuchUpload")
        data = b"".join(parts[n] for n in sorted(parts))
        self.bucket.change(self.key, data)
        return self.answer(200, f"<CompleteMultipartUploadResult><ETag>{etag(data)}</ETag></CompleteMultipartUploadResult>".encode())

    def delete_object(self, body: bytes) -> None:
        del body
        if "uploadId" in self.query:
            self.bucket.uploads.pop(self.query["uploadId"], None)
        else:
            self.bucket.change(self.key, None)
        self.answer(204)

    # --- the bucket ---
    def get_bucket(self, body: bytes) -> None:
        del body
        prefix, mark = self.query.get("prefix", ""), self.query.get("delimiter", "")
        after, most = self.query.get("continuation-token", ""), int(self.query.get("max-keys", 1000))
        seen = self.bucket.listed()
        rows: dict[str, str] = {}
        for key in sorted(k for k in seen if k.startswith(prefix)):
            rest = key[len(prefix) :]
            if mark and mark in rest:
                folder = prefix + rest.partition(mark)[0] + mark
                rows[folder] = f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
            else:
                data, when = seen[key]
                rows[key] = (
                    f"<Contents><Key>{escape(key)}</Key><LastModified>{stamp(when, '%Y-%m-%dT%H:%M:%S.000Z')}</LastModified>"
                    f"<ETag>{escape(etag(data))}</ETag><Size>{len(data)}</Size></Contents>"
                )
        names = [n for n in sorted(rows) if n > after]
        page, more = names[:most], len(names) > most
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        text = "".join(rows[n] for n in page)
        head = f"<Name>{NAME}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>"
        self.answer(200, f"<ListBucketResult>{head}{token}{text}</ListBucketResult>".encode())

    def post_bucket(self, body: bytes) -> None:
        keys = re.findall(r"<Key>(.*?)</Key>", body.decode())
        for key in keys:
            self.bucket.change(key.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"), None)
        self.answer(200, ("<DeleteResult>" + "".join(f"<Deleted><Key>{k}</Key></Deleted>" for k in keys) + "</DeleteResult>").encode())


@contextmanager
def serving() -> Iterator[tuple[Bucket, dict[str, str]]]:
    """Serve a bucket, and give it with the environment in which a process finds it."""
    bucket = Bucket(url=f"s3://{NAME}")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"bucket": bucket}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST", "AWS_SECRET_ACCESS_KEY": "a-secret-of-nobody-0123456789",
    }  # fmt: skip
    try:
        yield bucket, environment
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
