from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from sfumato.errors import ConfigurationError
from sfumato.images.safety import Threshold
from sfumato.settings import DEFAULT_API_BASE, Settings, load_settings, unknown_variables, variable_names

# Requirements, sections 5 and 12: every variable, the name that wins first.
NAMES: dict[str, tuple[str, ...]] = {
    "api_key": ("GEMINI_API_KEY",),
    "api_keys": ("GEMINI_API_KEYS",),
    "accounts_file": ("GEMINI_IMAGE_ACCOUNTS_FILE",),
    "api_base": ("GEMINI_IMAGE_API_BASE", "GEMINI_API_BASE", "GOOGLE_GEMINI_BASE_URL"),
    "api_version": ("GEMINI_IMAGE_API_VERSION",),
    "client_keys": ("GEMINI_IMAGE_CLIENT_KEYS",),
    "admin_key": ("GEMINI_IMAGE_ADMIN_KEY",),
    "metrics_public": ("GEMINI_IMAGE_METRICS_PUBLIC",),
    "allow_anonymous": ("GEMINI_IMAGE_ALLOW_ANONYMOUS",),
    "default_size": ("GEMINI_IMAGE_DEFAULT_SIZE",),
    "prompt_enhancement": ("GEMINI_IMAGE_PROMPT_ENHANCEMENT",),
    "drop_params": ("GEMINI_IMAGE_DROP_PARAMS",),
    "safety_threshold": ("GEMINI_IMAGE_SAFETY_THRESHOLD",),
    "safety_settings": ("GEMINI_IMAGE_SAFETY_SETTINGS",),
    "safety_floor": ("GEMINI_IMAGE_SAFETY_FLOOR",),
    "cache_enabled": ("GEMINI_IMAGE_CACHE_ENABLED",),
    "cache_backend": ("GEMINI_IMAGE_CACHE_BACKEND", "CACHE_BACKEND"),
    "cache_ttl_hours": ("GEMINI_IMAGE_CACHE_TTL_HOURS",),
    "cache_ttl_seconds": ("GEMINI_IMAGE_CACHE_TTL_SECONDS", "CACHE_TTL_SECONDS"),
    "cache_max_size_mb": ("GEMINI_IMAGE_CACHE_MAX_SIZE_MB", "CACHE_MAX_SIZE_MB"),
    "cache_dir": ("GEMINI_IMAGE_CACHE_DIR", "CACHE_DIR"),
    "cache_scope": ("GEMINI_IMAGE_CACHE_SCOPE",),
    "cache_memory_mb": ("GEMINI_IMAGE_CACHE_MEMORY_MB",),
    "cache_url": ("GEMINI_IMAGE_CACHE_URL",),
    "redis_url": ("REDIS_URL",),
    "url_mode": ("GEMINI_IMAGE_URL_MODE",),
    "url_secrets": ("GEMINI_IMAGE_URL_SECRETS",),
    "url_ttl_seconds": ("GEMINI_IMAGE_URL_TTL_SECONDS",),
    "public_url": ("GEMINI_IMAGE_PUBLIC_URL",),
    "token_secrets": ("GEMINI_IMAGE_TOKEN_SECRETS",),
    "idempotency_ttl_seconds": ("GEMINI_IMAGE_IDEMPOTENCY_TTL_SECONDS",),
    "prices_file": ("GEMINI_IMAGE_PRICES_FILE",),
    "spool_dir": ("GEMINI_IMAGE_SPOOL_DIR",),
    "spool_after_mb": ("GEMINI_IMAGE_SPOOL_AFTER_MB",),
    "timeout_seconds": ("GEMINI_IMAGE_TIMEOUT_SECONDS",),
    "attempt_timeout_seconds": ("GEMINI_IMAGE_ATTEMPT_TIMEOUT_SECONDS",),
    "connect_timeout_seconds": ("GEMINI_IMAGE_CONNECT_TIMEOUT_SECONDS",),
    "max_attempts": ("GEMINI_IMAGE_MAX_ATTEMPTS",),
    "max_concurrency": ("GEMINI_IMAGE_MAX_CONCURRENCY",),
    "queue_size": ("GEMINI_IMAGE_QUEUE_SIZE",),
    "grace_seconds": ("GEMINI_IMAGE_GRACE_SECONDS",),
    "max_request_mb": ("GEMINI_IMAGE_MAX_REQUEST_MB",),
    "max_response_mb": ("GEMINI_IMAGE_MAX_RESPONSE_MB",),
    "max_input_pixels": ("GEMINI_IMAGE_MAX_INPUT_PIXELS",),
    "fetch_hosts": ("GEMINI_IMAGE_FETCH_HOSTS",),
    "hash_salt": ("GEMINI_IMAGE_HASH_SALT",),
    "log_level": ("GEMINI_IMAGE_LOG_LEVEL",),
}
# A text for each, what it means, and the default: requirements, sections 4, 5, 6, 9 and 12.
VALUES: dict[str, tuple[str, Any, Any]] = {
    "api_key": ("AQ.key\n", SecretStr("AQ.key"), None),
    "api_keys": ("a:k1, b:k2,k3", (("a", SecretStr("k1")), ("b", SecretStr("k2")), ("key-3", SecretStr("k3"))), ()),
    "accounts_file": ("/etc/accounts.toml", Path("/etc/accounts.toml"), None),
    "api_base": (" https://host:8443/v1beta ", "https://host:8443/v1beta", DEFAULT_API_BASE),
    "api_version": ("v1", "v1", "v1beta"),
    "client_keys": ("team:c", (("team", SecretStr("c")),), ()),
    "admin_key": ("root\n", SecretStr("root"), None),
    "metrics_public": ("true", True, False),
    "allow_anonymous": ("1", True, False),
    "default_size": ("2k", "2K", None),
    "prompt_enhancement": ("false", False, True),
    "drop_params": ("yes", True, False),
    "safety_threshold": ("high", Threshold.BLOCK_LOW_AND_ABOVE, Threshold.OFF),
    "safety_settings": (
        "HARASSMENT=HIGH,hate_speech=low",
        {
            "HARM_CATEGORY_HARASSMENT": Threshold.BLOCK_LOW_AND_ABOVE,
            "HARM_CATEGORY_HATE_SPEECH": Threshold.BLOCK_ONLY_HIGH,
        },
        {},
    ),
    "safety_floor": ("BLOCK_NONE", Threshold.BLOCK_NONE, None),
    "cache_enabled": ("off", False, True),
    "cache_backend": ("MEMORY", "memory", "filesystem"),
    "cache_ttl_hours": ("1.5", 1.5, 24.0),
    "cache_ttl_seconds": ("90", 90.0, None),
    "cache_max_size_mb": ("10", 10.0, 1000.0),
    "cache_dir": ("/tmp/c", Path("/tmp/c"), None),  # noqa: S108  # nothing is written
    "cache_scope": ("Tenant", "tenant", "global"),
    "cache_memory_mb": ("64", 64.0, 0.0),
    "cache_url": ("s3://bucket", SecretStr("s3://bucket"), None),
    "redis_url": ("redis://h", SecretStr("redis://h"), None),
    "url_mode": ("LINK", "link", "data"),
    "url_secrets": ("new, old", (SecretStr("new"), SecretStr("old")), ()),
    "url_ttl_seconds": ("60", 60.0, 3600.0),
    "public_url": ("https://img.example/base", "https://img.example/base", None),
    "token_secrets": ("t", (SecretStr("t"),), ()),
    "idempotency_ttl_seconds": ("5", 5.0, 600.0),
    "prices_file": ("p.toml", Path("p.toml"), None),
    "spool_dir": ("spool", Path("spool"), None),
    "spool_after_mb": ("1", 1.0, 256.0),
    "timeout_seconds": ("30", 30.0, 300.0),
    "attempt_timeout_seconds": ("20", 20.0, 180.0),
    "connect_timeout_seconds": ("2", 2.0, 10.0),
    "max_attempts": ("1", 1, 3),
    "max_concurrency": ("8", 8, 64),
    "queue_size": ("0", 0, 256),
    "grace_seconds": ("0", 0.0, 120.0),
    "max_request_mb": ("100", 100.0, 20.0),
    "max_response_mb": ("64", 64.0, 96.0),
    "max_input_pixels": ("1000", 1000, 64_000_000),
    "fetch_hosts": ("a.example, b.example:8443,", ("a.example", "b.example:8443"), ()),
    "hash_salt": ("salt", SecretStr("salt"), None),
    "log_level": ("debug", "DEBUG", "INFO"),
}
# Canaries: a secret in every field that can hold one.
SECRET = "canary-SECRET-9f3"
HOLDING_SECRETS = {
    "GEMINI_API_KEY": SECRET,
    "GEMINI_API_KEYS": f"a:{SECRET}1,{SECRET}2",
    "GEMINI_IMAGE_CLIENT_KEYS": f"team:{SECRET}",
    "GEMINI_IMAGE_ADMIN_KEY": SECRET,
    "GEMINI_IMAGE_CACHE_URL": f"redis://:{SECRET}@host",
    "REDIS_URL": f"redis://:{SECRET}@host",
    "GEMINI_IMAGE_URL_SECRETS": f"{SECRET},{SECRET}",
    "GEMINI_IMAGE_TOKEN_SECRETS": SECRET,
    "GEMINI_IMAGE_HASH_SALT": SECRET,
}


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own variables out."""
    for name in list(os.environ):
        if name.startswith(("GEMINI_", "GOOGLE_", "CACHE_")) or name == "REDIS_URL":
            monkeypatch.delenv(name)


def test_every_variable_has_its_exact_names() -> None:
    assert {field: variable_names(field) for field in Settings.model_fields} == NAMES


@pytest.mark.parametrize("field", NAMES)
def test_every_variable_is_read_has_a_keyword_and_a_default(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, value, default = VALUES[field]
    assert getattr(load_settings(), field) == default
    assert getattr(load_settings(**{field: text}), field) == value
    for name in reversed(NAMES[field]):
        # Each name, the less important ones first; the one that wins is set last and wins over the others.
        monkeypatch.setenv(name, text)
        assert getattr(load_settings(), field) == value


@pytest.mark.parametrize("field", ["api_base", "cache_ttl_seconds"])
def test_the_first_name_wins_and_empty_counts_as_unset(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = [f"https://host{i}" if field == "api_base" else f"{i + 1}" for i in range(3)]
    for name, value in zip(NAMES[field], values, strict=False):
        monkeypatch.setenv(name, value)
    for name, value in zip(NAMES[field], values, strict=False):
        assert str(getattr(load_settings(), field)).removesuffix(".0") == value
        monkeypatch.setenv(name, "")
    assert getattr(load_settings(), field) == VALUES[field][2]


def test_a_keyword_wins_over_every_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES["api_base"]:
        monkeypatch.setenv(name, "https://environment.example")
    assert load_settings(api_base="https://keyword.example").api_base == "https://keyword.example"
    assert load_settings(GEMINI_API_BASE="https://name.example").api_base == "https://name.example"


@pytest.mark.parametrize("field", NAMES)
def test_only_the_exact_names_are_read(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(field, VALUES[field][0])
    monkeypatch.setenv(NAMES[field][0].lower(), VALUES[field][0])
    assert getattr(load_settings(), field) == VALUES[field][2]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GEMINI_API_KEYS", f"{SECRET}:,b"),
        ("GEMINI_API_KEYS", f"a:{SECRET},a:{SECRET}"),
        ("GEMINI_IMAGE_CLIENT_KEYS", f":{SECRET}"),
        ("GEMINI_IMAGE_API_BASE", SECRET),
        ("GEMINI_IMAGE_API_BASE", f"https://user:{SECRET}@host"),
        ("GEMINI_IMAGE_API_BASE", f"https://host/?key={SECRET}"),
        ("GEMINI_IMAGE_API_VERSION", f"v1/{SECRET}"),
        ("GEMINI_IMAGE_PUBLIC_URL", f"ftp://{SECRET}"),
        ("GEMINI_IMAGE_DEFAULT_SIZE", SECRET),
        ("GEMINI_IMAGE_DROP_PARAMS", SECRET),
        ("GEMINI_IMAGE_SAFETY_THRESHOLD", SECRET),
        ("GEMINI_IMAGE_SAFETY_THRESHOLD", " "),
        ("GEMINI_IMAGE_SAFETY_FLOOR", SECRET),
        ("GEMINI_IMAGE_SAFETY_SETTINGS", f"HARASSMENT={SECRET}"),
        ("GEMINI_IMAGE_SAFETY_SETTINGS", f"{SECRET}=HIGH"),
        ("GEMINI_IMAGE_SAFETY_SETTINGS", "HARASSMENT"),
        ("GEMINI_IMAGE_CACHE_BACKEND", SECRET),
        ("GEMINI_IMAGE_CACHE_SCOPE", SECRET),
        ("GEMINI_IMAGE_CACHE_TTL_HOURS", "0"),
        ("GEMINI_IMAGE_CACHE_TTL_SECONDS", "-1"),
        ("GEMINI_IMAGE_CACHE_MAX_SIZE_MB", "inf"),
        ("GEMINI_IMAGE_MAX_REQUEST_MB", "inf"),
        ("GEMINI_IMAGE_MAX_RESPONSE_MB", "nan"),
        ("GEMINI_IMAGE_TIMEOUT_SECONDS", SECRET),
        ("GEMINI_IMAGE_MAX_ATTEMPTS", "0"),
        ("GEMINI_IMAGE_MAX_CONCURRENCY", "0"),
        ("GEMINI_IMAGE_QUEUE_SIZE", "-1"),
        ("GEMINI_IMAGE_URL_MODE", SECRET),
        ("GEMINI_IMAGE_LOG_LEVEL", SECRET),
    ],
)
def test_an_invalid_value_names_the_variable_and_never_the_value(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert name in caught.value.message
    assert SECRET not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_an_invalid_alias_is_reported_under_the_real_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_TTL_SECONDS", "soon")
    with pytest.raises(ConfigurationError, match=r"GEMINI_IMAGE_CACHE_TTL_SECONDS: .*number"):
        load_settings()


def test_every_invalid_variable_is_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(max_attempts=99, queue_size="x", nonsense=1)
    for name in ("GEMINI_IMAGE_MAX_ATTEMPTS", "GEMINI_IMAGE_QUEUE_SIZE", "nonsense"):
        assert f"{name}: " in caught.value.message


def test_the_label_default_belongs_to_the_single_key() -> None:
    settings = load_settings(api_key="k0", api_keys="a:k1")
    assert [account.label for account in settings.accounts] == ["default", "a"]
    assert [account.label for account in load_settings(api_keys="default:k1").accounts] == ["default"]
    with pytest.raises(ConfigurationError, match="label 'default'"):
        load_settings(api_key="k0", api_keys="default:k1")


def test_labels_given_as_tuples_must_differ_too() -> None:
    with pytest.raises(ConfigurationError, match="every label must be different"):
        load_settings(client_keys=(("a", "1"), ("a", "2")))


def test_seconds_beat_hours() -> None:
    assert load_settings().cache_ttl == 24 * 3600
    assert load_settings(cache_ttl_hours=2).cache_ttl == 7200
    assert load_settings(cache_ttl_hours=2, cache_ttl_seconds=5).cache_ttl == 5


@pytest.mark.parametrize("word", ["none", "None", "noop", " NOOP "])
def test_none_is_noop(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_BACKEND", word)
    assert load_settings().cache_backend == "noop"


def test_thresholds_may_be_given_as_values() -> None:
    settings = load_settings(
        safety_floor=Threshold.BLOCK_NONE, safety_settings={"HARM_CATEGORY_HARASSMENT": Threshold.OFF}
    )
    assert settings.safety_floor is Threshold.BLOCK_NONE
    assert settings.safety_settings == {"HARM_CATEGORY_HARASSMENT": Threshold.OFF}
    assert load_settings(safety_floor=None).safety_floor is None


def test_the_policy_holds_the_operator_s_decisions() -> None:
    policy = load_settings(
        default_size="4K",
        prompt_enhancement=False,
        drop_params=True,
        safety_threshold="LOW",
        safety_settings="HARASSMENT=HIGH",
        safety_floor="MEDIUM",
    ).policy
    assert policy.default_tier == "4K"
    assert policy.phrases is False
    assert policy.drop_unknown is True
    assert policy.safety_threshold is Threshold.BLOCK_ONLY_HIGH
    assert policy.safety_exceptions == {"HARM_CATEGORY_HARASSMENT": Threshold.BLOCK_LOW_AND_ABOVE}
    assert policy.safety_floors == (Threshold.BLOCK_MEDIUM_AND_ABOVE,)
    assert load_settings().policy.safety_floors == ()


def test_no_secret_stands_in_repr_or_in_the_list_of_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in HOLDING_SECRETS.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    rows = list(settings.variables())
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)
    assert SECRET not in repr(rows)
    shown = {row.names[0]: row.value for row in rows}
    assert {name for name, value in shown.items() if "*" in value} == HOLDING_SECRETS.keys()
    assert shown["GEMINI_API_KEYS"] == "a:********,key-2:********"


def test_the_list_of_variables_tells_value_and_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_MAX_SIZE_MB", "5")
    monkeypatch.setenv("GEMINI_IMAGE_QUEUE_SIZE", "7")
    monkeypatch.setenv("GEMINI_IMAGE_SAFETY_SETTINGS", "HARASSMENT=HIGH")
    rows = {row.field: row for row in load_settings(queue_size=9, drop_params=True).variables()}
    assert rows.keys() == NAMES.keys()
    assert {field: row.names for field, row in rows.items()} == NAMES
    assert all(row.description.endswith(".") for row in rows.values())
    shown = {field: (row.value, row.source) for field, row in rows.items()}
    assert shown["cache_max_size_mb"] == ("5.0", "CACHE_MAX_SIZE_MB")
    assert shown["queue_size"] == ("9", "keyword")
    assert shown["drop_params"] == ("true", "keyword")
    assert shown["safety_settings"] == ("HARM_CATEGORY_HARASSMENT=HIGH", "GEMINI_IMAGE_SAFETY_SETTINGS")
    assert shown["safety_threshold"] == ("OFF", "default")
    assert shown["fetch_hosts"] == ("-", "default")
    assert shown["api_key"] == ("-", "default")


def test_unknown_names_are_told_with_the_closest_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_IMAGE_SAFTEY_FLOOR", "HIGH")
    monkeypatch.setenv("GEMINI_IMAGE_SAFETY_FLOOR", "HIGH")
    monkeypatch.setenv("gemini_image_other", "x")
    assert unknown_variables()[0] == ("GEMINI_IMAGE_SAFTEY_FLOOR", "GEMINI_IMAGE_SAFETY_FLOOR")
    assert unknown_variables({"gemini_image_safety_floor": "HIGH"}) == (
        ("gemini_image_safety_floor", "GEMINI_IMAGE_SAFETY_FLOOR"),
    ), "names are case-sensitive, and a safety variable in the wrong case must not pass"
    assert [name for name, _ in unknown_variables({"GEMINI_IMAGE_Z": "", "GEMINI_IMAGE_": "", "CACHE_X": ""})] == [
        "GEMINI_IMAGE_",
        "GEMINI_IMAGE_Z",
    ]


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().queue_size = 5
