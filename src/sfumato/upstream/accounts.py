"""Accounts: the keys that pictures are made with, in rotation."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from sfumato.errors import (
    ConfigurationError,
    ImageError,
    NoImageError,
    SafetyBlockedError,
)
from sfumato.upstream.account_states import AccountState
from sfumato.upstream.cooling import (
    ALL_MODELS,
    MAX_COOLING_SECONDS,
    CoolingBoard,
    CoolingRow,
    CoolingTable,
    cooling_class,
    why_exhausted,
)
from sfumato.upstream.credentials import ApiKey, Credentials
from sfumato.upstream.doubts import Doubts
from sfumato.upstream.minutes import MinuteWindow
from sfumato.upstream.trials import TRIAL_SECONDS, Trials
from sfumato.upstream.turns import Turns

Backend: TypeAlias = Literal["gemini", "vertex"]

_log = logging.getLogger("sfumato")
_PARKED = (
    "Account '%s' is parked: Google refuses its credentials (%s). Check its key or its permissions; "
    "it is tried again in %s"
)
_VERSION_SUFFIX = re.compile(r"(?<!/)/(v\d+[a-z0-9]*)/?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Credentials, the address they may be sent to, and the label that telemetry names them by.

    Attributes:
        base: Scheme, host and path prefix, without the version.
        version: Version of the API, such as ``v1beta``.
        backend: Which Google API is there.
        resource: What stands before ``models/`` on Vertex AI: ``projects/…/locations/…/publishers/google/``.
        weight: Its share of the work beside others.
        rpm: Requests per minute and model that it may make, None for no bound of ours.
    """

    label: str
    credentials: Credentials
    base: str
    version: str
    backend: Backend = "gemini"
    resource: str = ""
    weight: float = 1.0
    rpm: int | None = None

    @classmethod
    def at(
        cls,
        label: str,
        api_key: str,
        api_base: str,
        default_version: str,
        *,
        weight: float = 1.0,
        rpm: int | None = None,
    ) -> Account:
        """Build an account of the Gemini API at *api_base*, which may end with a version that then wins.

        Raises:
            ConfigurationError: The key cannot stand in a header.
        """
        match = _VERSION_SUFFIX.search(api_base)
        return cls(
            label=label,
            credentials=ApiKey(label, api_key),
            base=api_base[: match.start()] if match else api_base.rstrip("/"),
            version=match[1] if match else default_version,
            weight=weight,
            rpm=rpm,
        )

    def __hash__(self) -> int:
        # The pool looks accounts up hundreds of times a request; equality still tells those of one label apart.
        return hash(self.label)

    @property
    def server(self) -> str:
        """Return the host, and the port where it is not the scheme's own."""
        return urlsplit(self.base).netloc.rpartition("@")[2]

    @property
    def identity(self) -> str:
        """Return a digest of whose quota is used: what processes call the account among each other.

        Not the label: a new key under an old label starts afresh.
        """
        secret = self.credentials.value if isinstance(self.credentials, ApiKey) else self.label
        whose = f"{self.base} {self.resource} {secret}"
        return hashlib.sha256(whose.encode()).hexdigest()[:32]

    def url(self, model: str, method: str = "generateContent") -> str:
        """Return the address of one of *model*'s methods."""
        return f"{self.base}/{self.version}/{self.resource}models/{model}:{method}"


