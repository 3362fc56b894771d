from __future__ import annotations

import importlib.util
import io
import json
import logging
import os
import subprocess
import sys
from typing import Any

import pytest

from sfumato.errors import ImageError, NoImageError, RateLimitedError, leaves
from sfumato.images.models import FAMILIES
from sfumato.images.request import ImageRequest, Operation
from sfumato.images.safety import Safety
from sfumato.images.variants import Variant
from sfumato.telemetry.logs import LOGGER_NAME, RequestLog, log_fields
from sfumato.telemetry.observer import Call, OperationRecord, begin, followed

# Requirements, section 8.
FIELDS = {
    "error_type",
    "error_category",
    "error_code",
    "retry_count",
    "account",
    "model",
    "prompt_hash",
    "generation_time_ms",
    "resolution",
    "aspect_ratio",
    "quality",
    "style",
    "n",
    "safety_level",
    "cache",
    "cost_usd",
    "operation",
    "status_code",
    "trace_id",
    "request_id",
}
CANARY = "canary-9f3"


def record(**fields: Any) -> OperationRecord:
    return OperationRecord(call=Call(request_id="req_1", trace_id="a" * 32, door="asgi"), **fields)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for entry in caplog.records:
        assert entry.name == LOGGER_NAME
        assert "\n" not in entry.getMessage()
        found.append((entry.levelno, json.loads(entry.getMessage())))
    return found


def ended(caplog: pytest.LogCaptureFixture, made: OperationRecord) -> tuple[int, dict[str, Any]]:
    with caplog.at_level(logging.DEBUG, LOGGER_NAME):
        RequestLog().begin(made).end()
    (line,) = lines(caplog)
    return line


def test_a_request_s_end_is_one_line_with_every_field(caplog: pytest.LogCaptureFixture) -> None:
    made = record(
        model="gemini-3-pro-image",
        accounts=["a", "b", "a"],
        duration_seconds=1.23456,
        cost_usd=0.12345678,
        cache="miss",
        images=1,
    )
    level, line = ended(caplog, made)
    assert line.keys() >= FIELDS
    assert level == logging.INFO
    assert (line["account"], line["generation_time_ms"], line["cost_usd"]) == ("a,b", 1234.6, 0.123457)
    assert (line["trace_id"], line["request_id"], line["door"]) == ("a" * 32, "req_1", "asgi")
    assert (line["error_code"], line["error_type"], line["error_category"]) == (None, None, None)
    assert (line["status_code"], line["cache"], line["event"]) == (200, "miss", "image_request")


def test_a_request_that_never_began_has_every_field_too() -> None:
    fields = log_fields(OperationRecord(call=Call(request_id="r")))
    assert fields.keys() >= FIELDS
    assert fields["account"] is None


@pytest.mark.parametrize("leaf", leaves(), ids=lambda leaf: leaf.code)
def test_errors_are_warnings_below_500_and_errors_above(
    leaf: type[ImageError], caplog: pytest.LogCaptureFixture
) -> None:
    error = leaf(f"a message with {CANARY}", reason="PER_DAY")
    level, line = ended(caplog, record(error=error, status_code=error.status))
    assert level == (logging.ERROR if leaf.status >= 500 else logging.WARNING)
    assert (line["error_code"], line["error_type"], line["error_category"]) == (
        leaf.code,
        leaf.error_type,
        leaf.category,
    )
    assert line["error_reason"] == "PER_DAY"
    assert CANARY not in json.dumps(line)


@pytest.mark.parametrize(
    ("fields", "level"),
    [
        ({"failure_codes": ["IMG_NO_IMAGE"]}, logging.WARNING),
        ({"status_code": 499}, logging.WARNING),
        ({}, logging.INFO),
    ],
)
def test_other_levels(fields: dict[str, Any], level: int, caplog: pytest.LogCaptureFixture) -> None:
    assert ended(caplog, record(**fields))[0] == level


def test_nothing_is_written_where_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, LOGGER_NAME):
        RequestLog().begin(record()).end()
        RequestLog().begin(record(status_code=500)).end()
    assert [level for level, _ in lines(caplog)] == [logging.ERROR]


def test_a_logger_of_one_s_own() -> None:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    logger = logging.getLogger("tests.telemetry.own")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        RequestLog(logger).begin(record()).end()
    finally:
        logger.removeHandler(handler)
    assert json.loads(text.getvalue())["request_id"] == "req_1"


@pytest.mark.parametrize("error", [None, NoImageError("m"), RateLimitedError("m"), ValueError(CANARY)])
def test_no_text_of_the_client_s_reaches_the_log(error: Exception | None, caplog: pytest.LogCaptureFixture) -> None:
    request = ImageRequest(
        operation=Operation.GENERATION,
        variant=Variant(FAMILIES[0]),
        prompt=f"%s {{}} {CANARY}",
        effective_prompt=f"{CANARY} and more",
        safety=Safety(),
        style=CANARY,
        user=f"{CANARY}@example.org",
    )
    made = record()

    def work() -> None:
        with followed(begin(RequestLog(), made), made, clock=lambda: 0.0):
            made.describe_request(request, salt=None)
            if error is not None:
                raise error

    with caplog.at_level(logging.DEBUG, LOGGER_NAME):
        if error is None:
            work()
        else:
            with pytest.raises(type(error)):
                work()
    ((_, line),) = lines(caplog)
    assert CANARY not in caplog.text
    assert line["style"] == "custom"
    assert len(line["prompt_hash"]) == len(line["user_hash"]) == 16


def test_the_line_leads_to_the_trace(caplog: pytest.LogCaptureFixture) -> None:
    _, line = ended(caplog, record(trace_id="b" * 32, span_id="c" * 16))
    assert (line["trace_id"], line["span_id"]) == ("b" * 32, "c" * 16)


CONFIGURED = """
import logging, logging.config
{configuration}
from sfumato.telemetry.logs import RequestLog
from sfumato.telemetry.observer import Call, OperationRecord

RequestLog().begin(OperationRecord(call=Call(request_id="100%s {{}}"))).end()
"""
UVICORN = """
from uvicorn.config import LOGGING_CONFIG
logging.config.dictConfig({**LOGGING_CONFIG, "root": {"handlers": ["default"], "level": "INFO"}})
"""
PLAIN = 'logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")'
LITELLM = """
from litellm._logging import JsonFormatter
handler = logging.StreamHandler()
handler.setFormatter(JsonFormatter())
logging.basicConfig(level="INFO", handlers=[handler])
"""


@pytest.mark.parametrize(
    ("configuration", "level"),
    [(UVICORN, "INFO"), (PLAIN, "INFO"), (LITELLM, "INFO"), ("", None)],
    ids=["uvicorn", "plain", "LiteLLM", "none"],
)
def test_the_line_is_whole_however_a_host_configures_logging(configuration: str, level: str | None) -> None:
    if configuration is LITELLM and importlib.util.find_spec("litellm") is None:
        pytest.skip("LiteLLM is not installed")
    done = subprocess.run(
        [sys.executable, "-c", CONFIGURED.format(configuration=configuration)],
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    assert "Traceback" not in done.stderr
    if level is None:
        # Nobody configured logging, so nothing of level INFO is written: the library does not change that.
        assert done.stderr == ""
        return
    (line,) = [line for line in done.stderr.splitlines() if "image_request" in line]
    assert level in line
    message = json.loads(line)["message"] if line.startswith("{") else line[line.index("{") :]
    assert json.loads(message)["request_id"] == "100%s {}"
