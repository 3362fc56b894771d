from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError

from sfumato.errors import ConfigurationError, ImageError, NetworkError, UpstreamAuthError
from sfumato.images.request import Operation
from sfumato.images.resolution import ImageWish, RequestPolicy, SafetyWish, resolve
from sfumato.images.safety import IMAGE_CATEGORIES, Method, Threshold
from sfumato.images.variants import parse_variant
from sfumato.upstream.accounts import Account, AccountPool
from sfumato.upstream.vertex import RENEWAL_SECONDS, VertexCredentials, vertex_account
from sfumato.wire.gemini import build_request
from tests.conftest import Emulator
from tests.support.token_server import TokenServer, token_server

HOUR = 3600.0
# google-auth is typed in part.
Refused: Any = RefreshError
Unreachable: Any = TransportError
pytestmark = pytest.mark.anyio


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    with token_server() as server:
        yield server


class Clock:
    """The wall clock, set forward by hand."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


def account(label: str = "v", **options: Any) -> Account:
    return vertex_account(label, **{"project": "demo", "location": "global", **options})


def credentials(tokens: TokenServer, path: Path, clock: Clock) -> VertexCredentials:
    """Return credentials of a key file, on a clock of the test's."""
    found = account(credentials_file=tokens.key_file(path), clock=clock).credentials
    assert isinstance(found, VertexCredentials)
    return found


async def renewed(held: VertexCredentials) -> None:
    """Wait until no renewal runs."""
    renewal = held._renewal
    if renewal is not None:
        await asyncio.wrap_future(renewal)


# --- addresses ---


@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("global", "aiplatform.googleapis.com"),
        ("us-central1", "us-central1-aiplatform.googleapis.com"),
        ("europe-west4", "europe-west4-aiplatform.googleapis.com"),
        ("us", "aiplatform.us.rep.googleapis.com"),
        ("eu", "aiplatform.eu.rep.googleapis.com"),
    ],
)
def test_each_location_has_its_host(location: str, host: str) -> None:
    found = account(location=location, weight=2.0, rpm=5)
    path = f"/v1/projects/demo/locations/{location}/publishers/google/models/gemini-3-pro-image:generateContent"
    assert found.url("gemini-3-pro-image") == f"https://{host}{path}"
    assert (found.server, found.backend, found.weight, found.rpm) == (host, "vertex", 2.0, 5)


@pytest.mark.parametrize(
    ("base", "start"),
    [
        ("http://127.0.0.1:1", "http://127.0.0.1:1/v1/"),
        ("http://127.0.0.1:1/", "http://127.0.0.1:1/v1/"),
        ("https://gateway.example/vertex/v1beta1", "https://gateway.example/vertex/v1beta1/"),
        ("https://gateway.example/v1beta1/", "https://gateway.example/v1beta1/"),
    ],
)
def test_a_private_endpoint_stands_in_for_the_host(base: str, start: str) -> None:
    assert (
        account(api_base=base).url("m")
        == f"{start}projects/demo/locations/global/publishers/google/models/m:generateContent"
    )


@pytest.mark.parametrize("options", [{"project": ""}, {"project": "a/../b"}, {"location": "US"}, {"location": "a/b"}])
def test_a_project_or_location_that_is_none_is_refused(options: dict[str, str]) -> None:
    (name,) = options
    with pytest.raises(ConfigurationError, match=f"The {name} of the Vertex account 'v' is wrong: expected"):
        account(**options)


# --- files ---


