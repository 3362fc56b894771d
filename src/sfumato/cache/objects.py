"""The store in a bucket: S3 and what speaks like it, Google Cloud Storage, Azure, a directory. Here alone is obstore.

::

    <url>/ab/<sha256 of the key>      one value (its form: `sfumato.cache.framing`)

Rule 1: a value is one PUT, so a reader sees an old value, a new one or none, and nothing unfinished stays behind. (In
parts, pictures take longer: 44 ms instead of 23 at 8 MB, 71 instead of 53 at 20; obstore 0.12, moto, 2026-11-21.)
Rule 2: a bucket that does not answer costs one wait, then nothing while the circuit is open.
Rule 3: an object whose name is not a value's is never counted or removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread
from cachetools import LRUCache

from sfumato.cache.budget import Budget, Held
from sfumato.cache.circuit import Circuit
from sfumato.cache.framing import Head, ValueReader, build_head, head_size, parse_head
from sfumato.cache.object_urls import check_object_url
from sfumato.cache.store import DamagedValueError, StoreStats
from sfumato.cache.tidying import Tidying
from sfumato.errors import ConfigurationError
from sfumato.wire.payload import INLINE_BYTES, Piece, join, size_of

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import ObjectStore as Bucket

CONNECT_SECONDS = 1.0
# From a request to its answer, connecting included; a value's bytes have their own time on top.
ANSWER_SECONDS = 2.0
SLOWEST_BYTES_PER_SECOND = 4_000_000
_PAGE = 1000  # S3 lists and removes as many at a time.
_KEYS_AT_A_TIME = 32
# Longer than any head of ours; a longer one takes a second request.
_HEAD_BYTES = 1024
# The piece of a value that is copied on the event loop at once (0.1 ms).
_CHUNK_BYTES = 1024 * 1024
_USES_KEPT = 16_384
_NAME = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}")


class ObjectStore:
    """Keep values in a bucket shared by any number of hosts; belongs to one event loop.

    Credentials, endpoint and region are those of the provider's variables (see `sfumato.cache.object_urls`), which
    obstore reads. They must allow to list: without that, S3 answers 403 to every miss. A bucket keeps neither a budget
    nor the order of use: this process lists it now and then, in the background, and removes what is oldest by its last
    change and by what this process has read. For what expires unread, set a lifecycle rule on the bucket.

    Every method raises obstore's errors, ``TimeoutError`` (too slow) and `CircuitOpenError` (not asked).

    Args:
        url: ``s3://bucket/prefix``, ``gs://…``, ``az://container/prefix``, ``file:///directory`` or ``memory://``.
        max_bytes: The budget for all values, which between two lists may be exceeded by 1/16 per process that writes.
        clock: Unix seconds.
        circuit: Decides whether the bucket is asked.
        answer_seconds: How long the bucket may take to answer one request.

    Raises:
        ConfigurationError: The extra is missing, or no store can be made of the URL.
    """

    def __init__(
        self,
        url: str,
        max_bytes: int,
        *,
        clock: Callable[[], float] = time.time,
        circuit: Circuit | None = None,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._bucket = _open(url)
        self._budget = Budget(max_bytes)
        self._clock = clock
        self._circuit = circuit or Circuit()
        self._answer_seconds = answer_seconds
        self._used_at: LRUCache[str, float] = LRUCache(_USES_KEPT)
        self._tidying = Tidying(self._budget, look=self._list, remove=self._remove_all)

    async def get(self, key: str) -> bytes | None:
        """Return the value, or None when there is none or its time is over; an expired object is removed.

        Raises:
            DamagedValueError: The object was foreign, of another key or cut short; it has been removed.
        """
        path = _path(key)
        with self._asking(), self._in_time() as scope:
            try:
                found = await self._bucket.get_async(path)
            except FileNotFoundError:
                return None
            scope.deadline += found.meta["size"] / SLOWEST_BYTES_PER_SECOND
            try:
                value = await self._read(found, key)
            except DamagedValueError:
                await self._remove(path)
                raise
            if value is None:
                await self._remove(path)
            else:
                self._used_at[path] = self._clock()
            return value

    async def peek(self, key: str, size: int) -> bytes | None:
        """Return the first *size* bytes of the value, or None as `get`: one request, for a range.

        Raises:
            DamagedValueError: The object was foreign, of another key or cut short; it has been removed.
        """
        path = _path(key)
        with self._asking(), self._in_time(size):
            try:
                start, expires_at = await self._begin(path, key, size)
            except FileNotFoundError:
                return None
            except DamagedValueError:
                await self._remove(path)
                raise
            if self._clock() < expires_at:
                return start
            await self._remove(path)
            return None

    async def set(self, key: str, value: Sequence[Piece], *, expires_in: float | None) -> bool:
        """Store the *value*; True when it is kept. Eviction, when it may be needed, goes on in the background."""
        path, now = _path(key), self._clock()
        expires_at = math.inf if expires_in is None else now + expires_in
        head = build_head(key, expires_at=expires_at, value_bytes=size_of(value))
        size = len(head) + size_of(value)
        if size > self._budget.max_bytes or expires_at <= now:
            with self._asking(), self._in_time():
                await self._remove(path)
            return False
        with self._asking(), self._in_time(size):
            held = [piece if isinstance(piece, bytes | memoryview) else await _fetched(piece) for piece in value]
            # The pieces are taken over without a copy.
            await self._bucket.put_async(path, (head, *held), use_multipart=False)
        self._used_at[path] = now
        if self._budget.wrote(size):
            self._tidying.begin()
        return True

    async def delete(self, key: str) -> bool:
        """Remove a value; True when there was an object, expired or not."""
        path = _path(key)
        with self._asking(), self._in_time():
            # Asked first: S3 removes what is not there without a word.
            try:
                await self._bucket.head_async(path)
            except FileNotFoundError:
                return False
            await self._remove(path)
            return True

    async def clear(self) -> int:
        """Remove every value; return how many there were."""
        await self._tidying.settled()
        with self._asking():
            held = await self._list()
            await self._remove_all([value.path for value in held])
        return len(held)

    async def keys(self) -> AsyncIterator[str]:
        """Iterate over the keys whose time is not over, removing the others' objects: one small read for each."""
        await self._tidying.settled()
        with self._asking():
            held = await self._list()
        for start in range(0, len(held), _KEYS_AT_A_TIME):
            with self._asking(), self._in_time():
                batch = held[start : start + _KEYS_AT_A_TIME]
                keys = await asyncio.gather(*map(self._live_key, batch))
            for key in keys:
                if key is not None:
                    yield key

    async def stats(self) -> StoreStats:
        """List the whole bucket and count."""
        await self._tidying.settled()
        with self._asking():
            held = await self._list()
        return StoreStats(
            entries=len(held),
            size_bytes=sum(value.size for value in held),
            capacity_bytes=self._budget.max_bytes,
            evictions=self._budget.evictions,
        )

    async def aclose(self) -> None:
        """Give up an eviction that is running; connections end with this object."""
        await self._tidying.aclose()

    def _asking(self) -> contextlib.AbstractContextManager[None]:
        return self._circuit.passing(answers=(DamagedValueError,))

    def _in_time(self, size: int = 0) -> contextlib.AbstractContextManager[anyio.CancelScope]:
        return anyio.fail_after(self._answer_seconds + size / SLOWEST_BYTES_PER_SECOND)

    async def _read(self, found: GetResult, key: str) -> bytes | None:
        reader = ValueReader(key, size=found.meta["size"])
        async for chunk in found.stream(min_chunk_size=_CHUNK_BYTES):
            reader.feed(chunk)
            if self._clock() >= reader.expires_at:
                return None
        return reader.value()

    async def _begin(self, path: str, key: str, size: int) -> tuple[bytes, float]:
        """Return the first *size* bytes of a value, and the end of its time."""
        try:
            found = await self._bucket.get_async(path, options={"range": (0, head_size(key) + size)})
        except FileNotFoundError:
            raise
        except Exception:
            # An empty object has no range (416 on S3), and is no value.
            if (await self._bucket.head_async(path))["size"]:
                raise
            raise DamagedValueError("the object is empty") from None
        data = bytes(await found.bytes_async())
        head = parse_head(data, size=found.meta["size"])
        if head is None or head.key != key:
            raise DamagedValueError("the object is of another key")
        return data[head.head_bytes :], head.expires_at

    async def _live_key(self, value: Held) -> str | None:
        """Return the key of an object whose time is not over, and remove one whose time is."""
        with contextlib.suppress(FileNotFoundError, DamagedValueError):
            head = await self._head(value)
            if self._clock() < head.expires_at:
                return head.key
            await self._remove(value.path)
        return None

    async def _head(self, value: Held) -> Head:
        # A range that ends past the object is its rest; an empty object has no range.
        for end in (_HEAD_BYTES, value.size) if value.size else ():
            data = bytes(await self._bucket.get_range_async(value.path, start=0, end=end))
            head = parse_head(data, size=value.size)
            if head is not None:
                return head
        raise DamagedValueError("the object was cut short")

    async def _list(self) -> list[Held]:
        held: list[Held] = []
        pages: Any = self._bucket.list(chunk_size=_PAGE)
        while True:
            with self._in_time():
                page = await anext(pages, None)
            if page is None:
                return held
            for item in page:
                path: str = item["path"]
                if _NAME.fullmatch(path):
                    used_at = max(item["last_modified"].timestamp(), self._used_at.get(path, 0.0))
                    held.append(Held(used_at, item["size"], path))

    async def _remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            await self._bucket.delete_async(path)

    async def _remove_all(self, paths: Sequence[str]) -> None:
        for start in range(0, len(paths), _PAGE):
            batch = paths[start : start + _PAGE]
            with self._in_time():
                try:
                    await self._bucket.delete_async(batch)
                except FileNotFoundError:
                    # Someone else removed one, and not every provider goes on with the others then.
                    await asyncio.gather(*map(self._remove, batch))


