"""Our answers as LiteLLM's `ImageResponse`, priced, and marked when they come from our cache."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from anyio import to_thread
from litellm.types.utils import ImageResponse, ImageUsage

from sfumato.asgi.exchange import Attempt
from sfumato.images.request import CacheStatus, ImageResult, Picture
from sfumato.litellm.hooks import ATTEMPT_KEY, HEADERS_KEY
from sfumato.wire.headers import result_headers
from sfumato.wire.openai_images import render_failures, render_usage, revised_prompt
from sfumato.wire.payload import INLINE_BYTES, base64_pieces, join, picture_bytes

_log = logging.getLogger("sfumato")


async def render_image_response(
    result: ImageResult, *, request_id: str, attempt: Attempt | None = None, late: bool = False
) -> ImageResponse:
    """Write an answer as LiteLLM's response; base64 is made and joined in threads when large.

    Args:
        result: The engine's answer.
        request_id: The id that the client is told.
        attempt: What the middleware in front knows of this call, where there is one.
        late: Give LiteLLM tokens of *attempt* in place of base64.

    ``_hidden_params`` carry the cost in USD, which beats LiteLLM's price map, and our headers for the headers hook.
    LiteLLM 1.106.2 sends extra attributes on to the client, ``errors`` among them (seen 2026-11-21).
    """
    as_url = result.request.response_format == "url"
    field = "url" if as_url else "b64_json"
    revised, headers = revised_prompt(result), result_headers(result, request_id=request_id)
    first = result.images[0].picture
    binder = attempt if late else None
    response = ImageResponse(
        created=result.created,
        # dicts, because LiteLLM copies models field by field: a second copy of every picture.
        data=[
            {field: await _text(image.picture, as_url=as_url, binder=binder), "revised_prompt": revised}  # type: ignore[misc]  # it takes dicts
            for image in result.images
        ],
        usage=ImageUsage(**render_usage(result.usage)),
        background="opaque",
        output_format=first.format,
        size=f"{first.width}x{first.height}",
        quality=result.request.tier,
        hidden_params={
            "response_cost": result.cost_usd,
            HEADERS_KEY: headers,
            **({ATTEMPT_KEY: attempt.id} if attempt else {}),
            **({"cache_key": result.cache_key} if result.cache_status is CacheStatus.HIT else {}),
        },
    )
    if result.failures:
        response.errors = render_failures(result)  # type: ignore[attr-defined]  # an extra attribute
    return response


def mark_cache_hit(logging_obj: Any) -> None:
    """Have LiteLLM bill nothing for this call and log it as a cache hit.

    ``cache_hit`` in the details makes the cost 0; the log's flag is an argument of the success handlers, which
    overwrite the detail (LiteLLM 1.106.2, litellm_core_utils/litellm_logging.py). These are internals: where they
    have changed, only the mark is lost.
    """
    try:
        logging_obj.model_call_details["cache_hit"] = True
        for name in ("async_success_handler", "success_handler"):
            setattr(logging_obj, name, _told_of_the_hit(getattr(logging_obj, name)))
    except (AttributeError, TypeError):
        _log.debug("LiteLLM's logging object has changed: a cache hit is not marked in its logs.")


def _told_of_the_hit(handler: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(handler)
    def told(
        result: Any = None, start_time: Any = None, end_time: Any = None, cache_hit: Any = None, **kwargs: Any
    ) -> Any:
        # Some of LiteLLM's callers name cache_hit, some pass it by position: a functools.partial would not do.
        del cache_hit
        return handler(result, start_time, end_time, cache_hit=True, **kwargs)

    return told


async def _text(picture: Picture, *, as_url: bool, binder: Attempt | None) -> str:
    prefix = f"data:{picture.mime_type};base64,".encode() if as_url else b""
    if binder is not None:
        return f"{prefix.decode()}{binder.bind(base64_pieces(picture))}"

    def joined() -> str:
        return join((prefix, *base64_pieces(picture))).decode("ascii")

    return joined() if picture_bytes(picture) <= INLINE_BYTES else await to_thread.run_sync(joined)
