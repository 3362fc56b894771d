"""Marked secrets, an upstream that repeats them in everything it says, and a search that finds them however written."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from typing import Any
from urllib.parse import quote

from PIL import Image, PngImagePlugin
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PROMPT = "CanaryPrompt7Zq4"
STYLE = "CanaryStyle7Zq4"
FILE_NAME = "CanaryFile7Zq4"
ACCOUNT_KEY = "CanaryAccountKey7Zq4"
CLIENT_KEY = "CanaryClientKey7Zq4"
ADMIN_KEY = "CanaryAdminKey7Zq4"
BEARER = "CanaryBearer7Zq4"
EMAIL = "canary.person.7zq4@example.com"
PICTURE = "CanaryPixels7Zq4"
IDEMPOTENCY_KEY = "CanaryIdempotency7Zq4"
SALT = "CanarySalt7Zq4"
MARKERS = (PROMPT, STYLE, FILE_NAME, ACCOUNT_KEY, CLIENT_KEY, ADMIN_KEY, BEARER, EMAIL, PICTURE, IDEMPOTENCY_KEY, SALT)

# Statuses of an answer that repeats its request, and ways to repeat it in an answer that is none.
HOSTILE = ("307", "400", "401", "402", "403", "404", "408", "409", "413", "422", "429", "500", "502", "503", "504")
HOSTILE_ANSWERS = ("error-200", "block-message", "finish-message", "text-only", "garbage", "headers", "identifiers")
_OF_ACCOUNTS = frozenset({b"401", b"402", b"403", b"404", b"429"})
_TRIGGER = re.compile(rb"\[\[hostile:([\w-]+)\]\]")


@cache
def _spellings(marker: str) -> frozenset[bytes]:
    """Return how a marker may be written in lower case: as it is, in hex, in an address."""
    plain = marker.encode()
    return frozenset({plain.lower(), plain.hex().encode(), quote(marker, safe="").lower().encode()})


@cache
def _encoded(marker: str) -> frozenset[bytes]:
    """Return how a marker may be written in base64, at any offset."""
    plain = marker.encode()
    wholes = [base64.b64encode(b"\0" * offset + plain) for offset in range(3)]
    # Only the characters that nothing beside the marker has a part in.
    return frozenset(whole[-(-offset * 8 // 6) : (offset + len(plain)) * 8 // 6] for offset, whole in enumerate(wholes))


def found_in(data: bytes | str) -> set[str]:
    """Return the markers that stand in *data*, in any case and spelling."""
    raw = data.encode() if isinstance(data, str) else data
    folded = raw.lower()
    return {
        marker
        for marker in MARKERS
        if any(spelling in folded for spelling in _spellings(marker)) or any(text in raw for text in _encoded(marker))
    }


def marked_picture(mode: str = "RGB") -> bytes:
    """Return a PNG that carries its marker in a text chunk and behind its end."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", PICTURE)
    file = BytesIO()
    Image.new(mode, (64, 48), (10, 20, 30) if mode == "RGB" else (0, 0, 0, 0)).save(file, "PNG", pnginfo=info)
    return file.getvalue() + PICTURE.encode()


@dataclass
class HostileUpstream:
    """An ASGI app: *emulator*, but a prompt with ``[[hostile:429]]`` is answered with everything that the call held.

    Attributes:
        emulator: Whoever answers the rest.
        seen: The markers that arrived, which shows that the others were not sent or not yet searched for in vain.
    """

    emulator: ASGIApp
    seen: set[str] = field(default_factory=set)
    refused: set[bytes] = field(default_factory=set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on."""
        if scope["type"] != "http":
            await self.emulator(scope, receive, send)
            return
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        heard = b"\n".join(name + b": " + value for name, value in scope["headers"]) + b"\n" + bytes(body)
        self.seen |= found_in(heard)
        trigger = _TRIGGER.search(body)
        # What is said of an account is said once: the next account answers.
        told = trigger is not None and trigger[1] in _OF_ACCOUNTS and trigger[1] in self.refused
        self.refused |= {trigger[1]} if trigger else set()
        if trigger is None or told:
            await self.emulator(scope, _replaying(bytes(body), receive), send)
        else:
            status, headers, answer = _hostile(trigger[1].decode(), heard.decode(errors="replace"))
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": answer})


def _replaying(body: bytes, receive: Receive) -> Receive:
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _hostile(kind: str, heard: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Return an answer that repeats what was *heard* wherever Google, or a proxy before it, has text."""
    line = re.sub(r"[^ -~]", " ", heard)[:4000].encode()
    headers = [(b"content-type", b"application/json"), (b"x-heard", line), (b"x-request-id", line[:200])]
    if kind.isdigit():
        headers += [(b"location", b"https://example.com/?key=" + ACCOUNT_KEY.encode())] if kind == "307" else []
        return int(kind), headers, json.dumps(_error(int(kind), heard)).encode()
    if kind == "garbage":
        return 200, headers, b'{"candidates": [' + heard.encode()
    return 200, headers, json.dumps(_answer(kind, heard)).encode()


def _error(code: int, heard: str) -> dict[str, Any]:
    details = [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": heard,
            "domain": heard,
            "metadata": {"k": heard},
        },
        {"@type": "type.googleapis.com/google.rpc.DebugInfo", "detail": heard, "stackEntries": [heard]},
        {"@type": "type.googleapis.com/google.rpc.LocalizedMessage", "locale": "en", "message": heard},
        {
            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [{"quotaMetric": heard, "quotaId": heard, "subject": heard, "description": heard}],
        },
        {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"field": heard}]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": heard},
    ]
    return {"error": {"code": code, "message": heard, "status": heard, "details": details}}


def _answer(kind: str, heard: str) -> dict[str, Any]:
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 20, "totalTokenCount": 30}
    stopped: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": heard}]}, "finishReason": "STOP"}
    match kind:
        case "error-200":
            return _error(500, heard)
        case "block-message":
            ratings = [{"category": heard, "probability": heard, "blocked": True}]
            feedback = {"blockReason": "SAFETY", "blockReasonMessage": heard, "safetyRatings": ratings}
            return {"promptFeedback": feedback, "usageMetadata": usage}
        case "finish-message":
            refused = {"finishReason": "IMAGE_SAFETY", "finishMessage": heard, "safetyRatings": [{"category": heard}]}
            return {"candidates": [refused], "usageMetadata": usage}
        case "identifiers":
            return {"candidates": [stopped], "modelVersion": heard, "responseId": heard, "usageMetadata": usage}
        case _:
            return {"candidates": [stopped], "usageMetadata": usage}
