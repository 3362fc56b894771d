"""Generated answers: what Gemini says about an `Order`, as one document or as the events of a stream."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pybase64

from sfumato.emulator.drawing import PictureFormat, Sketch, draw
from sfumato.emulator.faults import FINISH_REASONS, Fault, strip_triggers
from sfumato.emulator.validation import Order
from sfumato.images.pricing import price_usd
from sfumato.images.request import Usage

# AI Studio: Gemini 3 image models answer image/jpeg, 2.5-flash image/png, and neither can be told (recorded).
_PNG_MODELS = ("gemini-2.5-flash-image",)
_TOKENS_PER_INPUT_IMAGE = 560
_CHARS_PER_TOKEN = 4
_THUMBNAIL_DIVISOR = 4
_TEXT_SIGNATURE_BYTES = 120
# "Signatures can exceed 12 KB" once encoded.
_IMAGE_SIGNATURE_BYTES = 9_300
_NOT_DRAWN = (
    "Unable to show the generated image. The model could not generate the image based on the prompt provided. "
    "You will not be charged for this request. Try rephrasing the prompt."
)
_WITHHELD = (
    "Unable to show the generated image. The image was filtered out because it violated Google's Generative AI "
    "Prohibited Use policy. You will not be charged for blocked images. Try rephrasing the prompt."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One generated answer.

    Attributes:
        candidate: The candidate without its parts, None for a blocked prompt.
        parts: The candidate's parts; None leaves them out, so ``content`` is empty.
        usage: ``usageMetadata``, None leaves it out.
        rest: Further top-level fields.
        cost_usd: What Google would bill at the standard rate.
    """

    candidate: dict[str, Any] | None
    parts: Sequence[dict[str, Any]] | None
    usage: dict[str, Any] | None
    rest: dict[str, Any]
    cost_usd: float = 0.0
    content: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return the whole answer, as generateContent gives it."""
        content = self.content if self.parts is None else {"parts": list(self.parts), "role": "model"}
        head = {} if self.candidate is None else {"candidates": [{"content": content, **self.candidate}]}
        usage = {} if self.usage is None else {"usageMetadata": self.usage}
        return {**head, **self.rest, **usage} if self.candidate is None else {**head, **usage, **self.rest}

    def events(self) -> list[dict[str, Any]]:
        """Return the answer as streamGenerateContent gives it: a part per event, reason and full usage in the last."""
        if self.candidate is None or not self.parts:
            return [self.document()]
        partial = {key: self.usage[key] for key in ("promptTokenCount", "promptTokensDetails")} if self.usage else None
        if partial is not None:
            partial["totalTokenCount"] = partial["promptTokenCount"]
        events = [
            Answer(candidate={"index": 0}, parts=[part], usage=partial, rest=self.rest).document()
            for part in self.parts
        ]
        last = Answer(candidate=self.candidate, parts=[{"text": ""}], usage=self.usage, rest=self.rest)
        return [*events, last.document()]


def encode_document(document: Any) -> bytes:
    """Encode JSON as Google does for a whole answer: indented by two blanks."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def encode_event(document: Any) -> bytes:
    """Encode JSON on one line."""
    return msgspec.json.format(msgspec.json.encode(document), indent=0)


