"""Vertex AI: its accounts, and their tokens, which are renewed before they end and beside the requests.

Here alone is google-auth. Importing this module without the extra raises `ConfigurationError`: import it where an
account is configured. Addresses: google-genai 3.4.0, seen 2026-11-21.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import UTC
from pathlib import Path
from threading import Lock, Thread
from typing import Any, TypeAlias

from sfumato.errors import ConfigurationError
from sfumato.upstream.accounts import Account
from sfumato.upstream.tokens import Failure, Token
from sfumato.wire.gemini_errors import machine_word

try:
    import google.auth
    from google.auth.exceptions import (
        DefaultCredentialsError,
        GoogleAuthError,
        MalformedError,
        RefreshError,
        TransportError,
    )
    from google.auth.transport.requests import Request
    from google.oauth2 import service_account
except ImportError:
    raise ConfigurationError("Vertex AI needs an extra: pip install 'sfumato[vertex]'.") from None

VERSION = "v1"
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
# The metadata server hands out the same token until four minutes before its end, so google-auth itself renews at 3:45.
RENEWAL_SECONDS = 225.0
# A token that ends while the request is on its way is refused.
_MARGIN_SECONDS = 10.0
_PAUSE_SECONDS = 30.0
# A pod begins before its metadata server answers: not found yet is no refusal. Each time it takes twice as long.
_LONGEST_PAUSE_SECONDS = 600.0
_TOKEN_TIMEOUT_SECONDS = 20.0
_MULTI_REGIONS = ("us", "eu")
_PROJECT = re.compile(r"[a-z0-9][a-z0-9.:-]{1,99}")
_LOCATION = re.compile(r"[a-z][a-z0-9-]{0,49}")
_VERSIONED = re.compile(r"(?P<base>.*[^/])/(?P<version>v\d+[a-z0-9]*)/?")

_log = logging.getLogger("sfumato")


def vertex_account(
    label: str,
    *,
    project: str,
    location: str,
    credentials_file: str | Path | None = None,
    api_base: str | None = None,
    weight: float = 1.0,
    rpm: int | None = None,
    clock: Callable[[], float] = time.time,
) -> Account:
    """Build an account of Vertex AI.

    Args:
        label: What telemetry calls it.
        project: The Google Cloud project's id or number.
        location: ``global``, a region such as ``us-central1``, or ``us`` or ``eu``.
        credentials_file: A service account's key; None takes Application Default Credentials, found at the first call.
        api_base: Another host, such as a private endpoint, with or without the version.
        weight: Its share of the work beside others.
        rpm: Requests per minute and model that it may make, None for no bound of ours.
        clock: Unix seconds, for the ends of tokens.

    Raises:
        ConfigurationError: A value is none, or the file is no service account's key.
    """
    for name, value, pattern in (("project", project, _PROJECT), ("location", location, _LOCATION)):
        if not pattern.fullmatch(value):
            example = "a project's id or number" if name == "project" else "a location such as global or us-central1"
            raise ConfigurationError(f"The {name} of the Vertex account '{label}' is wrong: expected {example}.")
    load: _Load = _default_credentials
    if credentials_file is not None:
        load = _service_account(label, Path(credentials_file))
    base = api_base or _base(location)
    versioned = _VERSIONED.fullmatch(base)
    return Account(
        label=label,
        credentials=VertexCredentials(label, load, clock=clock),
        base=versioned["base"] if versioned else base.rstrip("/"),
        version=versioned["version"] if versioned else VERSION,
        backend="vertex",
        resource=f"projects/{project}/locations/{location}/publishers/google/",
        weight=weight,
        rpm=rpm,
    )


_Load: TypeAlias = Callable[[], Any]
_Outcome: TypeAlias = Token | Failure


class VertexCredentials:
    """A token of Google's that is renewed in a thread while the old one still holds; any number of loops may ask.

    Args:
        label: The account's, for the log.
        load: Finds google-auth's credentials; may ask the network, so it is called in the thread.
        clock: Unix seconds.
    """

    def __init__(self, label: str, load: _Load, *, clock: Callable[[], float] = time.time) -> None:
        self._label = label
        self._load = load
        self._clock = clock
        self._lock = Lock()
        self._credentials: Any = None
        self._token: Token | None = None
        self._renewal: Future[_Outcome] | None = None
        self._not_before = 0.0
        self._failing = False
        self._absences = 0

    def __repr__(self) -> str:
        return f"VertexCredentials({self._label!r})"

    async def headers(self) -> Mapping[str, str]:
        """Return the token's headers, at once while it is valid.

        Raises:
            UpstreamAuthError: There is no valid token, and Google or the environment gives none.
            NetworkError: There is no valid token, and Google's token server cannot be reached.
        """
        with self._lock:
            now, token = self._clock(), self._token
            remaining = token.ends - now if token else 0.0
            if token is not None and remaining > _MARGIN_SECONDS:
                if remaining <= RENEWAL_SECONDS and now >= self._not_before:
                    self._renew()
                return token.headers
            renewal = self._renew()
        # It is marked as running, so a caller that is cancelled while it waits cannot cancel it for the others.
        outcome = await asyncio.wrap_future(renewal)
        if isinstance(outcome, Failure):
            raise outcome.error()
        return outcome.headers

    def _renew(self) -> Future[_Outcome]:
        """Start a renewal unless one runs; the lock is held."""
        if self._renewal is None:
            self._renewal = Future()
            self._renewal.set_running_or_notify_cancel()
            # A daemon, for a token server that hangs must not keep a process from ending.
            Thread(target=self._run, args=(self._renewal,), name=f"token-{self._label}", daemon=True).start()
        return self._renewal

    def _run(self, renewal: Future[_Outcome]) -> None:
        try:
            outcome = self._fetch()
        except Exception as error:  # noqa: BLE001  # whatever it is, those who wait must be told, and without its text
            outcome = Failure(_word(type(error).__name__), passing=False)
        with self._lock:
            now = self._clock()
            self._renewal = None
            self._not_before = now + _PAUSE_SECONDS
            told, self._failing = self._failing, isinstance(outcome, Failure)
            if isinstance(outcome, Token):
                self._token = outcome
            remaining = max(0.0, self._token.ends - now) if self._token else 0.0
        if isinstance(outcome, Failure) and not told:
            _log.warning(
                "The token of Vertex account '%s' could not be renewed (%s); the present one holds for %.0f s",
                self._label,
                outcome.reason,
                remaining,
            )
        renewal.set_result(outcome)

    def _fetch(self) -> _Outcome:
        try:
            if self._credentials is None:
                self._credentials = self._load()
            self._absences = 0
            self._credentials.refresh(_Request())
        except (DefaultCredentialsError, MalformedError):
            pause = min(_PAUSE_SECONDS * 2**self._absences, _LONGEST_PAUSE_SECONDS)
            # Past the longest pause there is nothing to count.
            self._absences = min(self._absences + 1, 10)
            return Failure("NO_CREDENTIALS", passing=False, pause_seconds=pause)
        except GoogleAuthError as error:
            return _failure(error)
        headers: dict[str, str] = {}
        # It adds x-goog-user-project where the credentials name a project to bill.
        self._credentials.apply(headers)
        expiry = self._credentials.expiry
        return Token(headers, expiry.replace(tzinfo=UTC).timestamp() if expiry else float("inf"))


def _base(location: str) -> str:
    if location == "global":
        return "https://aiplatform.googleapis.com"
    if location in _MULTI_REGIONS:
        return f"https://aiplatform.{location}.rep.googleapis.com"
    return f"https://{location}-aiplatform.googleapis.com"


def _default_credentials() -> Any:
    credentials, _ = google.auth.default(scopes=_SCOPES, request=_Request())
    return credentials


def _service_account(label: str, path: Path) -> _Load:
    """Read a service account's key now: a wrong file is known at the start."""
    try:
        info = json.loads(path.read_bytes())
        # google-auth is typed in part.
        credentials: Any = service_account.Credentials.from_service_account_info(info, scopes=_SCOPES)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise ConfigurationError(
            f"The credentials file of the Vertex account '{label}' cannot be read ({type(error).__name__})."
        ) from None
    except (ValueError, TypeError, AttributeError, GoogleAuthError):
        raise ConfigurationError(
            f"The credentials file of the Vertex account '{label}' is no service account's key. For other kinds of "
            "credentials leave the file out and set GOOGLE_APPLICATION_CREDENTIALS."
        ) from None
    # As google-auth does with default credentials: GOOGLE_CLOUD_QUOTA_PROJECT names the project that pays.
    load: _Load = credentials.with_quota_project_from_environment
    return load


