"""An `ImageClient` built by hand: time moves by hand, waiting is noted, and whoever looks is recorded."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx

from sfumato.cache.image_cache import ImageCache
from sfumato.cache.memory import MemoryStore
from sfumato.cache.store import Store
from sfumato.engine.attempts import Attempts
from sfumato.engine.bulkhead import Bulkhead
from sfumato.engine.client import ImageClient
from sfumato.engine.coordination import Leases, LocalLeases
from sfumato.engine.flights import Flights
from sfumato.engine.idempotency import Idempotency
from sfumato.engine.intake import Intake
from sfumato.engine.keepsakes import Keepsakes
from sfumato.engine.notes import LocalNotes, Notes
from sfumato.engine.slots import Slots
from sfumato.engine.studio import Studio
from sfumato.engine.supervisor import Supervisor
from sfumato.errors import ImageError
from sfumato.images.request import ImageResult, Operation
from sfumato.images.resolution import RequestPolicy
from sfumato.images.variants import parse_variant
from sfumato.pictures.inspect import ImageLimits
from sfumato.telemetry.observer import Call, OperationRecord, Step
from sfumato.telemetry.observer import Operation as ObservedOperation
from sfumato.telemetry.vitals import Vitals
from sfumato.upstream.accounts import Account, AccountPool
from sfumato.upstream.fetch import PictureFetcher
from sfumato.upstream.retry import RetryPolicy
from sfumato.upstream.transport import STALL_SECONDS, GeminiTransport, create_http_client
from sfumato.wire.openai_images import parse_request

MEGABYTE = 1024 * 1024
# How a request may have the cache used.
CACHE_WISHES: dict[str, dict[str, Any]] = {
    "cached": {},
    "no-cache": {"cache": {"no-cache": True}},
    "no-store": {"cache": {"no-store": True}},
    "max-age=0": {"cache": {"s-maxage": 0}},
}


@dataclasses.dataclass
class Recording:
    """An observer that keeps what it saw, and a clock and a sleep that it can account for."""

    records: list[OperationRecord] = dataclasses.field(default_factory=list)
    steps: list[str] = dataclasses.field(default_factory=list)
    retries: list[tuple[str, float]] = dataclasses.field(default_factory=list)
    ended: int = 0
    slept: list[float] = dataclasses.field(default_factory=list)
    now: float = 1000.0

    def begin(self, record: OperationRecord) -> ObservedOperation:
        self.records.append(record)
        return self

    def watch(self, vitals: Vitals) -> None:
        pass

    @contextmanager
    def step(self, step: Step) -> Iterator[None]:
        self.steps.append(step.name)
        yield

    def retry(self, error: ImageError, *, attempt: int, delay_seconds: float) -> None:
        self.retries.append((error.code, delay_seconds))

    def end(self) -> None:
        self.ended += 1

    def clock(self) -> float:
        return self.now

    def wall_clock(self) -> float:
        """Return a Unix time that goes with the clock."""
        return 1_800_000_000.0 + self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@dataclasses.dataclass
class Bench:
    """A client on the bench, and what was seen of it."""

    client: ImageClient
    seen: Recording
    url: str

    async def make(self, prompt: str = "x", *, model: str = "gemini-3-pro-image", **fields: Any) -> ImageResult:
        """Generate from OpenAI parameters."""
        options = {name: fields.pop(name) for name in ("timeout_seconds", "floor", "account") if name in fields}
        call = fields.pop("call", None) or Call(request_id="req_test")
        variant = parse_variant(model)
        assert variant
        operation = Operation.EDIT if "image" in fields else Operation.GENERATION
        wish = parse_request(operation, variant, {"prompt": prompt, **fields}, tenant="tests")
        return await self.client.generate(wish, call=call, **options)

    def account(self, label: str, key: str) -> Account:
        """Return an account at the bench's upstream."""
        return Account.at(label, key, self.url, "v1beta")


@asynccontextmanager
async def bench(
    url: str,
    *,
    keys: tuple[str, ...] = ("first",),
    store: Store | None = None,
    policy: RequestPolicy | None = None,
    timeout_seconds: float = 60.0,
    max_attempts: int = 3,
    max_request_bytes: int = 20 * MEGABYTE,
    max_response_bytes: int = 64 * MEGABYTE,
    http: httpx.AsyncClient | None = None,
    leases: Leases | None = None,
    notes: Notes | None = None,
    max_concurrency: int = 64,
    queue_size: int = 256,
    attempt_timeout_seconds: float = 60.0,
    stall_seconds: float = STALL_SECONDS,
) -> AsyncIterator[Bench]:
    """Yield a client for the upstream at *url*; each key is an account labelled by itself."""
    seen = Recording()
    http = http or create_http_client(connect_timeout_seconds=5)
    work, stores = Supervisor(), Supervisor()
    client = ImageClient(
        policy=policy or RequestPolicy(),
        intake=Intake(
            limits=ImageLimits(max_pixels=64_000_000, max_bytes=max_request_bytes),
            max_request_bytes=max_request_bytes,
            fetcher=PictureFetcher(http, hosts=[httpx.URL(url).netloc.decode()], max_bytes=max_request_bytes),
        ),
        slots=Slots(
            cache=ImageCache(store or MemoryStore(256 * MEGABYTE), ttl_seconds=3600, clock=seen.wall_clock),
            flights=Flights(leases or LocalLeases(), supervisor=stores, clock=seen.clock),
            studio=Studio(
                bulkhead=Bulkhead(max_concurrency=max_concurrency, queue_size=queue_size, clock=seen.clock),
                attempts=Attempts(
                    transport=GeminiTransport(http, max_response_bytes=max_response_bytes, stall_seconds=stall_seconds),
                    accounts=AccountPool(
                        [Account.at(key, key, url, "v1beta") for key in keys],
                        clock=seen.clock,
                        wall_clock=seen.wall_clock,
                        trial_seconds=0.0,
                    ),
                    retry=RetryPolicy(max_attempts=max_attempts),
                    attempt_timeout_seconds=attempt_timeout_seconds,
                    clock=seen.clock,
                    sleep=seen.sleep,
                    random=lambda: 1.0,
                ),
                work=work,
                max_request_bytes=max_request_bytes,
                wall_clock=seen.wall_clock,
            ),
            keepsakes=Keepsakes(clock=seen.clock),
            work=work,
            stores=stores,
            clock=seen.clock,
            wall_clock=seen.wall_clock,
        ),
        idempotency=Idempotency(
            notes or LocalNotes(clock=seen.clock),
            fallback=LocalNotes(clock=seen.clock),
            ttl_seconds=600,
            clock=seen.wall_clock,
        ),
        observer=seen,
        timeout_seconds=timeout_seconds,
        hash_salt=None,
        clock=seen.clock,
        on_close=(http.aclose,),
    )
    try:
        yield Bench(client, seen, url)
    finally:
        await client.aclose(grace_seconds=30)
