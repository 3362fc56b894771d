"""Every name that traces and metrics bear: attributes with their meaning; instruments with unit, labels and buckets.

The GenAI conventions are OpenTelemetry's (github.com/open-telemetry/semantic-conventions-genai, status Development,
seen 2026-11-21). The released constants of `opentelemetry.semconv` are deprecated, so the names stand here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

SCOPE: Final = "sfumato"
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.37.0"

# The conventions' attributes.
OPERATION_NAME: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_CHOICE_COUNT: Final = "gen_ai.request.choice.count"
REQUEST_SEED: Final = "gen_ai.request.seed"
OUTPUT_TYPE: Final = "gen_ai.output.type"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
USAGE_TEXT_INPUT_TOKENS: Final = "gen_ai.usage.text.input_tokens"
USAGE_TEXT_OUTPUT_TOKENS: Final = "gen_ai.usage.text.output_tokens"
USAGE_IMAGE_INPUT_TOKENS: Final = "gen_ai.usage.image.input_tokens"
USAGE_IMAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.image.output_tokens"
USAGE_REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105  # a token of text, not of access
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"

# Ours.
REQUEST_ID: Final = "gemini_image.request_id"
OPERATION: Final = "gemini_image.operation"
OUTCOME: Final = "gemini_image.outcome"
VARIANT: Final = "gemini_image.variant"
TIER: Final = "gemini_image.tier"
ASPECT_RATIO: Final = "gemini_image.aspect_ratio"
QUALITY: Final = "gemini_image.quality"
STYLE: Final = "gemini_image.style"
SAFETY_LEVEL: Final = "gemini_image.safety_level"
TENANT: Final = "gemini_image.tenant"
ACCOUNT: Final = "gemini_image.account"
CACHE: Final = "gemini_image.cache"
IMAGES: Final = "gemini_image.images"
RETRIES: Final = "gemini_image.retries"
FAILURE_CODES: Final = "gemini_image.failure_codes"
COST_USD: Final = "gemini_image.cost_usd"
SAVINGS_USD: Final = "gemini_image.savings_usd"
STATUS_CODE: Final = "gemini_image.status_code"
SLOT: Final = "gemini_image.slot"
ATTEMPT: Final = "gemini_image.attempt"
RETRY_DELAY_SECONDS: Final = "gemini_image.retry.delay_seconds"
STEP_OUTCOME: Final = "gemini_image.step.outcome"
ERROR_KIND: Final = "gemini_image.error.kind"
ERROR_CATEGORY: Final = "gemini_image.error.category"
ERROR_REASON: Final = "gemini_image.error.reason"
ERROR_SCOPE: Final = "gemini_image.error.scope"
ACCOUNT_STATE: Final = "gemini_image.account.state"
CACHE_RESULT: Final = "gemini_image.cache.result"
CACHE_OPERATION: Final = "gemini_image.cache.operation"
CACHE_REASON: Final = "gemini_image.cache.reason"

ATTRIBUTES: Final[Mapping[str, str]] = MappingProxyType({
    OPERATION_NAME: "Always `generate_content`.",
    PROVIDER_NAME: "`gcp.gemini`, or `gcp.vertex_ai` where the last attempt went to Vertex AI.",
    REQUEST_MODEL: "The model id that Gemini knows; `other` for every name that is not served.",
    REQUEST_CHOICE_COUNT: "Pictures asked for, where it is not 1.",
    REQUEST_SEED: "The client's seed.",
    OUTPUT_TYPE: "Always `image`.",
    RESPONSE_ID: "Gemini's id of an answer.",
    RESPONSE_MODEL: "The model id that was asked.",
    RESPONSE_FINISH_REASONS: "Gemini's words, one per answer.",
    USAGE_INPUT_TOKENS: "Tokens of the request, added over its pictures.",
    USAGE_OUTPUT_TOKENS: "Tokens of the answers, thinking included.",
    USAGE_TEXT_INPUT_TOKENS: "Input tokens that are text.",
    USAGE_TEXT_OUTPUT_TOKENS: "Output tokens that are text, thinking and what Gemini does not label.",
    USAGE_IMAGE_INPUT_TOKENS: "Input tokens that are pictures.",
    USAGE_IMAGE_OUTPUT_TOKENS: "Output tokens that are pictures.",
    USAGE_REASONING_TOKENS: "Output tokens of thinking.",
    TOKEN_TYPE: "`input` or `output`.",
    ERROR_TYPE: "The `IMG_` code; `499` for a request that was cancelled.",
    SERVER_ADDRESS: "Host of the Gemini API.",
    SERVER_PORT: "Its port.",
    REQUEST_ID: "As in the answer's `x-request-id`.",
    OPERATION: "`generation` (not told on spans) or `edit`.",
    OUTCOME: "`ok` (not told on spans), `partial`, `error`; `abandoned` where the client went away.",
    VARIANT: "The variant that was served, where its name fixes more than the model.",
    TIER: "`512`, `1K`, `2K`, `4K`; `none` where the model has no tiers.",
    ASPECT_RATIO: "As asked of Gemini; `auto` where it was left to Gemini.",
    QUALITY: "The client's word.",
    STYLE: "`vivid`, `natural`, or `custom` for a client's own text.",
    SAFETY_LEVEL: "The effective level, the weakest where categories differ.",
    TENANT: "Hash of the tenant; `none` without one; as a label `other` past the first 20 tenants of a process.",
    ACCOUNT: "The account's label.",
    CACHE: "`hit`, `miss`, `partial`, `bypass`, `off`; `none` on errors.",
    IMAGES: "Pictures that came, where not all did.",
    RETRIES: "Attempts beyond the first of each picture, where there were any.",
    FAILURE_CODES: "`IMG_` codes of pictures that did not come beside those that did, each once.",
    COST_USD: "What the request cost, where it cost something.",
    SAVINGS_USD: "What its hits would have cost, where it had any.",
    STATUS_CODE: "HTTP status of the answer, where not all is well.",
    SLOT: "Which of the n pictures, where it is not the first, 0.",
    ATTEMPT: "Number of the attempt, from 1.",
    RETRY_DELAY_SECONDS: "The wait before the next attempt.",
    STEP_OUTCOME: "`hit`, `miss`, `stored`, `kept_out`, `ok`, `abandoned`; a failed attempt's `IMG_` code.",
    ERROR_KIND: "`client`, `quota`, `server` or `network`; of attempts also `none` and `abandoned`.",
    ERROR_CATEGORY: "`USER_ERROR`, `API_ERROR`, `NETWORK_ERROR` or `SYSTEM_ERROR`.",
    ERROR_REASON: "Gemini's or Google's word, such as `SAFETY`.",
    ERROR_SCOPE: "`request`; `picture` for one of the n that did not come beside those that did.",
    ACCOUNT_STATE: "`ready`, `cooling` or `parked`.",
    CACHE_RESULT: "`hit` or `miss`.",
    CACHE_OPERATION: "`lookup`, `store`, `invalidate`, `clear`, `list`, `stats` or `close`.",
    CACHE_REASON: "`damaged`, `clock`, an errno's name or an exception's class.",
})  # fmt: skip

GENERATE_CONTENT: Final = "generate_content"
GEMINI: Final = "gcp.gemini"
VERTEX: Final = "gcp.vertex_ai"
IMAGE: Final = "image"
OTHER: Final = "other"
NONE: Final = "none"
AUTO: Final = "auto"
ABANDONED_OUTCOME: Final = "abandoned"

# Spans and their events. The operation's span is `generate_content {model}`.
CACHE_LOOKUP_SPAN: Final = "gemini_image.cache.lookup"
ATTEMPT_SPAN: Final = "gemini_image.attempt"
CACHE_STORE_SPAN: Final = "gemini_image.cache.store"
RETRY_EVENT: Final = "gemini_image.retry"

Kind = Literal["histogram", "observable_counter", "observable_up_down_counter", "observable_gauge"]


@dataclass(frozen=True, slots=True)
class Instrument:
    """One instrument.

    Attributes:
        labels: Every attribute that its points may have.
        buckets: Upper bounds of a histogram.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def prometheus(self) -> str:
        """Return the name that OpenTelemetry's Prometheus exporter for Python gives it."""
        suffix = _PROMETHEUS_UNITS.get(self.unit, "")
        total = "_total" if self.kind == "observable_counter" else ""
        return f"{self.name.replace('.', '_')}{suffix}{total}"


