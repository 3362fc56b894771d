"""The store in Redis, shared by any number of hosts.

A value is one string. It is read by ranges and written by appending to a temporary string that a rename puts in its
place, so that no step moves more than 1 MiB. 20 MB, written and read in ms, and the longest stall of the event loop:

    whole                       18    18    12
    this way                    11     6     2
    a key for every 1 MiB        4     6     1      (redis 7.0.15, redis-py 8.1, asyncio, 2026-11-21)

Keys for the chunks are not taken though faster: Redis evicts them one by one, and replacing a value is no single step.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence

from anyio import to_thread

from sfumato.cache.circuit import Circuit
from sfumato.cache.redis import Argument, RedisConnection
from sfumato.cache.redis_scripts import (
    COUNT,
    DROP,
    ENTER,
    INDEX_KEYS,
    PUBLISH,
    REMOVE_SAME,
    VALUE_PATTERN,
    key_of,
    member,
    temporary_key,
    value_key,
)
from sfumato.cache.redis_values import (
    NONCE_BYTES,
    Reading,
    ReplacedError,
    build_texts,
    header_size,
    parse_header,
    text_size,
)
from sfumato.cache.store import DamagedValueError, StoreFullError, StoreStats, StoreUnavailableError
from sfumato.wire.payload import INLINE_BYTES, Piece, size_of

CHUNK_BYTES = 1024 * 1024
# Eviction goes down to this share of the budget, so that it is not needed again at the next write.
_KEPT_SHARE = 0.9
# What a dead writer leaves behind is gone after this time; every step of a living one begins it anew.
_WRITING_MILLISECONDS = 10_000
_READ_ATTEMPTS = 3
_PAGE = 100
# Longer than a header without its key: enough to tell two writes apart.
_SAME_BYTES = 64
# Redis adds the time of day to an expiry and refuses what overflows.
_LONGEST_MILLISECONDS = 2**53


class RedisStore:
    """Keep values in Redis, the least recently used making room.

    The order of use and the sizes are kept in an index, so the budget holds for all processes together. Redis' own
    ``maxmemory`` with ``allkeys-lru`` may evict as well; give it room for the budget and the values under way. Every
    method raises `StoreUnavailableError`, quickly, when Redis is gone.

    Args:
        connection: Closed by `aclose`.
        max_bytes: The budget for all values and their headers.
        clock: Unix seconds.
        writes: Keeps writers away for a while after Redis refused one for want of memory.
        nonce: 16 bytes that never come twice.
    """

    def __init__(
        self,
        connection: RedisConnection,
        max_bytes: int,
        *,
        clock: Callable[[], float] = time.time,
        writes: Circuit | None = None,
        nonce: Callable[[], bytes] = lambda: os.urandom(NONCE_BYTES),
    ) -> None:
        self._connection = connection
        self._max_bytes = max_bytes
        self._clock = clock
        self._writes = writes or Circuit(fault=StoreFullError)
        self._nonce = nonce
        self._evictions = 0

    async def get(self, key: str) -> bytes | None:
        """Return the value, or None when there is none, its time is over, or it is replaced again and again.

        Raises:
            DamagedValueError: The value was damaged or foreign; it has been removed.
            StoreUnavailableError: Redis is gone.
        """
        torn: bytes | None = None
        for _ in range(_READ_ATTEMPTS):
            try:
                return await self._read(key, torn)
            except ReplacedError as error:
                torn = error.nonce
        return None

    async def peek(self, key: str, size: int) -> bytes | None:
        """Return the first *size* bytes of the value, or None as `get`.

        Raises:
            DamagedValueError: The value was foreign or cut short; it has been removed.
            StoreUnavailableError: Redis is gone.
        """
        began, name, end = self._clock(), value_key(key), header_size(key) + size
        commands = ("GETRANGE", name, 0, end - 1), ("STRLEN", name)
        first, length = b"", 0
        try:
            first, length = await self._connection.execute_all(commands)
            if not first:
                await self._drop([(member(key), math.nextafter(began, 0))])
                return None
            header = parse_header(first, key)
        except DamagedValueError:
            await self._remove(key, first)
            raise
        if began >= header.expires_at:
            await self._remove(key, first)
            return None
        if length == header.text_bytes:
            start: bytes = first[header.start : min(end, header.end)]
            return start
        # It is cut short, or was replaced between the two commands.
        whole = await self.get(key)
        return None if whole is None else whole[:size]

    async def set(self, key: str, value: Sequence[Piece], *, expires_in: float | None) -> bool:
        """Store the *value*, then evict when over the budget; True when it is kept.

        Raises:
            StoreFullError: Redis has no memory for it, or had none a moment ago.
            StoreUnavailableError: Redis is gone.
        """
        now = self._clock()
        expires_at = math.inf if expires_in is None else now + expires_in
        size = text_size(key, size_of(value))
        if size > self._max_bytes or expires_at <= now:
            await self.delete(key)
            return False
        with self._writes.passing():
            kept = await self._write(key, value, size, expires_at=expires_at, expires_in=expires_in)
            if not kept:
                await self.delete(key)
                return False
            await self._enter(key, size, expires_at)
        return True

    async def delete(self, key: str) -> bool:
        """Remove a value; True when there was one, expired or not."""
        removed = bool(await self._connection.execute("UNLINK", value_key(key)))
        await self._drop([(member(key), math.inf)])
        return removed

    async def clear(self) -> int:
        """Remove every value, also those the index has lost; return how many there were."""
        count = 0
        async for members in self._members():
            names = [member for member, _ in members]
            count += await self._unlink([value_key(key_of(name)) for name in names])
            await self._drop([(name, math.inf) for name in names])
        async for strays in self._connection.scan(VALUE_PATTERN):
            count += await self._unlink(strays)
        return count

    async def keys(self) -> AsyncIterator[str]:
        """Iterate over the keys whose time is not over and whose values Redis has not evicted by itself."""
        began, seen = self._clock(), set[bytes]()
        async for members in self._members():
            new = [(name, end) for name, end in members if name not in seen]
            seen.update(name for name, _ in new)
            live = [name for name, end in new if began < end]
            found = await self._connection.execute_all([("EXISTS", value_key(key_of(name))) for name in live])
            there = {name for name, exists in zip(live, found, strict=True) if exists}
            await self._drop([(name, math.nextafter(began, 0)) for name in live if name not in there])
            for name in there:
                yield key_of(name)

    async def stats(self) -> StoreStats:
        """Count what the index holds; values that Redis evicted by itself are in it until somebody asks for them."""
        entries, size = await self._connection.run(COUNT, INDEX_KEYS, (self._clock(),))
        return StoreStats(entries=entries, size_bytes=size, capacity_bytes=self._max_bytes, evictions=self._evictions)

    async def aclose(self) -> None:
        """Close the connection; the values stay."""
        await self._connection.aclose()

    async def _read(self, key: str, torn: bytes | None) -> bytes | None:
        began, name, transfer = self._clock(), value_key(key), self._connection.transfer()

        async def read(start: int, end: int) -> bytes:
            piece: bytes = await self._connection.execute("GETRANGE", name, start, end - 1, transfer=transfer)
            transfer.moved_bytes += len(piece)
            return piece

        first = b""
        try:
            first = await read(0, CHUNK_BYTES)
            if not first:
                # Redis let it expire or evicted it; a value that is being stored just now stays entered.
                await self._drop([(member(key), math.nextafter(began, 0))])
                return None
            header = parse_header(first, key)
            if began >= header.expires_at:
                await self._remove(key, first)
                return None
            reading = Reading(header, first)
            while not reading.is_complete:
                start = reading.received_bytes
                reading.add(await read(start, min(start + CHUNK_BYTES, header.text_bytes)))
            pieces = reading.value()
        except DamagedValueError:
            await self._remove(key, first)
            raise
        except ReplacedError as error:
            if error.nonce == torn:
                # Twice the same write, twice not whole: nobody replaced it.
                await self._remove(key, first)
                raise DamagedValueError("the value is cut short") from None
            raise
        # Reading goes on where the order of use cannot be written.
        with contextlib.suppress(StoreUnavailableError):
            await self._enter(key, header.text_bytes, header.expires_at)
        if reading.received_bytes <= INLINE_BYTES:
            return b"".join(pieces)
        return await to_thread.run_sync(b"".join, pieces)

    async def _write(
        self, key: str, value: Sequence[Piece], size: int, *, expires_at: float, expires_in: float | None
    ) -> bool:
        nonce, name, transfer = self._nonce(), value_key(key), self._connection.transfer()
        milliseconds = 0 if expires_in is None else min(math.ceil(expires_in * 1000), _LONGEST_MILLISECONDS)
        texts = build_texts(key, value, nonce=nonce, expires_at=expires_at, chunk_bytes=CHUNK_BYTES)
        first = next(texts)
        if len(first) == size:
            expiry: tuple[Argument, ...] = ("PX", milliseconds) if milliseconds else ()
            await self._connection.execute("SET", name, first, *expiry, transfer=transfer)
            return True
        writing = temporary_key(key, nonce)
        try:
            await self._connection.execute("SET", writing, first, "PX", _WRITING_MILLISECONDS, transfer=transfer)
            transfer.moved_bytes += len(first)
            for text in texts:
                # Appending to what has meanwhile gone would make it anew, without an end.
                expire = ("PEXPIRE", writing, _WRITING_MILLISECONDS)
                await self._connection.execute_all([("APPEND", writing, text), expire], transfer=transfer)
                transfer.moved_bytes += len(text)
            return bool(await self._connection.run(PUBLISH, (writing, name), (size, milliseconds)))
        except StoreFullError:
            with contextlib.suppress(StoreUnavailableError):
                await self._connection.execute("UNLINK", writing)
            raise

    async def _enter(self, key: str, size: int, expires_at: float) -> None:
        """Enter a value that is there, or its use, and make room for it."""
        arguments = (self._clock(), member(key), size, expires_at, self._max_bytes, _KEPT_SHARE)
        found = await self._connection.run(ENTER, INDEX_KEYS, arguments)
        victims = list(zip(found[::2], map(float, found[1::2]), strict=True))
        for start in range(0, len(victims), _PAGE):
            page = victims[start : start + _PAGE]
            self._evictions += await self._unlink([value_key(key_of(name)) for name, _ in page])
            await self._drop(page)

    async def _drop(self, members: Sequence[tuple[bytes, float]]) -> None:
        """Drop members from the index unless they were used after the time beside them."""
        if members:
            # Without memory the index cannot be written. What stays in it wrongly is dropped when it is met again.
            with contextlib.suppress(StoreFullError):
                await self._connection.run(DROP, INDEX_KEYS, [word for pair in members for word in pair])

    async def _unlink(self, names: Sequence[str]) -> int:
        return sum(await self._connection.execute_all([("UNLINK", name) for name in names])) if names else 0

    async def _remove(self, key: str, text: bytes) -> None:
        """Remove what was read, not what has replaced it since."""
        if await self._connection.run(REMOVE_SAME, (value_key(key),), (text[:_SAME_BYTES],)):
            await self._drop([(member(key), math.inf)])

    async def _members(self) -> AsyncIterator[list[tuple[bytes, float]]]:
        """Iterate over the index in pages of members and ends; a member may come twice."""
        cursor = 0
        while True:
            cursor, members = await self._connection.execute("ZSCAN", INDEX_KEYS[1], cursor, "COUNT", _PAGE)
            yield [(name, float(end)) for name, end in members]
            if not int(cursor):
                return
