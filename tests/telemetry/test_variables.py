from __future__ import annotations

import logging

import pytest

from sfumato.telemetry.variables import blamed, warn_once


def test_what_an_error_names_is_to_blame_and_its_text_is_kept_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_ONE", "canary")
    monkeypatch.setenv("OTEL_OTHER", "canary")
    error = ValueError("OTEL_ONE must be a number, as OTEL_UNSET and OTEL_ONE, but is canary")
    assert blamed(error, "OTEL_OTHER") == "ValueError; look at OTEL_ONE"


def test_else_the_suspects_that_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_ONE", "")
    monkeypatch.delenv("OTEL_OTHER", raising=False)
    assert blamed(StopIteration(), "OTEL_OTHER", "OTEL_ONE") == "StopIteration; look at OTEL_ONE"
    assert blamed(StopIteration(), "OTEL_OTHER") == "StopIteration"


def test_a_warning_comes_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            warn_once("Only once, 100 %.")
    assert caplog.messages == ["Only once, 100 %."]
