from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from obstore.exceptions import PermissionDeniedError

from sfumato.cache.circuit import Circuit, CircuitOpenError
from sfumato.cache.framing import build_head
from sfumato.cache.image_cache import CacheFault, ImageCache
from sfumato.cache.objects import ObjectStore
from sfumato.cache.store import DamagedValueError
from sfumato.errors import ConfigurationError
from tests.cache.contract import (
    CAPACITY_BYTES,
    READS,
    TENTH,
    Clock,
    Read,
    StoreContract,
    keys_of,
    list_twenty,
    put,
    sample_image,
    sample_request,
)
from tests.support.fault_proxy import Break, fault_proxy
from tests.support.s3_server import BUCKET, S3Server, s3_serving, silence_serving, use_endpoint

# A wait that no test is to see the end of.
LONG = 30.0


@pytest.fixture
def clock() -> Clock:
    # After the server's own time, which it stamps its objects with: the order of use is then this clock's.
    return Clock(time.time() + 86_400)


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    with s3_serving() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    s3_server.clear()
    s3_server.use(monkeypatch)
    return s3_server


def path_of(key: str) -> str:
    digest = hashlib.sha256(key.encode()).hexdigest()
    return f"{digest[:2]}/{digest}"


class TestInMemory(StoreContract):
    @pytest.fixture
    def store(self, clock: Clock) -> ObjectStore:
        return ObjectStore("memory://", CAPACITY_BYTES, clock=clock, answer_seconds=LONG)


class TestInADirectory(StoreContract):
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        return tmp_path / "made" / "when needed"

    @pytest.fixture
    def store(self, directory: Path, clock: Clock) -> ObjectStore:
        return ObjectStore(directory.as_uri(), CAPACITY_BYTES, clock=clock, answer_seconds=LONG)

    def test_only_the_user_may_look(self, store: ObjectStore, directory: Path) -> None:
        assert directory.stat().st_mode & 0o777 == 0o700

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"foreign",
            bytes(100),
            build_head("other", expires_at=4e9, value_bytes=5) + b"value",
            build_head("key", expires_at=4e9, value_bytes=6) + b"value",
            build_head("key", expires_at=4e9, value_bytes=4) + b"value",
            build_head("kez", expires_at=4e9, value_bytes=5).replace(b"kez", b"key") + b"value",
        ],
        ids=["empty", "short", "foreign", "other key", "cut short", "too long", "flipped"],
    )
    @READS
    async def test_a_damaged_object_is_told_and_removed(
        self, store: ObjectStore, directory: Path, content: bytes, read: Read
    ) -> None:
        await put(store, "key", b"value")
        file = directory / path_of("key")
        file.write_bytes(content)
        with pytest.raises(DamagedValueError):
            await read(store, "key")
        assert not file.exists()
        assert await store.get("key") is None

    async def test_damaged_objects_are_no_keys(self, store: ObjectStore, directory: Path) -> None:
        await put(store, "good", b"value")
        for key, content in (("bad", b""), ("worse", bytes(100))):
            await put(store, key, b"value")
            (directory / path_of(key)).write_bytes(content)
        assert await keys_of(store) == ["good"]

    async def test_what_is_not_ours_is_never_touched(self, store: ObjectStore, directory: Path) -> None:
        foreign = directory / "ab" / "notes.txt"
        foreign.parent.mkdir()
        foreign.write_text("mine")
        await put(store, "key", b"value")
        assert (await store.stats()).entries == 1
        assert await store.clear() == 1
        assert foreign.read_text() == "mine"

    @READS
    async def test_an_expired_object_is_removed_when_it_is_read(
        self, store: ObjectStore, directory: Path, clock: Clock, read: Read
    ) -> None:
        await put(store, "key", TENTH, expires_in=1)
        clock.advance(1)
        assert await read(store, "key") is None
        assert not (directory / path_of("key")).exists()

    async def test_removals_of_others_do_not_stop_an_eviction(self, store: ObjectStore, directory: Path) -> None:
        for number in range(5):
            await put(store, f"key {number}", b"value")
        held = await store._list()
        (directory / path_of("key 2")).unlink()
        await store._remove_all([value.path for value in held])
        assert (await store.stats()).entries == 0

    async def test_bytes_of_another_process_count(self, store: ObjectStore, directory: Path, clock: Clock) -> None:
        other = ObjectStore(directory.as_uri(), CAPACITY_BYTES, clock=clock, answer_seconds=LONG)
        for number in range(12):
            clock.advance(1)
            await put(store if number % 2 else other, f"key {number}", TENTH)
        await store._tidying.settled()
        await other._tidying.settled()
        assert (await store.stats()).size_bytes <= CAPACITY_BYTES * 17 / 16


