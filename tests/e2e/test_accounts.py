"""Several accounts, some of them out of use: every request is answered, and nearly no call is wasted to learn it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from sfumato.asgi.app import create_app
from sfumato.emulator import EmulatorOptions, create_emulator
from sfumato.runtime import Runtime
from sfumato.settings import load_settings
from tests.conftest import Emulator
from tests.support.apps import calling
from tests.support.servers import serving

pytestmark = pytest.mark.anyio
REQUESTS = 200


@asynccontextmanager
async def accounts(faults: Mapping[str, str], **settings: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Emulator]]:
    """Yield the app with an account per label, each failing as told ("" works), and the emulator behind."""
    keys = {label: f"key-of-{label}" for label in faults}
    options = EmulatorOptions(key_faults={keys[label]: fault for label, fault in faults.items() if fault})
    with serving(create_emulator(options)) as url:
        loaded = load_settings(
            api_keys=",".join(f"{label}:{key}" for label, key in keys.items()),
            api_base=url,
            cache_enabled=False,
            **settings,
        )
        # On a busy machine the first answer of an account takes longer than a burst waits for it by default.
        runtime = Runtime(loaded, trial_seconds=60.0)
        try:
            async with calling(create_app(runtime=runtime, anonymous=True)) as client:
                yield client, Emulator(url)
        finally:
            await runtime.aclose()


async def ask(client: httpx.AsyncClient, prompt: str, **fields: Any) -> httpx.Response:
    return await client.post("/v1/images/generations", json={"prompt": prompt, **fields})


async def statuses(emulator: Emulator) -> Counter[int]:
    """Count upstream's answers by status."""
    return Counter(call["status"] for call in await asyncio.to_thread(emulator.calls))


@pytest.mark.parametrize("at_a_time", [1, 20])
async def test_of_three_accounts_one_works_and_every_request_is_answered(at_a_time: int) -> None:
    """Two calls tell that the two others do not; no request pays for it with an error."""
    places = asyncio.Semaphore(at_a_time)

    async def one(client: httpx.AsyncClient, number: int) -> int:
        async with places:
            return (await ask(client, f"Lamp {number}")).status_code

    # Longer than the test, whatever machine it runs on.
    async with accounts({"spent": "429-day", "busy": "429:500", "good": ""}) as (client, emulator):
        answers = await asyncio.gather(*(one(client, number) for number in range(REQUESTS)))
        calls = await statuses(emulator)

    assert answers == [200] * REQUESTS
    assert calls[200] == REQUESTS
    assert calls[429] <= 2


async def test_with_every_account_cooling_the_answer_is_the_soonest_time_and_no_call_is_made() -> None:
    began = time.monotonic()
    async with accounts({"spent": "429-day", "busy": "429:20", "busier": "429:41"}) as (client, emulator):
        assert (await ask(client, "A lamp")).status_code == 429
        calls = await statuses(emulator)
        answer = await ask(client, "Another lamp")
        elapsed = time.monotonic() - began
        assert await statuses(emulator) == calls == {429: 3}

    assert answer.status_code == 429
    error = answer.json()["error"]
    assert error["image_error"]["code"] == "IMG_RATE_LIMITED"
    assert math.ceil(20 - elapsed) <= int(answer.headers["retry-after"]) <= 20
    # The caller has not waited yet, so waiting helps.
    assert "x-should-retry" not in answer.headers


async def test_with_every_quota_used_up_the_client_is_told_so_and_no_call_is_made() -> None:
    async with accounts({"spent": "429-day", "spent-too": "429-day"}) as (client, emulator):
        assert (await ask(client, "A lamp")).status_code == 429
        answer = await ask(client, "Another lamp")
        assert await statuses(emulator) == {429: 2}

    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "insufficient_quota"
    assert answer.headers["x-should-retry"] == "false"
    assert int(answer.headers["retry-after"]) > 0


async def test_a_refused_key_is_used_once_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="sfumato"):
        async with accounts({"wrong": "invalid-key", "good": ""}) as (client, emulator):
            answers = [(await ask(client, f"Lamp {number}")).status_code for number in range(20)]
            calls = await statuses(emulator)

    assert answers == [200] * 20
    assert calls == {200: 20, 400: 1}
    told = [record.getMessage() for record in caplog.records if record.name == "sfumato"]
    assert len(told) == 1
    assert "'wrong'" in told[0]
    assert "key-of-wrong" not in told[0]


