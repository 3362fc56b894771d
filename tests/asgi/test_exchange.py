"""Attempts, tokens, and the splicing of pictures into a gateway's document."""

from __future__ import annotations

import array
import asyncio
import functools
import json
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.asgi.exchange import Attempt, Exchange, current_exchange, exchanging
from sfumato.asgi.splicing import TOKEN_MARK, UnboundTokenError, splice
from sfumato.errors import NoImageError
from sfumato.wire.payload import Pieces, join

UNKNOWN = f"{TOKEN_MARK}{'0' * 48}"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def find(exchange: Exchange, token: str) -> Pieces | None:
    found = exchange.find(token)
    return found[1] if found else None


def spliced(exchange: Exchange, document: str) -> str:
    return join(splice(document.encode(), lambda token: find(exchange, token))).decode()


def bound(exchange: Exchange, text: bytes = b"UElDVFVSRQ==") -> str:
    return exchange.begin("req").bind((text[:3], memoryview(text)[3:]))


def test_nobody_waits_outside_of_a_request() -> None:
    assert current_exchange() is None
    with exchanging() as exchange:
        assert current_exchange() is exchange
    assert current_exchange() is None


@pytest.mark.anyio
async def test_work_that_outlives_the_request_is_on_its_own() -> None:
    gone = asyncio.Event()

    async def later() -> Exchange | None:
        assert current_exchange() is not None
        await gone.wait()
        return current_exchange()

    with exchanging():
        work = asyncio.create_task(later())
        await asyncio.sleep(0)
    gone.set()

    assert await work is None


def test_requests_know_their_own_tokens_only() -> None:
    first, second = Exchange(), Exchange()
    token = bound(first)

    assert find(first, token)
    assert find(second, token) is None


def test_tokens_cannot_be_guessed_or_confused() -> None:
    attempt = Attempt("req")
    tokens = {attempt.bind((b"A",)) for _ in range(100)}

    assert len(tokens) == 100
    assert all(len(token.removeprefix(TOKEN_MARK)) * 4 >= 128 for token in tokens)


def test_whose_the_answer_is_may_change_until_it_leaves() -> None:
    exchange = Exchange()
    failed, answered = exchange.begin("req"), exchange.begin("req")
    failed.fail(NoImageError("x"), seen_status=502)

    exchange.settle(failed.id)
    assert exchange.settled is failed
    exchange.settle(answered.id)
    assert exchange.settled is answered
    for foreign in (None, "no id of ours", object()):
        exchange.settle(foreign)
        assert exchange.settled is None


def test_nothing_outlives_the_request() -> None:
    picture = array.array("B", b"UElDVFVSRQ==")
    kept = weakref.ref(picture)
    told: list[object] = []
    with exchanging() as exchange:
        attempt = exchange.begin("req")
        attempt.bind((memoryview(picture),))
        attempt.succeed({}, on_undelivered=functools.partial(told.append, picture))
    del picture

    # A context, a logger's queue or a response may still refer to both.
    assert exchange.settled is None
    assert not attempt.is_late
    assert len(told) == 1
    told.clear()
    assert kept() is None


@pytest.mark.parametrize("delivered", [True, False])
def test_who_keeps_pictures_is_told_once_of_what_was_not_delivered(delivered: object) -> None:
    told: list[str] = []
    exchange = Exchange()
    attempt = exchange.begin("req")
    attempt.succeed({}, on_undelivered=lambda: told.append("undelivered"))
    if delivered:
        attempt.deliver()
    for _ in range(2):
        exchange.close()
        attempt.close()

    assert told == ([] if delivered else ["undelivered"])


def test_a_picture_that_comes_after_the_requests_end_is_not_delivered() -> None:
    told: list[str] = []
    with exchanging() as exchange:
        attempt = exchange.begin("req")
    attempt.succeed({}, on_undelivered=lambda: told.append("undelivered"))

    assert told == ["undelivered"]


