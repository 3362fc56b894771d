from __future__ import annotations

from pathlib import Path

import pytest

from sfumato.cache.tally import Tally

CAPACITY_BYTES = 1_000_000


@pytest.mark.parametrize(("others_bytes", "room"), [(0, True), (4096 * 10, False)])
def test_what_others_begin_to_write_at_the_same_moment_counts(tmp_path: Path, others_bytes: int, *, room: bool) -> None:
    def lock(_: int) -> None:
        # Between the first look at the tally and this writer's own note.
        with (tmp_path / "tally").open("ab") as tally:
            tally.write(bytes(others_bytes // 4096))
        raise BlockingIOError

    tally = Tally(tmp_path, CAPACITY_BYTES, look=lambda: ([], 0), sweep=lambda: None, try_lock=lock)
    (tmp_path / "tally").write_bytes(bytes(960_000 // 4096))
    assert tally.make_room(tmp_path / "value", 20_000, now=0.0) is room
