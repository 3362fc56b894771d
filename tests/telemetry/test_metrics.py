from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader

from sfumato.errors import ImageError, ModelNotFoundError, NoImageError, RateLimitedError, leaves
from sfumato.images.models import FAMILIES
from sfumato.images.request import Usage
from sfumato.images.variants import list_variants
from sfumato.telemetry import names
from sfumato.telemetry.metrics import Backlog, Metrics
from sfumato.telemetry.observer import Call, Charge, OperationRecord, Step, note_refusal, private_hash
from sfumato.telemetry.otel import MAX_TENANTS, OtelObserver
from tests.telemetry.conftest import Telemetry

MODEL = "gemini-3-pro-image"


def record(**fields: Any) -> OperationRecord:
    return OperationRecord(**{"call": Call(request_id="r"), "model": MODEL, "family": MODEL, **fields})


def durations(reader: InMemoryMetricReader, name: str = names.DURATION.name) -> list[HistogramDataPoint]:
    """Return the points of a histogram, the requests' durations by default, with their exemplars."""
    data = reader.get_metrics_data()
    assert data
    return [
        point
        for scope in data.resource_metrics[0].scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
        if isinstance(point, HistogramDataPoint)
    ]


def test_a_generation_is_counted(telemetry: Telemetry) -> None:
    made = record(
        resolution="4K",
        aspect_ratio="16:9",
        images=2,
        cache="miss",
        tenant="web",
        duration_seconds=12.5,
        fresh_usage=Usage(input_tokens=28, output_tokens=2900, total_tokens=2928),
        charges=[Charge("main", 0.25), Charge("spare", 0.5)],
    )
    telemetry.observer.begin(made).end()

    common = {
        names.OPERATION_NAME: "generate_content",
        names.PROVIDER_NAME: "gcp.gemini",
        names.REQUEST_MODEL: MODEL,
    }
    points = telemetry.points()
    assert points["gen_ai.client.operation.duration"] == [({**common, names.CACHE: "miss"}, (1, 12.5))]
    assert points["gen_ai.client.token.usage"] == [
        ({**common, names.TOKEN_TYPE: "input"}, (1, 28)),
        ({**common, names.TOKEN_TYPE: "output"}, (1, 2900)),
    ]
    assert points["gemini_image.requests"] == [
        ({names.REQUEST_MODEL: MODEL, names.OPERATION: "generation", names.OUTCOME: "ok"}, 1)
    ]
    assert points["gemini_image.images"] == [
        ({names.REQUEST_MODEL: MODEL, names.TIER: "4K", names.ASPECT_RATIO: "16:9"}, 2)
    ]
    tenant = private_hash("web", salt="salt")
    assert points["gemini_image.cost"] == [
        ({names.ACCOUNT: "main", names.TIER: "4K", names.TENANT: tenant}, 0.25),
        ({names.ACCOUNT: "spare", names.TIER: "4K", names.TENANT: tenant}, 0.5),
    ]
    assert points["gemini_image.requests.active"] == [({names.OPERATION: "generation"}, 0)]
    assert "gemini_image.errors" not in points
    assert "gemini_image.cache.savings" not in points


def test_a_running_request_is_active(telemetry: Telemetry) -> None:
    first = telemetry.observer.begin(record())
    telemetry.observer.begin(record())
    first.end()
    assert telemetry.point("gemini_image.requests.active")[1] == 1


def test_a_request_that_turns_out_an_edit_leaves_no_request_active(telemetry: Telemetry) -> None:
    made = record()
    operation = telemetry.observer.begin(made)
    made.operation = "edit"
    operation.end()
    assert telemetry.points()["gemini_image.requests.active"] == [({names.OPERATION: "generation"}, 0)]


def test_a_hit_costs_nothing_and_saves(telemetry: Telemetry) -> None:
    made = record(images=1, cache="hit", savings_usd=0.134, usage=Usage(output_tokens=1120, total_tokens=1134))
    telemetry.observer.begin(made).end()
    points = telemetry.points()
    assert points["gemini_image.cache.savings"] == [({names.REQUEST_MODEL: MODEL}, 0.134)]
    assert "gemini_image.cost" not in points
    assert "gen_ai.client.token.usage" not in points


