"""Clients that leave at any moment: every picture that was paid for is delivered, or found by its owner's next try."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import gc
import random
from collections import Counter
from typing import Any

import httpx
import pytest

from sfumato.cache.memory import MemoryStore
from sfumato.cache.noop import NoopStore
from sfumato.cache.store import Store
from sfumato.engine.coordination import Lease, take
from sfumato.engine.supervisor import Supervisor
from sfumato.errors import ImageError, InternalError
from sfumato.telemetry.observer import Call
from sfumato.wire.payload import raw_bytes
from tests.support import samples
from tests.support.clients import CACHE_WISHES, Bench, bench

pytestmark = pytest.mark.anyio
SCENES = 30
MEGABYTE = 1024 * 1024
BYTES = samples.encoded(samples.noise(8, 8))
# Longer than any scene: what is not over by then hangs.
TICKS = 5_000


@dataclasses.dataclass(frozen=True)
class Visit:
    """One request: how, when it comes, and how long its client stays; times are turns of the event loop."""

    kind: str
    prompt: int
    n: int
    caller: str
    key: int | None
    comes: int
    stays: int | None

    @property
    def call(self) -> Call:
        """Return where it comes from; a key stands for one prompt and one n."""
        key = None if self.key is None else f"{self.prompt}-{self.n}-{self.key}"
        return Call(request_id="req", caller=self.caller, idempotency_key=key)


@dataclasses.dataclass(frozen=True)
class Scene:
    """Visits, and what they meet."""

    kind: str
    visits: list[Visit]
    answers: list[tuple[int, str]]
    store: str
    accounts: int
    places: int
    queue: int


@dataclasses.dataclass(frozen=True)
class Share:
    """A picture that a visit was given, by the number of the call that made it."""

    visit: Visit
    slot: int
    picture: int
    is_fresh: bool

    @property
    def owner(self) -> tuple[str, str | None, int]:
        """Return whose it is under a key."""
        return self.visit.caller, self.visit.call.idempotency_key, self.slot


class BrokenStore(MemoryStore):
    """A store that takes nothing."""

    async def set(self, key: str, value: Any, *, expires_in: float | None) -> bool:
        raise OSError("full")


class SlowLeases:
    """Leases that take a few turns of the event loop, and are counted."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.jobs = Supervisor()

    async def acquire(self, key: str) -> Lease | None:
        return await take(self._take(key), self.jobs)

    async def _take(self, key: str) -> Lease | None:
        await turns(2)
        if key in self.held:
            return None
        self.held.add(key)
        await turns(2)
        return _Held(self, key)

    async def wait(self, key: str, timeout_seconds: float) -> bool:
        while key in self.held:
            await turns(1)
        return True

    async def aclose(self) -> None:
        await self.jobs.drain(1)


@dataclasses.dataclass
class _Held:
    leases: SlowLeases
    key: str

    async def release(self) -> None:
        await turns(2)
        self.leases.held.remove(self.key)


class Upstream:
    """Answers by its script, each time with another picture, until it is closed."""

    def __init__(self, answers: list[tuple[int, str]]) -> None:
        self.answers = answers
        self.calls = 0
        self.paid = 0
        self.closed = False

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        if self.closed:
            return httpx.Response(400, json={"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "closed"}})
        renders, outcome = self.answers[self.calls % len(self.answers)]
        self.calls += 1
        # What is rendered is billed, whoever waits for it.
        picture = BYTES + self.paid.to_bytes(2, "big")
        self.paid += outcome == "paints"
        await turns(renders)
        if outcome == "fails":
            return httpx.Response(503, json={})
        if outcome == "limits":
            limit = {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [{"retryDelay": "1s"}]}
            return httpx.Response(429, json={"error": limit})
        if outcome == "breaks":
            raise httpx.ReadError("broken")
        data = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(picture).decode()}}
        return httpx.Response(200, json={"candidates": [{"content": {"parts": [data]}, "finishReason": "STOP"}]})


