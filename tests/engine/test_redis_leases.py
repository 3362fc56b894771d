from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest

from sfumato.cache.circuit import Circuit
from sfumato.cache.redis import connect
from sfumato.cache.redis_scripts import lease_key
from sfumato.cache.store import StoreUnavailableError
from sfumato.engine.coordination import Leases
from sfumato.engine.redis_leases import RedisLeases
from tests.support.fault_proxy import fault_proxy
from tests.support.redis_server import RedisServer, running_redis
from tests.support.stopwatch import Stopwatch

PATIENT_SECONDS = 10.0
# Longer than any test: a busy machine may stand still for a while. Where leases end, time is the test's.
TTL_SECONDS = 60.0
FAULT_SECONDS = 0.25 + 0.2

pytestmark = pytest.mark.anyio


@pytest.fixture
async def hosts(redis_server: RedisServer) -> AsyncIterator[tuple[RedisLeases, RedisLeases]]:
    """Two hosts."""
    connections = [connect(redis_server.url, timeout_seconds=PATIENT_SECONDS) for _ in range(2)]
    first, second = (RedisLeases(connection, ttl_seconds=TTL_SECONDS) for connection in connections)
    yield first, second
    for leases, connection in zip((first, second), connections, strict=True):
        await leases.aclose()
        await connection.aclose()


Hosts = tuple[RedisLeases, RedisLeases]