async def _fetched(piece: Piece) -> bytes:
    return join((piece,)) if len(piece) <= INLINE_BYTES else await to_thread.run_sync(join, (piece,))


def _path(key: str) -> str:
    digest = hashlib.sha256(key.encode()).hexdigest()
    return f"{digest[:2]}/{digest}"


def _open(url: str) -> Bucket:
    try:
        from obstore.store import LocalStore, from_url  # noqa: PLC0415 - an extra, loaded when it is asked for
    except ImportError:
        raise ConfigurationError("The object store needs an extra: pip install 'sfumato[s3]'.") from None
    directory = check_object_url(url)
    try:
        if directory is not None:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            return LocalStore(directory)
        return from_url(
            url,
            # Else obstore refuses, at each request, the http:// endpoint that an operator named.
            client_options={"allow_http": True, "connect_timeout": f"{CONNECT_SECONDS * 1000:.0f}ms"},
            # A quick failure is worth a second try (a 503, a connection closed while idle); silence is the circuit's.
            retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=CONNECT_SECONDS / 2)},
        )
    except Exception as error:  # noqa: BLE001 - obstore raises its own kind, OSError and ValueError
        raise ConfigurationError(
            f"The object store cannot be opened ({type(error).__name__}): check GEMINI_IMAGE_CACHE_URL and the "
            "provider's environment variables (az:// needs AZURE_STORAGE_ACCOUNT_NAME)."
        ) from None
