"""The ASGI application: the Gemini API's routes, Vertex AI's, and ``/emulator`` for journal and switches."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sfumato.emulator.addresses import VERTEX_PATH
from sfumato.emulator.faults import SWITCHES, parse_faults
from sfumato.emulator.journal import Journal
from sfumato.emulator.options import EmulatorOptions
from sfumato.emulator.responder import Desk, Responder


def create_emulator(options: EmulatorOptions | None = None) -> Starlette:
    """Build an emulator of the Gemini API and of Vertex AI's generateContent.

    Serves ``models``, ``models/{model}`` and its ``:generateContent``, ``:streamGenerateContent`` and ``:countTokens``
    under ``/v1`` and ``/v1beta``; Vertex AI's ``:generateContent`` and ``:streamGenerateContent`` under ``/v1`` and
    ``/v1beta1``, for any project and location; ``GET`` and ``DELETE /emulator/journal``; ``GET /emulator/switches``.
    The journal also stands in ``app.state.journal``.

    Raises:
        FaultSyntaxError: A fault text in *options* is not in the grammar of `sfumato.emulator.faults`.
    """
    settings = options or EmulatorOptions()
    for text in (settings.faults, *settings.key_faults.values()):
        parse_faults(text)
    desk = Desk(settings, Journal(settings.max_journal_calls))

    async def serve(request: Request) -> Response:
        return await Responder(desk, request).respond()

    async def journal(request: Request) -> Response:
        if request.method == "DELETE":
            # A cleared journal is a fresh start: a fault with times=2 fails twice again.
            desk.journal.clear()
            desk.book.clear()
            return Response(status_code=204)
        return JSONResponse(desk.journal.entries())

    async def switches(request: Request) -> Response:
        del request
        return JSONResponse({name: switch.description for name, switch in SWITCHES.items()})

    app = Starlette(
        routes=[
            Route("/emulator/journal", journal, methods=["GET", "DELETE"]),
            Route("/emulator/switches", switches, methods=["GET"]),
            Route("/{version}/models", serve, methods=["GET", "POST"]),
            Route("/{version}/models/{name:path}", serve, methods=["GET", "POST"]),
            Route(VERTEX_PATH, serve, methods=["GET", "POST"]),
            Route("/{path:path}", serve, methods=["GET", "POST"]),
        ]
    )
    app.state.journal = desk.journal
    return app
