"""The store that zarr reads and writes through: obstore's blocking calls, made in threads of the interpreter.

obstore's coroutines are answered by a thread of its own runtime, which touches Python objects after the caller has its answer; at the end of
the interpreter that races with what is taken down, and the process dies of SIGABRT or SIGSEGV although its work is done (in a third of
processes under load, obstore 0.8 to 0.12). A blocking call returns to the thread that made it, and Python waits for its own threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress
from typing import Any

from obstore import exceptions
from obstore import store as backends
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from cohort_engine.io import objects

ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class PlaceStore(ObjectStore[backends.ObjectStore]):
    """`zarr.storage.ObjectStore` whose requests end before their answer is given.

    Examples
    --------
    >>> import zarr
    >>> array = zarr.create_array(PlaceStore(backends.MemoryStore()), shape=(3,), chunks=(2,), dtype="f4", fill_value=0)
    >>> array[:2] = 7
    >>> array[:].tolist()
    [7.0, 7.0, 0.0]
    """

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        def fetch() -> Buffer:
            return prototype.buffer.from_bytes(_fetch(self.store, key, byte_range))

        try:
            return await asyncio.to_thread(fetch)
        except ABSENT:
            return None

    async def get_partial_values(self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]) -> list[Buffer | None]:
        return await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))

    async def exists(self, key: str) -> bool:
        try:
            await asyncio.to_thread(objects.head, self.store, key)
        except FileNotFoundError:
            return False
        return True

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()
        await asyncio.to_thread(objects.put, self.store, key, value.as_buffer_like())

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        self._check_writable()
        with suppress(exceptions.AlreadyExistsError):
            await asyncio.to_thread(objects.put, self.store, key, value.as_buffer_like(), mode="create")

    async def delete(self, key: str) -> None:
        self._check_writable()
        with suppress(FileNotFoundError):  # a bucket does not mind, a disk does
            await asyncio.to_thread(objects.delete, self.store, key)

    async def delete_dir(self, prefix: str) -> None:
        self._check_writable()
        for key in [key async for key in self.list_prefix(f"{prefix.rstrip('/')}/" if prefix else "")]:
            await self.delete(key)

    async def list(self) -> AsyncGenerator[str, None]:
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncGenerator[str, None]:
        for name in await asyncio.to_thread(lambda: list(objects.names_below(self.store, prefix))):
            yield name

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        folders, files = await asyncio.to_thread(objects.children, self.store, prefix)
        above = prefix.rstrip("/")
        for path in (*folders, *(o["path"] for o in files)):
            yield path.removeprefix(above).removeprefix("/") if above else path

    async def getsize(self, key: str) -> int:
        return int((await asyncio.to_thread(objects.head, self.store, key))["size"])

    async def getsize_prefix(self, prefix: str) -> int:
        return sum(o["size"] for o in await asyncio.to_thread(objects.listing, self.store, prefix))


def _fetch(store: backends.ObjectStore, key: str, part: ByteRequest | None) -> Any:
    """Read an object or a part of it, in this thread."""
    match part:
        case None:
            return objects.get(store, key)
        case RangeByteRequest(start, end):
            return objects.get_range(store, key, start, end)
        case OffsetByteRequest(offset):
            return objects.get(store, key, {"offset": offset})
        case SuffixByteRequest(suffix):
            try:
                return objects.get(store, key, {"suffix": suffix})
            except exceptions.NotSupportedError:  # Azure: ask for the size first
                size = objects.head(store, key)["size"]
                return objects.get_range(store, key, max(0, size - suffix), size)
    raise ValueError(f"unknown kind of byte range: {part!r}")
