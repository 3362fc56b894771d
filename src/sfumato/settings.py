"""Every variable, alias, default and unit, in one place. Only this module reads them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import (
    AliasChoices,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sfumato.errors import ConfigurationError
from sfumato.images.resolution import RequestPolicy
from sfumato.images.safety import Threshold
from sfumato.setting_types import (
    BaseUrl,
    CacheBackend,
    CacheScope,
    Hosts,
    Labelled,
    LabelledSecrets,
    LogLevel,
    Number,
    Secret,
    Secrets,
    Thresholds,
    ThresholdSetting,
    TierSetting,
    UrlMode,
)

PREFIX = "GEMINI_IMAGE_"
MEGABYTE = 1024 * 1024
DEFAULT_API_BASE = "https://generativelanguage.googleapis.com"


def _var(name: str, *aliases: str, default: Any, doc: str, **checks: Any) -> Any:
    return Field(default, validation_alias=AliasChoices(name, *aliases), description=doc, **checks)


class Variable(NamedTuple):
    """One variable as it stands: its names, its value (secrets masked) and where the value comes from."""

    field: str
    names: tuple[str, ...]
    value: str
    source: str
    description: str


class _Environment(PydanticBaseSettingsSource):
    """Read the variables by their exact names; pydantic's own source would take bare field names as well."""

    def __call__(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            text, key, _ = self.get_field_value(field, name)
            # Keywords win; older pydantic-settings do not see that a field and its variable are one.
            if text and self.current_state.keys().isdisjoint((name, *variable_names(name))):
                values[key] = text
        return values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        del field
        names = variable_names(field_name)
        # Empty counts as unset.
        return next(filter(None, map(os.environ.get, names)), None), names[0], False


class Settings(BaseSettings):
    """The configuration of an installation; every field is also a keyword argument.

    Raises:
        pydantic.ValidationError: A value is invalid; use `load_settings` for a message fit for operators.
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        populate_by_name=True, extra="forbid", frozen=True, hide_input_in_errors=True
    )
    _keywords: frozenset[str] = PrivateAttr(default=frozenset())

    api_key: Secret | None = _var("GEMINI_API_KEY", default=None, doc="The Gemini API key.")
    api_keys: LabelledSecrets = _var(
        "GEMINI_API_KEYS", default=(), doc="Several Gemini API keys: `label:key,label:key`."
    )
    accounts_file: Path | None = _var(
        "GEMINI_IMAGE_ACCOUNTS_FILE", default=None, doc="TOML file of accounts with weights and Vertex projects."
    )
    api_base: BaseUrl = _var(
        "GEMINI_IMAGE_API_BASE",
        "GEMINI_API_BASE",
        "GOOGLE_GEMINI_BASE_URL",
        default=DEFAULT_API_BASE,
        doc="Host of the Gemini API, with or without the version.",
    )
    api_version: str = _var(
        "GEMINI_IMAGE_API_VERSION", default="v1beta", doc="Version of the Gemini API.", pattern=r"^v[0-9]+[a-z0-9]*$"
    )
    client_keys: LabelledSecrets = _var(
        "GEMINI_IMAGE_CLIENT_KEYS", default=(), doc="Who may call: `label:key,…`; the label is the tenant."
    )
    admin_key: Secret | None = _var(
        "GEMINI_IMAGE_ADMIN_KEY", default=None, doc="Key of the administrators' routes; unset, they do not exist."
    )
    metrics_public: bool = _var(
        "GEMINI_IMAGE_METRICS_PUBLIC", default=False, doc="Serve /gemini-image/metrics without the admin key."
    )
    allow_anonymous: bool = _var(
        "GEMINI_IMAGE_ALLOW_ANONYMOUS", default=False, doc="Let `serve --no-auth` listen beyond loopback."
    )
    default_size: TierSetting | None = _var(
        "GEMINI_IMAGE_DEFAULT_SIZE", default=None, doc="Tier when a request names none: `512`, `1K`, `2K`, `4K`."
    )
    prompt_enhancement: bool = _var(
        "GEMINI_IMAGE_PROMPT_ENHANCEMENT", default=True, doc="Append our phrases for `hd`, `vivid`, `natural`."
    )
    drop_params: bool = _var(
        "GEMINI_IMAGE_DROP_PARAMS", default=False, doc="Ignore unknown parameters instead of refusing them."
    )
    safety_threshold: ThresholdSetting = _var(
        "GEMINI_IMAGE_SAFETY_THRESHOLD",
        default=Threshold.OFF,
        doc="Safety level when a request names none: `OFF`, `LOW`, `MEDIUM`, `HIGH`.",
    )
    safety_settings: Thresholds = _var(
        "GEMINI_IMAGE_SAFETY_SETTINGS", default={}, doc="Levels of single categories: `HARASSMENT=HIGH,…`."
    )
    safety_floor: ThresholdSetting | None = _var(
        "GEMINI_IMAGE_SAFETY_FLOOR", default=None, doc="Level that no request can go below."
    )
    cache_enabled: bool = _var("GEMINI_IMAGE_CACHE_ENABLED", default=True, doc="Use the cache.")
    cache_backend: CacheBackend = _var(
        "GEMINI_IMAGE_CACHE_BACKEND",
        "CACHE_BACKEND",
        default="filesystem",
        doc="`memory`, `filesystem`, `redis`, `s3` or `noop` (`none`).",
    )
    cache_ttl_hours: Number = _var("GEMINI_IMAGE_CACHE_TTL_HOURS", default=24.0, doc="Hours an entry is kept.", gt=0)
    cache_ttl_seconds: Number | None = _var(
        "GEMINI_IMAGE_CACHE_TTL_SECONDS",
        "CACHE_TTL_SECONDS",
        default=None,
        doc="Seconds an entry is kept; beats the hours.",
        gt=0,
    )
    cache_max_size_mb: Number = _var(
        "GEMINI_IMAGE_CACHE_MAX_SIZE_MB",
        "CACHE_MAX_SIZE_MB",
        default=1000.0,
        doc="Byte budget of the cache in MB.",
        gt=0,
    )
    cache_dir: Path | None = _var(
        "GEMINI_IMAGE_CACHE_DIR", "CACHE_DIR", default=None, doc="Directory; the platform's cache directory by default."
    )
    cache_scope: CacheScope = _var(
        "GEMINI_IMAGE_CACHE_SCOPE", default="global", doc="`global` shares entries, `tenant` keeps tenants apart."
    )
    cache_memory_mb: Number = _var(
        "GEMINI_IMAGE_CACHE_MEMORY_MB", default=0.0, doc="Memory tier in front of the backend in MB; 0 is none.", ge=0
    )
    cache_url: SecretStr | None = _var(
        "GEMINI_IMAGE_CACHE_URL", default=None, doc="URL of the object store or Redis that holds the cache."
    )
    redis_url: SecretStr | None = _var("REDIS_URL", default=None, doc="Redis for the cache and for shared state.")
    url_mode: UrlMode = _var(
        "GEMINI_IMAGE_URL_MODE", default="data", doc="`response_format: url` gives a data URI or a signed link."
    )
    url_secrets: Secrets = _var(
        "GEMINI_IMAGE_URL_SECRETS", default=(), doc="Secrets that sign links, newest first, comma-separated."
    )
    url_ttl_seconds: Number = _var(
        "GEMINI_IMAGE_URL_TTL_SECONDS", default=3600.0, doc="Seconds a signed link is valid.", gt=0
    )
    public_url: BaseUrl | None = _var("GEMINI_IMAGE_PUBLIC_URL", default=None, doc="Base of signed links.")
    token_secrets: Secrets = _var(
        "GEMINI_IMAGE_TOKEN_SECRETS", default=(), doc="Secrets that seal edit tokens, newest first."
    )
    idempotency_ttl_seconds: Number = _var(
        "GEMINI_IMAGE_IDEMPOTENCY_TTL_SECONDS", default=600.0, doc="Seconds an Idempotency-Key is remembered.", gt=0
    )
    prices_file: Path | None = _var("GEMINI_IMAGE_PRICES_FILE", default=None, doc="TOML file of own prices.")
    spool_dir: Path | None = _var("GEMINI_IMAGE_SPOOL_DIR", default=None, doc="Directory for bodies past the budget.")
    spool_after_mb: Number = _var(
        "GEMINI_IMAGE_SPOOL_AFTER_MB", default=256.0, doc="Memory for bodies in flight before they spool, MB.", gt=0
    )
    timeout_seconds: Number = _var(
        "GEMINI_IMAGE_TIMEOUT_SECONDS", default=300.0, doc="Overall deadline of a request.", gt=0
    )
    attempt_timeout_seconds: Number = _var(
        "GEMINI_IMAGE_ATTEMPT_TIMEOUT_SECONDS", default=180.0, doc="Bound of one upstream attempt.", gt=0
    )
    connect_timeout_seconds: Number = _var(
        "GEMINI_IMAGE_CONNECT_TIMEOUT_SECONDS", default=10.0, doc="Time to connect upstream.", gt=0
    )
    max_attempts: int = _var(
        "GEMINI_IMAGE_MAX_ATTEMPTS", default=3, doc="Upstream attempts per picture, the first included.", ge=1, le=10
    )
    max_concurrency: int = _var(
        "GEMINI_IMAGE_MAX_CONCURRENCY", default=64, doc="Upstream calls at a time per process.", ge=1
    )
    queue_size: int = _var("GEMINI_IMAGE_QUEUE_SIZE", default=256, doc="Calls that may wait for a place.", ge=0)
    grace_seconds: Number = _var(
        "GEMINI_IMAGE_GRACE_SECONDS", default=120.0, doc="Time for running work after SIGTERM.", ge=0
    )
    max_request_mb: Number = _var(
        "GEMINI_IMAGE_MAX_REQUEST_MB", default=20.0, doc="Limit of a client's body and of the upstream JSON, MB.", gt=0
    )
    max_response_mb: Number = _var(
        "GEMINI_IMAGE_MAX_RESPONSE_MB", default=96.0, doc="Limit of one upstream answer, MB.", gt=0
    )
    max_input_pixels: int = _var(
        "GEMINI_IMAGE_MAX_INPUT_PIXELS", default=64_000_000, doc="Limit of width x height of an input image.", gt=0
    )
    fetch_hosts: Hosts = _var(
        "GEMINI_IMAGE_FETCH_HOSTS", default=(), doc="Hosts that remote input images may come from."
    )
    hash_salt: SecretStr | None = _var(
        "GEMINI_IMAGE_HASH_SALT", default=None, doc="Key of the HMAC over prompts and users in telemetry."
    )
    log_level: LogLevel = _var(
        "GEMINI_IMAGE_LOG_LEVEL", default="INFO", doc="Level of the `sfumato` loggers in our own processes."
    )

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self._keywords = frozenset(values)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take keywords first, then the environment, and nothing else."""
        del env_settings, dotenv_settings, file_secret_settings
        return init_settings, _Environment(settings_cls)

    @model_validator(mode="after")
    def _check_together(self) -> Settings:
        if self.api_key and any(account.label == "default" for account in self.api_keys):
            raise ValueError("GEMINI_API_KEYS uses the label 'default', which GEMINI_API_KEY has")
        return self

    @property
    def accounts(self) -> tuple[Labelled, ...]:
        """List the API keys with their labels; GEMINI_API_KEY is labelled ``default``."""
        first = (Labelled("default", self.api_key),) if self.api_key else ()
        return first + self.api_keys

    @property
    def has_accounts(self) -> bool:
        """Tell whether anything names an account."""
        return bool(self.accounts or self.accounts_file)

    @property
    def cache_ttl(self) -> float:
        """Return how long an entry is kept, in seconds: seconds beat hours."""
        return self.cache_ttl_seconds or self.cache_ttl_hours * 3600

    @property
    def policy(self) -> RequestPolicy:
        """Return the decisions that every request is resolved under."""
        return RequestPolicy(
            default_tier=self.default_size,
            phrases=self.prompt_enhancement,
            drop_unknown=self.drop_params,
            safety_threshold=self.safety_threshold,
            safety_exceptions=self.safety_settings,
            safety_floors=(self.safety_floor,) if self.safety_floor else (),
        )

    def variables(self, environ: Mapping[str, str] | None = None) -> Iterator[Variable]:
        """Yield every variable as it stands, for the configuration doctor and the docs; secrets are masked."""
        environ = os.environ if environ is None else environ
        for name, field in type(self).model_fields.items():
            names = variable_names(name)
            found = next((alias for alias in names if environ.get(alias)), "default")
            source = found if self._keywords.isdisjoint((name, *names)) else "keyword"
            yield Variable(name, names, _shown(getattr(self, name)), source, field.description or "")


def load_settings(**values: Any) -> Settings:
    """Read the environment once; *values* win over it.

    Raises:
        ConfigurationError: A value is invalid; the message names each variable and never repeats a value.
    """
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigurationError(f"Invalid configuration. {_explained(error)}") from None


def variable_names(field: str) -> tuple[str, ...]:
    """Return the environment names of a `Settings` field, the one that wins first."""
    alias = Settings.model_fields[field].validation_alias
    return tuple(str(choice) for choice in alias.choices) if isinstance(alias, AliasChoices) else (field,)


def unknown_variables(environ: Mapping[str, str] | None = None) -> tuple[tuple[str, str], ...]:
    """List every ``GEMINI_IMAGE_*`` name that means nothing, each with the closest real one.

    A typo in a safety variable must not pass unseen: every process of ours logs these at start-up.
    """
    known = [name for field in Settings.model_fields for name in variable_names(field)]
    names = os.environ if environ is None else environ
    strays = (name for name in names if name.upper().startswith(PREFIX) and name not in known)
    return tuple((name, difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.0)[0]) for name in sorted(strays))


def _explained(error: ValidationError) -> str:
    sentences = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        where = str(problem["loc"][0]) if problem["loc"] else ""
        name = variable_names(where)[0] if where in Settings.model_fields else where
        reason = problem["msg"].removeprefix("Value error, ")
        sentence = f"{name}: {reason}" if name else reason
        sentences.append(sentence.rstrip(".") + ".")
    return " ".join(sentences)


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        return "********"
    if isinstance(value, Labelled):
        return f"{value.label}:********"
    if isinstance(value, tuple):
        return ",".join(_shown(item) for item in value) or "-"
    if isinstance(value, dict):
        return ",".join(f"{key}={_shown(item)}" for key, item in value.items()) or "-"
    if isinstance(value, Threshold):
        return value.level
    if isinstance(value, bool):
        return str(value).lower()
    return "-" if value is None else str(value)