class Performance:
    """A scene played, and who got which picture."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.upstream = Upstream(scene.answers)
        self.leases = SlowLeases()
        self.shares: list[Share] = []

    async def play(self) -> None:
        loop, problems = asyncio.get_running_loop(), list[dict[str, Any]]()
        before = loop.get_exception_handler()
        loop.set_exception_handler(lambda _, context: problems.append(context))
        try:
            await self._play()
            gc.collect(1)
        finally:
            loop.set_exception_handler(before)
        assert problems == []

    async def _play(self) -> None:
        scene = self.scene
        stores: dict[str, Store] = {"memory": MemoryStore(MEGABYTE), "none": NoopStore(), "broken": BrokenStore(1)}
        async with bench(
            "http://gemini.test",
            http=httpx.AsyncClient(transport=httpx.MockTransport(self.upstream)),
            store=stores[scene.store],
            leases=self.leases,
            keys=("a", "b", "c")[: scene.accounts],
            max_concurrency=scene.places,
            queue_size=scene.queue,
        ) as it:
            before = asyncio.all_tasks()
            await self._visit(it)
            await self._settle(it)
            assert asyncio.all_tasks() <= before
            self._nothing_is_left(it)
            self.upstream.closed = True
            await self._try_again(it)

    async def _visit(self, it: Bench) -> None:
        visiting: dict[int, asyncio.Task[None]] = {}
        visits = self.scene.visits
        for now in range(max(visit.comes + (visit.stays or 0) for visit in visits) + 1):
            for number, visit in enumerate(visits):
                if visit.comes == now:
                    visiting[number] = asyncio.create_task(self._come(it, visit))
                if visit.stays is not None and visit.comes + visit.stays == now:
                    visiting[number].cancel()
            await turns(1)
        for _ in range(TICKS):
            if all(task.done() for task in visiting.values()):
                break
            await turns(1)
        for task in visiting.values():
            assert task.done(), "somebody waits for ever"
            assert task.cancelled() or task.exception() is None

    async def _come(self, it: Bench, visit: Visit) -> None:
        try:
            result = await it.make(str(visit.prompt), n=visit.n, call=visit.call, **CACHE_WISHES[visit.kind])
        except InternalError:
            raise
        except ImageError:
            return
        for image in result.images:
            picture = int.from_bytes(raw_bytes(image.picture)[len(BYTES) :], "big")
            self.shares.append(Share(visit, image.slot, picture, is_fresh=image.age_seconds is None))

    async def _settle(self, it: Bench) -> None:
        slots = it.client._slots
        for _ in range(TICKS):
            if not (len(slots.work) or len(slots.stores) or len(self.leases.jobs)):
                break
            await turns(1)
        await turns(5)

    def _nothing_is_left(self, it: Bench) -> None:
        slots = it.client._slots
        assert (len(slots.work), len(slots.stores), len(self.leases.jobs)) == (0, 0, 0)
        assert (slots.studio.bulkhead.running, slots.studio.bulkhead.waiting) == (0, 0)
        assert [state.running for state in it.client.account_states()] == [0] * self.scene.accounts
        assert (slots.flights._running, slots.keepsakes._running, self.leases.held) == ({}, {}, set())
        assert it.seen.ended == len(it.seen.records) == len(self.scene.visits)
        assert sum(len(record.charges) for record in it.seen.records) == self.upstream.paid

    async def _try_again(self, it: Bench) -> None:
        """Send every request again, now that no new pictures are made; of several left ones each try is given one."""
        for _ in self.scene.visits:
            before = {share.picture for share in self.shares}
            for visit in self.scene.visits:
                await self._come(it, visit)
            if before == {share.picture for share in self.shares}:
                break


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def drawn(chance: random.Random, kind: str, store: str) -> Scene:
    visits = [
        Visit(
            kind=chance.choice(list(CACHE_WISHES)) if kind == "mixed" else kind,
            prompt=chance.choice([0, 0, 1]),
            n=chance.randint(1, 3),
            caller=chance.choice("xxy"),
            key=chance.choice([None, None, 0, 1]),
            comes=chance.randint(0, 60),
            stays=chance.choice([None, chance.randint(1, 60)]),
        )
        for _ in range(chance.randint(2, 10))
    ]
    outcomes = ["paints"] * 7 + ["fails", "limits", "breaks"]
    answers = [(chance.randint(0, 12), chance.choice(outcomes)) for _ in range(12)]
    return Scene(kind, visits, answers, store, chance.randint(1, 3), chance.randint(1, 3), chance.randint(1, 20))


@pytest.mark.parametrize("store", ["memory", "none", "broken"])
@pytest.mark.parametrize("kind", [*CACHE_WISHES, "mixed"])
async def test_whoever_leaves_and_whenever_no_paid_picture_is_lost(kind: str, store: str) -> None:
    chance = random.Random(f"{kind} {store}")
    # google-genai's clients, of other tests, begin tasks when they are collected.
    gc.collect()
    for _ in range(SCENES):
        await check(drawn(chance, kind, store))


async def check(scene: Scene) -> None:
    performance = Performance(scene)
    await performance.play()
    shares = performance.shares
    # In the cache a fresh picture takes the place of one that was left there: its owner is given the newer one.
    if (scene.kind, scene.store) != ("mixed", "memory"):
        assert set(range(performance.upstream.paid)) - {share.picture for share in shares} == set(), f"lost in {scene}"
    billed = Counter(share.picture for share in shares if share.is_fresh)
    assert set(billed.values()) <= {1}, "a picture is billed to one client"
    if scene.kind == "mixed":
        paid = Counter(share.owner for share in shares if share.is_fresh and share.visit.key is not None)
        assert set(paid.values()) <= {1}, "a key pays once, however its requests would have the cache used"
    elif scene.kind != "cached":
        handed = Counter(share.picture for share in shares if share.visit.key is None)
        assert set(handed.values()) <= {1}, "whoever wants a fresh picture is not given another's"
        made = {share.owner: share.picture for share in shares if share.is_fresh and share.visit.key is not None}
        again = {share.picture for share in shares if made.get(share.owner, share.picture) != share.picture}
        assert again == set(), "a key gives the pictures that were made for it"
