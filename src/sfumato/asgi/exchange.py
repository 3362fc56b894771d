"""What a gateway's handler hands to the middleware in front of it: headers, errors and late pixels, per attempt.

The middleware opens an `Exchange` for a request. A handler behind it finds it with `current_exchange`, begins an
`Attempt`, and puts in what a gateway like LiteLLM would lose on the way. Its retries and fallbacks run several handlers
in one request: only the attempt that the final answer comes from counts. Hooks that see that answer `settle` which one
it is; its tokens say so too.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from sfumato.asgi.splicing import TOKEN_DIGITS, TOKEN_MARK
from sfumato.errors import ImageError
from sfumato.wire.payload import Pieces


class Attempt:
    """One run of a handler, and what came of it.

    Attributes:
        id: Unguessable; it stands in for the attempt where a reference would keep pictures alive.
        request_id: The id that the client is told.
        headers: Of an answer with pictures.
        error: What it failed with.
        seen_status: The HTTP status that the gateway was told of *error*.
    """

    def __init__(self, request_id: str) -> None:
        self.id = secrets.token_hex(16)
        self.request_id = request_id
        self.headers: Mapping[str, str] = {}
        self.error: ImageError | None = None
        self.seen_status = 0
        self._late: dict[str, Pieces] = {}
        self._on_undelivered: Callable[[], None] | None = None
        self._closed = False

    @property
    def is_late(self) -> bool:
        """Tell whether the gateway holds tokens of this attempt instead of pictures."""
        return bool(self._late)

    def bind(self, text: Pieces) -> str:
        """Return a token that stands for *text*, a picture's base64, until the answer leaves."""
        token = f"{TOKEN_MARK}{secrets.token_hex(TOKEN_DIGITS // 2)}"
        self._late[token] = text
        return token

    def succeed(self, headers: Mapping[str, str], *, on_undelivered: Callable[[], None]) -> None:
        """Note an answer with pictures.

        Args:
            headers: Its headers.
            on_undelivered: Called when the request ends and the client did not get the answer.
        """
        self.headers = headers
        if self._closed:
            on_undelivered()
        else:
            self._on_undelivered = on_undelivered

    def fail(self, error: ImageError, *, seen_status: int) -> None:
        """Note the error that it ended with."""
        self.error = error
        self.seen_status = seen_status

    def find(self, token: str) -> Pieces | None:
        """Return what *token* stands for, None when it is not of this attempt."""
        return self._late.get(token)

    def deliver(self) -> None:
        """Note that the client got the whole answer."""
        self._on_undelivered = None

    def close(self) -> None:
        """Let go of the pictures, and tell who keeps them where the client did not get the answer."""
        self._closed = True
        self._late.clear()
        tell, self._on_undelivered = self._on_undelivered, None
        if tell is not None:
            tell()


class Exchange:
    """What the handlers of one request leave for the middleware in front.

    Attributes:
        settled: The attempt that the final answer comes from, as far as hooks have told.
    """

    def __init__(self) -> None:
        self._attempts: dict[str, Attempt] = {}
        self._open = True
        self.settled: Attempt | None = None

    @property
    def is_open(self) -> bool:
        """Tell whether the request still runs: work that outlives it must not rely on it."""
        return self._open

    @property
    def is_used(self) -> bool:
        """Tell whether a handler of ours ran."""
        return bool(self._attempts)

    @property
    def is_late(self) -> bool:
        """Tell whether the gateway holds tokens of any attempt."""
        return any(attempt.is_late for attempt in self._attempts.values())

    def begin(self, request_id: str) -> Attempt:
        """Begin an attempt."""
        attempt = Attempt(request_id)
        self._attempts[attempt.id] = attempt
        return attempt

    def settle(self, attempt_id: object) -> None:
        """Note whose the final answer is: an attempt's by its id, anybody else's otherwise."""
        self.settled = self._attempts.get(attempt_id) if isinstance(attempt_id, str) else None

    def find(self, token: str) -> tuple[Attempt, Pieces] | None:
        """Return the attempt that made *token* and what it stands for, None when it is unknown here."""
        for attempt in self._attempts.values():
            text = attempt.find(token)
            if text is not None:
                return attempt, text
        return None

    def close(self) -> None:
        """End it, and let go of every picture: contexts that live longer hold a reference to it."""
        self._open = False
        for attempt in self._attempts.values():
            attempt.close()
        self._attempts.clear()
        self.settled = None


_current: ContextVar[Exchange | None] = ContextVar("sfumato_exchange", default=None)


@contextmanager
def exchanging() -> Iterator[Exchange]:
    """Open an exchange for the request that runs in this context."""
    exchange = Exchange()
    token = _current.set(exchange)
    try:
        yield exchange
    finally:
        _current.reset(token)
        exchange.close()


def current_exchange() -> Exchange | None:
    """Return the exchange of the request that this runs for, None where no middleware waits for it."""
    exchange = _current.get()
    return exchange if exchange is not None and exchange.is_open else None
