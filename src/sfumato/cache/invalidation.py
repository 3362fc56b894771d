"""Which entries an administrator means, and the walk over a store that finds them.

What a key tells is asked of the key, and only then is an entry read, of it the beginning. That is a request for each,
so a walk that reads is for administrators, in small batches.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from sfumato.cache.entry import DamagedEntryError, EntryHeader, header_end, load_header
from sfumato.cache.store import DamagedValueError, Store
from sfumato.errors import InvalidParameterError, ModelNotFoundError
from sfumato.images.fingerprint import prompt_digest
from sfumato.images.request import MAX_IMAGES
from sfumato.images.variants import Variant, parse_variant, require_variant

_BATCH = 8
# More than an entry's header takes (about 800 bytes). A longer one, of a long label, is read in two steps.
_HEAD_BYTES, _LONGEST_HEAD_BYTES = 4096, 256 * 1024
_KEY = re.compile(r"(?P<whole>img:(?P<variant>[^:]+):[^:]+:[^:]+:[0-9a-f]{64})(?P<slot>:\d+)?")
_HASH = re.compile(r"[0-9a-f]{16,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFilter:
    """What entries must be to be meant, all of it together; one that says nothing means every entry.

    Build it with `parse_filter`, which checks the words.

    Attributes:
        key: The key of an entry, or a key without its slot, which means all slots.
        prompt_hashes: Beginnings of the SHA-256 of the client's own prompt in hex.
        model: The model; with a tier or a ratio that very variant, without them the whole family.
        tenant: Who had the picture made.
        older_than_seconds: The picture was made longer ago than this.
    """

    key: str | None = None
    prompt_hashes: tuple[str, ...] = ()
    model: Variant | None = None
    tenant: str | None = None
    older_than_seconds: float | None = None

    @property
    def needs_header(self) -> bool:
        """Tell whether an entry must be read to know."""
        return bool(self.prompt_hashes) or self.tenant is not None or self.older_than_seconds is not None

    @property
    def broad(self) -> bool:
        """Tell whether it may mean many pictures: it names neither a key nor a prompt."""
        return self.key is None and not self.prompt_hashes

    @property
    def candidates(self) -> tuple[str, ...] | None:
        """Return the only keys that can match, None when any can."""
        if self.key is None:
            return None
        match = _KEY.fullmatch(self.key)
        if match is None or match["slot"]:
            return (self.key,)
        return tuple(f"{self.key}:{slot}" for slot in range(MAX_IMAGES))

    def admits_key(self, key: str) -> bool:
        """Tell whether an entry under *key* can match."""
        return self.model is None or self._is_of_model(key)

    def matches(self, header: EntryHeader, *, now: float) -> bool:
        """Tell whether an entry under a key that was admitted matches; *now* in Unix seconds."""
        return (
            all(header.prompt_sha256.startswith(prefix) for prefix in self.prompt_hashes)
            and self.tenant in (None, header.tenant)
            and (self.older_than_seconds is None or now - header.created > self.older_than_seconds)
        )

    def _is_of_model(self, key: str) -> bool:
        match = _KEY.fullmatch(key)
        if match is None or self.model is None:
            return False
        if self.model.tier or self.model.aspect_ratio:
            return match["variant"] == _as_in_keys(self.model)
        try:
            variant = parse_variant(match["variant"])
        except ModelNotFoundError:
            return False
        return variant is not None and variant.family is self.model.family


EVERY_ENTRY = EntryFilter()


def parse_filter(
    *,
    key: str | None = None,
    prompt: str | None = None,
    prompt_hash: str | None = None,
    model: str | None = None,
    tenant: str | None = None,
    older_than_seconds: float | None = None,
) -> EntryFilter:
    """Build a filter from an administrator's words; what is None says nothing.

    Args:
        key: A key as `fingerprint` writes it, with or without the slot.
        prompt: A prompt exactly as the client sent it.
        prompt_hash: Its SHA-256 in hex, or at least the first 16 digits: the log's ``prompt_hash`` without a salt.
        model: A model's base name, which means all of its variants, or a variant.
        tenant: A label.
        older_than_seconds: An age.

    Raises:
        InvalidParameterError: A key, a hash or a tenant that no entry can have.
        ModelNotFoundError: No such model.
    """
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidParameterError(
            "Invalid value for 'key': expected img:{variant}:{quality}:{style}:{sha256}, with or without :{slot}.",
            param="key",
        )
    hashes = []
    if prompt is not None:
        hashes.append(prompt_digest(prompt))
    if prompt_hash is not None:
        hashes.append(prompt_hash.strip().lower())
        if not _HASH.fullmatch(hashes[-1]):
            raise InvalidParameterError(
                "Invalid value for 'prompt_hash': expected 16 to 64 hex digits.", param="prompt_hash"
            )
    if tenant is not None and not tenant:
        raise InvalidParameterError("Invalid value for 'tenant': expected a label.", param="tenant")
    return EntryFilter(
        key=key,
        prompt_hashes=tuple(hashes),
        model=require_variant(model) if model is not None else None,
        tenant=tenant,
        older_than_seconds=older_than_seconds,
    )


async def find_keys(
    store: Store, where: EntryFilter, *, clock: Callable[[], float], on_damaged: Callable[[DamagedValueError], object]
) -> AsyncGenerator[list[str]]:
    """Yield the keys of the entries that match in batches; a key that was named is yielded without a look at it.

    Args:
        store: Where to look; what it raises passes through.
        where: Which entries.
        clock: Unix seconds.
        on_damaged: Told of each value that cannot be read; it is passed over.
    """
    async for batch in _batches(store, where):
        if where.needs_header:
            headers = await _read(store, batch, on_damaged)
            yield [header.key for header in headers if where.matches(header, now=clock())]
        else:
            yield batch


async def find_entries(
    store: Store, where: EntryFilter, *, clock: Callable[[], float], on_damaged: Callable[[DamagedValueError], object]
) -> AsyncGenerator[EntryHeader]:
    """Yield what is known of the entries that match, in no order; the arguments are those of `find_keys`."""
    async for batch in _batches(store, where):
        for header in await _read(store, batch, on_damaged):
            if where.matches(header, now=clock()):
                yield header


async def _batches(store: Store, where: EntryFilter) -> AsyncGenerator[list[str]]:
    named = where.candidates
    if named is not None:
        admitted = [key for key in named if where.admits_key(key)]
        for start in range(0, len(admitted), _BATCH):
            yield admitted[start : start + _BATCH]
        return
    batch: list[str] = []
    async for key in store.keys():
        if where.admits_key(key):
            batch.append(key)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    yield batch


async def _read(store: Store, keys: list[str], on_damaged: Callable[[DamagedValueError], object]) -> list[EntryHeader]:
    outcomes = await asyncio.gather(*(_read_one(store, key) for key in keys), return_exceptions=True)
    headers = []
    for outcome in outcomes:
        if isinstance(outcome, EntryHeader):
            headers.append(outcome)
        elif isinstance(outcome, DamagedValueError):
            on_damaged(outcome)
        elif outcome is not None:
            raise outcome
    return headers


async def _read_one(store: Store, key: str) -> EntryHeader | None:
    data = await store.peek(key, _HEAD_BYTES)
    if data is not None and len(data) == _HEAD_BYTES < (whole := header_end(data)):
        data = await store.peek(key, min(whole, _LONGEST_HEAD_BYTES))
    if data is None:
        return None
    header = load_header(data)
    if header.key != key:
        raise DamagedEntryError("the entry is of another key")
    return header


def _as_in_keys(variant: Variant) -> str:
    # Keys leave the default tier unnamed.
    tier = None if variant.tier == variant.family.default_tier else variant.tier
    return Variant(variant.family, tier, variant.aspect_ratio).name
