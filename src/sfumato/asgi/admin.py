"""The administrators' routes of the cache. They exist only where there is an admin key.

::

    GET    /gemini-image/cache          what the cache holds: counts, and the first entries that match the query
    GET    /gemini-image/cache/{key}    what is known of one entry
    DELETE /gemini-image/cache          remove the entries that match the query, which must say something
    DELETE /gemini-image/cache/{key}    remove one entry; without its slot, all slots

No answer holds a prompt, a picture, a path or a secret.
"""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from sfumato.asgi.admin_door import AdminDoor, Answer, read_query
from sfumato.asgi.routes import OWN_PREFIX
from sfumato.cache.entry import describe
from sfumato.cache.image_cache import CacheUnavailableError, ImageCache
from sfumato.cache.invalidation import EVERY_ENTRY, EntryFilter, parse_filter
from sfumato.errors import InternalError, InvalidParameterError
from sfumato.runtime import Runtime
from sfumato.wire.parameters import Parameters

_PATH = f"{OWN_PREFIX}cache"
_DEFAULT_LIMIT = 50
_MAX_LIMIT = 1000


class CacheAdmin:
    """Answer the administrators' routes of the cache.

    Args:
        runtime: Gives the cache and the admin key; without a key no route exists.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._door = AdminDoor(runtime.settings)

    def serves(self, method: str, path: str) -> bool:
        """Tell whether a request is for one of the routes."""
        ours = path == _PATH or path.startswith(f"{_PATH}/")
        return ours and method in ("GET", "DELETE") and self._door.exists

    async def respond(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that `serves` is true of; the body is not read."""
        key = path.removeprefix(_PATH).strip("/")

        async def answer(request: Request) -> Answer:
            try:
                return await self._answer(request, key)
            except CacheUnavailableError as error:
                raise _unavailable(error.fault.reason) from None

        await self._door.respond(answer, scope, receive, send)

    async def _answer(self, request: Request, key: str) -> Answer:
        query = read_query(request)
        cache = self._runtime.client.cache
        # What has been answered counts as stored, and as removed when it is.
        await self._runtime.client.settle()
        if request.method == "DELETE":
            where = parse_filter(key=key) if key else _read_deletion(query)
            query.refuse_rest()
            return await _remove(cache, where)
        if key:
            parse_filter(key=key)
            query.refuse_rest()
            return await _show(cache, key)
        return await self._list(cache, query)

    async def _list(self, cache: ImageCache, query: Parameters) -> Answer:
        where, limit = _read_filter(query), query.integer("limit", _DEFAULT_LIMIT)
        query.refuse_rest()
        if not 0 <= limit <= _MAX_LIMIT:
            raise InvalidParameterError(
                f"Invalid value for 'limit': expected an integer from 0 to {_MAX_LIMIT:,}.", param="limit"
            )
        settings, now = self._runtime.settings, time.time()
        # One more is asked for, to know whether there are more.
        found = cache.entries(where, limit=limit + 1 if limit else 0)
        entries = [describe(header, now=now) async for header in found]
        return 200, {
            "backend": settings.cache_backend if cache.enabled else "noop",
            "scope": settings.cache_scope,
            "ttl_seconds": settings.cache_ttl,
            "stats": (await cache.stats()).describe(),
            "entries": entries[:limit],
            "more": len(entries) > limit,
        }


async def _show(cache: ImageCache, key: str) -> Answer:
    header = await cache.get(key)
    if header is None:
        error = {"message": "There is no entry under this key.", "type": "invalid_request_error"}
        return 404, {"error": {**error, "param": "key", "code": "not_found"}}
    return 200, describe(header, now=time.time())


async def _remove(cache: ImageCache, where: EntryFilter) -> Answer:
    removed = await (cache.clear() if where == EVERY_ENTRY else cache.invalidate(where))
    if removed is None:
        raise _unavailable()
    return 200, {"removed": removed}


def _read_filter(query: Parameters) -> EntryFilter:
    return parse_filter(
        prompt=query.text("prompt"),
        prompt_hash=query.text("prompt_hash"),
        model=query.text("model"),
        tenant=query.text("tenant"),
        older_than_seconds=query.seconds("older_than"),
    )


def _read_deletion(query: Parameters) -> EntryFilter:
    where, everything = _read_filter(query), query.boolean("all")
    if where == EVERY_ENTRY and not everything:
        query.refuse_rest()
        raise InvalidParameterError(
            "Say what to remove: 'model', 'prompt', 'prompt_hash', 'tenant' or 'older_than', or 'all=true'.",
            param="all",
        )
    if everything and where != EVERY_ENTRY:
        raise InvalidParameterError("'all' goes with no other parameter.", param="all")
    return where


def _unavailable(reason: str | None = None) -> InternalError:
    told = f" ({reason})" if reason else ""
    return InternalError(f"The cache cannot be used{told}: see the log of 'sfumato.cache'.")
