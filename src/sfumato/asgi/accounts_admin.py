"""The administrators' route of the accounts: ``GET /gemini-image/accounts``. No answer holds a key."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from sfumato.asgi.admin_door import AdminDoor, Answer, read_query
from sfumato.asgi.routes import OWN_PREFIX
from sfumato.runtime import Runtime
from sfumato.upstream.account_states import AccountState

_PATH = f"{OWN_PREFIX}accounts"


class AccountsAdmin:
    """Answer the administrators' route of the accounts.

    Args:
        runtime: Gives the accounts and the admin key; without a key the route does not exist.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._door = AdminDoor(runtime.settings)

    def serves(self, method: str, path: str) -> bool:
        """Tell whether a request is for the route."""
        return method == "GET" and path in (_PATH, f"{_PATH}/") and self._door.exists

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that `serves` is true of; the body is not read."""
        await self._door.respond(self._answer, scope, receive, send)

    async def _answer(self, request: Request) -> Answer:
        read_query(request).refuse_rest()
        return 200, {"accounts": [_describe(state) for state in self._runtime.client.accounts.states()]}


def _describe(state: AccountState) -> dict[str, Any]:
    parked = state.parked
    return {
        "label": state.label,
        "backend": state.backend,
        "state": state.state,
        "running": state.running,
        "weight": state.weight,
        "rpm": state.rpm,
        "used_this_minute": dict(state.used_this_minute),
        "cooling": [
            {"model": row.model, "reason": row.reason, "seconds_left": round(row.seconds_left, 3)}
            for row in state.cooling
        ],
        "parked": {"reason": parked.reason, "seconds_left": round(parked.seconds_left, 3)} if parked else None,
    }
