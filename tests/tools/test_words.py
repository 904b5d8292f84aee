"""Words to avoid are found wherever they are read, and nothing else is."""

from __future__ import annotations

import pytest

from tools.words import faults_in


@pytest.mark.parametrize(
    "line",
    [
        "Records are let go of after a year.",
        "It runs Beside the calls.",
        "Redis is not to be reached.",
        "_STRANGERS = 4",
        "def _flaws_of(self) -> int:",
    ],
)
def test_a_word_to_avoid_is_found(line: str) -> None:
    """In prose, in any case, and as a part of a name."""
    (fault,) = faults_in(f"first\n{line}\n", "page.md")
    assert fault.startswith("page.md:2: write ")


@pytest.mark.parametrize("line", ["Redis is unreachable.", "a dearth", "flawless", "it is besides"])
def test_other_words_are_not(line: str) -> None:
    """A longer word that contains one is another word."""
    assert list(faults_in(line, "page.md")) == []


def test_a_generated_table_is_skipped() -> None:
    """Its words are those of the code, and lines after it keep their numbers."""
    text = "<!-- settings: begin -->\nlet go\n<!-- settings: end -->\nbeside\n"
    (fault,) = faults_in(text, "page.md")
    assert fault.startswith("page.md:4: ")
