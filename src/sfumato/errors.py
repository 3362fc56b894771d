"""The error tree. One class per ``IMG_`` code, each carrying its whole row of the error table.

::

    ImageError
    ├── UserError                       the request is at fault; the same request fails again
    │   ├── MissingPromptError          IMG_MISSING_PROMPT       400
    │   ├── InvalidParameterError       IMG_INVALID_PARAMETER    400
    │   ├── InvalidImageError           IMG_INVALID_IMAGE        400
    │   ├── PayloadTooLargeError        IMG_PAYLOAD_TOO_LARGE    413
    │   ├── ModelNotFoundError          IMG_MODEL_NOT_FOUND      404
    │   └── UnauthorizedError           IMG_UNAUTHORIZED         401
    ├── UpstreamApiError                Google answered, and the answer is no
    │   ├── SafetyBlockedError          IMG_SAFETY_BLOCKED       400
    │   ├── RateLimitedError            IMG_RATE_LIMITED         429
    │   ├── QuotaExhaustedError         IMG_QUOTA_EXHAUSTED      429
    │   ├── NoImageError                IMG_NO_IMAGE             502
    │   ├── UpstreamFailureError        IMG_UPSTREAM_ERROR       502
    │   └── ServiceUnavailableError     IMG_SERVICE_UNAVAILABLE  503
    ├── NetworkFaultError               no usable answer came back
    │   ├── NetworkError                IMG_NETWORK_ERROR        502
    │   └── DeadlineError               IMG_TIMEOUT              504
    └── SystemFaultError                this installation is at fault
        ├── UpstreamAuthError           IMG_UPSTREAM_AUTH        500
        ├── OverloadedError             IMG_OVERLOADED           503
        ├── ConfigurationError          IMG_CONFIGURATION        500
        └── InternalError               IMG_INTERNAL             500

An error knows the status it is answered with; only edges render it. Messages are written for the
client: they say what to do next and never hold a key, a path, a prompt or upstream ``details``.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

ErrorType = Literal["client", "quota", "server", "network"]
Category = Literal["USER_ERROR", "API_ERROR", "NETWORK_ERROR", "SYSTEM_ERROR"]


class ImageError(Exception):
    """Base of every error that sfumato answers with.

    Args:
        message: What happened and what to do next, fit for a client.
        param: The request parameter at fault, in the client's spelling.
        reason: A machine-readable cause (a Gemini ``finishReason``, ``blockReason`` or quota class).
        retry_after: Seconds until a repetition can help, None when unknown (some rows have a default).
        retryable: Overrides the row's default.
        openai_code: Overrides the row's OpenAI ``code`` where the row names more than one.
        ratings: Safety ratings as Gemini gave them, for refusals.

    Attributes:
        attempts: How many upstream attempts this error ends, set by the engine.
        short_of_time: A request with more time would have gone on trying, set by the engine.
        upstream_delay: The *retry_after* that was given, None where the row's default stands in.
    """

    code: ClassVar[str]
    status: ClassVar[int]
    error_type: ClassVar[ErrorType]
    category: ClassVar[Category]
    openai_type: ClassVar[str]
    default_openai_code: ClassVar[str]
    default_retryable: ClassVar[bool] = False
    default_retry_after: ClassVar[float | None] = None
    resolution: ClassVar[str]

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        reason: str | None = None,
        retry_after: float | None = None,
        retryable: bool | None = None,
        openai_code: str | None = None,
        ratings: tuple[dict[str, Any], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.reason = reason
        self.retry_after = self.default_retry_after if retry_after is None else retry_after
        self.upstream_delay = retry_after
        self.retryable = self.default_retryable if retryable is None else retryable
        self.openai_code = openai_code or self.default_openai_code
        self.ratings = ratings
        self.attempts = 1
        self.short_of_time = False

    @property
    def worth_repeating(self) -> bool:
        """Tell whether the caller's own retry can help: the fault passes, and was not already retried here.

        A rate limit was only ever met on another account, never waited for, so waiting for it is worth it.
        """
        return self.retryable and (self.attempts == 1 or self.error_type == "quota")

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle by args alone, which would lose every keyword (LiteLLM's workers pickle).
        return (type(self), (self.message,), self.__dict__.copy())


class UserError(ImageError):
    """The request itself is at fault: repeating it unchanged cannot help."""

    status = 400
    error_type = "client"
    category = "USER_ERROR"
    openai_type = "invalid_request_error"


class MissingPromptError(UserError):
    """The prompt is absent or blank."""

    code = "IMG_MISSING_PROMPT"
    default_openai_code = "missing_required_parameter"
    resolution = "Send a non-blank 'prompt' of at most 32,000 characters."


class InvalidParameterError(UserError):
    """A parameter has a value that cannot be served, or is not known."""

    code = "IMG_INVALID_PARAMETER"
    default_openai_code = "invalid_value"
    resolution = "Correct the parameter named in 'param'."


class InvalidImageError(UserError):
    """An input image or mask cannot be read, or is of a kind that cannot be sent."""

    code = "IMG_INVALID_IMAGE"
    default_openai_code = "invalid_image"
    resolution = "Send PNG, JPEG, WebP, HEIC or HEIF bytes; a mask is a PNG with alpha of the first image's size."


class PayloadTooLargeError(UserError):
    """The request, or what would be sent upstream, is over a byte limit."""

    code = "IMG_PAYLOAD_TOO_LARGE"
    status = 413
    default_openai_code = "payload_too_large"
    resolution = "Send fewer or smaller images."


class ModelNotFoundError(UserError):
    """The model is of a family served here, but the variant does not exist."""

    code = "IMG_MODEL_NOT_FOUND"
    status = 404
    default_openai_code = "model_not_found"
    resolution = "Use one of the variants listed by GET /v1/models."


class UnauthorizedError(UserError):
    """The caller did not present a client key that is known here."""

    code = "IMG_UNAUTHORIZED"
    status = 401
    default_openai_code = "invalid_api_key"
    resolution = "Send a valid key as 'Authorization: Bearer', 'x-api-key' or 'x-goog-api-key'."


class UpstreamApiError(ImageError):
    """Gemini answered, and the answer holds no picture."""

    error_type: ClassVar[ErrorType] = "server"
    category = "API_ERROR"
    openai_type = "server_error"


class SafetyBlockedError(UpstreamApiError):
    """Gemini refused the prompt or withheld the picture."""

    code = "IMG_SAFETY_BLOCKED"
    status = 400
    error_type = "client"
    openai_type = "image_generation_user_error"
    default_openai_code = "moderation_blocked"
    resolution = "Rephrase the prompt or change the input images; repeating the same request is refused again."


class RateLimitedError(UpstreamApiError):
    """A per-minute or shared-capacity limit was met on every usable account."""

    code = "IMG_RATE_LIMITED"
    status = 429
    error_type = "quota"
    openai_type = "rate_limit_error"
    default_openai_code = "rate_limit_exceeded"
    default_retryable = True
    default_retry_after = 10.0
    resolution = "Wait for 'Retry-After' seconds, then send the request again."


class QuotaExhaustedError(UpstreamApiError):
    """A daily quota or the billing of every usable account is used up."""

    code = "IMG_QUOTA_EXHAUSTED"
    status = 429
    error_type = "quota"
    openai_type = "insufficient_quota"
    default_openai_code = "insufficient_quota"
    resolution = "Wait for the quota's reset, raise it in Google's console, or add an account."


class NoImageError(UpstreamApiError):
    """Gemini answered 200 without a picture and without refusing."""

    code = "IMG_NO_IMAGE"
    status = 502
    default_openai_code = "no_image"
    default_retryable = True
    resolution = "Ask for a picture more explicitly, or send the request again."


class UpstreamFailureError(UpstreamApiError):
    """Gemini answered with an error of its own or with something unreadable."""

    code = "IMG_UPSTREAM_ERROR"
    status = 502
    default_openai_code = "upstream_error"
    default_retryable = True
    resolution = "Send the request again later; report the request id if it persists."


class ServiceUnavailableError(UpstreamApiError):
    """Gemini is overloaded or down."""

    code = "IMG_SERVICE_UNAVAILABLE"
    status = 503
    default_openai_code = "service_unavailable"
    default_retryable = True
    default_retry_after = 5.0
    resolution = "Wait for 'Retry-After' seconds, then send the request again."


class NetworkFaultError(ImageError):
    """No usable answer came back from upstream."""

    error_type = "network"
    category = "NETWORK_ERROR"
    openai_type = "server_error"
    default_retryable = True


class NetworkError(NetworkFaultError):
    """The connection to upstream failed or broke."""

    code = "IMG_NETWORK_ERROR"
    status = 502
    default_openai_code = "network_error"
    resolution = "Send the request again; if it persists, the operator should check the route to the API base."


class DeadlineError(NetworkFaultError):
    """The deadline passed before the picture was complete."""

    code = "IMG_TIMEOUT"
    status = 504
    default_openai_code = "timeout"
    resolution = "Send the request again, ask for a smaller tier, or raise the timeout."


class SystemFaultError(ImageError):
    """This installation is at fault; the client can only wait or tell the operator."""

    status = 500
    error_type = "server"
    category = "SYSTEM_ERROR"
    openai_type = "server_error"


class UpstreamAuthError(SystemFaultError):
    """Google refused this installation's own key; the client's key was fine."""

    code = "IMG_UPSTREAM_AUTH"
    default_openai_code = "upstream_auth"
    resolution = "The operator must check the Gemini API key and its permissions."


class OverloadedError(SystemFaultError):
    """The queue here is full."""

    code = "IMG_OVERLOADED"
    status = 503
    default_openai_code = "overloaded"
    default_retryable = True
    default_retry_after = 2.0
    resolution = "Wait for 'Retry-After' seconds, then send the request again."


class ConfigurationError(SystemFaultError):
    """The installation is configured in a way that cannot work."""

    code = "IMG_CONFIGURATION"
    default_openai_code = "configuration"
    resolution = "The operator must correct the configuration; `sfumato check` tells what is wrong."


class InternalError(SystemFaultError):
    """Something failed here that should not; the log has the traceback, the client never."""

    code = "IMG_INTERNAL"
    default_openai_code = "internal"
    resolution = "Report the request id to the operator."

    def __init__(
        self, message: str = "Something failed here that should not. Tell the operator.", **details: Any
    ) -> None:
        super().__init__(message, **details)


def leaves() -> tuple[type[ImageError], ...]:
    """List the concrete error classes, one per ``IMG_`` code, in the order of the tree."""

    def walk(cls: type[ImageError]) -> list[type[ImageError]]:
        children = [child for child in cls.__subclasses__() if child.__module__ == __name__]
        return [cls] if not children else [leaf for child in children for leaf in walk(child)]

    return tuple(walk(ImageError))


def outranks(first: ImageError, second: ImageError) -> bool:
    """Tell whether *first* is the one to report when several of n pictures failed (blocked > quota > rest)."""
    return _rank(first) > _rank(second)


def _rank(error: ImageError) -> int:
    if isinstance(error, SafetyBlockedError):
        return 2
    return 1 if error.error_type == "quota" else 0
