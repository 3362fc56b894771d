"""What is asked for and what came of it: frozen values that every room shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol, TypeAlias

from sfumato.errors import ImageError
from sfumato.images.safety import Safety
from sfumato.images.variants import Variant

OutputFormat = Literal["png", "jpeg", "webp"]
ResponseFormat = Literal["b64_json", "url"]
MAX_IMAGES = 10
MAX_PROMPT_CHARS = 32_000


class Operation(StrEnum):
    """What the client called."""

    GENERATION = "generation"
    EDIT = "edit"


class CacheStatus(StrEnum):
    """How the cache took part in an answer, as told in ``x-gemini-image-cache``."""

    HIT = "hit"
    MISS = "miss"
    PARTIAL = "partial"
    BYPASS = "bypass"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class InputImage:
    """An input picture or mask, inspected: its bytes and what the bytes say.

    Attributes:
        data: The bytes as they go upstream.
        mime_type: Read from the bytes, never from a declared type.
        width, height: Pixels as displayed, so after EXIF orientation.
        has_alpha: Whether the pixels have an alpha channel or a transparent colour.
        digest: SHA-256 of *data* in hex.
    """

    data: bytes
    mime_type: str
    width: int
    height: int
    has_alpha: bool
    digest: str


@dataclass(frozen=True, slots=True)
class ImageSource:
    """An input picture as a client sent it, not yet decoded or inspected; exactly one of the three forms is set.

    Attributes:
        param: What the client called it (``image``, ``images[1]``, ``mask``), for error messages.
        data: Raw bytes.
        base64: Base64 text, without a ``data:`` prefix.
        url: A remote ``http(s)`` address.
    """

    param: str
    data: bytes | None = None
    base64: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheControl:
    """A request's wishes of the cache; times in seconds.

    Attributes:
        no_cache: Do not answer from the cache; still store.
        no_store: Do not store; still answer from the cache.
        ttl_seconds: Keep a stored answer this long instead of the default.
        max_age_seconds: Take only answers at most this old.
    """

    no_cache: bool = False
    no_store: bool = False
    ttl_seconds: float | None = None
    max_age_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """A request with every decision made; build it with `resolution.resolve`.

    Attributes:
        variant: The model and what its name fixed, as the client called it.
        prompt: The client's text.
        effective_prompt: The text sent upstream, enhancement included.
        aspect_ratio: Gemini's spelling, None leaves it to Gemini.
        tier: Gemini's ``imageSize``, None leaves it to Gemini.
        quality: The client's word, None when it sent none.
        style: The client's word or text, None when it sent none.
        person_generation, prominent_people: Vertex AI's words; None where the request may reach the Gemini API.
        output_format: None takes whatever Gemini made.
        output_compression: 0-100 for jpeg and webp, None takes the encoder's default.
        tenant: Who is asking, as a label or an opaque id, never a key.
    """

    operation: Operation
    variant: Variant
    prompt: str
    effective_prompt: str
    safety: Safety
    n: int = 1
    aspect_ratio: str | None = None
    tier: str | None = None
    quality: str | None = None
    style: str | None = None
    seed: int | None = None
    person_generation: str | None = None
    prominent_people: str | None = None
    images: tuple[InputImage, ...] = ()
    mask: InputImage | None = None
    output_format: OutputFormat | None = None
    output_compression: int | None = None
    response_format: ResponseFormat = "b64_json"
    user: str | None = None
    tenant: str | None = None
    cache_control: CacheControl = field(default_factory=CacheControl)

    @property
    def resolved_variant(self) -> Variant:
        """Return the variant with the tier and ratio that are asked of Gemini; the default tier stays unnamed."""
        family = self.variant.family
        tier = None if self.tier == family.default_tier else self.tier
        return Variant(family, tier, self.aspect_ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of one answer, as Gemini gave them.

    ``output_tokens`` is total minus input, which is right on refusals too (there Gemini repeats the thinking
    tokens in ``candidatesTokenCount``); ``output_text_tokens`` holds thinking and unlabelled tokens.
    """

    input_tokens: int = 0
    input_text_tokens: int = 0
    input_image_tokens: int = 0
    output_tokens: int = 0
    output_text_tokens: int = 0
    output_image_tokens: int = 0
    thinking_tokens: int = 0
    total_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        """Add two counts field by field."""
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})


