"""A key's request sent again while the first one runs, and each of them uses the cache in its own way."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from sfumato.cache.memory import MemoryStore
from sfumato.cache.noop import NoopStore
from sfumato.engine.coordination import Lease
from sfumato.engine.notes import LocalNotes
from sfumato.errors import RateLimitedError, SafetyBlockedError, ServiceUnavailableError
from sfumato.images.request import CacheStatus, ImageResult
from sfumato.telemetry.observer import Call
from sfumato.wire.payload import raw_bytes
from tests.support import samples
from tests.support.clients import CACHE_WISHES, Bench, bench

pytestmark = pytest.mark.anyio
MEGABYTE = 1024 * 1024
BYTES = samples.encoded(samples.noise(8, 8))
PAIRS = list(itertools.product(CACHE_WISHES, CACHE_WISHES))


class Upstream:
    """Answers when it is told to, each time with another picture, or with what it is told."""

    def __init__(self) -> None:
        self.calls = 0
        self.began = asyncio.Semaphore(0)
        self.answer = asyncio.Event()
        self.instead: httpx.Response | None = None

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.calls += 1
        call = self.calls
        self.began.release()
        await self.answer.wait()
        # Never at once: whoever wakes up meanwhile finds it running.
        await settled()
        if self.instead is not None:
            return httpx.Response(self.instead.status_code, content=self.instead.content)
        data = base64.b64encode(BYTES + bytes([call])).decode()
        content = {"parts": [{"inlineData": {"mimeType": "image/png", "data": data}}]}
        return httpx.Response(200, json={"candidates": [{"content": content, "finishReason": "STOP"}]})


class SharedLeases:
    """Leases of several processes, held one at a time per key."""

    def __init__(self) -> None:
        self.held: dict[str, asyncio.Event] = {}

    async def acquire(self, key: str) -> Lease | None:
        if key in self.held:
            return None
        self.held[key] = asyncio.Event()
        return _Held(self, key)

    async def wait(self, key: str, timeout_seconds: float) -> bool:
        if key in self.held:
            await self.held[key].wait()
        return True

    async def aclose(self) -> None:
        """Do nothing."""


class _Held:
    def __init__(self, leases: SharedLeases, key: str) -> None:
        self._leases, self._key = leases, key

    async def release(self) -> None:
        self._leases.held.pop(self._key).set()


@asynccontextmanager
async def visiting(upstream: Upstream, **options: Any) -> AsyncIterator[Bench]:
    http = httpx.AsyncClient(transport=httpx.MockTransport(upstream))
    async with bench("http://gemini.test", http=http, **options) as it:
        yield it


def call(key: str | None = "a") -> Call:
    return Call(request_id="req", caller="me", idempotency_key=key)


def pictures(result: ImageResult) -> list[bytes]:
    return [raw_bytes(image.picture) for image in result.images]


async def settled() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("first", "again"), PAIRS)
async def test_a_running_request_is_paid_once_however_its_repetition_uses_the_cache(first: str, again: str) -> None:
    upstream = Upstream()
    async with visiting(upstream) as it:
        running = asyncio.create_task(it.make(call=call(), n=2, **CACHE_WISHES[first]))
        for _ in range(2):
            await upstream.began.acquire()
        repeated = asyncio.create_task(it.make(call=call(), n=2, **CACHE_WISHES[again]))
        await settled()
        upstream.answer.set()
        one, other = await asyncio.gather(running, repeated)
        await it.client.settle()
        third = await it.make(call=call(), n=2, **CACHE_WISHES[again])
    assert upstream.calls == 2
    assert pictures(one) == pictures(other) == pictures(third)
    assert (one.cost_usd > 0, other.cost_usd, other.cache_status) == (True, 0.0, CacheStatus.HIT)
    assert [len(record.charges) for record in it.seen.records] == [2, 0, 0]


@pytest.mark.parametrize(("first", "again"), [pair for pair in PAIRS if pair[0] != "no-store"])
async def test_between_processes_too(first: str, again: str) -> None:
    """What nothing stores is known to its own process alone."""
    upstream = Upstream()
    leases = SharedLeases()
    shared = {"store": MemoryStore(256 * MEGABYTE), "leases": leases, "notes": LocalNotes(clock=lambda: 0.0)}
    async with visiting(upstream, **shared) as here, visiting(upstream, **shared) as there:
        running = asyncio.create_task(here.make(call=call(), **CACHE_WISHES[first]))
        await upstream.began.acquire()
        repeated = asyncio.create_task(there.make(call=call(), **CACHE_WISHES[again]))
        await settled()
        upstream.answer.set()
        one, other = await asyncio.gather(running, repeated)
        await here.client.settle()
    assert upstream.calls == 1
    assert pictures(one) == pictures(other)
    assert (one.cost_usd > 0, other.cost_usd) == (True, 0.0)
    assert leases.held == {}


@pytest.mark.parametrize("leader", [None, "a"], ids=["without a key leads", "with a key leads"])
async def test_requests_with_a_key_and_without_make_one_call_and_need_one_place(leader: str | None) -> None:
    upstream = Upstream()
    async with visiting(upstream, max_concurrency=1, queue_size=0) as it:
        first = asyncio.create_task(it.make(call=call(leader)))
        await upstream.began.acquire()
        others = [asyncio.create_task(it.make(call=call(key))) for key in (None, "a", "b")]
        fresh = asyncio.create_task(it.make(call=call("b"), **CACHE_WISHES["no-cache"]))
        await settled()
        upstream.answer.set()
        results = await asyncio.gather(first, *others, fresh)
    assert upstream.calls == 1
    assert sorted(result.cost_usd > 0 for result in results) == [False] * 4 + [True]


@pytest.mark.parametrize("again", CACHE_WISHES)
async def test_whoever_comes_again_has_what_its_left_request_was_given_of_anothers(again: str) -> None:
    """The first one under the key waited for a request without one: what it waits for stays the key's."""
    upstream = Upstream()
    async with visiting(upstream, store=MemoryStore(256 * MEGABYTE)) as it:
        leader = asyncio.create_task(it.make(call=call(None)))
        await upstream.began.acquire()
        first = asyncio.create_task(it.make(call=call()))
        await settled()
        upstream.answer.set()
        await asyncio.gather(leader, first)
        again_result = await it.make(call=call(), **CACHE_WISHES[again])
    assert (upstream.calls, again_result.cost_usd) == (1, 0.0)