def test_a_file_that_is_no_service_account_s_key_is_refused_at_the_start(tmp_path: Path, tokens: TokenServer) -> None:
    path = tmp_path / "other.json"
    for text in ("", "[]", "{}", '{"type": "authorized_user", "refresh_token": "secret-refresh"}', "\xff"):
        path.write_text(text, "latin-1")
        with pytest.raises(ConfigurationError, match="no service account's key") as refused:
            account(credentials_file=path)
        assert "secret" not in str(refused.value)
    broken = tokens.key_file(tmp_path, private_key="-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n")
    with pytest.raises(ConfigurationError, match="no service account's key") as refused:
        account(credentials_file=broken)
    assert "secret" not in str(refused.value)
    with pytest.raises(ConfigurationError, match=r"cannot be read \(FileNotFoundError\)"):
        account(credentials_file=tmp_path / "absent.json")


def test_without_the_extra_the_error_names_the_command() -> None:
    code = (
        "import sys; sys.modules['google.auth'] = None\n"
        "from sfumato.errors import ConfigurationError\n"
        "try:\n    import sfumato.upstream.vertex\n"
        "except ConfigurationError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'sfumato[vertex]'" in done.stdout


# --- calls ---


async def test_an_account_s_call_is_served(emulator: Emulator, tokens: TokenServer, tmp_path: Path) -> None:
    variant = parse_variant("gemini-3-pro-image-16x9")
    assert variant is not None
    policy = RequestPolicy(backend="vertex", safety_threshold=Threshold.BLOCK_ONLY_HIGH)
    wish = ImageWish(
        operation=Operation.GENERATION,
        variant=variant,
        prompt="A cat",
        output_format="png",
        person_generation="ALLOW_NONE",
        safety=SafetyWish(
            exceptions={IMAGE_CATEGORIES[0]: Threshold.OFF}, methods={IMAGE_CATEGORIES[0]: Method.SEVERITY}
        ),
    )
    request = resolve(wish, policy)
    used = account(credentials_file=tokens.key_file(tmp_path), location="us-central1", api_base=emulator.url)
    pieces = build_request(request, slot=0, encoded_images=(), encoded_mask=None, backend=used.backend)
    async with httpx.AsyncClient() as client:
        body, headers = b"".join(cast("tuple[bytes, ...]", pieces)), dict(await used.credentials.headers())
        response = await client.post(used.url("gemini-3-pro-image"), content=body, headers=headers)
    assert response.status_code == 200, response.text
    assert response.json()["candidates"][0]["content"]["parts"][-1]["inlineData"]["mimeType"] == "image/png"
    (call,) = emulator.calls()
    assert (call["backend"], call["project"], call["location"]) == ("vertex", "demo", "us-central1")
    assert len(call["body"]["safetySettings"]) == 8


# --- tokens ---


async def test_a_token_is_fetched_once_and_kept(tokens: TokenServer, tmp_path: Path, clock: Clock) -> None:
    held = credentials(tokens, tmp_path, clock)
    assert tokens.asked == 0
    assert await held.headers() == {"authorization": "Bearer token-1"}
    clock.ahead = HOUR - RENEWAL_SECONDS - 30
    assert await held.headers() == {"authorization": "Bearer token-1"}
    await renewed(held)
    assert tokens.asked == 1
    assert hash(held) == hash(held)
    assert repr(held) == "VertexCredentials('v')"


@pytest.mark.parametrize("by_file", [True, False])
async def test_the_project_that_pays_is_named(
    tokens: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, by_file: bool
) -> None:
    path = tokens.key_file(tmp_path)
    monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "payer")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    held = account(credentials_file=path if by_file else None).credentials
    assert await held.headers() == {"authorization": "Bearer token-1", "x-goog-user-project": "payer"}


async def test_application_default_credentials(
    tokens: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tokens.key_file(tmp_path)))
    assert await account().credentials.headers() == {"authorization": "Bearer token-1"}


async def test_tokens_do_not_go_through_a_proxy_of_the_environment(
    tokens: TokenServer, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert await credentials(tokens, tmp_path, clock).headers() == {"authorization": "Bearer token-1"}


async def test_without_any_default_credentials_the_account_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))
    with pytest.raises(UpstreamAuthError) as refused:
        await account().credentials.headers()
    assert refused.value.reason == "NO_CREDENTIALS"
    assert str(tmp_path) not in str(refused.value)


