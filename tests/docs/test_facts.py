"""What the pages state is what the code does: variables, errors, headers, fields, switches, pixels, precedence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sfumato.asgi.app import create_app
from sfumato.asgi.auth import choose_authorize
from sfumato.cli.demo_job import build_steps, estimate_usd
from sfumato.emulator import SWITCHES
from sfumato.errors import ConfigurationError, ImageError, UserError, leaves
from sfumato.images.models import FAMILIES
from sfumato.images.prompts import HD_PHRASE, STYLE_PHRASES, STYLE_PREFIX
from sfumato.images.request import Operation
from sfumato.images.resolution import RequestPolicy, resolve
from sfumato.images.safety import CLASSIC_CATEGORIES, LEVELS, Threshold
from sfumato.images.sizes import QUALITY_TIERS
from sfumato.images.variants import canonical_variants, list_variants, parse_variant
from sfumato.runtime import Runtime
from sfumato.settings import Settings, load_settings, variable_names
from sfumato.telemetry.logs import log_fields
from sfumato.telemetry.observer import Call, OperationRecord
from sfumato.wire.gemini import BLOCKED_REASONS
from sfumato.wire.openai_images import parse_request
from tests.conftest import Emulator
from tests.support.apps import calling

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text()
NOTHING = "\u2013"
REFUSED, PARTLY, NO_EFFECT = "**Refused today.**", "**Partly refused today.**", "**No effect yet.**"
REFUSED_VALUES: dict[str, Any] = {
    "url_mode": "link",
}


def doc(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


def section(text: str, heading: str) -> str:
    """Return what stands below *heading*, up to the next heading of its level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    after = text.split(f"\n{heading}\n", 1)[1]
    return re.split(rf"^#{{1,{level}}} ", after, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of every table row, without heads and rules."""
    found = []
    previous_was_table = False
    for line in text.splitlines():
        is_row = line.startswith("|")
        if is_row and previous_was_table and not re.fullmatch(r"[|\-: ]+", line):
            found.append([cell.strip() for cell in line.strip("|").split("|")])
        previous_was_table = is_row
    return found


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def shown(value: object) -> str:
    """Return a default as the tables write it."""
    if value is None or value in ((), {}):
        return NOTHING
    if isinstance(value, Threshold):
        return f"`{value.level}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{int(value) if isinstance(value, float) and value.is_integer() else value}`"


def variables() -> dict[str, list[str]]:
    """Return the rows of the configuration reference by their keyword."""
    reference = section(doc("configuration"), "## Reference")
    return {codes(row[1])[0]: row for row in rows(reference) if len(row) == 5}


def marks() -> dict[str, str]:
    """Return the mark of every keyword that has one."""
    found = {field: re.match(r"\*\*[^*]+\*\*", row[4]) for field, row in variables().items()}
    return {field: match[0] for field, match in found.items() if match}


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_variable_stands_in_the_reference(field: str) -> None:
    names, keyword, default, unit, meaning = variables()[field]
    assert tuple(codes(names)) == variable_names(field)
    assert codes(keyword) == [field]
    assert default == shown(Settings.model_fields[field].default)
    assert unit == "seconds" or not field.endswith("_seconds")
    assert unit == "MB" or not field.endswith("_mb")
    assert meaning


def test_the_reference_has_no_other_variables() -> None:
    assert set(variables()) == set(Settings.model_fields)


def test_the_readme_lists_every_variable() -> None:
    signs = {REFUSED: " ¹", PARTLY: " ¹", NO_EFFECT: " ²"}
    table = rows(section(README, "## Variables"))
    assert table == [
        [f"`{variable_names(field)[0]}`{signs.get(marks().get(field, ''), '')}", shown(info.default), info.description]
        for field, info in Settings.model_fields.items()
    ]


def test_marks_are_of_the_known_kinds() -> None:
    assert set(marks().values()) <= {REFUSED, PARTLY, NO_EFFECT}
    assert {field for field, mark in marks().items() if mark != NO_EFFECT} == set(REFUSED_VALUES)


@pytest.mark.parametrize(("field", "value"), REFUSED_VALUES.items())
def test_refused_settings_refuse_to_start(field: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match="not available in this version"):
        Runtime(load_settings(**{field: value}))


def test_settings_without_effect_are_read_by_nobody() -> None:
    unread = set()
    sources = {path: path.read_text() for path in (ROOT / "src" / "sfumato").rglob("*.py")}
    own = sources.pop(ROOT / "src" / "sfumato" / "settings.py")
    for field in Settings.model_fields:
        outside = any(re.search(rf"settings\.{field}\b", text) for text in sources.values())
        if not outside and not re.search(rf"self\.{field}\b", own):
            unread.add(field)
    assert {field for field, mark in marks().items() if mark == NO_EFFECT} == unread


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_unknown_variable_is_named(page: Path) -> None:
    known = {name for field in Settings.model_fields for name in variable_names(field)}
    for name in re.findall(r"\b(?:GEMINI_(?:IMAGE|API)_[A-Z0-9_]+|CACHE_[A-Z_]+)\b", page.read_text()):
        assert name in known, f"{page.name} names {name}"


@pytest.mark.parametrize("profile", ["Development", "Production", "High compliance", "CI"])
def test_profiles_are_valid(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    block = section(doc("safety"), f"### {profile}").split("```bash\n")[1].split("```")[0]
    for line in block.splitlines():
        name, _, value = line.partition("=")
        assert name in {alias for field in Settings.model_fields for alias in variable_names(field)}
        # Keys must differ: each ellipsis stands for one of its own.
        first, *rest = value.split("…")
        monkeypatch.setenv(name, first + "".join(f"secret-{n}{text}" for n, text in enumerate(rest)))
    settings = load_settings()
    Runtime(settings)
    assert settings.accounts
    if profile != "Development":
        choose_authorize(settings, authorize=None, anonymous=False)
    if profile in ("Production", "High compliance"):
        assert settings.safety_floor
        assert settings.hash_salt


@pytest.mark.parametrize("kind", leaves(), ids=lambda kind: kind.code)
def test_every_error_stands_in_the_table(kind: type[ImageError], monkeypatch: pytest.MonkeyPatch) -> None:
    # Without it the import of LiteLLM fetches prices from the network.
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    from sfumato.litellm.errors import translate_error  # noqa: PLC0415  # it loads LiteLLM

    (row,) = [row for row in rows(section(doc("errors"), "## All codes")) if row[0].startswith(f"[`{kind.code}`]")]
    _, status, openai_type, openai_code, error_type, category, retryable, litellm = row
    assert status == str(kind.status)
    assert openai_type == f"`{kind.openai_type}`"
    assert kind.default_openai_code in codes(openai_code)
    assert (error_type, category) == (kind.error_type, kind.category)
    assert retryable == ("yes" if kind.default_retryable else "no")
    told: Any = translate_error(kind("x"), model="m", request_id="r")
    assert litellm == f"`{type(told).__name__}`, {told.status_code}"


@pytest.mark.parametrize("kind", leaves(), ids=lambda kind: kind.code)
def test_every_error_has_a_cause_and_an_answer(kind: type[ImageError]) -> None:
    text = section(doc("errors"), f"### {kind.code}")
    assert "**Cause.**" in text
    assert "**What to do.**" in text


def test_no_unknown_error_is_named() -> None:
    known = {kind.code for kind in leaves()}
    for page in PAGES:
        assert set(re.findall(r"\bIMG_[A-Z_]+\b", page.read_text())) <= known, page.name


def test_retry_after_goes_with_the_errors_named() -> None:
    text = section(doc("errors"), "## Retry headers")
    for kind in leaves():
        if kind.default_retry_after is not None:
            assert f"`{kind.code}`" in text


@pytest.mark.anyio
async def test_every_answer_header_is_explained(emulator: Emulator) -> None:
    explained = {
        name.lower() for row in rows(section(doc("parameters"), "## Answer headers")) for name in codes(row[0])
    }
    required = "x-request-id x-gemini-image-model x-gemini-image-cache cache-status age x-gemini-image-safety"
    required += " x-gemini-image-cost x-gemini-image-partial x-gemini-image-retries server-timing"
    assert explained >= set(required.split())
    settings = load_settings(api_key="any", api_base=emulator.url, cache_backend="memory")
    sent: set[str] = set()
    async with calling(create_app(settings, anonymous=True)) as client:
        for prompt in ("A", "A", "A [[emulator:503:0;every=2]]", "A [[emulator:429:3]]"):
            body = {"model": "gemini-3-pro-image", "prompt": prompt, "n": 2}
            sent |= set((await client.post("/v1/images/generations", json=body)).headers)
    assert {"age", "retry-after"} <= sent
    assert sent - {"content-type", "content-length"} <= explained


def test_every_log_field_is_explained() -> None:
    record = OperationRecord(call=Call(request_id="req"))
    assert [codes(row[0])[0] for row in rows(section(doc("logging"), "## Fields"))] == list(log_fields(record))


def test_every_emulator_switch_is_explained() -> None:
    explained = {codes(row[0])[0]: row for row in rows(section(doc("testing"), "## Switches"))}
    assert set(explained) == set(SWITCHES)
    for name, switch in SWITCHES.items():
        argument, meaning = explained[name][1:]
        assert meaning == switch.description
        assert codes(argument)[-1:] == ([switch.default] if switch.default else [])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_pixel_tables(family: Any) -> None:
    table = {row[0]: row[1:] for row in rows(section(doc("models"), f"### {family.name}"))}
    tiers = family.tier_names or (None,)
    sizes = {ratio: [family.pixel_size(tier, ratio) for tier in tiers] for ratio in family.aspect_ratios}
    assert table == {ratio: [f"{width}x{height}" for width, height in row] for ratio, row in sizes.items()}


def test_the_table_of_families() -> None:
    table = {codes(row[0])[0]: row[1:] for row in rows(section(doc("models"), "## Families"))}
    assert table == {
        family.name: [
            str(len(family.aspect_ratios)),
            ", ".join(family.tier_names) or "none",
            family.default_tier or NOTHING,
            str(len(list_variants(family))),
            str(family.max_input_images),
        ]
        for family in FAMILIES
    }
    assert "21 canonical variants" in doc("models")
    assert "33 listed names" in doc("models")
    assert (len(canonical_variants()), len(list_variants(FAMILIES[0]))) == (21, 33)


def test_prices() -> None:
    for row, family in zip(rows(section(doc("models"), "## Prices")), FAMILIES, strict=True):
        prices = family.prices
        named = (prices.input_per_million, prices.text_output_per_million, prices.image_output_per_million)
        assert row[:4] == [f"`{family.name}`", *(f"{price:.2f}" for price in named)]
        for tier in family.tiers:
            assert f"{tier.name}: {tier.output_tokens}" in row[4]
            assert f"{tier.name}: {tier.output_tokens * prices.image_output_per_million / 1e6:.4f}" in row[5]


def test_worked_examples_of_the_precedence() -> None:
    examples = rows(section(doc("parameters"), "## Precedence"))
    assert len(examples) > 10
    for model, size, quality, aspect_ratio, image_size, outcome in examples:
        variant = parse_variant(codes(model)[0])
        assert variant
        names = ("size", "quality", "aspect_ratio", "image_size")
        cells = (size, quality, aspect_ratio, image_size)
        fields = {name: codes(cell)[0] for name, cell in zip(names, cells, strict=True) if cell}
        try:
            request = resolve(parse_request(Operation.GENERATION, variant, {"prompt": "x", **fields}), RequestPolicy())
            told = f"{request.aspect_ratio or 'no ratio'}, {request.tier or 'no tier'}"
        except UserError as error:
            told = str(error.status)
        assert outcome == told or (outcome.startswith("nothing") and told == "no ratio, no tier"), (model, told)


def test_every_quality_stands_in_the_parameters() -> None:
    (row,) = [row for row in rows(section(doc("parameters"), "## All parameters")) if row[0] == "`quality`"]
    said = {word: tier for line in row[1].split("<br>") for word in codes(line) for tier in [line.split("→ ")[1]]}
    assert said == {word: tier or "none" for word, tier in QUALITY_TIERS.items()}


def test_enhancement_phrases() -> None:
    text = section(doc("parameters"), "## Prompt enhancement")
    for phrase in (HD_PHRASE, *STYLE_PHRASES.values(), f"{STYLE_PREFIX}watercolour"):
        assert phrase in text


def test_safety_tables() -> None:
    text = doc("safety")
    for level, threshold in LEVELS.items():
        assert re.search(rf"^\| `{level}`.*\| `{threshold}` \|", text, re.MULTILINE)
    for category in CLASSIC_CATEGORIES:
        assert f"| `{category.removeprefix('HARM_CATEGORY_')}` | `{category}` |" in text
    refusals = section(text, "## Refusals")
    for reason in BLOCKED_REASONS:
        assert f"`{reason}`" in refusals


def test_worked_examples_of_the_floor() -> None:
    for threshold, floor, wish, effective in rows(section(doc("safety"), "## The floor")):
        settings = load_settings(safety_threshold=codes(threshold)[0], safety_floor=next(iter(codes(floor)), None))
        name, _, value = next(iter(codes(wish)), "user: x").partition(": ")
        variant = parse_variant("gemini-3-pro-image")
        assert variant
        request = resolve(parse_request(Operation.GENERATION, variant, {"prompt": "x", name: value}), settings.policy)
        assert codes(effective) == [request.safety.level]


def test_the_licence_is_apache() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_demo_s_prices_are_those_it_computes() -> None:
    costs = [estimate_usd(build_steps(quick=quick, emulated=False)) for quick in (True, False)]
    for text in (README, doc("testing"), (ROOT / "src" / "sfumato" / "cli" / "demo.py").read_text()):
        told = sorted({float(price) for price in re.findall(r"about USD ([0-9.]+[0-9])", text)})
        assert [price - cost for price, cost in zip(told, costs, strict=True)] == pytest.approx([0.025] * 2, abs=0.025)
