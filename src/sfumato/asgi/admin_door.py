"""The door of the administrators' routes: they exist only where there is an admin key, and every answer is JSON."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sfumato.asgi.answers import new_request_id, send_error, send_json
from sfumato.asgi.auth import ClientKeys
from sfumato.errors import ImageError, InternalError, InvalidParameterError
from sfumato.setting_types import Labelled
from sfumato.settings import Settings
from sfumato.wire.parameters import Parameters

_log = logging.getLogger("sfumato")

Answer: TypeAlias = tuple[int, dict[str, Any]]


class AdminDoor:
    """Let administrators in and answer them.

    Args:
        settings: Holds the admin key.
        public: Let everyone in, whether or not there is a key.
    """

    def __init__(self, settings: Settings, *, public: bool = False) -> None:
        key = settings.admin_key
        self._authorize = ClientKeys((Labelled("admin", key),)) if key and not public else None
        self._public = public

    @property
    def exists(self) -> bool:
        """Tell whether there is an admin key, or none is needed; without one there are no routes."""
        return self._public or self._authorize is not None

    async def respond(
        self, answer: Callable[[Request], Awaitable[Answer | Response]], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send what *answer* returns or raises; it is not asked before the key was seen. The body is not read."""
        request = Request(scope, receive)
        request_id = new_request_id()
        try:
            if self._authorize is not None:
                await self._authorize(request)
            answered = await answer(request)
        except ImageError as error:
            await send_error(send, error, request_id=request_id)
        except Exception:  # noqa: BLE001  # every request is answered; the traceback is the log's
            _log.exception("Request %s of an administrator failed", request_id)
            await send_error(send, InternalError(), request_id=request_id)
        else:
            if isinstance(answered, Response):
                await answered(scope, receive, send)
            else:
                await send_json(send, *answered)


def read_query(request: Request) -> Parameters:
    """Return the query's parameters.

    Raises:
        InvalidParameterError: One was given twice.
    """
    values: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        # Taking one of two filters would remove what was not meant.
        if name in values:
            raise InvalidParameterError(f"'{name[:100]}' was given twice.", param=name[:100])
        values[name] = value
    return Parameters(values)