async def test_a_gateway_that_dislikes_a_prompt_costs_one_call_and_no_account(caplog: pytest.LogCaptureFixture) -> None:
    async with accounts({"a": "", "b": ""}) as (client, emulator):
        refused = await ask(client, "A lamp [[emulator:html:403]]")
        answers = [(await ask(client, f"Lamp {number}")).status_code for number in range(4)]
        calls = await statuses(emulator)

    assert refused.status_code == 502
    assert refused.json()["error"]["image_error"]["reason"] == "refused_by_gateway"
    assert refused.headers["x-should-retry"] == "false"
    assert (answers, calls) == ([200] * 4, {403: 1, 200: 4})
    assert "parked" not in caplog.text


@pytest.mark.parametrize("fault", ["404", "location"])
async def test_an_account_without_the_model_costs_a_call_and_no_request(fault: str) -> None:
    """It answers sooner than the others make pictures: it must not look like the least busy one."""
    async with accounts({"without": fault, "good": "", "good-too": ""}) as (client, emulator):
        asked = (ask(client, f"Lamp {number} [[emulator:latency:0.05]]") for number in range(40))
        answers = [answer.status_code for answer in await asyncio.gather(*asked)]
        calls = await statuses(emulator)

    assert answers == [200] * 40
    assert calls.pop(200) == 40
    assert calls.total() == 1


@pytest.mark.parametrize(("fault", "status"), [("404", 404), ("location", 500)])
@pytest.mark.parametrize("labels", [("only",), ("first", "second")])
async def test_a_model_that_no_account_has_is_told_as_google_tells_it(
    fault: str, status: int, labels: tuple[str, ...]
) -> None:
    async with accounts(dict.fromkeys(labels, fault)) as (client, emulator):
        answers = [(await ask(client, f"Lamp {number}")).status_code for number in range(3)]
        calls = await statuses(emulator)

    assert answers == [status] * 3
    # Each account once, then one of them per request.
    assert calls.total() == len(labels) + 2


async def test_every_account_is_tried_however_many_have_used_up_their_day() -> None:
    async with accounts({**{f"spent-{number}": "429-day" for number in range(4)}, "good": ""}) as (client, _):
        assert (await ask(client, "A lamp")).status_code == 200


async def test_the_pictures_of_one_request_spread_over_the_accounts() -> None:
    async with accounts({"north": "", "east": "", "south": "", "west": ""}) as (client, emulator):
        answer = await ask(client, "A lamp [[emulator:latency:0.2]]", n=4)
        calls = await asyncio.to_thread(emulator.calls)

    assert len(answer.json()["data"]) == 4
    assert sorted(call["key_hint"] for call in calls) == sorted(["orth", "east", "outh", "west"])


async def test_equal_accounts_carry_about_the_same() -> None:
    async with accounts({"first": "", "second": ""}) as (client, emulator):
        # Each is known to work.
        assert {(await ask(client, f"A first lamp, {number}")).status_code for number in range(2)} == {200}
        await asyncio.to_thread(emulator.clear)
        asked = (ask(client, f"Lamp {number} [[emulator:latency:0.2]]") for number in range(20))
        assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}
        shares = Counter(call["key_hint"] for call in await asyncio.to_thread(emulator.calls))

    assert set(shares) == {"irst", "cond"}
    assert min(shares.values()) >= 7


async def test_an_overfull_house_says_so_at_once_and_calls_no_more_than_it_may() -> None:
    async with accounts({"only": ""}, max_concurrency=2, queue_size=3) as (client, emulator):
        asked = (ask(client, f"Lamp {number} [[emulator:latency:1]]") for number in range(10))
        answers = await asyncio.gather(*asked)
        calls = await asyncio.to_thread(emulator.calls)

    assert Counter(answer.status_code for answer in answers) == {200: 5, 503: 5}
    for answer in answers:
        if answer.status_code == 503:
            assert answer.json()["error"]["image_error"]["code"] == "IMG_OVERLOADED"
            assert 1 <= int(answer.headers["retry-after"]) <= 30
    assert max(call["in_flight"] for call in calls) == 2
