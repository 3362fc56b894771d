"""Remote input pictures, from hosts that the operator listed and from no other."""

from __future__ import annotations

from collections.abc import Collection

import aiohttp
import anyio
import httpx

from sfumato.errors import InvalidImageError, InvalidParameterError, PayloadTooLargeError


class PictureFetcher:
    """Fetch input pictures by address.

    Args:
        client: Any httpx client.
        hosts: The listed hosts, each with its port where it is not the scheme's own.
        max_bytes: A picture above this is refused while it is read.
        timeout_seconds: Time for one picture from the first to the last byte.
    """

    def __init__(
        self, client: httpx.AsyncClient, *, hosts: Collection[str], max_bytes: int, timeout_seconds: float = 30.0
    ) -> None:
        self._client = client
        self._hosts = frozenset(host.lower() for host in hosts)
        self._max_bytes = max_bytes
        self._timeout_seconds = timeout_seconds

    async def fetch(self, url: str, *, param: str) -> bytes:
        """Return the bytes behind *url*.

        Raises:
            InvalidParameterError: The host is not listed.
            InvalidImageError: The host did not answer with 200.
            PayloadTooLargeError: The picture is over the limit.
        """
        try:
            address = httpx.URL(url)
        except (httpx.InvalidURL, UnicodeError):
            raise InvalidParameterError(f"'{param}' is not a valid address.", param=param) from None
        host = address.netloc.decode("ascii", "replace").lower()
        # Userinfo would let an address look as if it pointed at a listed host.
        if address.scheme not in ("http", "https") or address.userinfo or host not in self._hosts:
            raise InvalidParameterError(
                f"'{param}' is a remote address, and its host is not allowed here. Send the picture's bytes.",
                param=param,
            )
        try:
            with anyio.fail_after(self._timeout_seconds):
                return await self._read(address, param)
        except (httpx.HTTPError, httpx.StreamError, aiohttp.ClientError, OSError):
            raise InvalidImageError(f"'{param}' could not be fetched: its host did not answer.", param=param) from None

    async def _read(self, address: httpx.URL, param: str) -> bytes:
        body = bytearray()
        # No redirects: a listed host must not be able to point elsewhere.
        # Raw bytes: a compressed answer could grow past the limit in one step.
        headers = {"accept-encoding": "identity"}
        async with self._client.stream("GET", address, headers=headers, follow_redirects=False) as response:
            if response.status_code != 200:
                raise InvalidImageError(f"'{param}' could not be fetched: its host refused.", param=param)
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > self._max_bytes:
                    raise PayloadTooLargeError(f"'{param}' is larger than this installation accepts.", param=param)
        return bytes(body)
