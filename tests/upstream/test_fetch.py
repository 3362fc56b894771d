from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import ImageError, InvalidImageError, InvalidParameterError, PayloadTooLargeError
from sfumato.upstream.fetch import PictureFetcher

pytestmark = pytest.mark.anyio

HOSTS = ("img.example", "other.example:8443", "[::1]:9")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def fetch(
    url: str,
    handler: Callable[[httpx.Request], Any] | None = None,
    *,
    hosts: tuple[str, ...] = HOSTS,
    **options: Any,
) -> bytes:
    # A client that would follow redirects: that the fetcher does not is its own doing.
    transport = httpx.MockTransport(handler or (lambda _: httpx.Response(200, stream=httpx.ByteStream(b"picture"))))
    async with httpx.AsyncClient(transport=transport, follow_redirects=True) as client:
        fetcher = PictureFetcher(client, hosts=hosts, max_bytes=1000, **options)
        return await fetcher.fetch(url, param="image[0]")


async def failed(url: str, handler: Callable[[httpx.Request], Any] | None = None, **options: Any) -> ImageError:
    with pytest.raises(ImageError) as caught:
        await fetch(url, handler, **options)
    assert caught.value.param == "image[0]"
    assert url not in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    "url",
    [
        "https://img.example/a.png",
        "http://img.example/a.png?x=1",
        "https://IMG.example:443/a",
        "http://img.example:80/",
        "https://other.example:8443/a",
        "http://[::1]:9/a",
    ],
)
async def test_listed_hosts_are_asked(url: str) -> None:
    assert await fetch(url) == b"picture"


async def test_the_list_is_read_in_any_case() -> None:
    assert await fetch("https://img.example/", hosts=("IMG.Example",)) == b"picture"


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/a",
        "https://img.example.evil.example/",
        "https://evil-img.example/",
        "https://sub.img.example/",
        "https://img.example./a",
        "https://img.example:8443/",
        "http://img.example:443/",
        "https://img.example:80/",
        "https://other.example/",
        "https://other.example:443/",
        "https://user@img.example/",
        "https://user:pw@img.example/",
        "https://img.example@evil.example/",
        "https://img.example:443@evil.example/",
        "https://evil.example#@img.example/",
        "https://evil.example\\@img.example/",
        "https://evil.example/?@img.example",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://2130706433/",
        "https:///a",
        "ftp://img.example/",
        "file://img.example/etc/passwd",
        "https://",
        "img.example/a",
        "//img.example/a",
    ],
)
async def test_any_other_address_is_refused_unasked(url: str) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise AssertionError(request.url)

    error = await failed(url, handler)
    assert type(error) is InvalidParameterError


@pytest.mark.parametrize(
    "url", ["https://img.example:x/", "https://[img.example/", "https://\ud800/", "http://a\x00b/"]
)
async def test_an_address_that_is_none_is_refused(url: str) -> None:
    assert type(await failed(url)) is InvalidParameterError


async def test_without_a_list_nobody_is_asked() -> None:
    assert type(await failed("https://img.example/", hosts=())) is InvalidParameterError


@pytest.mark.parametrize("status", [201, 204, 206, 301, 302, 307, 404, 500])
async def test_only_200_counts_and_redirects_are_not_followed(status: int) -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.host)
        body = httpx.ByteStream(b"picture")
        return httpx.Response(status, headers={"location": "http://169.254.169.254/"}, stream=body)

    assert type(await failed("https://img.example/", handler)) is InvalidImageError
    assert seen == ["img.example"]


async def test_bytes_are_counted_while_they_come() -> None:
    sent = 0

    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            nonlocal sent
            while True:
                sent += 400
                yield b"x" * 400

    assert type(await failed("https://img.example/", lambda _: httpx.Response(200, stream=Endless()))) is (
        PayloadTooLargeError
    )
    assert sent == 1200
    assert (
        len(await fetch("https://img.example/", lambda _: httpx.Response(200, stream=httpx.ByteStream(b"x" * 1000))))
        == 1000
    )


async def test_a_compressed_answer_is_not_blown_up() -> None:
    packed = gzip.compress(b"x" * 100_000)

    def handler(request: httpx.Request) -> httpx.Response:
        assert request.headers["accept-encoding"] == "identity"
        return httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(packed))

    assert await fetch("https://img.example/", handler) == packed


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("x"),
        httpx.ReadTimeout("x"),
        httpx.UnsupportedProtocol("x"),
        httpx.ReadError("x"),
        OSError("x"),
    ],
    ids=repr,
)
async def test_a_host_that_does_not_answer(error: Exception) -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise error

    assert type(await failed("https://img.example/", handler)) is InvalidImageError


async def test_a_host_that_answers_for_ever() -> None:
    class Silent(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"x"
            await anyio.sleep_forever()

    error = await failed("https://img.example/", lambda _: httpx.Response(200, stream=Silent()), timeout_seconds=0.01)
    assert type(error) is InvalidImageError


@given(
    st.text(st.characters(), max_size=30),
    st.sampled_from(["{}", "https://{}", "https://img.example{}", "http://{}@img.example/"]),
)
@settings(max_examples=200)
def test_any_text_is_an_address_on_the_list_or_an_error_of_ours(text: str, frame: str) -> None:
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.netloc.decode())
        return httpx.Response(200, stream=httpx.ByteStream(b"picture"))

    async def run() -> None:
        try:
            await fetch(frame.replace("{}", text), handler)
        except InvalidParameterError:
            assert asked == []

    anyio.run(run)
    assert set(asked) <= set(HOSTS)
