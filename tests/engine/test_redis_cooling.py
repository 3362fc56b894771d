from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from contextvars import ContextVar
from typing import Any

import pytest

from sfumato.cache.circuit import Circuit
from sfumato.cache.redis import RedisConnection, connect
from sfumato.cache.store import StoreUnavailableError
from sfumato.engine.redis_cooling import COOLING_KEY, RedisCoolingBoard
from sfumato.errors import ImageError, QuotaExhaustedError, RateLimitedError, UpstreamAuthError
from sfumato.upstream.accounts import Account, AccountPool
from sfumato.upstream.cooling import ALL_MODELS, CoolingBoard, Notice
from tests.support.fault_proxy import fault_proxy
from tests.support.redis_server import RedisServer, running_cluster, running_redis

pytestmark = pytest.mark.anyio
PRO = "gemini-3-pro-image"
PATIENT_SECONDS = 10.0
LIMITED = Notice("id-a", PRO, "per_minute", 20.0)
PARKED = Notice("id-b", ALL_MODELS, "credentials", 600.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def connections(redis_server: RedisServer) -> AsyncIterator[tuple[RedisConnection, RedisConnection]]:
    """Those of two processes."""
    async with AsyncExitStack() as stack:
        made = [
            await stack.enter_async_context(aclosing(connect(redis_server.url, timeout_seconds=PATIENT_SECONDS)))
            for _ in range(2)
        ]
        yield made[0], made[1]


Connections = tuple[RedisConnection, RedisConnection]


def board(connection: RedisConnection, clock: Clock | None = None) -> RedisCoolingBoard:
    """One that reads whenever its clock was moved and waits for the answer."""
    return RedisCoolingBoard(connection, clock=clock or Clock(), refresh_seconds=0.5, patience_seconds=PATIENT_SECONDS)


def told(notices: Any) -> list[tuple[str, str, str, Any]]:
    return sorted((row.identity, row.model, row.reason, pytest.approx(row.seconds, abs=5)) for row in notices)


def account(label: str) -> Account:
    return Account.at(label, f"hidden-{label}", "http://test", "v1beta")


def test_it_is_a_board() -> None:
    kind: type[CoolingBoard] = RedisCoolingBoard
    assert kind


async def test_what_one_process_tells_another_knows(connections: Connections) -> None:
    first, second = board(connections[0]), board(connections[1])
    await first.publish(LIMITED)
    await first.publish(PARKED)
    assert told(await second.read()) == [("id-a", PRO, "per_minute", 20), ("id-b", "", "credentials", 600)]


async def test_a_second_worker_does_not_relearn_a_rest(connections: Connections) -> None:
    pools = [AccountPool([account("a"), account("b")], board=board(connection)) for connection in connections]
    await pools[0].report(account("a"), PRO, RateLimitedError("m", reason="per_minute", retry_after=20))
    await pools[0].report(account("b"), PRO, UpstreamAuthError("m"))
    with pytest.raises(RateLimitedError) as caught:
        await pools[1].acquire(PRO)
    assert 10 < (caught.value.retry_after or 0) <= 20
    assert [state.state for state in pools[1].states()] == ["cooling", "parked"]
    assert (await pools[1].acquire("gemini-2.5-flash-image")).label == "a"


async def test_of_two_ends_the_later_one_stays(connections: Connections) -> None:
    clock = Clock()
    first, second = board(connections[0]), board(connections[1], clock)
    for reason, seconds in (("per_day", 3600.0), ("per_minute", 20.0)):
        await first.publish(Notice("id", PRO, reason, seconds))  # type: ignore[arg-type]  # mypy widens the tuple
    assert told(await second.read()) == [("id", PRO, "per_day", 3600)]
    await first.publish(Notice("id", PRO, "billing", 7200.0))
    clock.now += 0.5
    assert told(await second.read()) == [("id", PRO, "billing", 7200)]


async def test_a_rest_ends_and_leaves_nothing_behind(connections: Connections, redis_admin: Any) -> None:
    clock = Clock()
    first, second = board(connections[0]), board(connections[1], clock)
    await first.publish(Notice("id-short", PRO, "per_minute", 0.03))
    await first.publish(Notice("id-long", PRO, "per_minute", 60.0))
    assert 0 < redis_admin.pttl(COOLING_KEY) <= 60_000
    while len(told_now := await second.read()) > 1:
        clock.now += 0.5
        await asyncio.sleep(0.005)
    assert told(told_now) == [("id-long", PRO, "per_minute", 60)]
    await first.publish(Notice("id-new", PRO, "per_minute", 30.0))
    assert redis_admin.hlen(COOLING_KEY) == 2
    assert 30_000 < redis_admin.pttl(COOLING_KEY) <= 60_000


async def test_what_is_known_ages_between_two_readings(connections: Connections) -> None:
    clock = Clock()
    first, second = board(connections[0]), board(connections[1], clock)
    await first.publish(LIMITED)
    await second.read()
    await first.publish(PARKED)
    clock.now += 0.4
    (row,) = await second.read()
    assert 19.0 < row.seconds < 19.7
    clock.now += 0.1
    assert len(await second.read()) == 2


async def test_redis_holds_no_label_and_no_key(connections: Connections, redis_admin: Any) -> None:
    accounts = AccountPool([account("label-a")], board=board(connections[0]))
    await accounts.report(account("label-a"), PRO, QuotaExhaustedError("m", reason="per_day"))
    held = str(redis_admin.hgetall(COOLING_KEY)) + str(redis_admin.keys("*"))
    assert PRO in held
    assert "hidden" not in held
    assert "label-a" not in held


async def test_what_does_not_belong_there_is_not_believed(connections: Connections, redis_admin: Any) -> None:
    clock = Clock()
    it = board(connections[0], clock)
    redis_admin.set(COOLING_KEY, "another's")
    assert await it.read() == []
    await it.publish(LIMITED)
    redis_admin.hset(COOLING_KEY, "id-x model", "a_class_of_the_future 99999999999999")
    redis_admin.hset(COOLING_KEY, "id-y model", "no end")
    redis_admin.hset(COOLING_KEY, "id-z model", "")
    clock.now += 0.5
    assert told(await it.read()) == [("id-a", PRO, "per_minute", 20)]


async def test_a_cluster_holds_it_too() -> None:
    with running_cluster() as nodes:
        connection = connect(f"redis+cluster://127.0.0.1:{nodes[0].port}", timeout_seconds=PATIENT_SECONDS)
        it = board(connection)
        await it.publish(LIMITED)
        assert told(await it.read()) == [("id-a", PRO, "per_minute", 20)]
        await connection.aclose()


async def test_a_redis_that_is_gone_is_told_once_and_again_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sfumato")
    with running_redis() as server:
        circuit = Circuit(fault=StoreUnavailableError, random=lambda: 0.0)
        connection = connect(server.url, circuit=circuit, timeout_seconds=PATIENT_SECONDS)
        clock = Clock()
        it = board(connection, clock)
        accounts = AccountPool([account("a")], board=it)
        server.stop()
        for _ in range(5):
            clock.now += 0.5
            assert (await accounts.acquire(PRO)).label == "a"
            await it.publish(LIMITED)
        await accounts.report(account("a"), PRO, RateLimitedError("m", retry_after=20))
        with pytest.raises(ImageError):
            await accounts.acquire(PRO)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "127.0.0.1" not in caplog.text
        server.start()
        await it.publish(LIMITED)
        clock.now += 0.5
        assert len(await it.read()) == 1
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
        await connection.aclose()


async def test_nobody_waits_long_for_a_reading_that_stalls(redis_server: RedisServer) -> None:
    async with fault_proxy(redis_server.port) as proxy:
        connection = connect(f"redis://127.0.0.1:{proxy.port}", timeout_seconds=PATIENT_SECONDS)
        it = RedisCoolingBoard(connection, patience_seconds=0.001)
        proxy.stall()
        assert [await it.read() for _ in range(3)] == [[], [], []]
        # One reading for all of them, and still under way.
        assert it._reading is not None
        await it.aclose()
        assert it._reading is None
        await connection.aclose()


async def test_a_reading_has_no_part_in_the_request_it_began_in(connections: Connections) -> None:
    trace: ContextVar[str] = ContextVar("trace")
    trace.set("of a request")
    seen: list[str | None] = []

    class Watching(Clock):
        def __call__(self) -> float:
            if asyncio.current_task() is not test:
                seen.append(trace.get(None))
            return self.now

    test = asyncio.current_task()
    await board(connections[0], Watching()).read()
    assert seen
    assert set(seen) == {None}