class TestOnS3(StoreContract):
    @pytest.fixture
    def store(self, s3: S3Server, clock: Clock) -> ObjectStore:
        return ObjectStore(f"s3://{BUCKET}/a/prefix", CAPACITY_BYTES, clock=clock, answer_seconds=LONG)

    async def test_values_stand_under_the_prefix_and_prefixes_are_apart(self, store: ObjectStore, clock: Clock) -> None:
        beside = ObjectStore(f"s3://{BUCKET}/a", CAPACITY_BYTES, clock=clock, answer_seconds=LONG)
        await put(store, "key", b"value")
        assert await beside.get("key") is None
        assert await beside.clear() == 0
        again = ObjectStore(f"s3://{BUCKET}/a/prefix/", CAPACITY_BYTES, clock=clock, answer_seconds=LONG)
        assert await again.get("key") == b"value"

    async def test_a_large_value_comes_back(self, s3: S3Server) -> None:
        store = ObjectStore(f"s3://{BUCKET}", 100_000_000, answer_seconds=LONG)
        value = [b"head", *[TENTH] * 50]
        assert await put(store, "key", *value)
        assert await store.get("key") == b"".join(value)
        await store.aclose()

    async def test_listing_reads_the_beginnings_only(self, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        async with fault_proxy(s3.port) as proxy:
            use_endpoint(f"http://127.0.0.1:{proxy.port}", monkeypatch)
            await list_twenty(ObjectStore(f"s3://{BUCKET}", 100_000_000, answer_seconds=LONG))
            assert 20 * 1000 < proxy.answered_bytes < 500_000

    @READS
    async def test_an_object_without_bytes_is_removed(self, store: ObjectStore, read: Read) -> None:
        """A range of it is refused: 416."""
        await store._bucket.put_async(path_of("key"), b"", use_multipart=False)
        with pytest.raises(DamagedValueError):
            await read(store, "key")
        assert await read(store, "key") is None

    async def test_a_refused_look_is_no_damage(self, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
        async with fault_proxy(s3.port) as proxy:
            use_endpoint(f"http://127.0.0.1:{proxy.port}", monkeypatch)
            store = ObjectStore(
                f"s3://{BUCKET}", CAPACITY_BYTES, circuit=Circuit(random=lambda: 0), answer_seconds=LONG
            )
            await put(store, "key", b"value")
            await store._tidying.settled()
            proxy.breaks.append(Break("close", instead=refusal))
            with pytest.raises(PermissionDeniedError):
                await store.peek("key", 3)
            assert await store.get("key") == b"value"

    async def test_a_missing_bucket_is_a_fault_of_the_write(self, s3: S3Server) -> None:
        store = ObjectStore("s3://elsewhere", CAPACITY_BYTES, answer_seconds=LONG)
        assert await store.get("key") is None
        with pytest.raises(FileNotFoundError):
            await put(store, "key", b"value")
        with pytest.raises(CircuitOpenError):
            await store.get("key")


def faulty_cache(url: str, **options: Any) -> tuple[ImageCache, list[CacheFault]]:
    faults: list[CacheFault] = []
    store = ObjectStore(url, CAPACITY_BYTES, **options)
    return ImageCache(store, ttl_seconds=600, clock=lambda: 1_700_000_000.0, on_fault=faults.append), faults


@pytest.mark.anyio
class TestABucketThatGoesAway:
    async def test_requests_go_on_without_it_and_it_is_not_asked_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = Clock()
        circuit = Circuit(clock=now, random=lambda: 1.0)
        with s3_serving() as server:
            server.use(monkeypatch)
            cache, faults = faulty_cache(f"s3://{BUCKET}", circuit=circuit, answer_seconds=LONG)
            request = sample_request()
            assert await cache.store(request, sample_image())
            assert await cache.lookup(request, 0) is not None
            server.stop()
            with anyio.fail_after(LONG):
                assert await cache.lookup(request, 0) is None
            assert faults == [CacheFault("lookup", "GenericError")]
            for _ in range(50):
                assert await cache.lookup(request, 0) is None
                assert not await cache.store(request, sample_image())
            assert {fault.reason for fault in faults[1:]} == {"CircuitOpenError"}
            assert (await cache.stats()).store is None

    async def test_a_bucket_that_is_back_is_found_by_a_probe(self, s3: S3Server) -> None:
        now = Clock()
        circuit = Circuit(clock=now, random=lambda: 1.0)
        cache, faults = faulty_cache(f"s3://{BUCKET}", circuit=circuit, answer_seconds=LONG)
        assert await cache.store(sample_request(), sample_image())
        with pytest.raises(TimeoutError), circuit.passing():
            raise TimeoutError
        assert await cache.lookup(sample_request(), 0) is None
        now.advance(1)
        assert await cache.lookup(sample_request(), 0) is not None
        assert faults == [CacheFault("lookup", "CircuitOpenError")]

    async def test_a_silent_bucket_costs_one_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with silence_serving() as url:
            use_endpoint(url, monkeypatch)
            cache, faults = faulty_cache(f"s3://{BUCKET}", circuit=Circuit(clock=Clock()), answer_seconds=0.1)
            began = time.monotonic()
            assert await asyncio.gather(*[cache.lookup(sample_request(), slot) for slot in range(10)]) == [None] * 10
            assert await cache.lookup(sample_request(), 0) is None
            assert not await cache.store(sample_request(), sample_image())
            # Ten at once share one wait; what comes after it waits for nothing.
            assert time.monotonic() - began < 5
            assert [fault.reason for fault in faults] == ["TimeoutError"] * 10 + ["CircuitOpenError"] * 2

    async def test_a_cancelled_request_is_no_fault(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with silence_serving() as url:
            use_endpoint(url, monkeypatch)
            cache, faults = faulty_cache(f"s3://{BUCKET}", answer_seconds=LONG)
            with anyio.move_on_after(0.05) as scope:
                await cache.lookup(sample_request(), 0)
            assert scope.cancelled_caught
            assert faults == []

    async def test_closing_gives_up_an_eviction(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with silence_serving() as url:
            use_endpoint(url, monkeypatch)
            store = ObjectStore(f"s3://{BUCKET}", CAPACITY_BYTES, answer_seconds=LONG)
            store._tidying.begin()
            with anyio.fail_after(LONG / 2):
                await anyio.lowlevel.checkpoint()
                await store.aclose()

    async def test_a_bucket_that_cannot_be_listed_still_keeps_values(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        with silence_serving() as url:
            use_endpoint(url, monkeypatch)
            store = ObjectStore(f"s3://{BUCKET}", CAPACITY_BYTES, answer_seconds=0.05)
            for _ in range(2):
                store._tidying.begin()
                await store._tidying.settled()
        told = [record for record in caplog.records if record.name == "sfumato.cache"]
        assert [record.getMessage() for record in told] == [
            "The cache's bucket cannot be tidied (TimeoutError); its budget is not kept."
        ]


class TestOpening:
    def test_a_missing_extra_names_the_command(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "obstore.store", None)
        with pytest.raises(ConfigurationError, match=r"pip install 'sfumato\[s3\]'"):
            ObjectStore("memory://", 1)

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "pictures",
            "redis://hidden@host",
            "https://hidden/pictures",
            "s3://",
            "s3:///hidden",
            "s3://id:hidden@pictures",
            "s3://pictures?token=hidden",
            "s3://pictures#hidden",
            "s3://[hidden",
            "file://hidden/pictures",
            "memory://hidden",
        ],
    )
    def test_a_url_that_is_none_is_refused_and_not_repeated(self, url: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            ObjectStore(url, 1)
        assert "hidden" not in caught.value.message

    def test_a_directory_that_cannot_be_made_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "hidden").write_text("a file")
        with pytest.raises(ConfigurationError) as caught:
            ObjectStore((tmp_path / "hidden" / "below").as_uri(), 1)
        assert "hidden" not in caught.value.message

    def test_azure_without_an_account_says_what_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
        with pytest.raises(ConfigurationError, match="AZURE_STORAGE_ACCOUNT_NAME"):
            ObjectStore("az://pictures", 1)

    @pytest.mark.parametrize("url", ["gs://pictures/prefix", "s3a://pictures", "memory:///"])
    def test_other_providers_open(self, url: str) -> None:
        ObjectStore(url, 1)