@pytest.mark.parametrize("leaf", leaves(), ids=lambda leaf: leaf.code)
def test_an_error_is_counted_by_its_code(telemetry: Telemetry, leaf: type[ImageError]) -> None:
    error = leaf("m")
    telemetry.observer.begin(record(error=error, status_code=error.status)).end()
    points = telemetry.points()
    assert points["gemini_image.errors"] == [
        (
            {
                names.ERROR_TYPE: leaf.code,
                names.ERROR_KIND: leaf.error_type,
                names.ERROR_CATEGORY: leaf.category,
                names.ERROR_SCOPE: "request",
            },
            1,
        )
    ]
    assert points["gemini_image.requests"][0][0][names.OUTCOME] == "error"
    assert points["gen_ai.client.operation.duration"][0][0][names.ERROR_TYPE] == leaf.code


def test_pictures_that_did_not_come_are_counted_beside_those_that_did(telemetry: Telemetry) -> None:
    telemetry.observer.begin(record(images=1, failure_codes=["IMG_NO_IMAGE", "IMG_NO_IMAGE"])).end()
    labels, count = telemetry.point("gemini_image.errors")
    assert (labels[names.ERROR_TYPE], labels[names.ERROR_SCOPE], count) == ("IMG_NO_IMAGE", "picture", 2)
    assert telemetry.point("gemini_image.requests")[0][names.OUTCOME] == "partial"


def test_a_client_that_left_is_an_outcome_and_no_error(telemetry: Telemetry) -> None:
    telemetry.observer.begin(record(abandoned=True, status_code=499)).end()
    points = telemetry.points()
    assert points["gemini_image.requests"][0][0][names.OUTCOME] == "abandoned"
    assert "gemini_image.errors" not in points
    assert points["gen_ai.client.operation.duration"][0][0][names.ERROR_TYPE] == "499"


def test_retries_are_counted_by_what_failed(telemetry: Telemetry) -> None:
    operation = telemetry.observer.begin(record())
    operation.retry(NoImageError("m"), attempt=1, delay_seconds=1)
    assert telemetry.points()["gemini_image.retries"] == [({names.ERROR_TYPE: "IMG_NO_IMAGE"}, 1)]


@pytest.mark.parametrize(
    ("outcome", "error", "kind"),
    [("ok", None, "none"), (None, None, "abandoned"), ("IMG_RATE_LIMITED", RateLimitedError("m"), "quota")],
)
def test_attempts_are_counted_by_account(
    telemetry: Telemetry, outcome: str | None, error: ImageError | None, kind: str
) -> None:
    step = Step(name="attempt", account="main", outcome=outcome, error=error)
    with telemetry.observer.begin(record()).step(step):
        pass
    assert telemetry.points()["gemini_image.account.requests"] == [({names.ACCOUNT: "main", names.ERROR_KIND: kind}, 1)]


@pytest.mark.parametrize("outcome", ["hit", "miss"])
def test_lookups_take_milliseconds(telemetry: Telemetry, outcome: str) -> None:
    step = Step(name="cache.lookup")
    with telemetry.observer.begin(record()).step(step):
        telemetry.clock.now += 0.003
        step.outcome = outcome
    (labels, (count, total)) = telemetry.point("gemini_image.cache.lookup.duration")
    assert (labels, count, total) == ({names.CACHE_RESULT: outcome}, 1, pytest.approx(3.0))


def test_hits_are_measured_when_somebody_looks_or_a_hundred_wait() -> None:
    recorded: list[tuple[str, float, Mapping[str, str]]] = []
    backlog = Backlog(lambda *measured: recorded.append(measured))
    for number in range(99):
        backlog.add("lookup", number, {})
    assert recorded == []
    backlog.add("duration", 99, {"a": "b"})
    assert [value for _, value, _ in recorded] == list(range(100))
    backlog.add("lookup", 100, {})
    assert list(backlog.observe(CallbackOptions())) == []
    assert recorded[-2:] == [("duration", 99, {"a": "b"}), ("lookup", 100, {})]


