"""``Idempotency-Key``: a request that comes again gets the pictures of the first, running or finished.

A key belongs to its caller, is remembered for a while, and stands for one request: another request under it is
refused. Whatever the cache keeps is found there anyway; a key matters where the cache must not answer (``no-cache``) or
must not keep (``no-store``, no cache at all).
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from sfumato.engine.notes import LocalNotes, Notes
from sfumato.errors import InvalidParameterError
from sfumato.images.fingerprint import fingerprint
from sfumato.images.request import ImageRequest

HEADER = "Idempotency-Key"
_KEY = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?")
_log = logging.getLogger("sfumato")


@dataclass(frozen=True, slots=True)
class Repetition:
    """A request under a key, maybe not the first.

    Attributes:
        scope: Digest of the caller and the key.
        begun: Unix seconds when the first one came.
        seconds: How long its pictures are kept for it.
    """

    scope: str
    begun: float
    seconds: float


class Idempotency:
    """Remember which request a key stands for.

    Args:
        notes: Shared between processes and hosts, where something is.
        fallback: Takes over while *notes* fail.
        ttl_seconds: How long a key is remembered.
        clock: Unix seconds.
    """

    def __init__(self, notes: Notes, *, fallback: LocalNotes, ttl_seconds: float, clock: Callable[[], float]) -> None:
        self._notes = notes
        self._fallback = fallback
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._sharing = True

    async def begin(self, key: str, request: ImageRequest, *, caller: str) -> Repetition:
        """Tie a key to *request*, or find that it is tied to it already.

        Raises:
            InvalidParameterError: The key is no key, or stands for another request.
        """
        if not _KEY.fullmatch(key):
            raise InvalidParameterError(
                f"Invalid value for '{HEADER}': expected 1 to 255 printable ASCII characters.", param=HEADER
            )
        scope = hashlib.sha256(f"{caller}\0{key}".encode()).hexdigest()
        wanted = hashlib.sha256(f"{fingerprint(request)}\0{request.n}\0{request.seed}".encode()).hexdigest()
        found, _, begun = (await self._write(scope, f"{wanted} {self._clock()!r}")).partition(" ")
        if found != wanted:
            raise InvalidParameterError(
                f"This '{HEADER}' was used for another request. Send a new key with a new request.", param=HEADER
            )
        return Repetition(scope, _number(begun, self._clock()), self._ttl_seconds)

    async def _write(self, scope: str, text: str) -> str:
        try:
            standing = await self._notes.write(f"idempotency:{scope}", text, seconds=self._ttl_seconds)
        except Exception as error:  # noqa: BLE001  # whatever the medium does, the request goes on
            if self._sharing:
                _log.warning("Idempotency keys are not shared with other processes (%s).", type(error).__name__)
            self._sharing = False
            return await self._fallback.write(scope, text, seconds=self._ttl_seconds)
        if not self._sharing:
            _log.info("Idempotency keys are shared with other processes again.")
        self._sharing = True
        return standing


def _number(text: str, default: float) -> float:
    try:
        number = float(text)
    except ValueError:
        return default
    return number if math.isfinite(number) else default
