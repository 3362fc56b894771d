from __future__ import annotations

from typing import Any

from sfumato.litellm.answers import mark_cache_hit


class Log:
    """LiteLLM's logging object, as far as a hit concerns it."""

    def __init__(self) -> None:
        self.model_call_details: dict[str, Any] = {}
        self.seen: list[tuple[Any, ...]] = []

    def success_handler(
        self, result: Any = None, start_time: Any = None, end_time: Any = None, cache_hit: Any = None, **kwargs: Any
    ) -> None:
        self.seen.append((result, start_time, end_time, cache_hit, kwargs))

    async_success_handler = success_handler


def test_both_handlers_are_told_of_a_hit_however_they_are_called() -> None:
    log = Log()

    mark_cache_hit(log)
    log.success_handler("r", 1, 2, None)
    log.async_success_handler(result="r", start_time=1, end_time=2, cache_hit=False, more=3)

    assert log.model_call_details == {"cache_hit": True}
    assert log.seen == [("r", 1, 2, True, {}), ("r", 1, 2, True, {"more": 3})]


def test_a_changed_litellm_costs_the_mark_only() -> None:
    mark_cache_hit(object())
