from __future__ import annotations

from pathlib import Path

import pytest

from sfumato.cache.filesystem import FilesystemStore
from tests.benchmarks.cache_savings import play, workload

pytestmark = pytest.mark.anyio


def test_a_workload_has_the_repeats_that_it_was_asked_for() -> None:
    motifs = workload(200, 80)
    assert len(motifs) == 200
    assert set(motifs) == set(range(120))


async def test_forty_percent_of_repeats_cost_thirty_percent_less(tmp_path: Path) -> None:
    """And what the answers say they saved is what the emulator would have billed for what it was not asked."""
    savings = await play(workload(200, 80), FilesystemStore(tmp_path, 1_000_000_000))
    assert savings.violations() == []
    assert savings.saved_share >= 0.3
    assert savings.told_savings == pytest.approx(savings.avoided, abs=1e-4)
    # Every fourth motif is of two pictures.
    assert savings.calls == 150
    assert savings.statuses.total() == 200
