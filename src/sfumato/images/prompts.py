"""Texts of ours that reach the model: enhancement phrases and the mask instruction."""

from __future__ import annotations

HD_PHRASE = "Render it in high definition, with crisp edges and finely resolved detail."
STYLE_PHRASES = {
    "vivid": "Use a vivid look: saturated colours and dramatic light.",
    "natural": "Use a natural look: true-to-life colours and soft, realistic light.",
}
STYLE_PREFIX = "Style: "
# Gemini has no mask parameter (2026-11-21); the picture of the mask goes along as the second image.
MASK_INSTRUCTION = (
    "The second image is a mask of the first image, not content: edit the first image only where the mask is white, "
    "keep it unchanged where the mask is black, and keep its framing."
)


def enhance_prompt(prompt: str, *, quality: str | None, style: str | None, phrases: bool) -> str:
    """Return *prompt* with our phrase for ``hd``, ``vivid`` and ``natural`` and the client's own style text.

    Args:
        prompt: The client's text.
        quality: The client's ``quality``, None when it sent none.
        style: The client's ``style``, None when it sent none.
        phrases: False leaves our phrases out; a client's own style text stays.
    """
    parts = [prompt]
    if phrases and quality == "hd":
        parts.append(HD_PHRASE)
    if style in STYLE_PHRASES:
        if phrases:
            parts.append(STYLE_PHRASES[style])
    elif style:
        parts.append(f"{STYLE_PREFIX}{style}")
    return "\n\n".join(parts)
