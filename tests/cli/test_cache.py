from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import typer.main

from sfumato.cli.app import app as command_line
from tests.cli.conftest import SFUMATO, Command
from tests.conftest import Emulator
from tests.support.redis_server import running_redis
from tests.support.s3_server import BUCKET, s3_serving

MODEL = "gemini-3-pro-image"
ROOT = Path(__file__).parents[2]
Orders = Callable[..., str]


@pytest.fixture(autouse=True)
def cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    directory = tmp_path / "hidden-path" / "cache"
    monkeypatch.setenv("GEMINI_IMAGE_CACHE_DIR", str(directory))
    return directory


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch, emulator: Emulator) -> Emulator:
    monkeypatch.setenv("GEMINI_API_KEY", "hidden-key")
    monkeypatch.setenv("GEMINI_IMAGE_API_BASE", emulator.url)
    return emulator


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    """Write a file of requests, one a line, and return its path."""

    def write(*lines: Any) -> str:
        file = tmp_path / "orders.jsonl"
        texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        file.write_text("\n".join(texts) + "\n")
        return str(file)

    return write


@pytest.fixture
def filled(sfumato: Command, upstream: Emulator, orders: Orders) -> Emulator:
    """A cache with four pictures of three requests."""
    file = orders(
        {"prompt": "hidden-fox", "model": f"{MODEL}-2k", "n": 2},
        {"prompt": "hidden-fox", "model": f"{MODEL}-16x9"},
        {"prompt": "hidden-owl", "model": "gemini-2.5-flash-image"},
    )
    ended = sfumato("cache", "warm", file, "--yes", "--tenant", "design")
    assert ended.status == 0, ended
    upstream.clear()
    return upstream