@pytest.mark.parametrize("name", ["b64_json", "url"])
@pytest.mark.parametrize("space", ["", " ", "\n  "])
def test_a_picture_takes_its_tokens_place(name: str, space: str) -> None:
    exchange = Exchange()
    token = bound(exchange)

    assert spliced(exchange, f'{{"{name}"{space}:{space}"{token}"}}') == f'{{"{name}"{space}:{space}"UElDVFVSRQ=="}}'


def test_a_data_uri_keeps_its_beginning() -> None:
    exchange = Exchange()
    document = f'{{"url":"data:image/jpeg;base64,{bound(exchange)}"}}'

    assert spliced(exchange, document) == '{"url":"data:image/jpeg;base64,UElDVFVSRQ=="}'


def test_each_token_is_its_own_picture() -> None:
    exchange = Exchange()
    first, second = bound(exchange, b"Rmlyc3Q="), bound(exchange, b"U2Vjb25k")

    document = spliced(exchange, json.dumps([{"b64_json": second}, {"b64_json": first}, {"b64_json": first}]))

    assert [item["b64_json"] for item in json.loads(document)] == ["U2Vjb25k", "Rmlyc3Q=", "Rmlyc3Q="]


@pytest.mark.parametrize(
    "document",
    [
        {"revised_prompt": UNKNOWN},
        {"revised_prompt": f'", "b64_json": "{UNKNOWN}", "x": "'},
        {"revised_prompt": f'\\\\", "b64_json":"{UNKNOWN}"'},
        {"b64_json": f"iVBOR{UNKNOWN}"},
        {"b64_json": UNKNOWN[:-1]},
        {UNKNOWN: 1},
    ],
)
def test_text_that_looks_like_a_token_is_text(document: dict[str, object]) -> None:
    exchange = Exchange()
    bound(exchange)

    assert json.loads(spliced(exchange, json.dumps(document))) == document


@pytest.mark.parametrize("document", [{"b64_json": UNKNOWN}, {"url": f"data:image/png;base64,{UNKNOWN}"}])
def test_an_unknown_token_is_no_picture(document: dict[str, object]) -> None:
    with pytest.raises(UnboundTokenError):
        spliced(Exchange(), json.dumps(document))


@pytest.mark.parametrize("name", ["image", "b64_json_copy", "revised_prompt"])
@pytest.mark.parametrize("around", ["{}", "x{}", '", "b64_json": "{}'])
def test_a_known_token_in_another_place_is_an_error(name: str, around: str) -> None:
    exchange = Exchange()
    document = {name: around.replace("{}", bound(exchange))}

    with pytest.raises(UnboundTokenError):
        spliced(exchange, json.dumps(document))


@given(
    st.lists(st.tuples(st.sampled_from(["b64_json", "url"]), TEXT, st.binary(max_size=40)), max_size=4),
    TEXT,
    st.sampled_from([None, 2]),
    st.booleans(),
)
def test_the_document_is_the_one_with_pictures(
    rows: list[tuple[str, str, bytes]], note: str, indent: int | None, ensure_ascii: object
) -> None:
    """Whatever stands around: as if the pictures had been in it from the start."""
    exchange = Exchange()
    attempt = exchange.begin("req")
    texts = [picture.hex() for _, _, picture in rows]
    tokens = [attempt.bind((text[:5].encode(), memoryview(text.encode())[5:])) for text in texts]

    def document(values: list[str]) -> object:
        data = [{"revised_prompt": prompt, name: value} for (name, prompt, _), value in zip(rows, values, strict=True)]
        return {"note": note, note: UNKNOWN[:30], "data": data}

    late = json.dumps(document(tokens), indent=indent, ensure_ascii=bool(ensure_ascii))

    assert spliced(exchange, late) == json.dumps(document(texts), indent=indent, ensure_ascii=bool(ensure_ascii))
