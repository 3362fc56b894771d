"""From Gemini's answer to the picture that was asked for: signature, mask, format."""

from __future__ import annotations

import functools

from anyio import to_thread

from sfumato.errors import UpstreamFailureError
from sfumato.images.request import GeneratedImage, ImageRequest, Picture
from sfumato.pictures.compose import MaskedEdit
from sfumato.pictures.threads import run_pixel_work
from sfumato.pictures.transcode import transcode
from sfumato.wire.gemini import Answer
from sfumato.wire.payload import Pieces, decode_head, raw_bytes, size_of
from sfumato.wire.signature import Signature, Truncated, read_signature

_HEAD_BYTES = 48 * 1024


async def finish(
    request: ImageRequest,
    slot: int,
    answer: Answer,
    *,
    price_usd: float,
    created: float,
    edit: MaskedEdit | None = None,
    made_as_asked: bool = False,
) -> GeneratedImage:
    """Return the picture of *answer* as *request* wants it; untouched where nothing asks for more.

    Args:
        request: What was asked for.
        slot: Which of the n pictures.
        answer: Gemini's.
        price_usd: What it cost.
        created: Unix seconds.
        edit: The original and the mask, of a request with one.
        made_as_asked: Google was asked for the format and its compression.

    Raises:
        UpstreamFailureError: The bytes are not a readable picture.
    """
    glanced = _glance(answer.encoded)
    picture = await to_thread.run_sync(read_picture, answer.encoded) if glanced is None else glanced
    if edit is not None:
        picture = await run_pixel_work(functools.partial(_composite, edit, picture))
    elif _wants_transcoding(request, picture, made_as_asked=made_as_asked):
        picture = await run_pixel_work(functools.partial(_transcode, request, picture))
    return GeneratedImage(
        slot=slot,
        picture=picture,
        usage=answer.usage,
        price_usd=price_usd,
        created=created,
    )


def read_picture(encoded: Pieces) -> Picture:
    """Return base64 as a picture, with type and pixels read from its bytes; declared types have been wrong.

    Raises:
        UpstreamFailureError: It is not base64 of a known kind of picture.
    """
    total = size_of(encoded)
    head_bytes = _HEAD_BYTES
    while True:
        signature = read_signature(decode_head(encoded, head_bytes))
        # A C2PA record before the size can be long: look further, up to the whole picture.
        if not isinstance(signature, Truncated) or head_bytes >= total:
            break
        head_bytes = min(total, max(signature.needed_bytes, head_bytes * 4))
    if not isinstance(signature, Signature):
        raise UpstreamFailureError("Gemini answered with an unreadable picture. Send the request again.")
    return _signed(encoded, signature)


def _glance(encoded: Pieces) -> Picture | None:
    """Return what the first kilobytes tell, None when they do not, or lie on a disk: a thread costs more than that."""
    if not encoded or not isinstance(encoded[0], bytes | memoryview):
        return None
    if len(encoded) > 1 and len(encoded[0]) * 3 // 4 < _HEAD_BYTES:
        return None
    signature = read_signature(decode_head(encoded[:1], _HEAD_BYTES))
    return _signed(encoded, signature) if isinstance(signature, Signature) else None


def _signed(encoded: Pieces, signature: Signature) -> Picture:
    width, height = signature.displayed_size
    return Picture(encoded=encoded, mime_type=signature.mime_type, width=width, height=height)


def _wants_transcoding(request: ImageRequest, picture: Picture, *, made_as_asked: bool) -> bool:
    if request.output_format is None:
        return False
    if picture.format != request.output_format:
        return True
    return not made_as_asked and request.output_compression not in (None, 100)


def _transcode(request: ImageRequest, picture: Picture) -> Picture:
    return transcode(
        _raw(picture), output_format=request.output_format or "png", compression=request.output_compression
    )


def _composite(edit: MaskedEdit, picture: Picture) -> Picture:
    return edit.composite(_raw(picture))


def _raw(picture: Picture) -> bytes:
    try:
        return raw_bytes(picture)
    except ValueError:
        raise UpstreamFailureError("Gemini answered with a damaged picture. Send the request again.") from None