class Pauses:
    """Pauses between renewals, which end when they are told to."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self._over = asyncio.Semaphore(0)

    async def sleep(self, seconds: float) -> None:
        """Wait to be told."""
        self.asked.append(seconds)
        await self._over.acquire()

    def over(self) -> None:
        """End a pause."""
        self._over.release()

    async def end(self) -> None:
        """End a pause; return when the next one has begun, so that what is between them is over."""
        count = len(self.asked)
        self.over()
        await eventually(lambda: len(self.asked) > count)


def test_they_are_leases() -> None:
    leases: type[Leases] = RedisLeases
    assert leases


async def test_one_holds_it_and_the_others_do_not(hosts: Hosts) -> None:
    first, second = hosts
    lease = await first.acquire("key")
    assert lease is not None
    assert await second.acquire("key") is None
    assert await first.acquire("key") is None
    assert await second.acquire("another") is not None
    await lease.release()
    await lease.release()
    assert await second.acquire("key") is not None


async def test_whoever_is_cancelled_while_it_takes_one_holds_none(redis_server: RedisServer, redis_admin: Any) -> None:
    """Redis has given it already; nobody else waits for the end of its time."""
    connection = connect(redis_server.url, timeout_seconds=PATIENT_SECONDS)
    leases = RedisLeases(connection, ttl_seconds=60)
    taking = asyncio.create_task(leases.acquire("key"))
    async with asyncio.timeout(60):
        # Step by step: the answer is not to be read yet.
        while not redis_admin.exists(lease_key("key")):  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert not taking.done()

    taking.cancel()
    await asyncio.wait([taking])
    await eventually(lambda: not redis_admin.exists(lease_key("key")))

    assert taking.cancelled()
    await leases.aclose()
    await connection.aclose()


async def test_of_many_one_is_first(hosts: Hosts) -> None:
    taken = await asyncio.gather(*(hosts[number % 2].acquire("key") for number in range(100)))
    assert sum(lease is not None for lease in taken) == 1


async def test_only_its_holder_gives_it_back(hosts: Hosts, redis_admin: Any) -> None:
    lease = await hosts[0].acquire("key")
    assert lease is not None
    redis_admin.set(lease_key("key"), "another's")
    await lease.release()
    assert redis_admin.get(lease_key("key")) == b"another's"


async def test_it_outlives_its_time_while_it_is_held(hosts: Hosts, redis_server: RedisServer, redis_admin: Any) -> None:
    connection, pauses = connect(redis_server.url, timeout_seconds=PATIENT_SECONDS), Pauses()
    lease = await RedisLeases(connection, ttl_seconds=TTL_SECONDS, sleep=pauses.sleep).acquire("key")
    assert lease is not None
    assert 0 < redis_admin.pttl(lease_key("key")) <= TTL_SECONDS * 1000
    await eventually(lambda: pauses.asked)
    for _ in range(3):
        redis_admin.persist(lease_key("key"))
        await pauses.end()
        assert 0 < redis_admin.pttl(lease_key("key")) <= TTL_SECONDS * 1000
    # Three times within its time.
    assert set(pauses.asked) == {TTL_SECONDS / 3}
    assert await hosts[1].acquire("key") is None
    assert not lease.lost
    await lease.release()
    await connection.aclose()


async def test_another_takes_over_when_the_holder_has_died(
    hosts: Hosts, redis_server: RedisServer, redis_admin: Any
) -> None:
    dying = connect(redis_server.url, timeout_seconds=PATIENT_SECONDS)
    assert await RedisLeases(dying, ttl_seconds=0.15).acquire("key") is not None
    # Its renewals fail from now on, as a dead process's do.
    await dying.aclose()
    assert redis_admin.pttl(lease_key("key")) <= 150
    assert await hosts[1].wait("key", 60)
    assert await hosts[1].acquire("key") is not None


async def test_a_lease_that_another_has_is_lost(redis_server: RedisServer, redis_admin: Any) -> None:
    connection = connect(redis_server.url, timeout_seconds=PATIENT_SECONDS)
    lease = await RedisLeases(connection, ttl_seconds=0.15).acquire("key")
    assert lease is not None
    redis_admin.set(lease_key("key"), "another's")
    await eventually(lambda: lease.lost)
    assert redis_admin.get(lease_key("key")) == b"another's"
    await lease.release()
    await connection.aclose()


async def test_a_lease_is_lost_when_redis_is_gone_for_its_whole_time(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    passed, clock = 0.0, loop.time
    monkeypatch.setattr(loop, "time", lambda: clock() + passed)
    pauses = Pauses()
    with running_redis() as server:
        connection = connect(server.url, timeout_seconds=PATIENT_SECONDS)
        lease = await RedisLeases(connection, ttl_seconds=3600, sleep=pauses.sleep).acquire("key")
        assert lease is not None
        server.stop()
        await eventually(lambda: pauses.asked)
        for _ in range(2):
            await pauses.end()
            passed += 1200
        assert not lease.lost
        passed += 1200
        pauses.over()
        await eventually(lambda: lease.lost)
        await lease.release()
        await connection.aclose()


async def test_a_hiccup_costs_no_lease(redis_server: RedisServer, redis_admin: Any) -> None:
    now = 0.0
    async with fault_proxy(redis_server.port) as proxy:
        circuit = Circuit(fault=StoreUnavailableError, clock=lambda: now, random=lambda: 1.0)
        connection = connect(f"redis://127.0.0.1:{proxy.port}", circuit=circuit, timeout_seconds=PATIENT_SECONDS)
        pauses = Pauses()
        lease = await RedisLeases(connection, ttl_seconds=TTL_SECONDS, sleep=pauses.sleep).acquire("key")
        assert lease is not None
        await eventually(lambda: pauses.asked)
        proxy.reset()
        with pytest.raises(StoreUnavailableError), circuit.passing():
            raise StoreUnavailableError
        redis_admin.persist(lease_key("key"))
        await pauses.end()
        assert not lease.lost
        assert redis_admin.pttl(lease_key("key")) == -1
        now += 1
        await pauses.end()
        await pauses.end()
        assert not lease.lost
        assert redis_admin.pttl(lease_key("key")) > 0
        await lease.release()
        with redis_server.admin() as admin:
            assert admin.keys("*") == []
        await connection.aclose()


async def test_waiting_ends_when_it_is_free(hosts: Hosts) -> None:
    lease = await hosts[0].acquire("key")
    assert lease is not None
    waiting = asyncio.create_task(hosts[1].wait("key", 10))
    await asyncio.sleep(0.03)
    assert not waiting.done()
    await lease.release()
    assert await waiting
    assert await hosts[1].wait("never held", 0)


async def test_waiting_ends_with_its_time_and_asks_ever_more_rarely(
    redis_server: RedisServer, redis_admin: Any
) -> None:
    now, pauses = 0.0, list[float]()

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        pauses.append(seconds)

    connection = connect(redis_server.url, timeout_seconds=PATIENT_SECONDS)
    leases = RedisLeases(connection, clock=lambda: now, sleep=sleep)
    redis_admin.set(lease_key("key"), "another's")
    assert await leases.wait("key", 1) is False
    assert pauses[:5] == [0.02, 0.04, 0.08, 0.16, 0.25]
    assert sum(pauses) == pytest.approx(1)
    assert await leases.wait("key", 0) is False
    await connection.aclose()


async def test_closing_gives_back_what_is_held(hosts: Hosts, redis_admin: Any) -> None:
    leases = [await hosts[0].acquire(f"key {number}") for number in range(3)]
    await hosts[0].aclose()
    await hosts[0].aclose()
    assert redis_admin.keys("*") == []
    assert None not in leases


async def test_a_redis_that_is_gone_is_told_quickly_and_releasing_never_fails() -> None:
    with running_redis() as server:
        connection = connect(server.url, circuit=Circuit(fault=StoreUnavailableError, random=lambda: 1.0))
        leases = RedisLeases(connection)
        lease = await leases.acquire("key")
        assert lease is not None
        server.stop()
        async with Stopwatch() as watch:
            for _ in range(20):
                with pytest.raises(StoreUnavailableError):
                    await leases.acquire("another")
                with pytest.raises(StoreUnavailableError):
                    await leases.wait("another", 10)
            await lease.release()
        assert watch.seconds < FAULT_SECONDS
        await connection.aclose()


async def test_a_stalled_redis_costs_one_wait(redis_server: RedisServer) -> None:
    async with fault_proxy(redis_server.port) as proxy:
        circuit = Circuit(fault=StoreUnavailableError, random=lambda: 1.0)
        connection = connect(f"redis://127.0.0.1:{proxy.port}", circuit=circuit)
        leases = RedisLeases(connection)
        proxy.stall()
        async with Stopwatch() as watch:
            for _ in range(10):
                with pytest.raises(StoreUnavailableError):
                    await leases.acquire("key")
        assert watch.seconds < FAULT_SECONDS
        await connection.aclose()


async def test_a_renewal_has_no_part_in_the_request_it_began_in(redis_server: RedisServer) -> None:
    trace: ContextVar[str] = ContextVar("trace")
    trace.set("of a request")
    seen: list[str | None] = []

    async def sleep(seconds: float) -> None:
        seen.append(trace.get(None))
        await asyncio.sleep(seconds)

    connection = connect(redis_server.url, timeout_seconds=PATIENT_SECONDS)
    lease = await RedisLeases(connection, sleep=sleep).acquire("key")
    assert lease is not None
    await eventually(lambda: seen)
    assert seen == [None]
    await lease.release()
    await connection.aclose()


async def eventually(condition: Any) -> None:
    # Turns and no time: where time is the test's, a timeout would end with it.
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it does not come")