@pytest.mark.parametrize(("first", "again"), PAIRS)
async def test_a_left_request_goes_on_for_its_repetition(first: str, again: str) -> None:
    upstream = Upstream()
    async with visiting(upstream) as it:
        left = asyncio.create_task(it.make(call=call(), **CACHE_WISHES[first]))
        await upstream.began.acquire()
        left.cancel()
        repeated = asyncio.create_task(it.make(call=call(), **CACHE_WISHES[again]))
        await settled()
        upstream.answer.set()
        result = await repeated
        await asyncio.gather(left, return_exceptions=True)
    assert (upstream.calls, left.cancelled(), result.cost_usd) == (1, True, 0.0)


class SlowStore(MemoryStore):
    """A store that takes nothing before it is told to."""

    def __init__(self) -> None:
        super().__init__(256 * MEGABYTE)
        self.may_store = asyncio.Event()

    async def set(self, key: str, value: Any, *, expires_in: float | None) -> bool:
        await self.may_store.wait()
        return await super().set(key, value, expires_in=expires_in)


@pytest.mark.parametrize("leader", [None, "a"], ids=["without a key leads", "with a key leads"])
async def test_whoever_comes_again_while_the_picture_is_being_stored_is_given_it(leader: str | None) -> None:
    upstream, store = Upstream(), SlowStore()
    async with visiting(upstream, store=store) as it:
        tasks = [asyncio.create_task(it.make(call=call(leader)))]
        await upstream.began.acquire()
        tasks.append(asyncio.create_task(it.make(call=call())))
        await settled()
        upstream.answer.set()
        await asyncio.gather(*tasks)
        await settled()
        again = await it.make(call=call(), **CACHE_WISHES["no-cache"])
        store.may_store.set()
    assert (upstream.calls, again.cost_usd) == (1, 0.0)


