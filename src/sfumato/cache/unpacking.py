"""From a stored value to its picture: checked where it is not known to be good, and read only for that."""

from __future__ import annotations

import functools

from sfumato.cache.entry import DamagedEntryError, EntryHeader, check_picture, open_entry
from sfumato.cache.store import WHOLE_BYTES, StoredBlob
from sfumato.cache.threads import run_whole
from sfumato.wire.payload import INLINE_BYTES, Blob


async def unpack(value: bytes | StoredBlob, key: str) -> tuple[EntryHeader, bytes | Blob]:
    """Return the header and the picture's raw bytes, which stay where they are when they are many.

    Args:
        value: What a store gave for *key*.
        key: The key that the entry must be of.

    Raises:
        DamagedEntryError: It is no entry, another key's, or not what was stored.
        OSError: It cannot be read any more.
    """
    header, raw = open_entry(value)
    if header.key != key:
        raise DamagedEntryError("the entry is of another key")
    check = functools.partial(check_picture, header, raw)
    if not isinstance(value, bytes):
        if not value.vouched:
            await run_whole(functools.partial(value.vouch, check))
    elif len(value) > INLINE_BYTES:
        await run_whole(check)
    else:
        check()
    return header, raw.read(0, len(raw)) if len(value) <= WHOLE_BYTES else raw
