from __future__ import annotations

import gc
import threading
from dataclasses import dataclass, field

from sfumato.cache.vitals import CacheVitals
from sfumato.telemetry import names
from sfumato.telemetry.observer import NullObserver, ObserverGroup
from sfumato.telemetry.vitals import Watch
from tests.telemetry.conftest import Telemetry


@dataclass(frozen=True)
class Condition:
    label: str
    state: str


@dataclass(eq=False)
class Client:
    """A client that can be asked how it is."""

    accounts: list[Condition] = field(default_factory=list)
    cache: CacheVitals = field(default_factory=CacheVitals)

    def account_states(self) -> list[Condition]:
        return self.accounts

    def cache_vitals(self) -> CacheVitals:
        return self.cache


def test_accounts_are_counted_by_state_and_every_state_is_told(telemetry: Telemetry) -> None:
    client = Client([Condition("a", "ready"), Condition("b", "parked"), Condition("c", "ready")])
    telemetry.observer.watch(client)
    told = {labels[names.ACCOUNT_STATE]: value for labels, value in telemetry.points()["gemini_image.accounts"]}
    assert told == {"ready": 2, "cooling": 0, "parked": 1}


def test_an_account_of_two_clients_counts_once_and_at_its_worst(telemetry: Telemetry) -> None:
    first, second = Client([Condition("a", "ready")]), Client([Condition("a", "cooling"), Condition("b", "ready")])
    telemetry.observer.watch(first)
    telemetry.observer.watch(second)
    told = {labels[names.ACCOUNT_STATE]: value for labels, value in telemetry.points()["gemini_image.accounts"]}
    assert told == {"ready": 1, "cooling": 1, "parked": 0}


def test_a_cache_is_counted(telemetry: Telemetry) -> None:
    cache = CacheVitals(
        hits=4, misses=6, evictions=3, faults={("lookup", "ENOSPC"): 2}, size_bytes=250, capacity_bytes=1000
    )
    client = Client(cache=cache)
    telemetry.observer.watch(client)
    points = telemetry.points()
    assert points["gemini_image.cache.lookups"] == [
        ({names.CACHE_RESULT: "hit"}, 4),
        ({names.CACHE_RESULT: "miss"}, 6),
    ]
    assert points["gemini_image.cache.hit_rate"] == [({}, 0.4)]
    assert points["gemini_image.cache.size"] == [({}, 250)]
    assert points["gemini_image.cache.capacity"] == [({}, 0.25)]
    assert points["gemini_image.cache.evictions"] == [({}, 3)]
    assert points["gemini_image.cache.faults"] == [({names.CACHE_OPERATION: "lookup", names.CACHE_REASON: "ENOSPC"}, 2)]


def test_clients_of_one_process_share_a_store_but_not_their_counts(telemetry: Telemetry) -> None:
    clients = [Client(cache=CacheVitals(hits=5, misses=5, size_bytes=400, capacity_bytes=1000)) for _ in range(2)]
    for client in clients:
        telemetry.observer.watch(client)
        telemetry.observer.watch(client)
    points = telemetry.points()
    assert points["gemini_image.cache.lookups"][0][1] == 10
    assert points["gemini_image.cache.size"] == [({}, 400)]
    assert points["gemini_image.cache.capacity"] == [({}, 0.4)]


def test_what_is_not_known_is_not_told(telemetry: Telemetry) -> None:
    client = Client(cache=CacheVitals(size_bytes=5))
    telemetry.observer.watch(client)
    points = telemetry.points()
    assert "gemini_image.cache.hit_rate" not in points
    assert "gemini_image.cache.capacity" not in points
    assert "gemini_image.accounts" not in points


def test_counts_of_a_client_that_is_gone_stay_and_its_gauges_go(telemetry: Telemetry) -> None:
    client = Client([Condition("a", "ready")], CacheVitals(hits=7, size_bytes=1, faults={("list", "clock"): 1}))
    telemetry.observer.watch(client)
    del client
    gc.collect()
    for _ in range(2):
        points = telemetry.points()
        assert points["gemini_image.cache.lookups"][0][1] == 7
        assert points["gemini_image.cache.faults"][0][1] == 1
        assert "gemini_image.accounts" not in points
        assert "gemini_image.cache.size" not in points


def test_watching_and_asking_from_many_threads(telemetry: Telemetry) -> None:
    watch, clients = Watch(), [Client(cache=CacheVitals(hits=1)) for _ in range(200)]
    asked: list[int] = []

    def ask() -> None:
        asked.extend(watch.counts().hits for _ in range(200))

    thread = threading.Thread(target=ask)
    thread.start()
    for client in clients:
        watch.add(client)
    thread.join()
    assert asked == sorted(asked)
    assert watch.counts().hits == 200


def test_groups_pass_it_on_and_the_default_looks_at_nothing(telemetry: Telemetry) -> None:
    client = Client([Condition("a", "ready")])
    ObserverGroup([NullObserver(), telemetry.observer]).watch(client)
    assert telemetry.points()["gemini_image.accounts"][0][1] == 1
