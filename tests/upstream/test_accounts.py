from __future__ import annotations

import dataclasses

import pytest

from sfumato.errors import ConfigurationError
from sfumato.upstream.accounts import Account, AccountPool

GOOGLE = "https://generativelanguage.googleapis.com"


def account(label: str) -> Account:
    return Account.at(label, f"key-{label}", GOOGLE, "v1beta")


def pool(labels: str) -> AccountPool:
    return AccountPool(account(label) for label in labels)


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (GOOGLE, (GOOGLE, "v1beta")),
        (f"{GOOGLE}/", (GOOGLE, "v1beta")),
        (f"{GOOGLE}/v1", (GOOGLE, "v1")),
        (f"{GOOGLE}/v1beta/", (GOOGLE, "v1beta")),
        (f"{GOOGLE}/v1beta1", (GOOGLE, "v1beta1")),
        ("http://127.0.0.1:8081/gemini/v1alpha", ("http://127.0.0.1:8081/gemini", "v1alpha")),
        ("https://host/v1/proxy", ("https://host/v1/proxy", "v1beta")),
        ("https://v1", ("https://v1", "v1beta")),
        ("https://host/vision", ("https://host/vision", "v1beta")),
    ],
)
def test_the_base_may_name_the_version(base: str, expected: tuple[str, str]) -> None:
    made = Account.at("a", "k", base, "v1beta")
    assert (made.base, made.version) == expected


@pytest.mark.parametrize("key", ["", " ", "a b", "a\nb", "a\r\nx-evil: 1", "schlüssel", "\ud800", "a\x00"])
def test_a_key_that_cannot_stand_in_a_header_is_refused_without_being_told(key: str) -> None:
    with pytest.raises(ConfigurationError, match="account 'mine'") as caught:
        Account.at("mine", key, GOOGLE, "v1")
    assert key.strip() == "" or key not in caught.value.message


def test_the_key_is_not_shown() -> None:
    assert "key-a" not in repr(account("a"))
    assert "key-a" not in repr([account("a")])
    assert "label='a'" in repr(account("a"))


def test_accounts_take_turns() -> None:
    accounts = pool("abc")
    labels = []
    for _ in range(7):
        taken = accounts.acquire()
        accounts.release(taken)
        labels.append(taken.label)
    assert "".join(labels) == "abcabca"


def test_the_least_busy_is_taken() -> None:
    accounts = pool("abc")
    held = [accounts.acquire() for _ in range(3)]
    assert [one.label for one in held] == ["a", "b", "c"]
    accounts.release(held[1])
    assert accounts.acquire().label == "b"
    # All equally busy again: the one that waited longest is next.
    assert [accounts.acquire().label for _ in range(3)] == ["a", "c", "b"]


def test_accounts_that_were_tried_are_passed_over_while_there_are_others() -> None:
    accounts = pool("ab")
    tried = [accounts.acquire()]
    accounts.release(tried[0])
    assert accounts.has_other(tried)
    other = accounts.acquire(tried=tried)
    assert other.label == "b"
    tried.append(other)
    assert not accounts.has_other(tried)
    assert accounts.acquire(tried=tried).label == "a"


def test_a_busy_account_that_was_not_tried_beats_an_idle_one_that_was() -> None:
    accounts = pool("ab")
    tried = [accounts.acquire()]
    accounts.release(tried[0])
    accounts.acquire(tried=tried)
    assert accounts.acquire(tried=tried).label == "b"


def test_without_accounts_the_operator_is_told() -> None:
    assert len(pool("")) == 0
    assert len(pool("abc")) == 3
    assert not pool("").has_other(())
    with pytest.raises(ConfigurationError, match="GEMINI_API_KEY"):
        pool("").acquire()


def test_an_account_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        account("a").base = "https://evil.example"  # type: ignore[misc]
