from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sfumato.settings import Settings, variable_names
from tests.cli.conftest import Command
from tests.conftest import Emulator
from tests.support.redis_server import RedisServer


@pytest.fixture(autouse=True)
def cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    directory = tmp_path / "cache"
    monkeypatch.setenv("GEMINI_IMAGE_CACHE_DIR", str(directory))
    return directory


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch, emulator: Emulator) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "AIza-secret-one")
    monkeypatch.setenv("GEMINI_IMAGE_API_BASE", emulator.url)


@pytest.mark.usefixtures("configured")
def test_a_good_configuration_passes(sfumato: Command, emulator: Emulator, cache_dir: Path) -> None:
    ended = sfumato("check")

    assert ended.status == 0, ended.out
    assert "PROBLEM" not in ended.out
    assert f"reachable: {emulator.url}/v1beta/models/gemini-3-pro-image with the key 'default'" in ended.out
    assert "the cache (filesystem) keeps and returns values" in ended.out
    assert not [path for path in cache_dir.rglob("*") if path.is_file() and path.name not in ("lock", "tally")]


@pytest.mark.usefixtures("configured")
def test_every_variable_is_shown_with_its_value_and_source(sfumato: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_MAX_SIZE_MB", "77")
    monkeypatch.setenv("GEMINI_IMAGE_SAFETY_THRESHOLD", "BLOCK_ONLY_HIGH")
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in sfumato("check", "--offline").out.splitlines()
        if "│" in line
    ]

    assert [row[0] for row in rows] == [variable_names(field)[0] for field in Settings.model_fields]
    assert ["GEMINI_API_KEY", "********", "environment"] in rows
    assert ["GEMINI_IMAGE_CACHE_MAX_SIZE_MB", "77.0", "CACHE_MAX_SIZE_MB"] in rows
    assert ["GEMINI_IMAGE_SAFETY_THRESHOLD", "LOW", "environment"] in rows
    assert ["GEMINI_IMAGE_LOG_LEVEL", "INFO", "default"] in rows


@pytest.mark.usefixtures("configured")
def test_no_secret_is_shown(sfumato: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "GEMINI_API_KEYS": "second:hidden-a,third:hidden-b-invalid",
        "GEMINI_IMAGE_CLIENT_KEYS": "team:hidden-c",
        "GEMINI_IMAGE_ADMIN_KEY": "hidden-d",
        "GEMINI_IMAGE_HASH_SALT": "hidden-e",
        "GEMINI_IMAGE_URL_SECRETS": "hidden-f,hidden-g",
        "GEMINI_IMAGE_CACHE_URL": "redis://:hidden-h@localhost",
        "REDIS_URL": "redis://:hidden-i@localhost",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)

    ended = sfumato("check")

    assert "hidden-" not in ended.out + ended.err
    assert "AIza" not in ended.out + ended.err
    assert "second:********,third:********" in ended.out


def test_an_unknown_variable_is_a_problem_with_the_closest_real_one(
    sfumato: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "key")
    monkeypatch.setenv("GEMINI_IMAGE_SAFETY_FLOR", "HIGH")

    ended = sfumato("check", "--offline")

    assert ended.status == 1
    assert "GEMINI_IMAGE_SAFETY_FLOR means nothing to sfumato. Did you mean GEMINI_IMAGE_SAFETY_FLOOR?" in ended.out


