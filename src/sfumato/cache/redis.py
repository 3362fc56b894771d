"""The connection to Redis, Valkey, a Cluster or Sentinels. Here alone is redis-py.

Importing this module without the extra raises `ConfigurationError`: import it where a connection is made.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from sfumato.cache.circuit import Circuit
from sfumato.cache.redis_scripts import Script
from sfumato.cache.redis_urls import RedisAddress, parse_redis_url
from sfumato.cache.redis_values import ForeignTypeError
from sfumato.cache.store import StoreFullError, StoreUnavailableError
from sfumato.cache.time_limit import time_limit
from sfumato.errors import ConfigurationError

try:
    from redis.asyncio import Redis, RedisCluster, Sentinel
    from redis.asyncio.cluster import ClusterNode
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import (
        NoScriptError,
        OutOfMemoryError,
        RedisClusterException,
        RedisError,
        ResponseError,
    )
except ModuleNotFoundError:
    raise ConfigurationError("The Redis backend needs an extra: pip install 'sfumato[redis]'.") from None

TIMEOUT_SECONDS = 0.25
SLOWEST_BYTES_PER_SECOND = 8_000_000
# More transfers at a time share the same network, each slower, until healthy ones look stalled.
_TRANSFERS = 8
_COMMANDS = 32
_CLOSE_SECONDS = 1.0
# Of the limit, for one answer of a cluster's node.
_NODE_SHARE = 0.8
_SCAN_COUNT = 500
# Redis 7 answers "MISCONF" when it cannot save and therefore takes no writes, "NOREPLICAS" when too few follow it.
_REFUSALS = ("OOM ", "MISCONF", "NOREPLICAS")

Argument: TypeAlias = bytes | str | int | float
Command: TypeAlias = Sequence[Argument]


class Transfer:
    """The time that the steps of one transfer may take: a stall ends it, and so does crawling.

    Args:
        stall_seconds: The longest step, and the slack of the whole.
        bytes_per_second: The slowest rate.

    Attributes:
        moved_bytes: Counted by whoever transfers.
        spent_seconds: Counted by the connection; waiting for one's turn is not in it.
    """

    def __init__(self, stall_seconds: float, bytes_per_second: float) -> None:
        self._stall_seconds = stall_seconds
        self._bytes_per_second = bytes_per_second
        self.moved_bytes = 0
        self.spent_seconds = 0.0

    @property
    def limit_seconds(self) -> float:
        """Return how long the next step may take."""
        slack = self._stall_seconds + self.moved_bytes / self._bytes_per_second - self.spent_seconds
        return max(0.0, min(self._stall_seconds, slack))


class RedisConnection:
    """Ask Redis, for *timeout_seconds* at most, and not at all while the circuit is open; for one event loop.

    Every method raises `StoreUnavailableError` when Redis does not answer or refuses, `StoreFullError` when it takes
    no more values. Nothing is repeated.

    Args:
        client: redis-py's, with its own retries off.
        also_close: Called at `aclose`.
        circuit: Decides whether Redis is asked; shared by everything that uses this connection.
        timeout_seconds: For one command, connecting included, and for one step of a transfer.
        slowest_bytes_per_second: A transfer slower than this is a fault.
    """

    def __init__(
        self,
        client: Redis | RedisCluster,
        *,
        also_close: Callable[[], Awaitable[None]] | None = None,
        circuit: Circuit | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        slowest_bytes_per_second: float = SLOWEST_BYTES_PER_SECOND,
    ) -> None:
        self._client: Any = client
        self._also_close = also_close
        self.circuit = circuit or Circuit(fault=StoreUnavailableError)
        self._timeout_seconds = timeout_seconds
        self._slowest = slowest_bytes_per_second
        self._commands = asyncio.Semaphore(_COMMANDS)
        self._transfers = asyncio.Semaphore(_TRANSFERS)
        self._closed = False

    def transfer(self) -> Transfer:
        """Begin a transfer of many steps."""
        return Transfer(self._timeout_seconds, self._slowest)

    async def execute(self, *command: Argument, transfer: Transfer | None = None, **options: Any) -> Any:
        """Return the answer to one command.

        Raises:
            ForeignTypeError: The key holds something of another type.
        """
        return await self._ask(lambda: self._client.execute_command(*command, **options), transfer)

    async def execute_all(self, commands: Sequence[Command], *, transfer: Transfer | None = None) -> list[Any]:
        """Return the answers to several commands sent at once, each with a key of its own as in a cluster."""

        async def work() -> Any:
            pipeline = self._client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return await pipeline.execute()

        answers: list[Any] = await self._ask(work, transfer)
        return answers

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument] = ()) -> Any:
        """Return what a script returns; all *keys* lie in one slot."""
        rest = (len(keys), *keys, *arguments)

        async def work() -> Any:
            try:
                return await self._client.execute_command("EVALSHA", script.sha1, *rest)
            except NoScriptError:
                return await self._client.execute_command("EVAL", script.text, *rest)

        return await self._ask(work)

    async def scan(self, pattern: str) -> AsyncIterator[list[str]]:
        """Iterate over the names of all keys like *pattern*, on every node, in pages."""
        nodes: list[dict[str, Any]] = [{}]
        if isinstance(self._client, RedisCluster):
            await self._ask(self._client.initialize)
            nodes = [{"target_nodes": node} for node in self._client.get_primaries()]
        for node in nodes:
            cursor: Any = 0
            while True:
                page = await self.execute("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT, **node)
                # In a cluster redis-py answers with a cursor per node.
                cursor = next(iter(page[0].values())) if isinstance(page[0], dict) else page[0]
                yield [name.decode(errors="replace") for name in page[1]]
                if not int(cursor):
                    break

    async def aclose(self) -> None:
        """Close every connection; whoever asks afterwards gets `StoreUnavailableError`."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(RedisError, OSError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._client.aclose()
                if self._also_close is not None:
                    await self._also_close()

    async def _ask(self, work: Callable[[], Awaitable[Any]], transfer: Transfer | None = None) -> Any:
        self.circuit.check()
        # Whoever waits for its turn behind stalled ones is refused by the circuit that they open.
        async with self._commands if transfer is None else self._transfers:
            if self._closed:
                raise StoreUnavailableError("The connection to Redis is closed.")
            with self.circuit.passing():
                try:
                    return await self._in_time(work, transfer)
                except ResponseError as error:
                    answer = _read_refusal(error)
                    if answer is None:
                        raise _unavailable(error) from None
                except (RedisError, RedisClusterException, OSError) as error:
                    raise _unavailable(error) from None
        # Redis answered: no matter for the circuit.
        raise answer

    async def _in_time(self, work: Callable[[], Awaitable[Any]], transfer: Transfer | None) -> Any:
        if transfer is None:
            async with time_limit(self._timeout_seconds):
                return await work()
        now = asyncio.get_running_loop().time
        began, limit = now(), transfer.limit_seconds
        try:
            async with time_limit(limit):
                return await work()
        finally:
            # What is beyond the limit passed while the loop stood still.
            transfer.spent_seconds += min(limit, now() - began)