class Blob(Protocol):
    """Bytes that are kept elsewhere, in a file, and read as they are needed."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from *start* to *stop*, exactly; fit for the event loop up to a chunk's size.

        Raises:
            OSError: They cannot be had any more.
        """
        ...


Piece: TypeAlias = bytes | memoryview | Blob
Pieces: TypeAlias = tuple[Piece, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture's bytes in one of two forms: as Gemini's base64 pieces, untouched, or raw.

    Attributes:
        encoded: Base64 in order, or None; pieces, cut anywhere, join to one padded text.
        raw: Decoded bytes, or None; a picture from the cache may still be in its file.
        mime_type: What the bytes are, read from the bytes.
        width, height: Pixels, read from the bytes.
    """

    encoded: Pieces | None = None
    raw: bytes | Blob | None = None
    mime_type: str
    width: int
    height: int

    def __post_init__(self) -> None:
        if (self.encoded is None) == (self.raw is None):
            msg = "a Picture holds either encoded pieces or raw bytes"
            raise ValueError(msg)

    @property
    def format(self) -> str:
        """Return OpenAI's ``output_format`` word for this picture."""
        return self.mime_type.removeprefix("image/")


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedImage:
    """One picture of an answer.

    Attributes:
        slot: Its place among the n asked for, from 0.
        cost_usd: What it cost now: 0 on a hit.
        price_usd: What making it cost, also on a hit.
        created: Unix seconds when Gemini made it.
        age_seconds: Seconds in the cache, None when fresh.
    """

    slot: int
    picture: Picture
    usage: Usage
    price_usd: float
    created: float
    age_seconds: float | None = None

    @property
    def cost_usd(self) -> float:
        """Return what this picture cost now: nothing on a hit."""
        return self.price_usd if self.age_seconds is None else 0.0


@dataclass(frozen=True, slots=True)
class SlotFailure:
    """A picture of the n asked for that did not come, and why."""

    slot: int
    error: ImageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where the time went, in seconds; parallel work counts once, by its longest."""

    queue: float = 0.0
    cache: float = 0.0
    upstream: float = 0.0
    total: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageResult:
    """The answer to an `ImageRequest`: at least one picture, and the failures beside them.

    Attributes:
        cache_key: The fingerprint of the first picture, None when the cache took no part.
        cache_ttl_seconds: How long a picture stored by this answer is kept, None when nothing was stored.
        retries: Upstream attempts beyond the first of each picture.
        created: Unix seconds.
    """

    request: ImageRequest
    images: tuple[GeneratedImage, ...]
    failures: tuple[SlotFailure, ...] = ()
    cache_status: CacheStatus = CacheStatus.OFF
    cache_key: str | None = None
    cache_ttl_seconds: float | None = None
    retries: int = 0
    timings: Timings = field(default_factory=Timings)
    created: int = 0

    @property
    def usage(self) -> Usage:
        """Add up the token counts of every picture."""
        total = Usage()
        for image in self.images:
            total += image.usage
        return total

    @property
    def cost_usd(self) -> float:
        """Add up what the pictures cost now."""
        return sum(image.cost_usd for image in self.images)

    @property
    def savings_usd(self) -> float:
        """Add up what the pictures would have cost without the cache."""
        return sum(image.price_usd - image.cost_usd for image in self.images)

    @property
    def age_seconds(self) -> float | None:
        """Return the age of the oldest picture from the cache, None when all are fresh."""
        return max((image.age_seconds for image in self.images if image.age_seconds is not None), default=None)