@pytest.fixture(params=["redis", "s3", "a memory tier before files"])
def another_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Another store than files alone, a real one; yields what the commands call it."""
    with ExitStack() as stack:
        if request.param == "redis":
            monkeypatch.setenv("GEMINI_IMAGE_CACHE_BACKEND", "redis")
            monkeypatch.setenv("REDIS_URL", stack.enter_context(running_redis()).url)
            yield "redis"
        elif request.param == "s3":
            stack.enter_context(s3_serving()).use(monkeypatch)
            monkeypatch.setenv("GEMINI_IMAGE_CACHE_BACKEND", "s3")
            monkeypatch.setenv("GEMINI_IMAGE_CACHE_URL", f"s3://{BUCKET}/hidden-prefix")
            yield "s3"
        else:
            monkeypatch.setenv("GEMINI_IMAGE_CACHE_MEMORY_MB", "50")
            yield "filesystem"


def answering(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))


def listed(sfumato: Command, *options: str) -> list[dict[str, Any]]:
    ended = sfumato("cache", "list", "--json", *options)
    assert ended.status == 0, ended
    entries: list[dict[str, Any]] = json.loads(ended.out)
    return entries


def cells(out: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]


def summary(out: str) -> dict[str, str]:
    return {row[0]: row[1] for row in cells(out) if len(row) == 2}


@pytest.mark.usefixtures("filled")
def test_stats_tell_what_is_held_and_the_room_left(sfumato: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    told = json.loads(sfumato("cache", "stats", "--json").out)

    assert (told["backend"], told["scope"], told["ttl_seconds"], told["entries"]) == ("filesystem", "global", 86400, 4)
    assert told["capacity_bytes"] == 1000 * 1024 * 1024
    assert told["used_share"] == told["size_bytes"] / told["capacity_bytes"] > 0
    table = summary(sfumato("cache", "stats").out)
    assert (table["entries"], table["ttl"], table["capacity"]) == ("4", "1 d", "1000.00 MB")
    monkeypatch.setenv("GEMINI_IMAGE_CACHE_DIR", "/nonexistent/empty")
    assert summary(sfumato("cache", "stats").out)["entries"] == "0"


@pytest.mark.usefixtures("filled")
def test_the_list_is_a_table_json_or_keys(sfumato: Command) -> None:
    entries = listed(sfumato)
    rows = cells(sfumato("cache", "list").out)

    assert len(entries) == 4
    assert [entry["created"] for entry in entries] == sorted((entry["created"] for entry in entries), reverse=True)
    digest = hashlib.sha256(b"hidden-fox").hexdigest()
    (wide,) = (row for row in rows if row[0] == f"{MODEL}-16x9")
    assert wide[1:4] == ["0", digest[:16], "1376x768"]
    assert wide[-1] == "design"
    assert sorted(sfumato("cache", "list", "--plain").out.split()) == sorted(entry["key"] for entry in entries)
    limited = sfumato("cache", "list", "--limit", "3").out
    assert "3 entries, and there may be more" in limited
    assert "hidden-" not in limited + json.dumps(entries)


@pytest.mark.usefixtures("filled")
def test_filters_narrow_the_list(sfumato: Command) -> None:
    digest = hashlib.sha256(b"hidden-fox").hexdigest()
    for options, count in (
        (("--model", MODEL), 3),
        (("--model", f"{MODEL}-2k"), 2),
        (("--prompt", "hidden-owl"), 1),
        (("--prompt-hash", digest[:16]), 3),
        (("--tenant", "design"), 4),
        (("--tenant", "other"), 0),
        (("--older-than", "3600"), 0),
        (("--older-than", "0", "--model", MODEL, "--prompt-hash", digest), 3),
        (("--limit", "0"), 4),
        (("--limit", "1"), 1),
    ):
        assert len(listed(sfumato, *options)) == count, options


@pytest.mark.usefixtures("filled")
def test_one_entry_is_shown_by_its_key(sfumato: Command) -> None:
    (entry,) = listed(sfumato, "--prompt", "hidden-owl")

    told = json.loads(sfumato("cache", "get", entry["key"], "--json").out)
    assert (told["sha256"], told["model"]) == (entry["sha256"], "gemini-2.5-flash-image")
    table = summary(sfumato("cache", "get", entry["key"]).out)
    assert table["prompt_sha256"] == hashlib.sha256(b"hidden-owl").hexdigest()
    absent = sfumato("cache", "get", entry["key"][:-1] + "9")
    assert (absent.status, absent.out, absent.err.strip()) == (1, "", "There is no entry under this key.")


def test_what_is_invalidated_is_gone(sfumato: Command, filled: Emulator, orders: Orders) -> None:
    key = listed(sfumato, "--model", f"{MODEL}-2k")[0]["key"]

    assert sfumato("cache", "invalidate", "--key", key).out == "Removed 1 picture.\n"
    assert sfumato("cache", "invalidate", "--key", key.rpartition(":")[0]).out == "Removed 1 picture.\n"
    told = sfumato("cache", "invalidate", "--prompt", "hidden-owl", "--json")
    assert json.loads(told.out) == {"removed": 1}
    assert [entry["variant"] for entry in listed(sfumato)] == [f"{MODEL}-16x9"]
    assert sfumato("cache", "warm", orders({"prompt": "hidden-owl"}), "--yes").status == 0
    assert len(filled.calls()) == 1


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("command", [("invalidate", "--model", MODEL), ("invalidate", "--older-than", "0"), ("clear",)])
def test_much_is_removed_only_after_a_yes(
    sfumato: Command, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    for answer in ("n\n", ""):
        answering(monkeypatch, answer)
        asked = sfumato("cache", *command)
        assert asked.status == 1
        assert "Remove every picture" in asked.err
        assert len(listed(sfumato)) == 4
    answering(monkeypatch, "y\n")
    assert "Removed " in sfumato("cache", *command).out
    assert len(listed(sfumato)) == (1 if "--model" in command else 0)
    assert sfumato("cache", *command, "--yes").out == "Removed 0 pictures.\n"


@pytest.mark.usefixtures("filled")
def test_clear_removes_everything(sfumato: Command) -> None:
    assert json.loads(sfumato("cache", "clear", "--yes", "--json").out) == {"removed": 4}
    assert listed(sfumato) == []


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("invalidate",), 2, "sfumato cache clear"),
        (("invalidate", "--older-than", "-1"), 2, "--older-than"),
        (("invalidate", "--model", "dall-e-3"), 1, "dall-e-3"),
        (("invalidate", "--model", f"{MODEL}-8k"), 1, "Closest"),
        (("invalidate", "--key", "key"), 1, "key"),
        (("list", "--prompt-hash", "abc"), 1, "prompt_hash"),
        (("warm", "/nonexistent/file"), 2, "/nonexistent/file"),
    ],
)
def test_what_is_not_understood_is_said(sfumato: Command, arguments: tuple[str, ...], status: int, told: str) -> None:
    ended = sfumato("cache", *arguments)

    assert ended.status == status
    assert told in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("command", [("stats",), ("list",), ("get", "img:key"), ("clear", "--yes")])
def test_a_cache_that_fails_is_named_without_its_path(
    sfumato: Command, cache_dir: Path, command: tuple[str, ...]
) -> None:
    cache_dir.parent.write_bytes(b"in the way")

    ended = sfumato("cache", *command)

    assert (ended.status, ended.out) == (1, "")
    assert "The cache (filesystem) cannot be used: ENOTDIR." in ended.err
    assert "hidden-" not in ended.err


@pytest.mark.usefixtures("filled")
def test_unreadable_entries_are_counted_and_passed_over(sfumato: Command, cache_dir: Path) -> None:
    file = next(path for path in cache_dir.rglob("*") if len(path.name) == 64)
    file.write_bytes(file.read_bytes().replace(b'"schema":', b'"scheme":', 1))

    ended = sfumato("cache", "list", "--json")

    assert (ended.status, len(json.loads(ended.out))) == (0, 3)
    assert "1 entries could not be read" in ended.err


def test_every_backend_is_looked_into_and_removed_from(
    sfumato: Command, another_backend: str, request: pytest.FixtureRequest
) -> None:
    emulator: Emulator = request.getfixturevalue("filled")
    told = json.loads(sfumato("cache", "stats", "--json").out)
    assert (told["backend"], told["entries"]) == (another_backend, 4)
    entries = listed(sfumato, "--model", MODEL, "--tenant", "design")
    assert len(entries) == 3
    assert json.loads(sfumato("cache", "get", entries[0]["key"], "--json").out)["sha256"] == entries[0]["sha256"]
    assert sfumato("cache", "invalidate", "--key", entries[0]["key"]).out == "Removed 1 picture.\n"
    assert sfumato("cache", "invalidate", "--prompt", "hidden-owl").out == "Removed 1 picture.\n"
    assert sfumato("cache", "clear", "--yes").out == "Removed 2 pictures.\n"
    assert listed(sfumato) == []
    assert emulator.calls() == []


@pytest.mark.parametrize("command", [("stats",), ("list",), ("clear", "--yes")])
def test_a_redis_that_is_gone_is_named_without_its_address(
    sfumato: Command, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("GEMINI_IMAGE_CACHE_BACKEND", "redis")
    monkeypatch.setenv("REDIS_URL", "redis://:hidden-word@127.0.0.1:1/0")

    ended = sfumato("cache", *command)

    assert (ended.status, ended.out) == (1, "")
    assert "The cache (redis) cannot be used: " in ended.err
    assert "hidden-" not in ended.err
    assert "127.0.0.1" not in ended.err


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("GEMINI_IMAGE_CACHE_ENABLED", "false", "The cache is off"),
        ("GEMINI_IMAGE_CACHE_BACKEND", "none", "The cache is off"),
        ("GEMINI_IMAGE_CACHE_BACKEND", "memory", "GET /gemini-image/cache"),
        ("GEMINI_IMAGE_CACHE_BACKEND", "floppy", "GEMINI_IMAGE_CACHE_BACKEND"),
    ],
)
def test_a_cache_that_no_command_can_see_is_said(
    sfumato: Command, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)

    ended = sfumato("cache", "stats")

    assert ended.status == 1
    assert told in ended.err


def test_warming_makes_what_is_missing_and_says_what_it_cost(
    sfumato: Command, upstream: Emulator, orders: Orders
) -> None:
    file = orders({"prompt": "A fox", "n": 2}, "", {"prompt": "An owl", "model": f"{MODEL}-4k"}, {"prompt": "A fox"})
    first = sfumato("cache", "warm", file, "--yes")

    assert first.status == 0, first
    assert "3 requests for 4 pictures, 1 of them cached already." in first.out
    # Two of 1K at 1120 tokens, one of 4K at 2000, at 120 USD a million.
    assert "Making 3 costs about USD 0.51" in first.out
    told = summary(first.out)
    assert (told["requests"], told["made"], told["hits"], told["failed"], told["not_tried"]) == (
        "3",
        "3",
        "1",
        "0",
        "0",
    )
    assert 0.5 < float(told["cost_usd"]) < 0.7
    assert len(upstream.calls()) == 3
    second = sfumato("cache", "warm", file)
    assert second.status == 0
    assert "4 of them cached already" in second.out
    assert "costs" not in second.out
    assert summary(second.out)["cost_usd"] == "0.0"
    assert len(upstream.calls()) == 3


def test_it_pays_only_after_a_yes(
    sfumato: Command, upstream: Emulator, orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = orders({"prompt": "A fox"})
    answering(monkeypatch, "n\n")
    refused = sfumato("cache", "warm", file)
    assert refused.status == 1
    assert "about USD 0.14" in refused.out
    assert upstream.calls() == []
    answering(monkeypatch, "y\n")
    assert sfumato("cache", "warm", file).status == 0
    assert len(upstream.calls()) == 1


def test_the_summary_can_be_json(sfumato: Command, upstream: Emulator, orders: Orders) -> None:
    file = orders({"prompt": "x [[emulator:IMAGE_SAFETY]]", "n": 2}, {"prompt": "A fox"})
    ended = sfumato("cache", "warm", file, "--yes", "--json", "--concurrency", "1")

    assert ended.status == 1
    told = json.loads(ended.out)
    assert told["failures_by_code"] == {"IMG_SAFETY_BLOCKED": 2}
    assert (told["requests"], told["made"], told["failed"], told["not_tried"]) == (2, 1, 2, 0)
    assert "line 1: IMG_SAFETY_BLOCKED" in ended.err
    assert "about USD" in ended.err
    assert len(upstream.calls()) == 3


def test_a_list_of_requests_is_understood(sfumato: Command, upstream: Emulator, tmp_path: Path) -> None:
    file = tmp_path / "orders.json"
    file.write_text("\ufeff" + json.dumps([{"prompt": "A fox"}, {"prompt": "An owl"}], indent=2))

    assert sfumato("cache", "warm", str(file), "--yes").status == 0
    assert len(upstream.calls()) == 2


def test_a_file_with_any_fault_makes_nothing_and_every_fault_is_named(
    sfumato: Command, upstream: Emulator, orders: Orders
) -> None:
    faulty = {
        2: "{not json",
        3: [1, 2],
        4: {"prompt": " "},
        5: {"prompt": "x", "n": 11},
        6: {"prompt": "x", "model": "dall-e-3"},
        7: {"prompt": "x", "model": 7},
        8: {"prompt": "x", "model": f"{MODEL}-8k"},
        9: {"prompt": "x", "image": "AAAA"},
        10: {"prompt": "x", "cache": {"no-store": True}},
        11: {"prompt": "x", "cache": {"ttl": 0}},
        12: {"prompt": "x", "unknown": 1},
    }
    ended = sfumato("cache", "warm", orders({"prompt": "good"}, *faulty.values()), "--yes")

    assert ended.status == 1
    assert re.findall(r"line (\d+): ", ended.err) == [str(number) for number in faulty]
    assert "'unknown'" in ended.err
    assert upstream.calls() == []


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "holds no requests"),
        (b" \n\n", "holds no requests"),
        (b"[]", "holds no requests"),
        (b'[{"prompt": "x"}', "not valid JSON"),
        (b'[{"prompt": "x"}, 3]', "item 2: "),
        (b"\xff\xfe", "UTF-8"),
        (b"[" * 5000, "not valid JSON"),
        (b"{}\n" * 30, "and 10 more"),
    ],
)
@pytest.mark.usefixtures("upstream")
def test_a_file_that_cannot_be_used_is_said(sfumato: Command, tmp_path: Path, data: bytes, told: str) -> None:
    file = tmp_path / "orders.json"
    file.write_bytes(data)

    ended = sfumato("cache", "warm", str(file), "--yes")

    assert ended.status == 1
    assert told in ended.err


def test_without_a_gemini_key_only_what_is_cached_can_be_warmed(
    sfumato: Command, filled: Emulator, orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GEMINI_API_KEY")
    there = sfumato("cache", "warm", orders({"prompt": "hidden-owl", "model": "gemini-2.5-flash-image"}))
    assert there.status == 0, there
    missing = sfumato("cache", "warm", orders({"prompt": "Another"}), "--yes")
    assert missing.status == 1
    assert "There is no Gemini key" in missing.err
    assert filled.calls() == []


def test_a_refused_key_ends_it_at_once(
    sfumato: Command, upstream: Emulator, orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "an-invalid-key")
    file = orders(*({"prompt": f"picture {number}"} for number in range(20)))

    ended = sfumato("cache", "warm", file, "--yes", "--json", "--concurrency", "2")

    told = json.loads(ended.out)
    assert ended.status == 1
    assert 1 <= told["failures_by_code"]["IMG_UPSTREAM_AUTH"] <= 2
    assert told["not_tried"] == 20 - told["failed"]
    assert len(upstream.calls()) <= 2


def test_pictures_that_are_paid_for_and_not_kept_are_a_failure(
    sfumato: Command, upstream: Emulator, orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_IMAGE_CACHE_MAX_SIZE_MB", "0.001")

    ended = sfumato("cache", "warm", orders({"prompt": "A fox"}), "--yes", "--json")

    assert ended.status == 1
    told = json.loads(ended.out)
    assert (told["made"], told["not_kept"], told["failed"]) == (1, 1, 0)
    assert len(upstream.calls()) == 1


def test_tenants_that_are_kept_apart_are_warmed_by_name(
    sfumato: Command, upstream: Emulator, orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_IMAGE_CACHE_SCOPE", "tenant")
    file = orders({"prompt": "A fox"})

    unnamed = sfumato("cache", "warm", file, "--yes")
    assert unnamed.status == 1
    assert "--tenant" in unnamed.err
    for tenant, calls in (("alice", 1), ("alice", 1), ("bob", 2)):
        assert sfumato("cache", "warm", file, "--yes", "--tenant", tenant).status == 0
        assert len(upstream.calls()) == calls


def test_an_interrupted_warming_says_what_was_done(upstream: Emulator, orders: Orders) -> None:
    file = orders({"prompt": "A fox"}, {"prompt": "slow [[emulator:stall-before:8]]"})
    command = [*SFUMATO, "cache", "warm", file, "--yes", "--concurrency", "1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ
    ) as process:
        while len(upstream.calls()) < 2:
            assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)

    assert process.returncode == 130
    assert (summary(out)["made"], summary(out)["not_tried"]) == ("1", "1")
    assert "Traceback" not in out


def test_the_commands_of_the_pages_exist() -> None:
    """Each `sfumato cache …` in the documentation is a command with the options it is shown with."""
    group: Any = typer.main.get_command(command_line)
    commands = group.commands["cache"].commands
    seen = set()
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for name, rest in re.findall(r"sfumato cache ([a-z]+)([^\n`#|&]*)", page.read_text()):
            options = {option for parameter in commands[name].params for option in parameter.opts}
            assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= options, (page.name, name, rest)
            seen.add(name)
    assert seen == set(commands)
