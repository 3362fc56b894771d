"""Translators between bytes and the domain. Pure: parse_… reads, build_… and render_… write."""
