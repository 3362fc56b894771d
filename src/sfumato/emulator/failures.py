"""Faults that end a call with a status, as the answers that Google or a proxy before it gives."""

from __future__ import annotations

from dataclasses import dataclass

from sfumato.emulator import statuses, vertex_statuses
from sfumato.emulator.addresses import Address
from sfumato.emulator.delivery import HTML_TYPE, JSON_TYPE
from sfumato.emulator.faults import Fault
from sfumato.emulator.statuses import GoogleError

_PAGE = b"""<!DOCTYPE html>
<html lang=en><meta charset=utf-8><title>Error %d (Server Error)!!1</title>
<p><b>%d.</b> <ins>That\xe2\x80\x99s an error.</ins>
<p>The server encountered a temporary error and could not complete your request.
"""
_GARBAGE = b'{"candidates": [{"content": {"parts": [{"inlineData": \x00\xff\xfe not json'


@dataclass(frozen=True, slots=True)
class Page:
    """An answer that is not in Google's JSON."""

    status: int
    content_type: str
    body: bytes


def not_found_page() -> Page:
    """Return Google's answer to an address that is no method of the API."""
    return Page(404, HTML_TYPE, _PAGE.replace(b"Server Error", b"Not Found") % (404, 404))


def failure_of(fault: Fault, address: Address) -> GoogleError | Page | None:
    """Return what *fault* answers instead of a generated answer; None when an answer is generated all the same."""
    if address.backend == "vertex" and (error := _vertex_failure(fault, address)):
        return error
    match fault.name:
        case "html":
            return Page(fault.count, HTML_TYPE, _PAGE % (fault.count, fault.count))
        case "garbage":
            return Page(200, JSON_TYPE, _GARBAGE)
        case "empty-body":
            return Page(200, JSON_TYPE, b"")
        case "429" | "429-day" | "429-free-tier":
            return statuses.quota_exceeded(
                address.model,
                per_day=fault.name != "429",
                delay_seconds=fault.seconds,
                limit=0 if fault.name == "429-free-tier" else None,
            )
        case "404":
            return not_found(address)
        case "503" | "stream-error":
            return statuses.overloaded(fault.seconds if fault.argument else None)
        case _:
            build = {
                "400": statuses.invalid_argument,
                "location": statuses.location_unsupported,
                "invalid-key": statuses.invalid_key,
                "401": statuses.unauthenticated,
                "403": statuses.blocked_key,
                "leaked-key": statuses.leaked_key,
                "429-billing": statuses.billing_exhausted,
                "429-capacity": statuses.capacity_exhausted,
                "500": statuses.internal,
                "504": statuses.deadline_exceeded,
            }.get(fault.name)
            return build() if build else None


def not_found(address: Address) -> GoogleError:
    """Return what a model or a method that does not exist is answered with."""
    if address.backend == "vertex":
        return vertex_statuses.publisher_model_not_found(address)
    return statuses.model_not_found(address.model, version=address.version, method=address.method)


def _vertex_failure(fault: Fault, address: Address) -> GoogleError | None:
    """Return Vertex AI's answer where it differs; API keys mean nothing there."""
    match fault.name:
        case "429":
            return vertex_statuses.quota_exceeded(address)
        case "429-capacity":
            return vertex_statuses.capacity_exhausted()
        case "invalid-key":
            return statuses.unauthenticated()
        case "403" | "leaked-key":
            return vertex_statuses.permission_denied(address)
        case _:
            return None
