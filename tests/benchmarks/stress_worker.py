"""A process that looks up and stores verifiable pictures until its time is over. Started by `cache_stress`."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import struct
import sys
import time
from collections import Counter
from pathlib import Path

from sfumato.cache.filesystem import FilesystemStore
from sfumato.cache.image_cache import CacheFault, ImageCache
from sfumato.images.request import GeneratedImage, Picture
from sfumato.wire.payload import raw_bytes
from tests.cache.contract import sample_image, sample_request

MEGABYTE = 1_000_000
BUDGET_BYTES = 128 * MEGABYTE
KEYS = 8000
TTL_SECONDS = 86_400.0
LARGEST_BYTES = 3 * MEGABYTE // 4
_TASKS = 4
_HEAD = struct.Struct(">IQ")
_NOISE = random.Random(1).randbytes(4 * MEGABYTE)
_REPORT_SECONDS = 0.2
_TIMES_KEPT = 20_000
# How many lookups in a hundred are of pictures that the process would make anew, as after `no_cache`.
_RENEWED_PERCENT = 20


def content(number: int, seed: int) -> bytes:
    """Return the bytes of a picture of prompt *number*: they tell how to make them again, so every byte is checked."""
    chance = random.Random(seed)
    size = min(LARGEST_BYTES, int(12_000 * chance.paretovariate(0.55)))
    start = chance.randrange(len(_NOISE) - size)
    return _HEAD.pack(number, seed) + _NOISE[start : start + size]


def is_content(number: int, raw: bytes) -> bool:
    """Tell whether *raw* is a whole picture of prompt *number*, whoever made it."""
    return len(raw) >= _HEAD.size and raw == content(number, _HEAD.unpack_from(raw)[1])


def open_cache(directory: Path, faults: list[CacheFault]) -> ImageCache:
    """Open the cache that all processes share."""
    return ImageCache(FilesystemStore(directory, BUDGET_BYTES), ttl_seconds=TTL_SECONDS, on_fault=faults.append)


class Worker:
    """Look up, verify and store, several at a time.

    Args:
        directory: Of the cache.
        report: A file that gets a line of counts every moment, for a killed process tells nothing at its end.
    """

    def __init__(self, directory: Path, report: Path) -> None:
        self.faults: list[CacheFault] = []
        self.cache = open_cache(directory, self.faults)
        self.counts: Counter[str] = Counter()
        self.lookup_seconds: list[float] = []
        self.report = report

    async def run(self, until: float) -> None:
        """Work until the monotonic time *until*."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_TASKS):
                group.create_task(self._work(until))
            while time.monotonic() < until:
                self.tell()
                await asyncio.sleep(_REPORT_SECONDS)
        self.tell(done=True)

    def tell(self, *, done: bool = False) -> None:
        """Append what was counted so far."""
        faults = Counter(f"{fault.operation} {fault.reason}" for fault in self.faults)
        line = {"done": done, "counts": self.counts, "faults": faults}
        if done:
            line["lookup_seconds"] = self.lookup_seconds
        with self.report.open("a") as file:
            file.write(json.dumps(line) + "\n")

    async def _work(self, until: float) -> None:
        while time.monotonic() < until:
            # A few pictures are asked for often, most of them rarely.
            number = min(KEYS, int(random.paretovariate(0.3))) - 1
            request = sample_request(f"prompt {number}")
            started = time.perf_counter()
            image = await self.cache.lookup(request, 0)
            elapsed = time.perf_counter() - started
            self.counts["lookups"] += 1
            if image is not None:
                self.counts["hits"] += 1
                self.counts["wrong"] += not is_content(number, raw_bytes(image.picture))
                if len(self.lookup_seconds) < _TIMES_KEPT:
                    self.lookup_seconds.append(elapsed)
            if image is None or random.randrange(100) < _RENEWED_PERCENT:
                kept = await self.cache.store(request, _fresh(number))
                self.counts["stores"] += 1
                self.counts["not kept"] += not kept


def _fresh(number: int) -> GeneratedImage:
    raw = content(number, random.getrandbits(64))
    picture = Picture(raw=raw, mime_type="image/jpeg", width=1, height=1)
    return dataclasses.replace(sample_image(), picture=picture, created=time.time())


def main(directory: str, report: str, until: str) -> None:
    """Run one worker."""
    asyncio.run(Worker(Path(directory), Path(report)).run(float(until)))


if __name__ == "__main__":
    main(*sys.argv[1:])
