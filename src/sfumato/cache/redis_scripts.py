"""What runs inside Redis: the index of a store, in Lua, and the names of its keys.

The index lies in one slot, the values anywhere, so a cluster needs no script over two slots:

    sfumato:{index}:used    sorted set: member → Unix seconds of its last use
    sfumato:{index}:ends    sorted set: member → Unix seconds of its end, inf for none
    sfumato:{index}:sizes   hash: member → bytes; field "total" → their sum

A member is "k" and the key. The index may be behind the values (a process dies between two calls, Redis evicts by
itself): a value without a member is entered when it is read, a member without a value is dropped when it is met.
Rule: a value is written first and entered then; it is deleted first and dropped then.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

NAMESPACE = "sfumato"
INDEX_KEYS = tuple(f"{NAMESPACE}:{{index}}:{name}" for name in ("used", "ends", "sizes"))
# The format's version stands in the name: releases with different ones do not remove each other's values.
VALUE_PATTERN = f"{NAMESPACE}:{{*}}:value1"


class Script(NamedTuple):
    """A Lua script and the digest that Redis knows it by."""

    text: str
    sha1: str


def value_key(key: str) -> str:
    """Name the value of *key*; the braces put all keys of one value into one slot of a cluster."""
    return f"{NAMESPACE}:{{{_digest(key)}}}:value1"


def temporary_key(key: str, nonce: bytes) -> str:
    """Name a value that is being written."""
    return f"{NAMESPACE}:{{{_digest(key)}}}:writing:{nonce.hex()}"


def lease_key(key: str) -> str:
    """Name the lease on *key*."""
    return f"{NAMESPACE}:{{{_digest(key)}}}:lease"


def member(key: str) -> bytes:
    """Return how the index calls *key*."""
    return b"k" + key.encode()


def key_of(member: bytes) -> str:
    """Return the key of a member."""
    return member[1:].decode(errors="replace")


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _script(text: str) -> Script:
    # Redis names scripts by SHA-1.
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


_INDEX = """
local used, ends, sizes = KEYS[1], KEYS[2], KEYS[3]
-- Redis may evict one of the three, and somebody else may own the name: only the whole index means anything.
local function kind(key) return redis.call('TYPE', key).ok end
if kind(used) ~= 'zset' or kind(ends) ~= 'zset' or kind(sizes) ~= 'hash' then
  redis.call('DEL', used, ends, sizes)
end
local function drop(member)
  local size = redis.call('HGET', sizes, member)
  if not size then return 0 end
  redis.call('HDEL', sizes, member)
  redis.call('ZREM', used, member)
  redis.call('ZREM', ends, member)
  -- An empty index leaves nothing behind.
  if redis.call('HLEN', sizes) <= 1 then
    redis.call('DEL', sizes)
  else
    redis.call('HINCRBY', sizes, 'total', -size)
  end
  return 1
end
local function sweep(now, limit)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, limit)) do drop(member) end
end
"""

# now, member, bytes, end, budget, kept share → member, last use of each value that must make room
ENTER = _script(
    _INDEX
    + """
local now, member, size, budget = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[5])
sweep(now, 100)
local before = redis.call('HGET', sizes, member) or 0
redis.call('HSET', sizes, member, size)
redis.call('ZADD', used, now, member)
redis.call('ZADD', ends, ARGV[4], member)
local total = redis.call('HINCRBY', sizes, 'total', size - before)
local victims = {}
if total <= budget then return victims end
local goal, start = budget * tonumber(ARGV[6]), 0
while total > goal and start < 10000 do
  local page = redis.call('ZRANGE', used, start, start + 99, 'WITHSCORES')
  if #page == 0 then break end
  for i = 1, #page, 2 do
    if total <= goal then break end
    -- The newest value stays even where another host's clock is ahead.
    if page[i] ~= member then
      total = total - redis.call('HGET', sizes, page[i])
      victims[#victims + 1] = page[i]
      victims[#victims + 1] = page[i + 1]
    end
  end
  start = start + 100
end
return victims
"""
)

# (member, no later use than) … → how many were dropped; one that was used since stays
DROP = _script(
    _INDEX
    + """
local dropped = 0
for i = 1, #ARGV, 2 do
  local last = redis.call('ZSCORE', used, ARGV[i])
  if last and tonumber(last) <= tonumber(ARGV[i + 1]) then dropped = dropped + drop(ARGV[i]) end
end
return dropped
"""
)

# now → members, bytes
COUNT = _script(
    _INDEX
    + """
sweep(ARGV[1], -1)
return {redis.call('ZCARD', used), tonumber(redis.call('HGET', sizes, 'total') or 0)}
"""
)

# header → removed: whatever is not the text that began with it has been replaced meanwhile
REMOVE_SAME = _script(
    """
if redis.call('TYPE', KEYS[1]).ok == 'string'
  and redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) ~= ARGV[1] then return 0 end
return redis.call('UNLINK', KEYS[1])
"""
)

# bytes, milliseconds or 0 → 1 when the value that was being written is whole and now in its place
PUBLISH = _script(
    """
if redis.call('STRLEN', KEYS[1]) ~= tonumber(ARGV[1]) then
  redis.call('UNLINK', KEYS[1])
  return 0
end
redis.call('RENAME', KEYS[1], KEYS[2])
if tonumber(ARGV[2]) > 0 then redis.call('PEXPIRE', KEYS[2], ARGV[2]) else redis.call('PERSIST', KEYS[2]) end
return 1
"""
)

# token → 1 when the lease was ours
RELEASE = _script("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0")

# token, milliseconds → 1 when the lease was ours and is prolonged
RENEW = _script(
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
)
