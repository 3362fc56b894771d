"""Notes between hosts: a key in Redis per note, which ends by itself."""

from __future__ import annotations

import hashlib

from sfumato.cache.redis import RedisConnection

_PREFIX = "sfumato:note:"


class RedisNotes:
    """Notes shared by every host that uses the same Redis.

    Args:
        connection: The store's, whose circuit they share; not closed here.
    """

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    async def write(self, key: str, text: str, *, seconds: float) -> str:
        """Write *text* where nothing stands yet; return what stands there now.

        Raises:
            StoreUnavailableError: Redis is gone or takes no more keys.
        """
        name = _PREFIX + hashlib.sha256(key.encode()).hexdigest()
        if await self._connection.execute("SET", name, text, "NX", "PX", max(1, round(seconds * 1000))):
            return text
        standing = await self._connection.execute("GET", name)
        # Its time may have ended between the two.
        return standing.decode() if isinstance(standing, bytes) else text

    async def aclose(self) -> None:
        """Do nothing: the connection belongs to others."""