def test_an_invalid_value_is_a_problem_without_the_value(sfumato: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_IMAGE_SAFETY_THRESHOLD", "hidden-typo")

    ended = sfumato("check", "--offline")

    assert ended.status == 1
    assert "GEMINI_IMAGE_SAFETY_THRESHOLD" in ended.out
    assert "hidden-typo" not in ended.out


def test_no_key_is_a_problem(sfumato: Command) -> None:
    ended = sfumato("check", "--offline")

    assert ended.status == 1
    assert "There is no Gemini key" in ended.out


@pytest.mark.usefixtures("configured")
def test_a_refused_key_is_named_by_its_label(sfumato: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEYS", "spare:an-invalid-key")

    ended = sfumato("check")

    assert ended.status == 1
    assert "key refused" in ended.out
    assert "with the key 'spare'" in ended.out
    assert "an-invalid-key" not in ended.out


@pytest.mark.usefixtures("configured")
def test_an_answer_that_is_no_model_is_a_problem(sfumato: Command) -> None:
    ended = sfumato("check", "--model", "gemini-9-image")

    assert ended.status == 1
    assert "Gemini answered 404" in ended.out


def test_an_unreachable_api_is_a_problem(sfumato: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "key")
    monkeypatch.setenv("GEMINI_IMAGE_API_BASE", "http://127.0.0.1:1")

    ended = sfumato("check")

    assert ended.status == 1
    assert "unreachable: http://127.0.0.1:1/v1beta" in ended.out


@pytest.mark.usefixtures("configured")
def test_a_cache_that_cannot_be_written_is_a_problem(
    sfumato: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GEMINI_IMAGE_CACHE_DIR", str(tmp_path / "file" / "cache"))

    ended = sfumato("check", "--offline")

    assert ended.status == 1
    assert "the cache (filesystem) cannot be used" in ended.out


@pytest.mark.usefixtures("configured")
def test_a_cache_too_small_for_a_value_is_a_problem(sfumato: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_IMAGE_CACHE_MAX_SIZE_MB", "0.00001")

    ended = sfumato("check", "--offline")

    assert ended.status == 1
    assert "does not return what it is given" in ended.out


@pytest.mark.usefixtures("configured")
def test_what_is_switched_off_is_skipped(sfumato: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_IMAGE_CACHE_ENABLED", "false")

    ended = sfumato("check", "--offline")

    assert ended.status == 0, ended.out
    assert "skipped  Gemini" in ended.out
    assert "skipped  the cache" in ended.out


@pytest.mark.usefixtures("configured")
def test_what_a_process_would_refuse_is_a_problem(sfumato: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_IMAGE_ACCOUNTS_FILE", "/nonexistent/accounts.toml")

    ended = sfumato("check", "--offline")

    assert ended.status == 1
    assert "GEMINI_IMAGE_ACCOUNTS_FILE" in ended.out.split("PROBLEM")[1]


@pytest.mark.usefixtures("configured")
def test_the_redis_beside_the_cache_is_asked(
    sfumato: Command, monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_server.url)

    ended = sfumato("check")

    assert ended.status == 0, ended.out
    assert "ok       the Redis of REDIS_URL answers" in ended.out


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("backend", ["filesystem", "memory", "noop"])
def test_a_redis_that_does_not_answer_is_a_problem(
    sfumato: Command, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setenv("GEMINI_IMAGE_CACHE_BACKEND", backend)
    monkeypatch.setenv("REDIS_URL", "redis://:hidden@127.0.0.1:1")

    ended = sfumato("check")

    assert ended.status == 1
    assert "the Redis of REDIS_URL cannot be used: Redis does not answer" in ended.out
    assert "hidden" not in ended.out
    offline = sfumato("check", "--offline")
    assert offline.status == 0, offline.out
    assert "skipped  the Redis of REDIS_URL" in offline.out


@pytest.mark.usefixtures("configured")
def test_the_redis_of_the_cache_is_asked_once(
    sfumato: Command, monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer
) -> None:
    monkeypatch.setenv("GEMINI_IMAGE_CACHE_BACKEND", "redis")
    monkeypatch.setenv("REDIS_URL", redis_server.url)

    ended = sfumato("check")

    assert ended.status == 0, ended.out
    assert "the cache (redis) keeps and returns values" in ended.out
    assert "the Redis of" not in ended.out


@pytest.mark.usefixtures("configured")
def test_a_redis_without_its_library_is_skipped(sfumato: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    # Loaded before it knows the library.
    monkeypatch.delitem(sys.modules, "sfumato.cache.redis", raising=False)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")

    ended = sfumato("check")

    assert ended.status == 0, ended.out
    assert "skipped  the Redis of REDIS_URL, because the extra 'redis' is not installed" in ended.out


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("arguments", [(), ("--offline",)])
def test_a_url_that_is_none_of_redis_is_a_problem(
    sfumato: Command, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("REDIS_URL", "foo://hidden")

    ended = sfumato("check", *arguments)

    assert ended.status == 1
    assert "PROBLEM  REDIS_URL: The URL of Redis is invalid" in ended.out
    assert "hidden" not in ended.out