_PROMETHEUS_UNITS = {"s": "_seconds", "ms": "_milliseconds", "By": "_bytes", "USD": "_USD"}
# The conventions' advice ends at 81.92 s; a 4K picture can take longer, and the deadline is 300 s by default.
_SECONDS = tuple(round(0.01 * 2**power, 2) for power in range(16))
_TOKENS = tuple(float(4**power) for power in range(14))
_LOOKUP_MILLISECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0)

DURATION: Final = Instrument(
    "gen_ai.client.operation.duration",
    "histogram",
    "s",
    "Duration of image requests, from the parsed request to the pictures or the error.",
    (OPERATION_NAME, PROVIDER_NAME, REQUEST_MODEL, CACHE, ERROR_TYPE),
    _SECONDS,
)
TOKEN_USAGE: Final = Instrument(
    "gen_ai.client.token.usage",
    "histogram",
    "{token}",
    "Tokens of image requests that were paid for.",
    (OPERATION_NAME, PROVIDER_NAME, REQUEST_MODEL, TOKEN_TYPE),
    _TOKENS,
)
REQUESTS: Final = Instrument(
    "gemini_image.requests",
    "observable_counter",
    "{request}",
    "Image requests that ended.",
    (REQUEST_MODEL, OPERATION, OUTCOME),
)
ACTIVE: Final = Instrument(
    "gemini_image.requests.active",
    "observable_up_down_counter",
    "{request}",
    "Image requests that are running.",
    (OPERATION,),
)
ERRORS: Final = Instrument(
    "gemini_image.errors",
    "observable_counter",
    "{error}",
    "Errors by code: one per failed request, and one per picture that did not come beside others.",
    (ERROR_TYPE, ERROR_KIND, ERROR_CATEGORY, ERROR_SCOPE),
)
RETRY_COUNT: Final = Instrument(
    "gemini_image.retries",
    "observable_counter",
    "{retry}",
    "Attempts upstream that failed and were followed by another, by the error they failed with.",
    (ERROR_TYPE,),
)
IMAGE_COUNT: Final = Instrument(
    "gemini_image.images",
    "observable_counter",
    "{image}",
    "Pictures that were answered, from Gemini and from the cache.",
    (REQUEST_MODEL, TIER, ASPECT_RATIO),
)
COST: Final = Instrument(
    "gemini_image.cost",
    "observable_counter",
    "USD",
    "What was paid, in US dollars, pictures that nobody waited for included.",
    (ACCOUNT, TIER, TENANT),
)
ACCOUNTS: Final = Instrument(
    "gemini_image.accounts",
    "observable_gauge",
    "{account}",
    "Accounts by state; an account that cools for one model counts as cooling.",
    (ACCOUNT_STATE,),
)
ACCOUNT_REQUESTS: Final = Instrument(
    "gemini_image.account.requests",
    "observable_counter",
    "{request}",
    "Attempts upstream by account and by the kind of error they ended with, `none` for none.",
    (ACCOUNT, ERROR_KIND),
)
CACHE_LOOKUPS: Final = Instrument(
    "gemini_image.cache.lookups", "observable_counter", "{lookup}", "Lookups of pictures in the cache.", (CACHE_RESULT,)
)
CACHE_HIT_RATE: Final = Instrument(
    "gemini_image.cache.hit_rate",
    "observable_gauge",
    "1",
    "Share of this process's lookups that hit since it began, 0 to 1.",
)
CACHE_SIZE: Final = Instrument(
    "gemini_image.cache.size", "observable_gauge", "By", "Bytes that the cache holds, for all processes that share it."
)
CACHE_CAPACITY: Final = Instrument(
    "gemini_image.cache.capacity",
    "observable_gauge",
    "1",
    "Used share of the cache's byte budget, 0 to 1; absent where the store has no budget of its own.",
)
CACHE_EVICTIONS: Final = Instrument(
    "gemini_image.cache.evictions", "observable_counter", "{entry}", "Pictures pushed out for room by this process."
)
CACHE_LOOKUP_DURATION: Final = Instrument(
    "gemini_image.cache.lookup.duration",
    "histogram",
    "ms",
    "Duration of lookups in the cache.",
    (CACHE_RESULT,),
    _LOOKUP_MILLISECONDS,
)
CACHE_SAVINGS: Final = Instrument(
    "gemini_image.cache.savings",
    "observable_counter",
    "USD",
    "What hits would have cost, in US dollars.",
    (REQUEST_MODEL,),
)
CACHE_FAULTS: Final = Instrument(
    "gemini_image.cache.faults",
    "observable_counter",
    "{fault}",
    "Faults of the cache; no request fails for them.",
    (CACHE_OPERATION, CACHE_REASON),
)

INSTRUMENTS: Final = (
    DURATION,
    TOKEN_USAGE,
    REQUESTS,
    ACTIVE,
    ERRORS,
    RETRY_COUNT,
    IMAGE_COUNT,
    COST,
    ACCOUNTS,
    ACCOUNT_REQUESTS,
    CACHE_LOOKUPS,
    CACHE_HIT_RATE,
    CACHE_SIZE,
    CACHE_CAPACITY,
    CACHE_EVICTIONS,
    CACHE_LOOKUP_DURATION,
    CACHE_SAVINGS,
    CACHE_FAULTS,
)