def connect(url: str, *, circuit: Circuit | None = None, timeout_seconds: float = TIMEOUT_SECONDS) -> RedisConnection:
    """Prepare a connection; nothing is sent before the first command.

    Args:
        url: In the grammar of `sfumato.cache.redis_urls`.
        circuit: Decides whether Redis is asked.
        timeout_seconds: For one command, connecting included, and for one step of a transfer.

    Raises:
        ConfigurationError: The URL is invalid; the message never repeats it.
    """
    address = parse_redis_url(url)
    client, also_close = _build_client(address, timeout_seconds)
    return RedisConnection(client, also_close=also_close, circuit=circuit, timeout_seconds=timeout_seconds)


def _build_client(
    address: RedisAddress, timeout_seconds: float
) -> tuple[Redis | RedisCluster, Callable[[], Awaitable[None]] | None]:
    # A node that swallows packets leaves time to ask the next one.
    first_seconds = timeout_seconds / max(1, min(3, len(address.hosts)))
    shared: dict[str, Any] = {
        # The connection's own limit comes first, and asyncio's timeouts in redis-py know no loop that stood still.
        "socket_timeout": None,
        "socket_connect_timeout": first_seconds if len(address.hosts) > 1 else None,
        # No HELLO: servers before 6 refuse it, and RESP3 is no faster here (redis-py 8.1, 2026-11-21).
        "protocol": 2,
        # redis-py repeats 10 times by default, with pauses (8.1, 2026-11-21).
        "retry": Retry(NoBackoff(), 0),
        **({"ssl": True, **address.tls_options} if address.tls else {}),
    }
    entry: dict[str, Any] = {"username": address.username, "password": address.password}
    if address.kind == "cluster":
        # redis-py learns of a failover from its own timeouts only: where a node falls silent they must come first.
        shared["socket_timeout"] = timeout_seconds * _NODE_SHARE
        shared["socket_connect_timeout"] = min(first_seconds, timeout_seconds * _NODE_SHARE)
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        # Without full coverage the slots that are there still serve.
        return RedisCluster(startup_nodes=nodes, require_full_coverage=False, **entry, **shared), None
    shared |= {"db": address.database, "max_connections": _COMMANDS + _TRANSFERS}
    if address.kind == "unix":
        return Redis(unix_socket_path=address.path, **entry, **shared), None
    if address.kind == "single":
        ((host, port),) = address.hosts
        return Redis(host=host, port=port, **entry, **shared), None
    sentinels = Sentinel(  # type: ignore[no-untyped-call]  # redis-py has no types here
        list(address.hosts),
        sentinel_kwargs={
            **{name: value for name, value in shared.items() if name not in ("db", "max_connections")},
            "socket_timeout": first_seconds,
            "username": address.sentinel_username,
            "password": address.sentinel_password,
        },
    )
    return sentinels.master_for(address.service, **entry, **shared), sentinels.aclose


def _read_refusal(error: ResponseError) -> Exception | None:
    """Return what an error answer means when Redis is in order, None when it is not."""
    text = str(error)
    if isinstance(error, OutOfMemoryError) or any(word in text for word in _REFUSALS):
        return StoreFullError("Redis takes no more values.")
    if "WRONGTYPE" in text:
        return ForeignTypeError("the key holds something of another type")
    return None


def _unavailable(error: Exception) -> StoreUnavailableError:
    # Only the kind: redis-py's texts hold addresses and keys.
    return StoreUnavailableError(f"Redis does not answer ({type(error).__name__}).")
