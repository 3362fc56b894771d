"""The composition root: what it refuses at the start, and what it lets go of at the end."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sfumato.cache.factory import create_redis
from sfumato.engine.file_leases import FileLeases
from sfumato.engine.file_notes import FileNotes
from sfumato.engine.notes import LocalNotes
from sfumato.engine.redis_leases import RedisLeases
from sfumato.engine.redis_notes import RedisNotes
from sfumato.errors import ConfigurationError
from sfumato.images.request import Operation
from sfumato.images.resolution import ImageWish
from sfumato.images.variants import parse_variant
from sfumato.runtime import Runtime, check_settings, create_coordination
from sfumato.settings import Settings, load_settings
from sfumato.telemetry.observer import Call, NullObserver
from tests.conftest import Emulator


def without_redis_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    # Loaded before it knows the library.
    monkeypatch.delitem(sys.modules, "sfumato.cache.redis", raising=False)


@pytest.mark.parametrize("values", [{}, {"cache_backend": "memory"}, {"cache_enabled": False}])
@pytest.mark.parametrize("url", ["foo://hidden", "redis://hidden:port", " "])
def test_a_redis_to_coordinate_over_is_judged_at_the_start(values: dict[str, Any], url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^REDIS_URL: ") as caught:
        Runtime(load_settings(api_key="k", redis_url=url, **values))
    assert "hidden" not in caught.value.message


def test_a_shared_cache_needs_the_library_of_the_redis_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    without_redis_library(monkeypatch)
    with pytest.raises(ConfigurationError, match="pip install"):
        check_settings(load_settings(cache_backend="s3", cache_url="memory://", redis_url="redis://localhost"))


def test_a_redis_that_may_be_somebody_else_s_is_only_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without_redis_library(monkeypatch)
    with caplog.at_level(logging.WARNING, "sfumato"):
        check_settings(load_settings(redis_url="foo://hidden"))
    (record,) = caplog.records
    assert "the extra 'redis' is not installed: accounts are not shared" in record.getMessage()


@pytest.mark.parametrize(
    ("content", "told"), [(b"[", "This is no TOML"), (b"\xff", "cannot be read"), (b'["dall-e-3"]', "no model")]
)
def test_a_prices_file_that_cannot_be_is_named_by_its_variable(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=rf"^GEMINI_IMAGE_PRICES_FILE: .*{told}"):
        check_settings(load_settings(prices_file=path))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ({}, (FileLeases, FileNotes)),
        ({"redis_url": "redis://127.0.0.1:1"}, (FileLeases, FileNotes)),
        ({"cache_backend": "redis", "redis_url": "redis://127.0.0.1:1"}, (RedisLeases, RedisNotes)),
        (
            {"cache_backend": "s3", "cache_url": "memory://", "redis_url": "redis://127.0.0.1:1"},
            (RedisLeases, RedisNotes),
        ),
    ],
)
async def test_leases_and_notes_are_shared_as_widely_as_the_cache(
    values: dict[str, Any], kinds: tuple[type, type]
) -> None:
    settings = load_settings(**values)
    redis = create_redis(settings)
    assert tuple(map(type, create_coordination(settings, redis))) == kinds
    if redis is not None:
        await redis.aclose()


def test_a_cache_of_one_s_own_needs_no_coordination() -> None:
    for values in ({"cache_backend": "memory"}, {"cache_enabled": False}):
        _, notes = create_coordination(load_settings(**values), None)
        assert isinstance(notes, LocalNotes)


def test_a_system_without_file_locks_has_a_runtime() -> None:
    """It has every cache but the one in files."""
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        "from sfumato.runtime import Runtime; from sfumato.settings import Settings\n"
        "Runtime(Settings(api_key='k', cache_backend='memory'))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.anyio
async def test_the_end_waits_for_the_sweep_of_notes(emulator: Emulator, tmp_path: Path) -> None:
    old = tmp_path / "notes" / "old"
    old.parent.mkdir()
    old.write_text("0.0 over")
    os.utime(old, (0, 0))
    runtime = Runtime(Settings(api_key="k", api_base=emulator.url, cache_dir=tmp_path), observer=NullObserver())
    variant = parse_variant("gemini-3-pro-image")
    assert variant
    wish = ImageWish(operation=Operation.GENERATION, variant=variant, prompt="a kite")
    with old.open("rb") as held:
        # The sweep waits for the lock.
        fcntl.flock(held, fcntl.LOCK_EX)
        await runtime.client.generate(wish, call=Call(request_id="req", idempotency_key="key"))
        await runtime.client.settle()
        asyncio.get_running_loop().call_later(0.2, fcntl.flock, held, fcntl.LOCK_UN)
        await runtime.aclose()
        assert not old.exists()
