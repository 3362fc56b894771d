"""One request to the API: read, check, decide its faults, answer, record."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from anyio import to_thread
from starlette.requests import ClientDisconnect, Request

from sfumato.emulator.access import check_access, read_secret
from sfumato.emulator.addresses import Address
from sfumato.emulator.answers import Answer, compose_answer, count_prompt_tokens, encode_document, encode_event
from sfumato.emulator.catalog import get_model, list_models
from sfumato.emulator.decoder import parse_json, read_message
from sfumato.emulator.delivery import EVENT_STREAM_TYPE, JSON_TYPE, Delivery
from sfumato.emulator.failures import Page, failure_of, not_found, not_found_page
from sfumato.emulator.faults import HEADER, Fault, FaultBook, FaultSyntaxError, find_triggers, parse_faults
from sfumato.emulator.journal import Call, Journal, hint_key, mask_headers, redact
from sfumato.emulator.options import EmulatorOptions
from sfumato.emulator.schema import CountTokensRequest, GenerateContentBody, GenerateContentRequest
from sfumato.emulator.statuses import GoogleError, invalid_argument, overloaded, payload_too_large
from sfumato.emulator.validation import Order, find_family, validate
from sfumato.emulator.vertex_schema import VertexGenerateContentRequest


@dataclass(frozen=True, slots=True)
class Desk:
    """What the calls of one emulator share."""

    options: EmulatorOptions
    journal: Journal
    book: FaultBook = field(default_factory=FaultBook)
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))


class Responder:
    """Answer one request; build one per request."""

    def __init__(self, desk: Desk, request: Request) -> None:
        self._desk = desk
        self._request = request
        self._address = Address.of(request.path_params)
        self._model, self._method = self._address.model, self._address.method
        self._key = read_secret(request, self._address)
        self._faults: tuple[Fault, ...] = ()
        self._started = desk.options.clock()
        self._call = desk.journal.open(
            Call(
                time=self._started,
                method=request.method,
                path=request.url.path,
                model=self._model or None,
                backend=self._address.backend,
                project=self._address.project,
                location=self._address.location,
                key_hint=hint_key(self._key),
                headers=mask_headers(request.headers),
            )
        )

    async def respond(self) -> Delivery:
        """Return the answer, whatever it is."""
        try:
            return await self._answer()
        except GoogleError as error:
            return self._refuse(error)
        except ClientDisconnect:
            return self._refuse(GoogleError(499, "The operation was cancelled."))
        except BaseException as error:
            self._call.status = 500 if isinstance(error, Exception) else 499
            raise

    async def _answer(self) -> Delivery:
        body = await self._read_body()
        address = self._address
        if not address.is_served:
            return self._turn(not_found_page())
        check_access(self._request, address, self._desk.options.api_keys)
        if self._request.method == "GET" and not self._method and address.backend == "gemini":
            return self._list()
        if self._request.method != "POST" or not self._method:
            return self._turn(not_found_page())
        if find_family(self._model) is None or not address.has_method:
            raise not_found(address)
        order = await to_thread.run_sync(self._check, body)
        if self._method == "countTokens":
            return self._count(order)
        return await self._generate(order)

    async def _read_body(self) -> bytes:
        limit = self._desk.options.max_body_bytes
        chunks: list[bytes] = []
        size = 0
        # Read on past the limit: a client in the middle of its upload would not read an early answer.
        async for chunk in self._request.stream():
            size += len(chunk)
            if size <= limit:
                chunks.append(chunk)
        if size > limit:
            raise payload_too_large(limit)
        return b"".join(chunks)

    def _check(self, body: bytes) -> Order:
        document = parse_json(body)
        self._call.body = redact(document)
        family = find_family(self._model)
        assert family is not None  # noqa: S101 - the caller looked
        package = self._address.package
        request: GenerateContentBody
        if self._method == "countTokens":
            counted = read_message(CountTokensRequest, document, package=package)
            request = counted.generate_content_request or GenerateContentRequest(contents=counted.contents)
        elif self._address.backend == "vertex":
            request = read_message(VertexGenerateContentRequest, document, package=package)
        else:
            request = read_message(GenerateContentRequest, document, package=package)
        return validate(family, request)

    def _list(self) -> Delivery:
        failed = self._fail(everywhere=True)
        if failed:
            return failed
        if self._model:
            return self._deliver(get_model(self._model, version=self._address.version))
        query = self._request.query_params
        page = list_models(page_size=query.get("pageSize"), page_token=query.get("pageToken"))
        return self._deliver(page)

    def _count(self, order: Order) -> Delivery:
        failed = self._fail(everywhere=True)
        if failed:
            return failed
        total, details = count_prompt_tokens(order)
        return self._deliver({"totalTokens": total, "promptTokensDetails": details})

    async def _generate(self, order: Order) -> Delivery:
        failed = self._fail(prompt=order.prompt)
        if failed:
            return failed
        number = next(self._desk.numbers)
        chunks, cost = await to_thread.run_sync(self._draw, order, number)
        self._call.cost_usd = cost
        return self._send(200, EVENT_STREAM_TYPE if self._sse else JSON_TYPE, chunks, generated=True)

    def _draw(self, order: Order, number: int) -> tuple[list[bytes], float]:
        answer = compose_answer(order, self._faults, number=number)
        if self._method == "generateContent":
            return [encode_document(answer.document())], answer.cost_usd
        return self._stream(answer), answer.cost_usd

    def _stream(self, answer: Answer) -> list[bytes]:
        events = answer.events()
        if any(fault.name == "stream-error" for fault in self._faults):
            events = [events[0], overloaded(None).body()]
        if self._sse:
            return [b"data: " + encode_event(event) + b"\r\n\r\n" for event in events]
        encoded = [encode_document(event).rstrip() for event in events]
        return [(b"," if index else b"[") + item + b"\n" for index, item in enumerate(encoded)] + [b"]"]

    @property
    def _sse(self) -> bool:
        return self._method == "streamGenerateContent" and self._request.query_params.get("alt") == "sse"

    def _fail(self, *, prompt: str = "", everywhere: bool = False) -> Delivery | None:
        """Decide the faults in force; return the answer when one of them ends the call without a generation."""
        self._faults = tuple(f for f in self._active(prompt) if f.switch.everywhere or not everywhere)
        self._call.fault = ",".join(fault.text for fault in self._faults) or None
        ending = next((fault for fault in self._faults if fault.switch.ends), None)
        if ending is None or (ending.name == "stream-error" and self._method == "streamGenerateContent"):
            return None
        failure = failure_of(ending, self._address)
        if isinstance(failure, GoogleError):
            raise failure
        return self._turn(failure) if failure else None

    def _active(self, prompt: str) -> Sequence[Fault]:
        options = self._desk.options
        texts = (self._request.headers.get(HEADER, ""), find_triggers(prompt), options.faults)
        try:
            shared = [fault for text in texts for fault in parse_faults(text)]
            own = parse_faults(options.key_faults.get(self._key, ""))
        except FaultSyntaxError as error:
            raise invalid_argument(str(error)) from None
        return (*self._desk.book.active(shared), *self._desk.book.active(own, scope=self._key))

    def _refuse(self, error: GoogleError) -> Delivery:
        body: Any = error.body()
        if self._method == "streamGenerateContent" and not self._sse:
            body = [body]
        return self._send(error.code, JSON_TYPE, [encode_document(body)])

    def _turn(self, page: Page) -> Delivery:
        return self._send(page.status, page.content_type, [page.body])

    def _deliver(self, document: Any) -> Delivery:
        return self._send(200, JSON_TYPE, [encode_document(document)])

    def _send(self, status: int, content_type: str, chunks: list[bytes], *, generated: bool = False) -> Delivery:
        options = self._desk.options
        latency = sum(fault.seconds for fault in self._faults if fault.name == "latency")
        latency += options.latency_seconds if generated else 0
        elapsed_ms = round((options.clock() - self._started + latency) * 1000)

        def report(sent: int) -> None:
            self._call.status = sent

        return Delivery(
            status,
            content_type,
            chunks,
            faults=self._faults,
            latency_seconds=latency,
            sleep=options.sleep,
            report=report,
            headers={"server-timing": f"gfet4t7; dur={max(0, elapsed_ms)}", "vary": "Origin, X-Origin, Referer"},
        )
