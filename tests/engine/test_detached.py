"""Clients that leave: what upstream renders is never lost, what waits ends, and whoever comes again is served."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from sfumato.cache.memory import MemoryStore
from sfumato.cache.noop import NoopStore
from sfumato.cache.store import Store
from sfumato.errors import (
    DeadlineError,
    InvalidParameterError,
    OverloadedError,
    RateLimitedError,
    ServiceUnavailableError,
)
from sfumato.images.request import CacheStatus, ImageResult
from sfumato.pictures.threads import pixel_limiter
from sfumato.telemetry.observer import Call
from sfumato.wire.payload import raw_bytes
from tests.support import samples
from tests.support.clients import Bench, bench

pytestmark = pytest.mark.anyio
BYTES = samples.encoded(samples.noise(8, 8))
PICTURE = base64.b64encode(BYTES).decode()
KINDS: dict[str, dict[str, Any]] = {
    "cached": {},
    "no-cache": {"cache": {"no-cache": True}},
    "no-store": {"cache": {"no-store": True}},
    "max-age=0": {"cache": {"s-maxage": 0}},
    "ttl=0": {"cache": {"ttl": 0}},
}


def answer_with(picture: str) -> dict[str, Any]:
    content = {"parts": [{"inlineData": {"mimeType": "image/png", "data": picture}}]}
    return {"candidates": [{"content": content, "finishReason": "STOP"}]}


class Studio:
    """An upstream that renders until it is told to answer."""

    def __init__(self) -> None:
        self.calls = 0
        self.began = asyncio.Semaphore(0)
        self.answer = asyncio.Event()
        self.status = 200
        # A picture of its own for each call: another one after its end.
        self.differs = False

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.calls += 1
        self.began.release()
        await self.answer.wait()
        picture = base64.b64encode(BYTES + bytes([self.calls])).decode() if self.differs else PICTURE
        return httpx.Response(self.status, json=answer_with(picture))


@asynccontextmanager
async def visiting(studio: Studio, *, store: Store | None = None, **options: Any) -> AsyncIterator[Bench]:
    http = httpx.AsyncClient(transport=httpx.MockTransport(studio))
    async with bench("http://gemini.test", http=http, store=store, **options) as it:
        yield it


async def leave(task: asyncio.Task[ImageResult]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def ending(result: ImageResult) -> int:
    """Tell by its last byte which call of the upstream's an answer's picture is."""
    return raw_bytes(result.images[0].picture)[-1]


async def settled() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_picture_whose_client_left_is_a_hit_for_its_next_try(kind: str) -> None:
    studio = Studio()
    async with visiting(studio) as it:
        task = asyncio.create_task(it.make(**KINDS[kind]))
        await studio.began.acquire()
        await leave(task)
        studio.answer.set()
        await it.client.settle()
        await settled()
        again = await it.make(**KINDS[kind])
        assert (studio.calls, again.cache_status, again.cost_usd) == (1, CacheStatus.HIT, 0.0)
        third = await it.make(**KINDS[kind])
    assert (third.cache_status is CacheStatus.HIT) is (kind == "cached"), (
        "what is kept outside of the cache is kept once"
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_the_next_try_joins_what_is_still_rendered(kind: str) -> None:
    studio = Studio()
    async with visiting(studio) as it:
        first = asyncio.create_task(it.make(**KINDS[kind]))
        await studio.began.acquire()
        await leave(first)
        second = asyncio.create_task(it.make(**KINDS[kind]))
        await settled()
        await leave(second)
        third = asyncio.create_task(it.make(**KINDS[kind]))
        await settled()
        studio.answer.set()
        result = await third
    assert (studio.calls, result.cache_status) == (1, CacheStatus.HIT)


async def test_without_a_cache_it_is_kept_for_its_caller_alone() -> None:
    studio = Studio()
    async with visiting(studio, store=NoopStore()) as it:
        task = asyncio.create_task(it.make())
        await studio.began.acquire()
        await leave(task)
        studio.answer.set()
        await settled()
        await it.make(call=Call(request_id="another", caller="another"))
        assert studio.calls == 2
        await it.make()
    assert studio.calls == 2


async def test_it_is_paid_for_and_recorded_though_nobody_waits() -> None:
    studio = Studio()
    async with visiting(studio) as it:
        task = asyncio.create_task(it.make())
        await studio.began.acquire()
        await leave(task)
        assert it.seen.ended == 0
        studio.answer.set()
        await it.client.aclose(grace_seconds=30)
        (record,) = it.seen.records
        assert (it.seen.ended, record.abandoned, record.status_code, record.images) == (1, True, 499, 1)
        assert record.cost_usd == pytest.approx(0.1344)
        assert [(charge.account, charge.cost_usd) for charge in record.charges] == [("first", record.cost_usd)]


async def test_of_n_pictures_those_go_on_that_are_rendered() -> None:
    studio = Studio()
    async with visiting(studio, max_concurrency=2) as it:
        task = asyncio.create_task(it.make(n=5))
        for _ in range(2):
            await studio.began.acquire()
        await leave(task)
        studio.answer.set()
        await settled()
        assert studio.calls == 2, "the other three waited for a place, which nobody pays for"
        result = await it.make(n=5)
    assert studio.calls == 5
    assert sum(image.cost_usd == 0 for image in result.images) == 2


async def test_a_failed_attempt_is_not_repeated_for_nobody() -> None:
    studio = Studio()
    studio.status = 503
    async with visiting(studio) as it:
        task = asyncio.create_task(it.make())
        await studio.began.acquire()
        await leave(task)
        studio.answer.set()
        await settled()
        (record,) = it.seen.records
        assert isinstance(record.error, ServiceUnavailableError)
    assert studio.calls == 1


async def test_whoever_follows_is_served_when_the_leader_leaves() -> None:
    studio = Studio()
    async with visiting(studio) as it:
        leader = asyncio.create_task(it.make())
        await studio.began.acquire()
        follower = asyncio.create_task(it.make())
        await settled()
        await leave(leader)
        studio.answer.set()
        result = await follower
    assert (studio.calls, result.cache_status) == (1, CacheStatus.HIT)


async def test_an_answer_that_did_not_arrive_is_kept_where_the_cache_is_not_asked() -> None:
    studio = Studio()
    studio.answer.set()
    call = Call(request_id="req", caller="me")
    async with visiting(studio) as it:
        result = await it.make(call=call, **KINDS["no-store"])
        it.client.keep(result, call=call)
        again = await it.make(call=call, **KINDS["no-store"])
    assert (studio.calls, again.cache_status) == (1, CacheStatus.HIT)


async def test_closing_waits_for_what_is_rendered_and_for_its_storing() -> None:
    studio = Studio()
    async with visiting(studio) as it:
        task = asyncio.create_task(it.make())
        await studio.began.acquire()
        await leave(task)
        closing = asyncio.create_task(it.client.aclose(grace_seconds=30))
        await settled()
        assert not closing.done()
        studio.answer.set()
        await closing
        assert (it.seen.ended, it.seen.steps.count("cache.store")) == (1, 1)


async def test_what_is_not_done_within_the_grace_period_ends_with_an_answer() -> None:
    studio = Studio()
    async with visiting(studio) as it:
        task = asyncio.create_task(it.make())
        await studio.began.acquire()
        await it.client.aclose(grace_seconds=0)
        with pytest.raises(OverloadedError, match="shutting down"):
            await task


async def test_no_new_work_is_taken_while_running_work_ends() -> None:
    studio = Studio()
    async with visiting(studio) as it:
        running = asyncio.create_task(it.make())
        await studio.began.acquire()
        closing = asyncio.create_task(it.client.aclose(grace_seconds=30))
        await settled()
        with pytest.raises(OverloadedError) as refused:
            await it.make("another")
        assert refused.value.retry_after
        studio.answer.set()
        assert (await running).images
        await closing
        assert [record.status_code for record in it.seen.records] == [200, 503]


def keyed(key: str, caller: str = "me") -> Call:
    return Call(request_id="req", caller=caller, idempotency_key=key)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_key_gives_the_same_pictures_again(kind: str) -> None:
    studio = Studio()
    studio.answer.set()
    async with visiting(studio) as it:
        first = await it.make(call=keyed("a"), n=2, **KINDS[kind])
        again = await it.make(call=keyed("a"), n=2, **KINDS[kind])
        assert studio.calls == 2
        assert (first.cost_usd > 0, again.cost_usd, again.cache_status) == (True, 0.0, CacheStatus.HIT)
        it.seen.now += 1
        await it.make(call=keyed("b"), n=2, **KINDS[kind])
        it.seen.now += 1
        await it.make(call=keyed("a", caller="another"), n=2, **KINDS[kind])
    assert studio.calls == (2 if kind == "cached" else 6), "another key, or another caller's, is another request"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_key_joins_what_is_running(kind: str) -> None:
    studio = Studio()
    async with visiting(studio) as it:
        tasks = [asyncio.create_task(it.make(call=keyed("a"), **KINDS[kind])) for _ in range(3)]
        await studio.began.acquire()
        await leave(tasks.pop(0))
        await settled()
        studio.answer.set()
        results = await asyncio.gather(*tasks)
    assert studio.calls == 1
    assert {result.cache_status for result in results} == {CacheStatus.HIT}


@pytest.mark.parametrize("kind", ["no-cache", "max-age=0"])
async def test_a_fresh_picture_takes_nothing_from_anothers_key(kind: str) -> None:
    """Both are stored under the same key of the cache, where the newer one takes the place of the older one."""
    studio = Studio()
    studio.differs = True
    async with visiting(studio) as it:
        left = asyncio.create_task(it.make(call=keyed("a"), **KINDS[kind]))
        await studio.began.acquire()
        await leave(left)
        studio.answer.set()
        await settled()
        it.seen.now += 1
        newer = await it.make(call=keyed("b"), **KINDS[kind])
        await it.client.settle()
        first = await it.make(call=keyed("a"), **KINDS[kind])
        again = await it.make(call=keyed("b"), **KINDS[kind])
    assert studio.calls == 2
    assert [ending(result) for result in (first, newer, again)] == [1, 2, 2]


async def test_a_key_gives_its_pictures_though_they_are_older_than_the_request_takes() -> None:
    studio = Studio()
    studio.answer.set()
    async with visiting(studio) as it:
        await it.make(call=keyed("a"), cache={"s-maxage": 5})
        it.seen.now += 10
        await it.make(call=keyed("a"), cache={"s-maxage": 5})
        assert studio.calls == 1
        await it.make(call=keyed("b"), cache={"s-maxage": 5})
    assert studio.calls == 2, "what was made before a key was first seen is too old for it"


async def test_without_a_cache_a_key_gives_the_same_pictures_again() -> None:
    studio = Studio()
    studio.answer.set()
    async with visiting(studio, store=NoopStore()) as it:
        await it.make(call=keyed("a"))
        await it.make(call=keyed("a"))
        assert studio.calls == 1
        it.seen.now += 601
        await it.make(call=keyed("a"))
    assert studio.calls == 2, "a key is remembered for its time"


async def test_a_key_stands_for_one_request() -> None:
    studio = Studio()
    studio.answer.set()
    async with visiting(studio) as it:
        await it.make("one", call=keyed("a"))
        with pytest.raises(InvalidParameterError) as refused:
            await it.make("two", call=keyed("a"))
    assert refused.value.param == "Idempotency-Key"


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "a\n", "é"])
async def test_a_key_that_is_none_is_refused(key: str) -> None:
    async with visiting(Studio()) as it:
        with pytest.raises(InvalidParameterError) as refused:
            await it.make(call=keyed(key))
    assert refused.value.param == "Idempotency-Key"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_leaves_in_the_moment_of_the_answer_loses_nothing(kind: str) -> None:
    studio = Studio()
    async with visiting(studio) as it:
        task = asyncio.create_task(it.make(**KINDS[kind]))
        await studio.began.acquire()
        (work,) = it.client._slots.work._tasks
        work.add_done_callback(lambda _: task.cancel())
        studio.answer.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        again = await it.make(**KINDS[kind])
    assert (studio.calls, again.cost_usd) == (1, 0.0)


async def test_two_pictures_that_were_left_are_both_kept() -> None:
    studio = Studio()
    async with visiting(studio) as it:
        tasks = [asyncio.create_task(it.make(**KINDS["no-store"])) for _ in range(2)]
        for _ in tasks:
            await studio.began.acquire()
        for task in tasks:
            await leave(task)
        studio.answer.set()
        for _ in tasks:
            await it.make(**KINDS["no-store"])
    assert studio.calls == 2


async def test_what_was_left_under_a_key_is_that_keys_alone() -> None:
    studio = Studio()
    async with visiting(studio) as it:
        task = asyncio.create_task(it.make(call=keyed("a"), **KINDS["no-store"]))
        await studio.began.acquire()
        await leave(task)
        studio.answer.set()
        await it.make(call=keyed("a"), **KINDS["no-store"])
        assert studio.calls == 1
        await it.make(call=keyed("b"), **KINDS["no-store"])
        assert studio.calls == 2
        await it.make(call=keyed("a"))
    assert studio.calls == 2, "the same key, spelled without no-store"


async def test_a_followers_own_error_is_not_a_left_leaders() -> None:
    studio = Studio()
    studio.status = 503
    async with visiting(studio) as it:
        leader = asyncio.create_task(it.make())
        await studio.began.acquire()
        follower = asyncio.create_task(it.make())
        await settled()
        await leave(leader)
        studio.status = 503
        studio.answer.set()
        with pytest.raises(ServiceUnavailableError) as failed:
            await follower
    assert failed.value.attempts == 3
    assert studio.calls == 4


async def test_a_pool_at_rest_is_told_before_a_place_is_waited_for() -> None:
    studio = Studio()
    async with visiting(studio, max_concurrency=1) as it:
        running = asyncio.create_task(it.make("one"))
        await studio.began.acquire()
        (account,) = it.client.accounts._accounts
        await it.client.accounts.report(account, "gemini-3-pro-image", RateLimitedError("m", retry_after=20))
        with pytest.raises(RateLimitedError):
            await it.make("two")
        studio.answer.set()
        await running
    assert studio.calls == 1


class BrokenStore(MemoryStore):
    """A store that takes nothing."""

    async def set(self, key: str, value: Any, *, expires_in: float | None) -> bool:
        raise OSError("full")


@pytest.mark.parametrize("call", [Call(request_id="req", caller="me"), keyed("a")])
async def test_a_store_that_fails_costs_no_picture(call: Call) -> None:
    studio = Studio()
    studio.answer.set()
    async with visiting(studio, store=BrokenStore(1_000_000)) as it:
        await it.make(call=call)
        await it.client.settle()
        await it.make(call=call)
    assert studio.calls == 1


async def test_a_claimed_picture_is_found_again_where_the_store_fails() -> None:
    """Its client comes again for two pictures, is given the one that it left, and leaves while the other is made."""
    studio = Studio()
    async with visiting(studio, store=BrokenStore(1_000_000)) as it:
        first = asyncio.create_task(it.make())
        await studio.began.acquire()
        await leave(first)
        studio.answer.set()
        await settled()
        studio.answer.clear()
        second = asyncio.create_task(it.make(n=2))
        await studio.began.acquire()
        await leave(second)
        studio.answer.set()
        await settled()
        third = await it.make(n=2)
    assert (studio.calls, third.cost_usd) == (2, 0.0)


async def test_nothing_is_begun_for_a_client_that_left_while_it_waited_for_what_it_had_left() -> None:
    studio = Studio()
    studio.status = 503
    async with visiting(studio) as it:
        for _ in range(2):
            task = asyncio.create_task(it.make(**KINDS["no-store"]))
            await settled()
            await leave(task)
        studio.answer.set()
        await settled()
        assert [record.abandoned for record in it.seen.records] == [True, True]
    assert studio.calls == 1


@pytest.mark.parametrize("call", [Call(request_id="req", caller="me"), keyed("a")], ids=["no key", "key"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_deadline_does_not_end_what_is_paid_for(kind: str, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every place for work on pixels is taken when the picture comes, and still when its client comes again."""
    loop = asyncio.get_running_loop()
    passed, clock = 0.0, loop.time
    monkeypatch.setattr(loop, "time", lambda: clock() + passed)
    studio = Studio()
    studio.answer.set()
    limiter = pixel_limiter()
    places = [object() for _ in range(int(limiter.total_tokens))]
    for place in places:
        limiter.acquire_on_behalf_of_nowait(place)
    try:
        async with visiting(studio) as it:
            first_try = asyncio.create_task(it.make(output_format="webp", timeout_seconds=60, call=call, **KINDS[kind]))
            while not limiter.statistics().tasks_waiting:  # noqa: ASYNC110  # the limiter has no event for it
                await asyncio.sleep(0)
            passed += 61
            with pytest.raises(DeadlineError):
                await first_try
            next_try = asyncio.create_task(it.make(output_format="webp", call=call, **KINDS[kind]))
            await settled()
            for place in places:
                limiter.release_on_behalf_of(place)
            places.clear()
            again = await next_try
            assert (studio.calls, again.cost_usd) == (1, 0.0)
    finally:
        for place in places:
            limiter.release_on_behalf_of(place)


async def test_a_request_that_the_end_of_the_server_cuts_off_is_recorded_as_it_was_answered() -> None:
    studio = Studio()
    async with visiting(studio) as it:
        task = asyncio.create_task(it.make())
        await studio.began.acquire()
        await it.client.aclose(grace_seconds=0)
        with pytest.raises(OverloadedError):
            await task
        (record,) = it.seen.records
    assert (record.status_code, record.abandoned) == (503, False)
