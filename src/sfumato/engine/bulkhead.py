"""So many upstream calls at a time, so many that wait for one, and no tenant that keeps the others out.

Free places go round over the tenants that wait, and within a tenant to whoever came first. When the queue is full, a
newcomer is refused at once, unless another tenant has at least two more waiting than the newcomer's has: then the
newest of the tenant with most is refused in its place. So a full queue ends up shared evenly, and places in it are
never passed round in circles.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sfumato.errors import OverloadedError

_MIN_RETRY_SECONDS = 1.0
_MAX_RETRY_SECONDS = 30.0
# Weight of the latest call in the mean duration: a change of load shows within some ten calls.
_NEWEST = 0.2

# Resolves to whether its owner has a place; False when it made room for another tenant.
_Turn = asyncio.Future[bool]


class Bulkhead:
    """Bound upstream work. It belongs to one event loop.

    Args:
        max_concurrency: Places.
        queue_size: How many may wait for one.
        clock: Monotonic seconds.
    """

    def __init__(self, *, max_concurrency: int, queue_size: int, clock: Callable[[], float]) -> None:
        self._places = max_concurrency
        self._queue_size = queue_size
        self._clock = clock
        self._running = 0
        # Tenants in the order of their turns; nobody's line is ever empty. A cancelled task's turn is over at once and
        # leaves its line a tick later: until then the line holds a turn that is done.
        self._lines: dict[str | None, deque[_Turn]] = {}
        self._mean_seconds: float | None = None

    @property
    def running(self) -> int:
        """Return how many places are taken."""
        return self._running

    @property
    def waiting(self) -> int:
        """Return how many wait for a place."""
        return sum(map(self._waiting_of, self._lines))

    @asynccontextmanager
    async def place(self, tenant: str | None) -> AsyncIterator[float]:
        """Hold a place; give the seconds that it was waited for.

        Args:
            tenant: Whose work it is; work without a tenant counts as one tenant's.

        Raises:
            OverloadedError: The queue is full, or another tenant's turn to wait took this one's.
        """
        asked = self._clock()
        await self._enter(tenant)
        began = self._clock()
        try:
            yield began - asked
        finally:
            self._learn(self._clock() - began)
            self._leave()

    async def _enter(self, tenant: str | None) -> None:
        # Somebody waits only while every place is taken: whoever finds one free overtakes nobody.
        if self._running < self._places:
            self._running += 1
            return
        if self.waiting >= self._queue_size:
            self._make_room(tenant)
        turn: _Turn = asyncio.get_running_loop().create_future()
        self._lines.setdefault(tenant, deque()).append(turn)
        try:
            admitted = await turn
        except asyncio.CancelledError:
            self._abandon(tenant, turn)
            raise
        if not admitted:
            raise self._overloaded()

    def _make_room(self, tenant: str | None) -> None:
        longest = max(self._lines, key=self._waiting_of, default=tenant)
        if self._waiting_of(longest) < self._waiting_of(tenant) + 2:
            raise self._overloaded()
        # Two or more wait there, so the line stays.
        line = self._lines[longest]
        while (newest := line.pop()).done():
            pass
        newest.set_result(False)

    def _waiting_of(self, tenant: str | None) -> int:
        return sum(not turn.done() for turn in self._lines.get(tenant, ()))

    def _abandon(self, tenant: str | None, turn: _Turn) -> None:
        if turn.cancelled():
            line = self._lines.get(tenant)
            # Whoever freed a place or made room meanwhile has dropped it.
            if line and turn in line:
                line.remove(turn)
                if not line:
                    del self._lines[tenant]
        elif turn.result():
            # Cancelled between being given the place and taking it.
            self._leave()

    def _leave(self) -> None:
        while self._lines:
            tenant = next(iter(self._lines))
            line = self._lines.pop(tenant)
            while line and line[0].done():
                line.popleft()
            if not line:
                continue
            turn = line.popleft()
            if line:
                self._lines[tenant] = line
            turn.set_result(True)
            return
        self._running -= 1

    def _learn(self, seconds: float) -> None:
        mean = seconds if self._mean_seconds is None else self._mean_seconds
        self._mean_seconds = mean + _NEWEST * (seconds - mean)

    def _overloaded(self) -> OverloadedError:
        delay = None
        if self._mean_seconds is not None:
            delay = (self.waiting + 1) * self._mean_seconds / self._places
            delay = min(_MAX_RETRY_SECONDS, max(_MIN_RETRY_SECONDS, delay))
        return OverloadedError(
            "Too many pictures are being made here. Send the request again after the time in 'Retry-After'.",
            retry_after=delay,
            reason="queue_full",
        )
