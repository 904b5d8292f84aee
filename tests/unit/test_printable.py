"""Characters that nobody sees are shown by their number."""

from __future__ import annotations

import json
import unicodedata

import pytest

from flowcache.printable import printable, printable_json, printable_lines

INVISIBLE = [
    *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0),
    *range(0x180B, 0x1810),
    *range(0xFE00, 0xFE10),
    *range(0xE0100, 0xE01F0),
]
"""What has no glyph and is not of a category that says so (Unicode, Default_Ignorable)."""


@pytest.mark.parametrize("code", [*INVISIBLE, 0x00AD, 0x200B, 0x202E, 0x2066, 0xFEFF, 0xE0041])
def test_what_has_no_glyph_is_shown_by_its_number(code: int) -> None:
    """Two names that look the same are the same."""
    text = f"client{chr(code)}"
    assert printable(text) == "client" + chr(code).encode("unicode_escape").decode()
    assert printable_lines(f"a\n{text}") == f"a\n{printable(text)}"
    shown = printable_json(json.dumps(text, ensure_ascii=False))
    assert shown.isascii()
    assert json.loads(shown) == text


def test_what_has_a_glyph_stays() -> None:
    """Letters of any script, marks that change them, signs and emoji."""
    text = "Zoë Ωμέγα Жёлтый 日本語 हिन्दी ไทย 한국어 𝄞 🎉 €"
    assert printable(text) == printable_lines(text) == printable_json(text) == text
    assert printable(unicodedata.normalize("NFD", text)) == unicodedata.normalize("NFD", text)
