"""Requests to a store of objects that are made again where an answer fails that may yet come.

obstore repeats a request that the bucket answers with 5xx (``503 SlowDown`` too), after pauses that grow; it gives up on an answer that is cut in its
middle, and on a put whose connection broke. All requests here may be repeated: a put is whole or absent, and what is deleted stays so. Only a put
that must be the first (`create`) can meet itself: see `store.lease`. A disk is asked once: what it refuses, it refuses again.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import obstore
from obstore import exceptions
from obstore import store as backends

if TYPE_CHECKING:
    from obstore import OffsetRange, SuffixRange
    from obstore.store import ClientConfig, RetryConfig

Backend: TypeAlias = backends.ObjectStore
T = TypeVar("T")

RETRY: RetryConfig = {"max_retries": 8, "retry_timeout": timedelta(minutes=2), "backoff": {"init_backoff": timedelta(milliseconds=100)}}
"""What obstore repeats by itself."""
CLIENT: ClientConfig = {"connect_timeout": timedelta(seconds=10), "read_timeout": timedelta(seconds=30), "timeout": timedelta(minutes=10)}
"""A bucket that is silent for so long is asked again; a large object may take longer than that, as long as it comes."""
FROM_ENVIRONMENT = ("allow_http", "allow_invalid_certificates", "proxy_url", "proxy_ca_certificate", "proxy_excludes")
"""Of the client, too, what the environment says (``AWS_ALLOW_HTTP=true``)."""
PAUSES = (0.2, 1.0, 4.0)
"""Before what failed is asked again here, s; each is taken up to double, so that many workers do not ask in step."""
AT_ONCE = 1000
"""Objects that one request lists or deletes at most."""
REFUSED = re.compile(
    r"status code: 40[13]|<Code>(AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|AuthenticationFailed)|"
    r"http://169\.254\.|metadata\.google\.internal|Account must be specified|performing token request"
)
"""What a bucket says, or who is asked for credentials in vain, where there are none that it takes."""
NO_BUCKET = re.compile(r"NoSuchBucket|bucket does not exist|ContainerNotFound")
LASTING = re.compile(rf"{NO_BUCKET.pattern}|InvalidBucketName|configured region|dns error|invalid peer certificate")
"""What no second try mends."""


def client_options(environment: Mapping[str, str]) -> ClientConfig:
    """Give the settings of a client: `CLIENT`, and what the environment says.

    Examples
    --------
    >>> client_options({"AWS_ALLOW_HTTP": "true"})["allow_http"]
    True
    """
    said = {k: v for k in FROM_ENVIRONMENT for p in ("AWS", "GOOGLE", "AZURE") if (v := environment.get(f"{p}_{k.upper()}"))}
    found: Any = {**CLIENT, **{k: v.lower() in ("1", "true", "yes") if k.startswith("allow") else v for k, v in said.items()}}
    out: ClientConfig = found
    return out


def steadily(store: Backend, ask: Callable[[], T]) -> T:
    """Make a request, and make it again where its answer failed.

    Raises
    ------
    FileNotFoundError, obstore.exceptions.BaseError, OSError
        Of the last try; at once where another cannot help.
    """
    if isinstance(store, backends.LocalStore | backends.MemoryStore):
        return ask()
    for pause in PAUSES:
        try:
            return ask()
        except (exceptions.GenericError, exceptions.JoinError, ConnectionError, TimeoutError) as error:
            if refused(error) or LASTING.search(str(error)):
                raise
            time.sleep(pause * (1 + random.random()))
    return ask()


def refused(error: BaseException) -> bool:
    """Tell whether a bucket does not let us in, or we have nothing to show."""
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
        return True
    return isinstance(error, exceptions.BaseError) and "(os error" not in str(error) and REFUSED.search(str(error)) is not None


def get(store: Backend, name: str, part: OffsetRange | SuffixRange | None = None) -> Any:
    """Read an object, or a part of it (``{"offset": ...}``, ``{"suffix": ...}``), as a buffer."""
    return steadily(store, lambda: obstore.get(store, name, options={"range": part} if part else None).bytes())


def get_range(store: Backend, name: str, start: int, end: int) -> Any:
    """Read the bytes from `start` to `end` (excluded) of an object, as a buffer."""
    return steadily(store, lambda: obstore.get_range(store, name, start=start, end=end))


def get_with_meta(store: Backend, name: str) -> tuple[bytes, Any]:
    """Read an object, and what the store says of the very version that was read."""

    def ask() -> tuple[bytes, Any]:
        found = obstore.get(store, name)
        return bytes(found.bytes()), found.meta

    return steadily(store, ask)


def head(store: Backend, name: str) -> Any:
    """Ask for size, time and entity tag of an object."""
    return steadily(store, lambda: obstore.head(store, name))


def put(store: Backend, name: str, data: Any, *, mode: Literal["create", "overwrite"] = "overwrite") -> None:
    """Write an object, whole or not at all; with `create` only where there is none (`AlreadyExistsError`)."""
    steadily(store, lambda: obstore.put(store, name, data, mode=mode))


def copy(store: Backend, source: str, target: str) -> None:
    """Copy an object within a store: no byte of it travels."""
    steadily(store, lambda: obstore.copy(store, source, target))


def delete(store: Backend, names: str | Sequence[str]) -> None:
    """Delete objects; a bucket does not mind what is not there, a disk does (`FileNotFoundError`)."""
    if isinstance(names, str):
        steadily(store, partial(obstore.delete, store, names))
        return
    for first in range(0, len(names), AT_ONCE):
        steadily(store, partial(obstore.delete, store, list(names[first : first + AT_ONCE])))


def listing(store: Backend, prefix: str = "") -> list[Any]:
    """List all objects below a prefix, with size, time and entity tag."""
    return steadily(store, lambda: list(obstore.list(store, prefix or None, chunk_size=AT_ONCE).collect()))


def names_below(store: Backend, prefix: str = "") -> Iterable[str]:
    """Names of all objects below a prefix."""
    return (str(o["path"]) for o in listing(store, prefix))


def children(store: Backend, prefix: str = "") -> tuple[list[str], list[Any]]:
    """List what lies directly below a prefix: folders, and objects."""
    found = steadily(store, lambda: obstore.list_with_delimiter(store, prefix or None))
    return [str(p) for p in found["common_prefixes"]], list(found["objects"])