def count_prompt_tokens(order: Order) -> tuple[int, list[dict[str, Any]]]:
    """Return the input tokens and their details by modality: text by length, 560 per input picture."""
    text = max(1, -(-len(strip_triggers(order.prompt)) // _CHARS_PER_TOKEN))
    details: list[dict[str, Any]] = [{"modality": "TEXT", "tokenCount": text}]
    images = _TOKENS_PER_INPUT_IMAGE * len(order.images)
    if images:
        details.append({"modality": "IMAGE", "tokenCount": images})
    return text + images, details


def compose_answer(order: Order, faults: Sequence[Fault], *, number: int) -> Answer:
    """Draw and write the answer to *order*; heavy, so call it in a thread.

    Args:
        order: The checked request.
        faults: The faults in force; those that end the call otherwise than by an answer have no effect.
        number: Counts calls, so that two calls without a seed differ.
    """
    return _Composition(order, {fault.name: fault for fault in reversed(faults)}, number).compose(
        next((fault for fault in faults if fault.switch.ends), None)
    )


class _Composition:
    """The making of one answer."""

    def __init__(self, order: Order, faults: dict[str, Fault], number: int) -> None:
        self.order = order
        self.faults = faults
        self.number = number
        self.prompt = strip_triggers(order.prompt)
        inputs = [hashlib.sha256(image.data).hexdigest() for image in order.images]
        fixed = (order.family.name, self.prompt, *inputs)
        self.mood = repr((*fixed, order.seed) if order.seed is not None else (*fixed, number))
        self.chance = random.Random(self.mood)
        self.thinking = self.chance.randrange(120, 420)
        self.extra_tokens = self.chance.randrange(88, 320)
        # Vertex AI without a wish: PNG, as litellm #17184 saw of the preview.
        png = order.output_type != "image/jpeg" if order.vertex else order.family.name in _PNG_MODELS
        self.format: PictureFormat = "PNG" if png or "png" in faults else "JPEG"

    def compose(self, ending: Fault | None) -> Answer:
        name = ending.name if ending else ""
        if ending and (name in FINISH_REASONS or name == "finish"):
            return self._refusal(ending.argument or name)
        limit = self.order.max_output_tokens
        if self.order.draws and limit is not None and limit < self.order.family.output_tokens(self.order.tier):
            return self._refusal("MAX_TOKENS")
        match name:
            case "block" if ending:
                return self._unanswered({"promptFeedback": {"blockReason": ending.argument}})
            case "no-candidates":
                return self._unanswered({})
            case "empty-content" | "null-parts":
                content = {"parts": None, "role": "model"} if name == "null-parts" else {}
                return self._answer(None, images=0, content=content)
            case "text-only":
                return self._answer([self._text("I would rather describe it: a picture in your mind.")], images=0)
            case "thoughts-only":
                return self._answer([self._image("thought", thought=True)], images=0)
            case "data-uri":
                image = self._image("")["inlineData"]
                uri = f"data:{image['mimeType']};base64,{image['data']}"
                return self._answer([self._text(f"![image]({uri})")], images=1)
        if not self.order.draws:
            return self._answer([self._text("Asked for text only, so here is text.")], images=0)
        return self._picture()

    def _picture(self) -> Answer:
        parts: list[dict[str, Any]] = []
        thoughts = self.faults["thoughts"].count if "thoughts" in self.faults else int(self.order.include_thoughts)
        drafts = self.faults["drafts"].count if "drafts" in self.faults else 0
        if thoughts:
            parts.append({"text": "**Planning the picture**\n\nI settle on light and framing.", "thought": True})
        parts += [self._image(f"thought {index + 1}", thought=True) for index in range(thoughts)]
        if self.order.speaks:
            parts.append(self._text("Here is your picture."))
        parts += [self._image(f"draft {index + 1}") for index in range(drafts)]
        final = self._image("")
        final["thoughtSignature"] = self._signature(_IMAGE_SIGNATURE_BYTES)
        return self._answer([*parts, final], images=1 + drafts)

    def _answer(
        self, parts: Sequence[dict[str, Any]] | None, *, images: int, content: dict[str, Any] | None = None
    ) -> Answer:
        candidate: dict[str, Any] = {"finishReason": "STOP", "index": 0}
        if self.order.searches:
            candidate["groundingMetadata"] = {
                "webSearchQueries": [self.prompt[:80]],
                "groundingChunks": [{"web": {"uri": "https://example.com/", "title": "example.com"}}],
            }
        tokens, details = count_prompt_tokens(self.order)
        image_tokens = images * self.order.family.output_tokens(self.order.tier)
        # candidatesTokenCount is usually larger than the details' sum: the rest is billed as text (recorded).
        usage: dict[str, Any] = {
            "promptTokenCount": tokens,
            "candidatesTokenCount": image_tokens + self.extra_tokens,
            "totalTokenCount": tokens + image_tokens + self.extra_tokens + self.thinking,
            "promptTokensDetails": details,
            "thoughtsTokenCount": self.thinking,
        }
        if images:
            usage["candidatesTokensDetails"] = [{"modality": "IMAGE", "tokenCount": image_tokens}]
        billed = Usage(
            input_tokens=tokens,
            output_tokens=image_tokens + self.extra_tokens + self.thinking,
            output_text_tokens=self.extra_tokens + self.thinking,
            output_image_tokens=image_tokens,
            total_tokens=usage["totalTokenCount"],
        )
        return Answer(
            candidate=candidate,
            parts=parts,
            usage=self._usage(usage),
            rest=self._rest(),
            cost_usd=round(price_usd(self.order.family, self.order.tier, billed), 6),
            content=content or {},
        )

    def _refusal(self, reason: str) -> Answer:
        candidate: dict[str, Any] = {"finishReason": reason, "index": 0}
        if reason.endswith("OTHER") or reason == "NO_IMAGE":
            candidate["finishMessage"] = _NOT_DRAWN
        elif reason not in ("MAX_TOKENS", "LANGUAGE"):
            candidate["finishMessage"] = _WITHHELD
        if reason == "SAFETY":
            category = "HARM_CATEGORY_SEXUALLY_EXPLICIT"
            candidate["safetyRatings"] = [{"category": category, "probability": "HIGH", "blocked": True}]
        tokens, details = count_prompt_tokens(self.order)
        # On refusals candidatesTokenCount repeats the thinking, while the total counts it once (recorded).
        usage = {
            "promptTokenCount": tokens,
            "candidatesTokenCount": self.thinking,
            "totalTokenCount": tokens + self.thinking,
            "promptTokensDetails": details,
            "thoughtsTokenCount": self.thinking,
        }
        return Answer(candidate=candidate, parts=None, usage=self._usage(usage), rest=self._rest())

    def _unanswered(self, feedback: dict[str, Any]) -> Answer:
        tokens, details = count_prompt_tokens(self.order)
        usage = {"promptTokenCount": tokens, "totalTokenCount": tokens, "promptTokensDetails": details}
        return Answer(candidate=None, parts=None, usage=self._usage(usage), rest={**feedback, **self._rest()})

    def _usage(self, usage: dict[str, Any]) -> dict[str, Any] | None:
        if "usage-missing" in self.faults:
            return None
        if self.order.vertex:
            return {**usage, "trafficType": "ON_DEMAND"}
        return {**usage, "serviceTier": self.order.service_tier} if self.order.service_tier else usage

    def _rest(self) -> dict[str, Any]:
        response_id = pybase64.urlsafe_b64encode(random.Random(f"{self.mood}{self.number}").randbytes(12)).decode()
        return {"modelVersion": self.order.family.name, "responseId": response_id}

    def _text(self, text: str) -> dict[str, Any]:
        return {"text": text, "thoughtSignature": self._signature(_TEXT_SIGNATURE_BYTES)}

    def _signature(self, size_bytes: int) -> str:
        return pybase64.b64encode(self.chance.randbytes(size_bytes)).decode()

    def _image(self, stage: str, *, thought: bool = False) -> dict[str, Any]:
        width, height = self.faults["pixels"].pixels if "pixels" in self.faults else self.order.pixel_size
        if thought:
            width, height = width // _THUMBNAIL_DIVISOR, height // _THUMBNAIL_DIVISOR
        sketch = Sketch(
            width=width,
            height=height,
            title=f"{self.order.family.name} {stage}".strip(),
            facts=self._facts(width, height),
            prompt=self.prompt,
            mood=f"{self.mood} {stage}".strip(),
            base=next((image.data for image in self.order.images if image.width), None),
            grain="grain" in self.faults,
        )
        made, other = f"image/{self.format.lower()}", "image/jpeg" if self.format == "PNG" else "image/png"
        data = pybase64.b64encode_as_string(draw(sketch, self.format, quality=self.order.output_quality))
        part: dict[str, Any] = {
            "inlineData": {"mimeType": other if "wrong-mime" in self.faults else made, "data": data}
        }
        return {**part, "thought": True} if thought else part

    def _facts(self, width: int, height: int) -> tuple[str, ...]:
        order = self.order
        thresholds = sorted({threshold for _, threshold in order.safety}) or ["default"]
        run = f"call {self.number}" if order.seed is None else f"seed {order.seed}"
        images = len(order.images)
        return (
            f"{order.effective_ratio} {order.tier or order.family.default_tier or ''} {width}x{height}",
            f"{run} · {images} input image{'' if images == 1 else 's'} · safety {', '.join(thresholds)}",
        )