async def test_many_callers_wait_for_one_fetch(tokens: TokenServer, tmp_path: Path, clock: Clock) -> None:
    held = credentials(tokens, tmp_path, clock)
    tokens.open.clear()
    callers = [asyncio.create_task(held.headers()) for _ in range(50)]
    await asyncio.to_thread(tokens.arrived.wait, 10)
    callers[0].cancel()
    await asyncio.sleep(0)
    tokens.open.set()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [{"authorization": "Bearer token-1"}] * 49
    assert tokens.asked == 1


async def test_near_its_end_a_token_is_renewed_while_it_still_serves(
    tokens: TokenServer, tmp_path: Path, clock: Clock
) -> None:
    held = credentials(tokens, tmp_path, clock)
    await held.headers()
    clock.ahead = HOUR - RENEWAL_SECONDS + 1
    tokens.open.clear()
    # The token server does not answer, and no caller waits for it.
    assert [await held.headers() for _ in range(5)] == [{"authorization": "Bearer token-1"}] * 5
    tokens.open.set()
    await renewed(held)
    assert await held.headers() == {"authorization": "Bearer token-2"}
    assert tokens.asked == 2


async def test_an_ended_token_is_waited_for(tokens: TokenServer, tmp_path: Path, clock: Clock) -> None:
    held = credentials(tokens, tmp_path, clock)
    await held.headers()
    clock.ahead = HOUR - 5
    assert await held.headers() == {"authorization": "Bearer token-2"}