class _Request(Request):
    """A transport of google-auth's that takes no proxy and no netrc from the environment, as our own client."""

    def __init__(self) -> None:
        super().__init__()
        self.session.trust_env = False

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: Any = None,
        headers: Any = None,
        timeout: float | None = _TOKEN_TIMEOUT_SECONDS,
        **options: Any,
    ) -> Any:
        # google-auth is typed in part.
        return super().__call__(url, method, body, headers, timeout, **options)  # type: ignore[no-untyped-call]


def _failure(error: GoogleAuthError) -> Failure:
    if _is_unreachable(error):
        return Failure("TOKEN_SERVER_UNREACHABLE", passing=True)
    word = _refusal(error) if isinstance(error, RefreshError) else _word(type(error).__name__)
    return Failure(word, passing=error.retryable)


def _is_unreachable(error: BaseException | None) -> bool:
    """Tell whether no answer is behind it: google-auth 2.x wraps what the metadata server's client raises, for one."""
    while error is not None and not isinstance(error, TransportError):
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    # The metadata server's own no, such as 404 without a service account, comes as the same class with the answer.
    answer = error.args[1] if error is not None and len(error.args) > 1 else None
    return error is not None and not 400 <= getattr(answer, "status", 0) < 500


def _refusal(error: RefreshError) -> str:
    """Return OAuth's word (``invalid_grant``) for a refused token; its description may hold an address."""
    body = error.args[1] if len(error.args) > 1 else None
    return _word(body.get("error") if isinstance(body, dict) else None)


def _word(value: object) -> str:
    return machine_word(value.upper() if isinstance(value, str) else None) or "TOKEN_REFUSED"
