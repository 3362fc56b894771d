"""Put pictures into a small JSON document where their tokens stand."""

from __future__ import annotations

import re
from collections.abc import Callable

from sfumato.wire.payload import Piece, Pieces

# Base64 of "sfumato-late", so that a token is base64 itself: what checks a picture's text has nothing to object to.
TOKEN_MARK = "c2Z1bWF0by1sYXRl"  # noqa: S105  # the public half of it
# 192 bits, and a multiple of four with the mark.
TOKEN_DIGITS = 48
_MARK = TOKEN_MARK.encode()
_TOKEN = re.compile(rb"%s[0-9a-f]{%d}" % (_MARK, TOKEN_DIGITS))
# As a complete value under a picture's name. Inside of another string every quote has a backslash before it, so that no
# text of a client's can look like this.
_VALUE = re.compile(
    rb'"(?:b64_json|url)"[ \t\r\n]*:[ \t\r\n]*"(?:data:[-+./\\a-z0-9]{1,64};base64,)?(%s)"' % _TOKEN.pattern
)


class UnboundTokenError(Exception):
    """A token stands where no picture can be put, or is not known."""


def splice(document: bytes, find: Callable[[str], Pieces | None]) -> Pieces:
    """Return *document* with the pictures of its tokens, uncopied.

    A token counts where it is the whole value of ``b64_json`` or ``url`` (there also behind a data URI's beginning).
    Text that only looks like one, in a prompt, stays as it is.

    Args:
        document: Valid JSON.
        find: Returns what a token stands for, None for an unknown one.

    Raises:
        UnboundTokenError: An unknown token stands for a picture, or a known one somewhere else.
    """
    if _MARK not in document:
        return (document,)
    view = memoryview(document)
    pieces: list[Piece] = []
    done = 0
    bound: set[int] = set()
    for match in _VALUE.finditer(document):
        text = find(match[1].decode("ascii"))
        if text is None:
            raise UnboundTokenError
        start, stop = match.span(1)
        pieces += [view[done:start], *text]
        done = stop
        bound.add(start)
    for match in _TOKEN.finditer(document):
        if match.start() not in bound and find(match[0].decode("ascii")) is not None:
            raise UnboundTokenError
    pieces.append(view[done:])
    return tuple(pieces)