async def test_a_failed_renewal_is_told_once_and_leaves_the_token_in_use(
    tokens: TokenServer, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    held = credentials(tokens, tmp_path, clock)
    await held.headers()
    tokens.answer = (400, {"error": "invalid_grant", "error_description": "Account robot@demo is gone"})
    clock.ahead = HOUR - RENEWAL_SECONDS + 1
    with caplog.at_level(logging.WARNING, "sfumato"):
        for _ in range(3):
            assert await held.headers() == {"authorization": "Bearer token-1"}
            await renewed(held)
        # One failed attempt, then a pause: not one per request.
        assert tokens.asked == 2
        clock.ahead += 31
        await held.headers()
        await renewed(held)
        assert tokens.asked == 3
    (line,) = [record.getMessage() for record in caplog.records]
    assert "'v' could not be renewed (INVALID_GRANT)" in line
    assert "robot" not in line
    clock.ahead = HOUR
    with pytest.raises(UpstreamAuthError) as refused:
        await held.headers()
    assert refused.value.reason == "INVALID_GRANT"
    assert "robot" not in str(refused.value)
    tokens.answer = None
    assert (await held.headers())["authorization"] == f"Bearer token-{tokens.asked}"


async def test_every_caller_of_a_failed_fetch_has_an_error_of_its_own(
    tokens: TokenServer, tmp_path: Path, clock: Clock
) -> None:
    held = credentials(tokens, tmp_path, clock)
    tokens.answer = (401, {"error": "an address: robot@demo", "error_description": "secret"})
    errors = await asyncio.gather(*(held.headers() for _ in range(3)), return_exceptions=True)
    assert len({id(error) for error in errors}) == 3
    assert all(isinstance(error, UpstreamAuthError) and error.reason == "TOKEN_REFUSED" for error in errors)


async def test_an_unreachable_token_server_is_a_passing_fault(tmp_path: Path, clock: Clock) -> None:
    with token_server() as tokens:
        held = credentials(tokens, tmp_path, clock)
    with pytest.raises(NetworkError) as refused:
        await held.headers()
    assert refused.value.reason == "TOKEN_SERVER_UNREACHABLE"
    assert refused.value.retryable


class Failing:
    """Credentials whose renewal fails."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def refresh(self, _: object) -> None:
        raise self._error


def wrapped(*told: object) -> Failing:
    """Return credentials of a machine whose metadata server gives no token, as google-auth 2.62 says so."""
    refused = Refused()
    refused.__cause__ = Unreachable("Failed to retrieve http://metadata.test/secret", *told)
    return Failing(refused)


class Answer:
    """An answer of the metadata server."""

    def __init__(self, status: int) -> None:
        self.status = status


@pytest.mark.parametrize(("told", "passes"), [((), True), ((Answer(500),), True), ((Answer(404),), False)])
async def test_a_metadata_server_that_is_away_is_a_passing_fault_and_its_no_is_none(
    clock: Clock, told: tuple[object, ...], *, passes: bool
) -> None:
    held = VertexCredentials("v", lambda: wrapped(*told), clock=clock)
    with pytest.raises(NetworkError if passes else UpstreamAuthError) as refused:
        await held.headers()
    assert refused.value.reason == ("TOKEN_SERVER_UNREACHABLE" if passes else "TOKEN_REFUSED")
    assert refused.value.retryable is passes
    assert "secret" not in str(refused.value)


async def test_a_break_in_the_course_of_which_the_renewal_failed_counts_unless_it_was_dealt_with(clock: Clock) -> None:
    for handled, reason in ((False, "TOKEN_SERVER_UNREACHABLE"), (True, "INVALID_GRANT")):
        refused = Refused("m", {"error": "invalid_grant"})
        refused.__context__, refused.__suppress_context__ = Unreachable("m"), handled
        with pytest.raises(ImageError) as told:
            await VertexCredentials("v", functools.partial(Failing, refused), clock=clock).headers()
        assert told.value.reason == reason


async def test_credentials_that_are_not_there_yet_are_looked_for_again_soon_and_then_seldom(clock: Clock) -> None:
    """A pod's first request may come before its metadata server."""

    def load() -> Any:
        raise DefaultCredentialsError

    held = VertexCredentials("v", load, clock=clock)
    pauses = []
    for _ in range(7):
        with pytest.raises(UpstreamAuthError) as refused:
            await held.headers()
        assert refused.value.reason == "NO_CREDENTIALS"
        pauses.append(refused.value.upstream_delay)
    assert pauses == [30, 60, 120, 240, 480, 600, 600]


async def test_an_account_whose_credentials_come_late_is_back_after_half_a_minute(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def load() -> Any:
        raise DefaultCredentialsError

    late = dataclasses.replace(account(), credentials=VertexCredentials("v", load, clock=clock))
    accounts = AccountPool([late], clock=clock)
    taken = await accounts.acquire("m")
    with pytest.raises(UpstreamAuthError) as refused:
        await taken.credentials.headers()
    accounts.release(taken)
    await accounts.report(taken, "m", refused.value)
    assert accounts.exhausted("m") is not None
    assert "'v' is parked" in caplog.text
    assert "tried again in 30 seconds" in caplog.text
    clock.ahead += 30
    assert accounts.exhausted("m") is None


async def test_credentials_that_fail_unforeseen_do_not_leave_callers_waiting(clock: Clock) -> None:
    def load() -> Any:
        raise LookupError("with a secret")

    with pytest.raises(UpstreamAuthError) as refused:
        await VertexCredentials("v", load, clock=clock).headers()
    assert "secret" not in str(refused.value)


def test_loops_in_several_threads_share_one_token(tokens: TokenServer, tmp_path: Path, clock: Clock) -> None:
    held = credentials(tokens, tmp_path, clock)
    found: list[Mapping[str, str]] = []
    tokens.open.clear()
    threads = [threading.Thread(target=lambda: found.append(asyncio.run(held.headers()))) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert tokens.arrived.wait(60)
    tokens.open.set()
    for thread in threads:
        thread.join(60)
    assert found == [{"authorization": "Bearer token-1"}] * 5
    assert tokens.asked == 1
