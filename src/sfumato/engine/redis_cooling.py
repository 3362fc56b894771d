"""The cooling board in Redis: one hash for all accounts, timed by Redis's own clock.

::

    sfumato:{accounts}:cooling    hash: identity, space, model → class, space, end in Unix milliseconds of Redis

It holds digests, models and times; no label and no key.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, cast, get_args

from sfumato.cache.redis import RedisConnection
from sfumato.cache.redis_scripts import NAMESPACE, Script
from sfumato.upstream.cooling import CoolingClass, Notice

COOLING_KEY = f"{NAMESPACE}:{{accounts}}:cooling"
REFRESH_SECONDS = 0.5
PATIENCE_SECONDS = 0.02
_log = logging.getLogger("sfumato")


def _script(text: str) -> Script:
    # Redis names scripts by SHA-1.
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


_NOW = "local time = redis.call('TIME') local now = time[1] * 1000 + math.floor(time[2] / 1000) "

# field, class, milliseconds: the later end stays; the hash ends with its last row
_PUBLISH = _script(
    _NOW
    + """
local function ending(row) return tonumber(string.match(row or '', ' (%d+)$') or 0) end
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then redis.call('DEL', KEYS[1]) end
local last = now + ARGV[3]
if ending(redis.call('HGET', KEYS[1], ARGV[1])) < last then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. string.format('%.0f', last))
end
local rows = redis.call('HGETALL', KEYS[1])
for i = 1, #rows, 2 do
  local row = ending(rows[i + 1])
  if row <= now then redis.call('HDEL', KEYS[1], rows[i]) elseif row > last then last = row end
end
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', last))
return 1
"""
)

# → field, class, milliseconds left, …
_READ = _script(
    _NOW
    + """
local told = {}
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return told end
local rows = redis.call('HGETALL', KEYS[1])
for i = 1, #rows, 2 do
  local class, last = string.match(rows[i + 1], '^([%w_]+) (%d+)$')
  if class and tonumber(last) > now then
    told[#told + 1] = rows[i]
    told[#told + 1] = class
    told[#told + 1] = string.format('%.0f', tonumber(last) - now)
  end
end
return told
"""
)


class RedisCoolingBoard:
    """Tell the other processes which accounts rest, and learn it from them. For one event loop.

    What Redis does not answer is not known; nothing is raised and nobody waits long for it.

    Args:
        connection: Not closed here; sharing the store's shares its circuit too.
        clock: Seconds that only grow.
        refresh_seconds: Redis is read again when what is known is older than this.
        patience_seconds: The longest wait for a reading; it goes on behind and counts for the next call.
    """

    def __init__(
        self,
        connection: RedisConnection,
        *,
        clock: Callable[[], float] = time.monotonic,
        refresh_seconds: float = REFRESH_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._refresh_seconds = refresh_seconds
        self._patience_seconds = patience_seconds
        self._known: list[tuple[Notice, float]] = []
        self._next = -float("inf")
        self._reading: asyncio.Task[None] | None = None
        self._works = True

    async def read(self) -> Sequence[Notice]:
        """Return what was known at the last reading and still holds."""
        if self._reading is None and self._clock() >= self._next:
            # From a clean context: the reading belongs to no request's trace.
            self._reading = asyncio.create_task(self._read(), context=Context())
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=self._patience_seconds)
        now = self._clock()
        return [
            Notice(notice.identity, notice.model, notice.reason, until - now)
            for notice, until in self._known
            if until > now
        ]

    async def publish(self, notice: Notice) -> None:
        """Tell the others."""
        field = f"{notice.identity} {notice.model}"
        try:
            await self._connection.run(
                _PUBLISH, (COOLING_KEY,), (field, notice.reason, max(1, round(notice.seconds * 1000)))
            )
        except Exception as error:  # noqa: BLE001  # whatever sharing does, the request goes on
            self._report(error)
        else:
            self._report(None)

    async def aclose(self) -> None:
        """End a reading that is under way."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    async def _read(self) -> None:
        try:
            asked = self._clock()
            rows = await self._connection.run(_READ, (COOLING_KEY,))
            self._known = list(_parse(rows, asked))
        except Exception as error:  # noqa: BLE001  # the same
            self._report(error)
        else:
            self._report(None)
        finally:
            self._next = self._clock() + self._refresh_seconds
            self._reading = None

    def _report(self, error: Exception | None) -> None:
        """Log once per change of state: an outage has as many requests as the day has."""
        if error is not None and self._works:
            _log.warning(
                "Accounts are not shared with other processes: Redis fails (%s). Each learns alone",
                type(error).__name__,
            )
        elif error is None and not self._works:
            _log.info("Accounts are shared with other processes again")
        self._works = error is None


def _parse(rows: Any, asked: float) -> list[tuple[Notice, float]]:
    told = []
    for field, reason, milliseconds in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        identity, _, model = field.decode().partition(" ")
        # Another release may know other classes.
        if reason.decode() in get_args(CoolingClass):
            seconds = int(milliseconds) / 1000
            told.append((Notice(identity, model, cast("CoolingClass", reason.decode()), seconds), asked + seconds))
    return told
