from __future__ import annotations

import os
from pathlib import Path

import pytest

from sfumato.cache.framing import FILE_MAGIC, build_head
from sfumato.cache.open_files import OpenFiles
from sfumato.cache.store import DamagedValueError
from sfumato.cache.value_files import ValueFile

VALUE = bytes(100_000)


def written(path: Path, *, key: str = "key") -> ValueFile:
    path.write_bytes(build_head(key, expires_at=9e9, value_bytes=len(VALUE), magic=FILE_MAGIC) + VALUE)
    return ValueFile(OpenFiles(), path)


def test_a_value_that_is_cut_short_meanwhile_is_damaged_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "value"
    file = written(path)
    head = file.head("key")
    os.truncate(path, 50_000)
    assert file.read(head, 40_000) == VALUE[:40_000]
    with pytest.raises(DamagedValueError):
        file.read(head, 60_000)
    assert not path.exists()


def test_a_head_that_is_cut_short_meanwhile_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "value"
    file = written(path, key="k" * 9000)
    os.truncate(path, 8500)
    with pytest.raises(DamagedValueError):
        file.head()


def test_what_has_replaced_a_file_is_not_removed_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "value"
    file = written(path)
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "new").replace(path)
    file.remove()
    assert path.read_bytes() == b"new"
    path.unlink()
    file.remove()