def test_whoever_looks_second_misses_no_hit() -> None:
    readers = InMemoryMetricReader(), InMemoryMetricReader()
    metrics = Metrics(*(MeterProvider([reader], shutdown_on_exit=False) for reader in readers))
    for looks in range(3):
        hit = record(cache="hit", images=1, duration_seconds=0.5)
        metrics.end(hit, operation="generation", provider=names.GEMINI, context=Context())
        assert [(point.count, point.sum) for point in durations(readers[0])] == [(looks + 1, 0.5 * (looks + 1))]
    assert [(point.count, point.sum) for point in durations(readers[1])] == [(3, 1.5)]


def test_only_what_takes_its_time_leads_to_a_trace(telemetry: Telemetry) -> None:
    """A hit is measured when somebody looks: the trace that is current then is another's."""
    tracer = telemetry.tracer_provider.get_tracer("of.somebody.else")
    for cache in ("hit", "miss"):
        telemetry.observer.begin(record(cache=cache)).end()
    with tracer.start_as_current_span("looks"):
        points = durations(telemetry.reader)
    traces = {span.context.trace_id for span in telemetry.exporter.get_finished_spans()[:2] if span.context}
    exemplars = {
        (point.attributes or {})[names.CACHE]: {exemplar.trace_id for exemplar in point.exemplars} for point in points
    }
    assert exemplars["hit"] == set()
    assert len(exemplars["miss"] & traces) == 1


def test_a_hit_that_nobody_waited_for_is_told_apart(telemetry: Telemetry) -> None:
    telemetry.observer.begin(record(cache="hit", abandoned=True, status_code=499)).end()
    assert telemetry.point("gen_ai.client.operation.duration")[0][names.ERROR_TYPE] == "499"


def test_a_lookup_that_was_cancelled_is_no_lookup(telemetry: Telemetry) -> None:
    with telemetry.observer.begin(record()).step(Step(name="cache.lookup")):
        pass
    assert "gemini_image.cache.lookup.duration" not in telemetry.points()


@pytest.mark.parametrize(
    ("model", "label"),
    [
        ("gemini-3-pro-image-4k-16x9", "gemini-3-pro-image"),
        ("gemini-3.1-flash-lite-image", "gemini-3.1-flash-lite-image"),
        ("gemini-3-pro-imageX", "other"),
        ("dall-e-3", "other"),
        (None, "other"),
    ],
)
def test_models_that_are_not_served_are_others(telemetry: Telemetry, model: str | None, label: str) -> None:
    made = OperationRecord(call=Call(request_id="r"), model=model)
    note_refusal(telemetry.observer, made, ModelNotFoundError("m"))
    assert telemetry.point("gemini_image.requests")[0][names.REQUEST_MODEL] == label


def test_only_the_first_tenants_have_series_of_their_own(telemetry: Telemetry) -> None:
    for number in range(MAX_TENANTS + 5):
        telemetry.observer.begin(record(tenant=f"tenant-{number}", charges=[Charge("main", 1.0)])).end()
    telemetry.observer.begin(record(charges=[Charge("main", 1.0)])).end()
    paid = {labels[names.TENANT]: value for labels, value in telemetry.points()["gemini_image.cost"]}
    assert len(paid) == MAX_TENANTS + 2
    assert (paid["other"], paid["none"], paid[private_hash("tenant-0", salt="salt")]) == (5, 1, 1)


def test_every_point_has_a_known_name_and_known_labels(telemetry: Telemetry) -> None:
    _run_at_random(telemetry, 300, random.Random(1))
    known = {instrument.name: set(instrument.labels) for instrument in names.INSTRUMENTS}
    points = telemetry.points()
    for name, found in points.items():
        for labels, _ in found:
            assert set(labels) <= known[name]
    assert all(label in names.ATTRIBUTES for labels in known.values() for label in labels)