async def test_without_a_store_a_key_has_its_picture_still() -> None:
    upstream = Upstream()
    upstream.answer.set()
    async with visiting(upstream, store=NoopStore()) as it:
        await it.make(call=call(), **CACHE_WISHES["no-cache"])
        await it.make(call=call())
    assert upstream.calls == 1


async def test_a_key_that_meets_a_refusal_tells_it_to_all_that_come_under_it() -> None:
    upstream = Upstream()
    upstream.instead = httpx.Response(200, json={"promptFeedback": {"blockReason": "SAFETY"}})
    async with visiting(upstream) as it:
        tasks = [asyncio.create_task(it.make(call=call(), **kind)) for kind in CACHE_WISHES.values()]
        await settled()
        upstream.answer.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [SafetyBlockedError] * len(CACHE_WISHES)
    assert upstream.calls == 1


@pytest.mark.parametrize("key", [None, "a"])
@pytest.mark.parametrize("own", ["dep-key", None])
async def test_an_identical_burst_that_fails_asks_once_with_an_own_account_too(
    own: str | None, key: str | None
) -> None:
    upstream = Upstream()
    limit = {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [{"retryDelay": "40s"}]}
    upstream.instead = httpx.Response(429, json={"error": limit})
    async with visiting(upstream) as it:
        accounts = [None if own is None else it.account("request", own) for _ in range(20)]
        tasks = [asyncio.create_task(it.make(call=call(key), account=account)) for account in accounts]
        await settled()
        upstream.answer.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [RateLimitedError] * 20
    assert upstream.calls == 1


async def test_a_refused_prompt_is_refused_whichever_account_it_comes_with_and_a_quota_is_not() -> None:
    upstream = Upstream()
    async with visiting(upstream) as it:
        accounts = [it.account("request", "one"), it.account("request", "two"), None]
        for body, calls in (({"promptFeedback": {"blockReason": "SAFETY"}}, 1), ({"error": {"code": 429}}, 3)):
            upstream.calls = 0
            upstream.instead = httpx.Response(429 if "error" in body else 200, json=body)
            upstream.answer.clear()
            wishes = [it.make(str(calls), account=account) for account in accounts for _ in range(3)]
            burst = [asyncio.create_task(wish) for wish in wishes]
            await settled()
            upstream.answer.set()
            outcomes = await asyncio.gather(*burst, return_exceptions=True)
            assert len({type(outcome) for outcome in outcomes}) == 1
            assert upstream.calls == calls


async def test_a_leader_without_time_for_another_attempt_leaves_it_to_who_has_some() -> None:
    upstream = Upstream()
    upstream.instead = httpx.Response(503, json={"error": {"code": 503}})
    async with visiting(upstream) as it:
        hasty = asyncio.create_task(it.make("x", timeout_seconds=0.4, call=call(None)))
        await upstream.began.acquire()
        patient = asyncio.create_task(it.make("x", timeout_seconds=60, call=call(None)))
        await settled()
        upstream.answer.set()
        with pytest.raises(ServiceUnavailableError):
            await hasty
        upstream.instead = None
        assert (await patient).cache_status is CacheStatus.MISS
        assert upstream.calls == 2


async def test_a_leader_that_tried_often_enough_speaks_for_all() -> None:
    upstream = Upstream()
    upstream.instead = httpx.Response(503, json={"error": {"code": 503}})
    async with visiting(upstream, max_attempts=1) as it:
        tasks = [asyncio.create_task(it.make("x", timeout_seconds=60, call=call(None))) for _ in range(3)]
        await upstream.began.acquire()
        await settled()
        upstream.answer.set()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in errors] == [ServiceUnavailableError] * 3
        assert upstream.calls == 1
