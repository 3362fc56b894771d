"""From what a client asked, field by field, to an `ImageRequest` in which every decision is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from sfumato.errors import InvalidImageError, InvalidParameterError, MissingPromptError
from sfumato.images.people import parse_people
from sfumato.images.prompts import enhance_prompt
from sfumato.images.request import (
    MAX_IMAGES,
    MAX_PROMPT_CHARS,
    CacheControl,
    ImageRequest,
    ImageSource,
    InputImage,
    Operation,
    OutputFormat,
    ResponseFormat,
)
from sfumato.images.safety import Backend, Method, Safety, Threshold, check_for_backend, effective_safety
from sfumato.images.sizes import (
    Size,
    nearest_aspect_ratio,
    parse_aspect_ratio,
    parse_quality,
    parse_size,
    parse_tier,
    resolve_aspect_ratio,
    resolve_tier,
)
from sfumato.images.variants import Variant

MAX_SEED = 2**31 - 1
MAX_COMPRESSION = 100
_MASKABLE_TYPES = ("image/png", "image/jpeg", "image/webp")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPolicy:
    """The operator's decisions that every request is resolved under.

    Attributes:
        default_tier: Tier when the request names none, None leaves it to Gemini.
        phrases: Whether our enhancement phrases may be appended.
        drop_unknown: Ignore unknown parameters instead of refusing them.
        safety_threshold: Threshold when the request names none.
        safety_exceptions: Thresholds of single categories when the request names no level and not that category.
        safety_floors: No request goes below any of these.
        backend: Which Google API is behind; decides what may be asked. ``mixed`` is both: what Vertex AI alone can do
            is then refused to clients, and what the operator sets for it holds where a request goes there.
    """

    default_tier: str | None = None
    phrases: bool = True
    drop_unknown: bool = False
    safety_threshold: Threshold = Threshold.OFF
    safety_exceptions: Mapping[str, Threshold] = field(default_factory=dict)
    safety_floors: tuple[Threshold, ...] = ()
    backend: Backend = "gemini"

    def with_floor(self, floor: Threshold | None) -> RequestPolicy:
        """Return a policy with one more floor in force (a tenant's)."""
        return self if floor is None else dataclasses.replace(self, safety_floors=(*self.safety_floors, floor))


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetyWish:
    """What a request says of safety: one threshold, single categories, their methods, and ``moderation: low``."""

    threshold: Threshold | None = None
    exceptions: Mapping[str, Threshold] = field(default_factory=dict)
    methods: Mapping[str, Method] = field(default_factory=dict)
    moderation_low: bool = False

    def over(self, base: SafetyWish) -> SafetyWish:
        """Return this wish above *base*: a level replaces all of it, a category only its own."""
        if self.threshold is not None or self.moderation_low:
            return self
        exceptions, methods = {**base.exceptions, **self.exceptions}, {**base.methods, **self.methods}
        return dataclasses.replace(base, exceptions=exceptions, methods=methods)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageWish:
    """What a client asked, typed and otherwise untouched; None where it said nothing."""

    operation: Operation
    variant: Variant
    prompt: str | None
    n: int = 1
    size: str | None = None
    quality: str | None = None
    style: str | None = None
    aspect_ratio: str | None = None
    image_size: str | None = None
    seed: int | None = None
    person_generation: str | None = None
    prominent_people: str | None = None
    safety: SafetyWish = field(default_factory=SafetyWish)
    images: tuple[ImageSource, ...] = ()
    mask: ImageSource | None = None
    output_format: OutputFormat | None = None
    output_compression: int | None = None
    response_format: ResponseFormat = "b64_json"
    user: str | None = None
    tenant: str | None = None
    cache_control: CacheControl = field(default_factory=CacheControl)


@dataclass(frozen=True, slots=True)
class InputImages:
    """The input pictures of a wish, inspected."""

    images: tuple[InputImage, ...] = ()
    mask: InputImage | None = None


def with_defaults(wish: ImageWish, base: ImageWish, *, sent: Collection[str]) -> ImageWish:
    """Put an operator's wishes under a client's; what the client said otherwise makes a default step back.

    Args:
        wish: What the client asked.
        base: What holds where the client said nothing.
        sent: Which of ``n``, ``response_format`` and ``cache_control`` the client named: their values do not tell.
    """
    sized = bool(wish.size) and str(wish.size).strip().lower() != "auto"
    shaped = sized or bool(wish.aspect_ratio or wish.variant.aspect_ratio)
    tiered = sized or bool(wish.image_size or wish.quality or wish.variant.tier)
    output_format = wish.output_format or (None if wish.mask and base.output_format == "jpeg" else base.output_format)
    compression = base.output_compression if output_format in ("jpeg", "webp") and not wish.mask else None
    return dataclasses.replace(
        wish,
        n=wish.n if "n" in sent else base.n,
        size=wish.size or base.size,
        quality=wish.quality or (None if tiered else base.quality),
        style=wish.style or base.style,
        aspect_ratio=wish.aspect_ratio or (None if shaped else base.aspect_ratio),
        image_size=wish.image_size or (None if tiered else base.image_size),
        seed=base.seed if wish.seed is None else wish.seed,
        person_generation=wish.person_generation or base.person_generation,
        prominent_people=wish.prominent_people or base.prominent_people,
        safety=wish.safety.over(base.safety),
        output_format=output_format,
        output_compression=compression if wish.output_compression is None else wish.output_compression,
        response_format=wish.response_format if "response_format" in sent else base.response_format,
        user=wish.user or base.user,
        cache_control=wish.cache_control if "cache_control" in sent else base.cache_control,
    )


def resolve(wish: ImageWish, policy: RequestPolicy, inputs: InputImages | None = None) -> ImageRequest:
    """Make every decision about *wish* under *policy*.

    Args:
        wish: What the client asked.
        policy: The operator's decisions.
        inputs: The pictures of *wish*, inspected; none for a generation.

    Raises:
        MissingPromptError: No prompt, or a blank one.
        InvalidParameterError: A value is out of range, contradicts another, or is not for this backend.
        InvalidImageError: The images or the mask do not fit the operation.
    """
    prompt = _checked_prompt(wish.prompt)
    _check_numbers(wish)
    inputs = inputs or InputImages()
    _check_images(wish, inputs)
    _check_output(wish)
    ratio, tier = _resolve_shape(wish, policy, inputs)
    quality = wish.quality.strip().lower() if wish.quality else None
    style = wish.style.strip() if wish.style and wish.style.strip() else None
    if style and len(prompt) + len(style) > MAX_PROMPT_CHARS:
        msg = f"'prompt' and 'style' together are longer than {MAX_PROMPT_CHARS:,} characters. Shorten them."
        raise InvalidParameterError(msg, param="style")
    style = style.lower() if style and style.lower() in ("vivid", "natural") else style
    return ImageRequest(
        operation=wish.operation,
        variant=wish.variant,
        prompt=prompt,
        effective_prompt=enhance_prompt(prompt, quality=quality, style=style, phrases=policy.phrases),
        safety=_resolve_safety(wish.safety, policy),
        n=wish.n,
        aspect_ratio=ratio,
        tier=tier,
        quality=quality,
        style=style,
        seed=wish.seed,
        person_generation=parse_people(wish.person_generation, param="person_generation", backend=policy.backend),
        prominent_people=parse_people(wish.prominent_people, param="prominent_people", backend=policy.backend),
        images=inputs.images,
        mask=inputs.mask,
        output_format="png" if wish.mask and wish.output_format is None else wish.output_format,
        output_compression=None if wish.output_format in (None, "png") or wish.mask else wish.output_compression,
        response_format=wish.response_format,
        user=wish.user,
        tenant=wish.tenant,
        cache_control=wish.cache_control,
    )


def _checked_prompt(prompt: str | None) -> str:
    if prompt is None or not prompt.strip():
        raise MissingPromptError("'prompt' is required and must not be blank.", param="prompt")
    if len(prompt) > MAX_PROMPT_CHARS:
        msg = f"'prompt' is {len(prompt):,} characters long; the limit is {MAX_PROMPT_CHARS:,}. Shorten it."
        raise InvalidParameterError(msg, param="prompt")
    return prompt


def _check_numbers(wish: ImageWish) -> None:
    if not 1 <= wish.n <= MAX_IMAGES:
        msg = f"Invalid value for 'n': expected an integer from 1 to {MAX_IMAGES}."
        raise InvalidParameterError(msg, param="n")
    if wish.seed is not None and not 0 <= wish.seed <= MAX_SEED - (wish.n - 1):
        msg = f"Invalid value for 'seed': expected an integer from 0 to {MAX_SEED} (picture i of n uses seed + i)."
        raise InvalidParameterError(msg, param="seed")
    if wish.output_compression is not None and not 0 <= wish.output_compression <= MAX_COMPRESSION:
        msg = "Invalid value for 'output_compression': expected an integer from 0 to 100."
        raise InvalidParameterError(msg, param="output_compression")


def _check_images(wish: ImageWish, inputs: InputImages) -> None:
    family = wish.variant.family
    if (wish.operation is Operation.EDIT or inputs.mask) and not inputs.images:
        msg = "'image' is required: send at least one picture to edit."
        raise InvalidImageError(msg, param="image", openai_code="missing_required_parameter")
    # The picture of the mask goes upstream as one more image.
    room = family.max_input_images - (1 if inputs.mask else 0)
    if len(inputs.images) > room:
        beside = " beside a mask" if inputs.mask else ""
        msg = f"{len(inputs.images)} images were sent; {family.name} takes at most {room}{beside}."
        raise InvalidParameterError(msg, param="image")
    if inputs.mask is None:
        return
    first = inputs.images[0]
    if first.mime_type not in _MASKABLE_TYPES:
        raise InvalidImageError("A mask needs a PNG, JPEG or WebP picture as the first image.", param="mask")
    if inputs.mask.mime_type != "image/png" or not inputs.mask.has_alpha:
        raise InvalidImageError("The mask must be a PNG with an alpha channel.", param="mask")
    if (inputs.mask.width, inputs.mask.height) != (first.width, first.height):
        msg = (
            f"The mask is {inputs.mask.width}x{inputs.mask.height} pixels and the first image is "
            f"{first.width}x{first.height}: send a mask of the same size."
        )
        raise InvalidImageError(msg, param="mask")


def _check_output(wish: ImageWish) -> None:
    if wish.mask and wish.output_format == "jpeg":
        msg = "'output_format' cannot be jpeg with a mask: the kept pixels are exact, so the answer is png or webp."
        raise InvalidParameterError(msg, param="output_format")
    if wish.output_compression in (None, MAX_COMPRESSION):
        return
    if wish.mask:
        msg = "'output_compression' cannot be used with a mask: the kept pixels are exact, so the answer is lossless."
        raise InvalidParameterError(msg, param="output_compression")
    if wish.output_format not in ("jpeg", "webp"):
        msg = "'output_compression' needs 'output_format' jpeg or webp."
        raise InvalidParameterError(msg, param="output_compression")


def _resolve_shape(wish: ImageWish, policy: RequestPolicy, inputs: InputImages) -> tuple[str | None, str | None]:
    variant, family = wish.variant, wish.variant.family
    aspect_ratio = parse_aspect_ratio(wish.aspect_ratio, family) if wish.aspect_ratio else None
    image_size = parse_tier(wish.image_size, family) if wish.image_size else None
    if wish.quality:
        parse_quality(wish.quality)
    size = parse_size(wish.size, family) if wish.size else Size()
    ratio = resolve_aspect_ratio(variant, aspect_ratio=aspect_ratio, size=size)
    if inputs.mask:
        # The answer has the first image's pixels, so its ratio and, unless named, its tier are asked for.
        size = Size(pixels=(inputs.images[0].width, inputs.images[0].height))
        ratio = _masked_ratio(wish, aspect_ratio or variant.aspect_ratio, size)
    tier = resolve_tier(
        variant, image_size=image_size, quality=wish.quality, size=size, aspect_ratio=ratio, default=policy.default_tier
    )
    return ratio, tier


def _masked_ratio(wish: ImageWish, asked: str | None, size: Size) -> str:
    width, height = size.pixels or (1, 1)
    nearest = nearest_aspect_ratio(width, height, wish.variant.family)
    if asked and asked != nearest:
        msg = (
            f"With a mask the answer keeps the first image's {width}x{height} pixels, which is nearest to {nearest}, "
            f"not {asked}: leave the aspect ratio out."
        )
        raise InvalidParameterError(msg, param="aspect_ratio" if wish.aspect_ratio else "model")
    return nearest


def _resolve_safety(wish: SafetyWish, policy: RequestPolicy) -> Safety:
    check_for_backend(wish.exceptions, wish.methods, policy.backend)
    if wish.threshold is not None:
        threshold, exceptions = wish.threshold, dict(wish.exceptions)
    else:
        threshold = Threshold.BLOCK_NONE if wish.moderation_low else policy.safety_threshold
        exceptions = {**policy.safety_exceptions, **wish.exceptions}
    return effective_safety(
        threshold=threshold,
        exceptions=exceptions,
        floors=policy.safety_floors,
        methods=wish.methods,
        backend=policy.backend,
    )