def test_every_instrument_says_what_it_is_in_what_unit(telemetry: Telemetry) -> None:
    _run_at_random(telemetry, 50, random.Random(2))
    data = telemetry.reader.get_metrics_data()
    assert data
    told = {
        metric.name: (metric.unit, metric.description)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    expected = {instrument.name: (instrument.unit, instrument.description) for instrument in names.INSTRUMENTS}
    assert told.items() <= expected.items()
    assert len(expected) == len(names.INSTRUMENTS) == 18


def test_histograms_have_our_buckets(telemetry: Telemetry) -> None:
    telemetry.observer.begin(record(images=1, fresh_usage=Usage(total_tokens=1))).end()
    bounds = _bounds(telemetry.reader)
    assert bounds["gen_ai.client.operation.duration"] == names.DURATION.buckets
    assert bounds["gen_ai.client.token.usage"] == names.TOKEN_USAGE.buckets
    # The advice of the conventions, and what lies beyond for pictures.
    assert names.DURATION.buckets[:14] == tuple(round(0.01 * 2**power, 2) for power in range(14))
    assert names.DURATION.buckets[-1] == 327.68


def test_ten_thousand_requests_make_few_series(telemetry: Telemetry) -> None:
    _run_at_random(telemetry, 10_000, random.Random(3))
    series = sum(len(found) for found in telemetry.points().values())
    assert series < 500


def _run_at_random(telemetry: Telemetry, requests: int, dice: random.Random) -> None:
    """Follow requests with whatever a client can choose, and whatever can happen to them."""
    variants = [variant for family in FAMILIES for variant in list_variants(family)]
    for number in range(requests):
        variant = dice.choice(variants)
        known = dice.random() < 0.7
        made = OperationRecord(
            call=Call(request_id=f"req_{number}", door=dice.choice(["asgi", "litellm"])),
            operation=dice.choice(["generation", "edit"]),
            model=variant.name if known else f"gpt-image-{dice.random()}",
            family=variant.family.name if known else None,
            tenant=f"tenant-{dice.randrange(5000)}",
            user_hash=private_hash(f"user-{number}", salt=None),
            prompt_hash=private_hash(f"prompt-{number}", salt=None),
            resolution=(variant.tier or variant.family.default_tier) if known else None,
            aspect_ratio=variant.aspect_ratio if known else None,
            duration_seconds=dice.expovariate(0.1),
        )
        if not known:
            note_refusal(telemetry.observer, made, ModelNotFoundError("m"))
            continue
        operation = telemetry.observer.begin(made)
        account = dice.choice(["main", "spare"])
        lookup = Step(name="cache.lookup")
        with operation.step(lookup):
            lookup.outcome = dice.choice(["hit", "miss"])
        if lookup.outcome == "miss":
            attempt = Step(name="attempt", account=account, attempt=1, outcome="ok")
            with operation.step(attempt):
                pass
            if dice.random() < 0.1:
                made.error = dice.choice(leaves())("m")
                made.status_code = made.error.status
                operation.retry(made.error, attempt=1, delay_seconds=1.0)
        if made.error is None:
            made.images, made.cache = 1, lookup.outcome
            made.fresh_usage = Usage(input_tokens=1, output_tokens=1, total_tokens=2)
            made.savings_usd = 0.1 if made.cache == "hit" else 0.0
            if made.cache == "miss":
                made.charges.append(Charge(account, 0.1))
        operation.end()


def _bounds(reader: InMemoryMetricReader) -> dict[str, tuple[float, ...]]:
    data = reader.get_metrics_data()
    assert data
    return {
        metric.name: tuple(point.explicit_bounds)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
        if hasattr(point, "explicit_bounds")
    }


def test_observers_of_one_provider_are_counted_together() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    observers = [OtelObserver(meter_provider=provider) for _ in range(2)]
    for observer in observers:
        operation = observer.begin(OperationRecord(call=Call(request_id="r")))
        step = Step(name="cache.lookup")
        with operation.step(step):
            step.outcome = "hit"
        operation.end()
    assert sum(point.count for point in durations(reader, names.CACHE_LOOKUP_DURATION.name)) == 2
    provider.shutdown()
