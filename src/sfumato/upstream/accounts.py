"""Accounts: the keys that pictures are made with, in rotation."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sfumato.errors import ConfigurationError

_KEY = re.compile(r"[!-~]+")
_VERSION_SUFFIX = re.compile(r"(?<!/)/(v\d+[a-z0-9]*)/?$")


@dataclass(frozen=True, slots=True)
class Account:
    """A key, the base it may be sent to, and the label that telemetry names it by.

    Attributes:
        base: Scheme, host and path prefix, without the version.
        version: Version of the API, such as ``v1beta``.

    Raises:
        ConfigurationError: The key cannot stand in a header.
    """

    label: str
    api_key: str
    base: str
    version: str

    def __post_init__(self) -> None:
        if not _KEY.fullmatch(self.api_key):
            raise ConfigurationError(
                f"The Gemini API key of account '{self.label}' is empty or has characters that no key has."
            )

    def __repr__(self) -> str:
        return f"Account(label={self.label!r}, base={self.base!r}, version={self.version!r})"

    @classmethod
    def at(cls, label: str, api_key: str, api_base: str, default_version: str) -> Account:
        """Build an account for *api_base*, which may end with a version that then wins."""
        match = _VERSION_SUFFIX.search(api_base)
        base = api_base[: match.start()] if match else api_base.rstrip("/")
        return cls(label, api_key, base, match[1] if match else default_version)


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
