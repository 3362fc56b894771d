from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from sfumato.asgi.accounts_admin import AccountsAdmin
from sfumato.errors import RateLimitedError, UpstreamAuthError
from sfumato.runtime import Runtime
from sfumato.settings import load_settings

pytestmark = pytest.mark.anyio
ACCOUNTS = "/gemini-image/accounts"
ADMIN = {"authorization": "Bearer admin-key"}
PRO = "gemini-3-pro-image"


class Installation:
    """A runtime, and the route in front of an app that answers 299."""

    def __init__(self, **values: Any) -> None:
        defaults = {"api_keys": "a:hidden-a,b:hidden-b,c:hidden-c", "cache_backend": "memory", "admin_key": "admin-key"}
        self.runtime = Runtime(load_settings(**{**defaults, "client_keys": "alice:alice-key", **values}))
        self._admin = AccountsAdmin(self.runtime)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app=self), base_url="http://test")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._admin.serves(scope["method"], scope["path"]):
            await self._admin.respond(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def aclose(self) -> None:
        await self.http.aclose()
        await self.runtime.aclose()


@pytest.fixture
async def here() -> AsyncIterator[Installation]:
    installation = Installation()
    yield installation
    await installation.aclose()


async def test_every_accounts_state_is_told_without_its_key(here: Installation) -> None:
    accounts = here.runtime.client.accounts
    a, b, c = [await accounts.acquire(PRO) for _ in range(3)]
    accounts.release(b)
    await accounts.report(b, PRO, RateLimitedError("m", reason="shared_capacity", retry_after=40))
    await accounts.report(c, PRO, UpstreamAuthError("m", reason="API_KEY_INVALID"))

    answer = await here.http.get(ACCOUNTS, headers=ADMIN)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"].startswith("no-store")
    assert "hidden" not in answer.text
    first, second, third = answer.json()["accounts"]
    assert first == {
        "label": a.label,
        "backend": "gemini",
        "state": "ready",
        "running": 1,
        "weight": 1.0,
        "rpm": None,
        "used_this_minute": {PRO: 1},
        "cooling": [],
        "parked": None,
    }
    assert (second["label"], second["state"], second["running"]) == ("b", "cooling", 0)
    (row,) = second["cooling"]
    assert (row["model"], row["reason"]) == (PRO, "shared_capacity")
    assert 30 < row["seconds_left"] <= 40
    assert (third["label"], third["state"], third["cooling"]) == ("c", "parked", [])
    assert third["parked"]["reason"] == "credentials"
    assert 590 < third["parked"]["seconds_left"] <= 600


@pytest.mark.parametrize("key", [{"x-api-key": "admin-key"}, {"x-goog-api-key": "admin-key"}])
async def test_an_administrator_may_send_the_key_as_clients_do(here: Installation, key: dict[str, str]) -> None:
    assert (await here.http.get(f"{ACCOUNTS}/", headers=key)).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer alice-key"}, {"x-api-key": "admin-kez"}])
async def test_nobody_else_is_let_in(here: Installation, headers: dict[str, str]) -> None:
    answer = await here.http.get(f"{ACCOUNTS}?unknown=1", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["image_error"]["code"] == "IMG_UNAUTHORIZED"


@pytest.mark.parametrize("admin_key", [None, ""])
async def test_without_an_admin_key_the_route_does_not_exist(admin_key: str | None) -> None:
    installation = Installation(admin_key=admin_key)
    assert (await installation.http.get(ACCOUNTS, headers={"x-api-key": ""})).status_code == 299
    await installation.aclose()


async def test_other_paths_and_methods_are_the_apps(here: Installation) -> None:
    for method, path in (("POST", ACCOUNTS), ("DELETE", ACCOUNTS), ("GET", f"{ACCOUNTS}/a"), ("GET", f"{ACCOUNTS}x")):
        assert (await here.http.request(method, path, headers=ADMIN)).status_code == 299


async def test_a_parameter_is_refused_by_name(here: Installation) -> None:
    answer = await here.http.get(ACCOUNTS, params={"model": PRO}, headers=ADMIN)
    assert answer.status_code == 400
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == ("model", "unknown_parameter")


async def test_without_accounts_the_list_is_empty() -> None:
    installation = Installation(api_keys="")
    assert (await installation.http.get(ACCOUNTS, headers=ADMIN)).json() == {"accounts": []}
    await installation.aclose()