class AccountPool:
    """Hand out accounts: by turns and weight, and never one that is known to refuse. For one event loop.

    Args:
        accounts: The accounts, in the operator's order; each with an identity of its own.
        clock: Monotonic seconds.
        wall_clock: Unix seconds.
        board: What other processes know.
        max_cooling_seconds: The longest rest after a rate limit.
        trial_seconds: How long a burst waits for what becomes of its first call on an account that is not known to
            work; 0 lets it go at once.
    """

    def __init__(
        self,
        accounts: Iterable[Account],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        board: CoolingBoard | None = None,
        max_cooling_seconds: float = MAX_COOLING_SECONDS,
        trial_seconds: float = TRIAL_SECONDS,
    ) -> None:
        self._accounts = tuple(accounts)
        self._identities = {account: account.identity for account in self._accounts}
        self._turns = Turns({account: account.weight for account in self._accounts})
        self._windows: dict[tuple[Account, str], MinuteWindow] = {}
        self._clock = clock
        self._board = board
        self._table = CoolingTable(clock=clock, wall_clock=wall_clock, max_cooling_seconds=max_cooling_seconds)
        self._trials = Trials[tuple[Account, str]](clock, trial_seconds)
        self._doubts = Doubts[Account](clock)
        self._told = asyncio.Event()

    def __len__(self) -> int:
        return len(self._accounts)

    async def acquire(self, model: str, *, tried: Collection[Account] = ()) -> Account:
        """Take an account for one call, one not in *tried* while there is one; give it back with `release`.

        Raises:
            RateLimitedError: None is usable for *model* now, and one will be: ``retry_after`` is the soonest.
            QuotaExhaustedError: The same, where quotas of the day or billing are used up.
            UpstreamAuthError: Google refuses the credentials of every account.
            ConfigurationError: No account is configured.
        """
        if self._board is not None:
            self._table.learn(await self._board.read())
        while True:
            error = self.exhausted(model)
            if error is not None:
                raise error
            usable = self._usable(model)
            wanted = [account for account in usable if account not in tried] or usable
            settled = [account for account in wanted if not self._is_on_trial(account, model)]
            if not usable:
                # Google's own answer is what is wanted; nobody waits for what becomes of a trial.
                settled = usable = self._without(model)
            if settled:
                break
            await self._trial_ends(wanted, model)
        account = self._turns.next(
            settled, among=usable, doubtful=lambda account: self._is_doubtful(account, model, tried)
        )
        self._take(account, model)
        return account

    def release(self, account: Account) -> None:
        """Give an account back."""
        self._turns.give_back(account)

    async def report(self, account: Account, model: str, error: ImageError | None) -> None:
        """Note how a call ended: cool or park the account, or take it for healthy again. Never raises."""
        identity = self._identities.get(account)
        if identity is None:
            return
        notice = None
        # An answer without a picture is an answer: the account works.
        if error is None or isinstance(error, NoImageError | SafetyBlockedError):
            self._trials.settle((account, model), passed=True)
            self._doubts.clear(account)
            if self._table.succeed(identity, model):
                _log.warning("Account '%s' is no longer parked: it works again", account.label)
        else:
            refused = cooling_class(error) is not None
            self._trials.settle((account, model), passed=False if refused else None)
            if error.retryable and not refused:
                self._doubts.add(account)
            was_parked = self._table.parked(identity) is not None
            notice = self._table.refuse(identity, model, error)
            if notice is not None and notice.model == ALL_MODELS and not was_parked:
                _log.error(_PARKED, account.label, error.reason or error.code, _span(notice.seconds))
        self._told.set()
        self._told = asyncio.Event()
        if notice is not None and self._board is not None:
            await self._board.publish(notice)

    def has_other(self, model: str, tried: Collection[Account]) -> bool:
        """Tell whether an account is usable, and not known to lack *model*, that is not in *tried*."""
        return any(account not in tried for account in self._usable(model))

    def exhausted(self, model: str) -> ImageError | None:
        """Return what `acquire` would raise now, None while some account can be asked."""
        if not self._accounts:
            return ConfigurationError("No Gemini API key is configured. The operator must set GEMINI_API_KEY.")
        obstacles = [obstacle for account in self._accounts if (obstacle := self._obstacle(account, model))]
        return why_exhausted(obstacles) if len(obstacles) == len(self._accounts) else None

    def states(self) -> tuple[AccountState, ...]:
        """Tell how each account is, in the operator's order."""
        return tuple(self._state(account) for account in self._accounts)

    def _state(self, account: Account) -> AccountState:
        identity = self._identities[account]
        parked, cooling = self._table.parked(identity), self._table.cooling(identity)
        return AccountState(
            label=account.label,
            backend=account.backend,
            state="parked" if parked else "cooling" if cooling else "ready",
            running=self._turns.running(account),
            weight=account.weight,
            rpm=account.rpm,
            used_this_minute={
                model: used
                for (owner, model), window in self._windows.items()
                if owner == account and (used := len(window))
            },
            cooling=cooling,
            parked=parked,
        )

    def _usable(self, model: str) -> list[Account]:
        return [account for account in self._turns.line if self._obstacle(account, model) is None]

    def _without(self, model: str) -> list[Account]:
        return [
            account
            for account in self._turns.line
            if (obstacle := self._obstacle(account, model)) and obstacle.reason == "unavailable"
        ]

    def _obstacle(self, account: Account, model: str) -> CoolingRow | None:
        obstacle = self._table.obstacle(self._identities[account], model)
        window = self._windows.get((account, model))
        is_asked = obstacle is None or obstacle.reason == "unavailable"
        if is_asked and account.rpm is not None and window is not None:
            seconds = window.seconds_until_free(account.rpm)
            return CoolingRow(model, "per_minute", seconds) if seconds else obstacle
        return obstacle

    def _is_on_trial(self, account: Account, model: str) -> bool:
        # Of one account nobody is spared: whoever waits has no other way.
        return len(self._accounts) > 1 and self._trials.is_on((account, model))

    async def _trial_ends(self, accounts: Collection[Account], model: str) -> None:
        """Wait until a call's end is reported or the first of the trials has lasted long enough."""
        trial = self._trials.first([(account, model) for account in accounts])
        try:
            async with asyncio.timeout(self._trials.remaining_seconds(trial)):
                await self._told.wait()
        except TimeoutError:
            self._trials.settle(trial, passed=True)

    def _is_doubtful(self, account: Account, model: str, tried: Collection[Account]) -> bool:
        # A request that has failed once is no guinea pig while there is an account that works.
        untested = bool(tried) and not self._trials.has_passed((account, model))
        return untested or self._doubts.holds(account)

    def _take(self, account: Account, model: str) -> None:
        self._turns.take(account)
        self._doubts.begin(account)
        self._trials.begin((account, model))
        self._table.begin(self._identities[account], model)
        self._windows.setdefault((account, model), MinuteWindow(self._clock)).add()


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
