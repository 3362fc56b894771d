from __future__ import annotations

import fcntl
import os
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from sfumato.cache.budget import Held
from sfumato.cache.tally import Tally

CAPACITY_BYTES = 1_000_000


def lock_for_nobody(_: int) -> None:
    raise BlockingIOError


def lock_for_anybody(_: int) -> None:
    pass


def build_tally(directory: Path, *, held_bytes: int, **parts: Any) -> Tally:
    (directory / "tally").write_bytes(bytes(held_bytes // 4096))
    (directory / "lock").touch()
    os.utime(directory / "lock", (0.0, 0.0))
    defaults = {"look": lambda: ([], held_bytes), "sweep": lambda: None, "try_lock": lock_for_anybody}
    return Tally(directory, CAPACITY_BYTES, **(defaults | parts))


def tallied_bytes(directory: Path) -> int:
    return (directory / "tally").stat().st_size * 4096


@pytest.mark.parametrize(("others_bytes", "room"), [(0, True), (4096 * 10, False)])
def test_what_others_begin_to_write_at_the_same_moment_counts(tmp_path: Path, others_bytes: int, *, room: bool) -> None:
    def lock(_: int) -> None:
        # Between the first look at the tally and this writer's own note.
        with (tmp_path / "tally").open("ab") as tally:
            tally.write(bytes(others_bytes // 4096))
        raise BlockingIOError

    tally = build_tally(tmp_path, held_bytes=960_000, try_lock=lock)
    assert tally.make_room(20_000, now=0.0) is room


def test_what_others_count_while_the_files_are_looked_at_stays_counted(tmp_path: Path) -> None:
    def look() -> tuple[list[Held], int]:
        others = Tally(tmp_path, 10**9, look=look, sweep=lambda: None, try_lock=lock_for_nobody)
        assert others.make_room(300_000, now=0.0)
        return [], 100_000

    tally = build_tally(tmp_path, held_bytes=990_000, look=look)
    assert tally.make_room(20_000, now=0.0)
    assert tallied_bytes(tmp_path) >= 400_000


def test_writers_wait_for_the_first_look_at_a_directory(tmp_path: Path) -> None:
    met = Event()

    def lock_while_another_looks(_: int) -> None:
        met.set()
        raise BlockingIOError

    def look() -> tuple[list[Held], int]:
        # The lock is held: whoever comes now does not know yet what room there is.
        later = build(tmp_path, try_lock=lock_while_another_looks)
        answers.append(threads.submit(later.make_room, 20_000, 0.0))
        assert met.wait(60)
        # Whoever does not wait has answered by then.
        assert not wait(answers, timeout=0.2).done
        return [], 0

    def build(directory: Path, **parts: Any) -> Tally:
        return Tally(directory, CAPACITY_BYTES, **({"look": look, "sweep": lambda: None, "try_lock": lock} | parts))

    def lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    answers: list[Future[bool]] = []
    with ThreadPoolExecutor() as threads:
        assert build(tmp_path).make_room(20_000, now=0.0)
        assert [answer.result(60) for answer in answers] == [True]
    assert tallied_bytes(tmp_path) >= 20_000


def test_files_that_are_being_written_can_fill_the_store(tmp_path: Path) -> None:
    tally = build_tally(tmp_path, held_bytes=CAPACITY_BYTES + 4096)
    assert not tally.make_room(20_000, now=0.0)


def test_a_store_that_is_almost_full_is_not_looked_into_at_each_write(tmp_path: Path) -> None:
    looks: list[None] = []

    def look() -> tuple[list[Held], int]:
        looks.append(None)
        return [], 899_000

    tally = build_tally(tmp_path, held_bytes=899_000, look=look)
    assert all(tally.make_room(4096, now=0.0) for _ in range(100))
    assert len(looks) <= 100 * 4096 / (0.05 * CAPACITY_BYTES)
