"""Accounts: the keys that pictures are made with, in rotation."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from sfumato.errors import ConfigurationError
from sfumato.upstream.credentials import ApiKey, Credentials

Backend: TypeAlias = Literal["gemini", "vertex"]

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

    @property
    def server(self) -> str:
        """Return the host, and the port where it is not the scheme's own."""
        return urlsplit(self.base).netloc.rpartition("@")[2]

    def url(self, model: str, method: str = "generateContent") -> str:
        """Return the address of one of *model*'s methods."""
        return f"{self.base}/{self.version}/{self.resource}models/{model}:{method}"


class AccountPool:
    """Hand out accounts: the least busy, in turn where several are.

    Args:
        accounts: The accounts, in the operator's order.
    """

    def __init__(self, accounts: Iterable[Account]) -> None:
        self._accounts = list(accounts)
        self._running = dict.fromkeys(self._accounts, 0)

    def __len__(self) -> int:
        return len(self._accounts)

    def acquire(self, *, tried: Collection[Account] = ()) -> Account:
        """Take an account, one not in *tried* while there is one; give it back with `release`.

        Raises:
            ConfigurationError: No account is configured.
        """
        if not self._accounts:
            raise ConfigurationError("No Gemini API key is configured. The operator must set GEMINI_API_KEY.")
        fresh = [account for account in self._accounts if account not in tried] or self._accounts
        account = min(fresh, key=self._running.__getitem__)
        # To the end of the line: of equally busy accounts the one that waited longest is next.
        self._accounts.remove(account)
        self._accounts.append(account)
        self._running[account] += 1
        return account

    def release(self, account: Account) -> None:
        """Give an account back."""
        self._running[account] -= 1

    def has_other(self, tried: Collection[Account]) -> bool:
        """Tell whether an account is left that is not in *tried*."""
        return any(account not in tried for account in self._accounts)
