"""Switches that make the emulator end a call as Gemini, or the network, sometimes does.

Grammar::

    faults   = fault *( "," fault )
    fault    = name [ ":" argument ] *( ";" modifier )
    modifier = "times=" N      only the first N calls that carry this text fail, then it works
             | "every=" K      only every K-th call that carries this text fails
             | "id=" word      no effect; makes the text distinct, so that it is counted on its own

Names are those of `SWITCHES`; case and ``_`` or ``-`` do not matter. Arguments that are times are seconds, with or
without an ``s``. ``times`` and ``every`` together: every K-th call fails, N times at most.

Places, all in force together, each text once per call:

- the request header ``x-emulator-fault: 503;times=2``,
- a trigger in the prompt: ``A red bicycle [[emulator:IMAGE_SAFETY;every=2]]``,
- `EmulatorOptions.faults` for every call and `EmulatorOptions.key_faults` for the calls of one key.

Calls are counted per fault text (and per key for ``key_faults``), whatever place carries it, once the request has
passed the strict checks. Of several faults that end a call, the first wins; the others (``latency``, ``png``,
``drafts``, ...) add up. In the prompt, triggers are not drawn and not counted as tokens.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

TRIGGER = re.compile(r"\s*\[\[emulator:(.*?)\]\]", re.DOTALL)
HEADER = "x-emulator-fault"
_MAX_COUNTED_TEXTS = 10_000
_SECONDS = re.compile(r"\d+(\.\d+)?s?")


class FaultSyntaxError(ValueError):
    """A fault text that is not in the grammar; the message says what is wrong."""


class Argument(Enum):
    """What a switch takes after its colon."""

    NONE = "none"
    SECONDS = "seconds"
    COUNT = "count"
    WORD = "word"
    PIXELS = "pixels"


@dataclass(frozen=True, slots=True)
class Switch:
    """One switch.

    Attributes:
        description: One line for tables.
        argument: What may follow the name.
        default: The argument in force when none is given.
        ends: Whether it decides how the call ends; of several the first does.
        everywhere: Whether it also meets the routes that generate nothing (models, countTokens).
    """

    description: str
    argument: Argument = Argument.NONE
    default: str = ""
    ends: bool = True
    everywhere: bool = False


def _refusal(description: str) -> Switch:
    return Switch(f"200 without a picture: {description}")


def _status(description: str, *, argument: Argument = Argument.NONE, default: str = "") -> Switch:
    return Switch(description, argument, default, everywhere=True)


def _quota(description: str, default: str = "") -> Switch:
    return Switch(description, Argument.SECONDS if default else Argument.NONE, default)


def _wire(description: str, argument: Argument = Argument.NONE, default: str = "") -> Switch:
    return Switch(description, argument, default, ends=False)


FINISH_REASONS: Mapping[str, Switch] = {
    "SAFETY": _refusal("the safety filters stopped it; carries safetyRatings"),
    "IMAGE_SAFETY": _refusal("the picture was withheld"),
    "PROHIBITED_CONTENT": _refusal("core harm, cannot be switched off"),
    "IMAGE_PROHIBITED_CONTENT": _refusal("core harm in the picture"),
    "BLOCKLIST": _refusal("a forbidden word"),
    "SPII": _refusal("sensitive personal data"),
    "RECITATION": _refusal("too close to a source"),
    "IMAGE_RECITATION": _refusal("too close to a copyrighted picture"),
    "NO_IMAGE": _refusal("the model drew nothing; worth one retry"),
    "IMAGE_OTHER": _refusal("the model could not draw it; worth one retry"),
    "OTHER": _refusal("no reason told"),
    "MAX_TOKENS": _refusal("maxOutputTokens was met"),
    "LANGUAGE": _refusal("an unsupported language"),
}
SWITCHES: Mapping[str, Switch] = MappingProxyType(
    {
        **FINISH_REASONS,
        "finish": Switch("200 without a picture and with any finishReason", Argument.WORD, "MALFORMED_RESPONSE"),
        "text-only": Switch("200 with finishReason STOP and only text"),
        "thoughts-only": Switch("200 with finishReason STOP and only a thought picture"),
        "data-uri": Switch("200 with the picture as a data: URI inside a text part"),
        "empty-content": Switch("200 with finishReason STOP and content {}"),
        "null-parts": Switch("200 with finishReason STOP and parts null"),
        "no-candidates": Switch("200 without candidates and without promptFeedback"),
        "block": Switch("200 with promptFeedback.blockReason", Argument.WORD, "PROHIBITED_CONTENT"),
        "400": Switch("400 Request contains an invalid argument"),
        "location": _status("400 FAILED_PRECONDITION, the caller's country is not served"),
        "invalid-key": _status("400 API_KEY_INVALID"),
        "401": _status("401 invalid authentication credentials"),
        "403": _status("403 the key is restricted, API_KEY_SERVICE_BLOCKED"),
        "leaked-key": _status("403 the key was reported as leaked"),
        "404": Switch("404 the model is not found"),
        "429": _quota("429 per-minute quota with QuotaFailure and RetryInfo", "41"),
        "429-day": _quota("429 per-day quota with QuotaFailure and RetryInfo", "6776.4"),
        "429-free-tier": _quota("429 with limit: 0, a model without a free tier", "30"),
        "429-billing": _quota("429 the prepayment credits are depleted"),
        "429-capacity": _quota("429 shared capacity, without details"),
        "500": _status("500 INTERNAL"),
        "503": _status("503 overloaded; with RetryInfo when a delay is given", argument=Argument.SECONDS),
        "504": _status("504 deadline expired"),
        "html": _status("an HTML page with a status", argument=Argument.COUNT, default="200"),
        "garbage": _status("200 with bytes that are not JSON"),
        "empty-body": _status("200 with an empty body"),
        "stream-error": Switch("in a stream, a 503 error object after the first event; else a plain 503"),
        "latency": _wire("wait before the answer (in a stream, spread over its events)", Argument.SECONDS, "1"),
        "stall-before": _wire("send nothing for some time", Argument.SECONDS, "3600"),
        "stall": _wire("send headers and half of the body, then nothing for some time", Argument.SECONDS, "3600"),
        "truncated": _wire("announce the whole content-length, send half, close"),
        "reset": _wire("break the connection in the middle of a chunked body"),
        "thoughts": _wire("interim thought pictures before the picture", Argument.COUNT, "1"),
        "drafts": _wire("unflagged draft pictures before the picture", Argument.COUNT, "2"),
        "png": _wire("a PNG instead of the model's format"),
        "wrong-mime": _wire("a declared mime type that contradicts the bytes"),
        "pixels": _wire("a picture of other pixels than the table's", Argument.PIXELS, "1408x768"),
        "grain": _wire("a grainy picture with a body of megabytes: about 0.7 at 1K, 10 at 4K"),
        "usage-missing": _wire("no usageMetadata"),
    }
)
_NAMES = {name.lower().replace("_", "-"): name for name in SWITCHES}


@dataclass(frozen=True, slots=True)
class Fault:
    """A switch as somebody wrote it; *text* is what its calls are counted by."""

    name: str
    argument: str
    text: str
    times: int | None = None
    every: int = 1

    @property
    def switch(self) -> Switch:
        """Return the row of the table."""
        return SWITCHES[self.name]

    @property
    def seconds(self) -> float:
        """Return the argument as seconds, 0 when there is none."""
        return float(self.argument.removesuffix("s") or 0)

    @property
    def count(self) -> int:
        """Return the argument as a whole number."""
        return int(self.argument)

    @property
    def pixels(self) -> tuple[int, int]:
        """Return the argument ``WxH`` as width and height."""
        width, _, height = self.argument.partition("x")
        return int(width), int(height)


def parse_faults(text: str) -> tuple[Fault, ...]:
    """Parse a list of faults in the module's grammar.

    Raises:
        FaultSyntaxError: An unknown name or modifier, or an argument of a wrong kind.
    """
    return tuple(_parse_fault(item.strip()) for item in text.split(",") if item.strip())


def find_triggers(prompt: str) -> str:
    """Return the fault texts that stand in *prompt* as triggers, joined by commas."""
    return ",".join(TRIGGER.findall(prompt))


def strip_triggers(prompt: str) -> str:
    """Return *prompt* without its triggers."""
    return TRIGGER.sub("", prompt).strip()


class FaultBook:
    """Count calls per fault text and decide which faults are in force for a call."""

    def __init__(self) -> None:
        self._calls: OrderedDict[str, int] = OrderedDict()

    def clear(self) -> None:
        """Forget every count."""
        self._calls.clear()

    def active(self, faults: Iterable[Fault], *, scope: str = "") -> tuple[Fault, ...]:
        """Count this call for each of *faults*, once per text, and return those in force.

        Args:
            faults: What the call carries.
            scope: Keeps the counts of one key apart from those of another.
        """
        distinct = {fault.text: fault for fault in faults}
        return tuple(fault for fault in distinct.values() if self._fires(fault, scope))

    def _fires(self, fault: Fault, scope: str) -> bool:
        counted = f"{scope}\n{fault.text}"
        number = self._calls.pop(counted, 0) + 1
        self._calls[counted] = number
        if len(self._calls) > _MAX_COUNTED_TEXTS:
            self._calls.popitem(last=False)
        hits, rest = divmod(number, fault.every)
        return rest == 0 and (fault.times is None or hits <= fault.times)


def _parse_fault(text: str) -> Fault:
    head, *modifiers = (piece.strip() for piece in text.split(";"))
    written, _, argument = head.partition(":")
    name = _NAMES.get(written.strip().lower().replace("_", "-"))
    if name is None:
        raise FaultSyntaxError(f"There is no emulator switch '{written}'. GET /emulator/switches lists them.")
    switch = SWITCHES[name]
    argument = argument.strip() or switch.default
    if not _fits(switch, argument):
        raise FaultSyntaxError(f"The emulator switch '{name}' takes {switch.argument.value}, not '{argument}'.")
    times: int | None = None
    every = 1
    for modifier in modifiers:
        key, _, value = modifier.partition("=")
        if key == "id":
            continue
        if key not in ("times", "every") or not value.isdecimal() or int(value) < 1:
            raise FaultSyntaxError(f"'{modifier}' is no modifier of an emulator switch: times=N, every=K, id=word.")
        if key == "times":
            times = int(value)
        else:
            every = int(value)
    return Fault(name, argument, text, times, every)


def _fits(switch: Switch, argument: str) -> bool:
    match switch.argument:
        case Argument.SECONDS:
            # 503 alone has no delay at all.
            return not argument or bool(_SECONDS.fullmatch(argument))
        case Argument.COUNT:
            return argument.isdecimal()
        case Argument.PIXELS:
            return bool(re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", argument))
        case Argument.WORD:
            return bool(re.fullmatch(r"\w+", argument))
        case Argument.NONE:
            return not argument
