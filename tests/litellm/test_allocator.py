from __future__ import annotations

import subprocess
import sys

import pytest

from sfumato.litellm.allocator import keep_freed_memory

# What 200 blocks of 1 MB cost that are taken, written to and left one after the other: pages that were faulted in.
FAULTS = """
import resource
import sys
from sfumato.litellm.allocator import keep_freed_memory
keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    bytearray(8_000_000)
before = faults()
for _ in range(100):
    blocks = [bytearray(1_000_000) for _ in range(20)]
    del blocks
print(faults() - before)
"""


def faults(**environment: str) -> int:
    command = [sys.executable, "-c", FAULTS]
    return int(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_is_used_again_without_asking_the_kernel() -> None:
    assert faults() * 10 < faults(MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072")


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"])
def test_whoever_has_decided_is_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    assert not keep_freed_memory()
