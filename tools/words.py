"""Check that code and documentation use the words of the field, not private ones.

Each pattern of `WORDS` must not occur in the documentation or in ``src/``: not in messages, not in
comments and not in names. `ALLOWED` lists single places with a reason. `TO_CLEAN` lists the parts
that still contain such words. A part in that list that is clean is reported, so that the list only
becomes shorter.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Word(NamedTuple):
    """A pattern to avoid, and what to write instead."""

    pattern: re.Pattern[str]
    instead: str


def _word(pattern: str, instead: str) -> Word:
    return Word(re.compile(rf"(?<![a-z])(?:{pattern})(?![a-z])", re.IGNORECASE), instead)


WORDS = (
    _word(r"le(?:t|ts|tting) go", "remove, prune, release or close"),
    _word(r"strangers?", "unauthenticated callers, clients or requests"),
    _word(r"the seed(?:'s)?", "the tutorial"),
    _word(r"dear(?:er|est)?", "expensive"),
    _word(r"to be reached", "reachable, unreachable"),
    _word(r"beside", "next to, in addition to, separately, in parallel"),
    _word(r"wish(?:es)?", "override, request"),
    _word(r"flaws?", "failure, fault"),
    _word(r"rescues?", "hedged read, fallback read"),
    _word(r"patience", "timeout, limit"),
    _word(r"hangs? up", "disconnect"),
    _word(r"of whom", "a sentence of its own"),
    _word(r"siege", "attack"),
    _word(r"the house", "the folders, the architecture"),
)

ALLOWED: dict[tuple[str, str], str] = {}
"""By file and matched text in lower case: why it may stay."""

TO_CLEAN = (
    "src/flowcache/admin/pages.py",
    "src/flowcache/api/",
    "src/flowcache/calls/",
    "src/flowcache/contract/",
    "src/flowcache/resilience/",
    "src/flowcache/server/",
    "src/flowcache/settings/",
    "src/flowcache/store/",
)
"""Files and folders, relative to the repository, that still contain such words."""

_GENERATED = re.compile(r"<!-- [\w ]+: begin -->.*?<!-- [\w ]+: end -->", re.DOTALL)
"""Tables in pages that are made from the code, where their words are checked."""


def files() -> Iterator[Path]:
    """Yield every file whose words are checked."""
    for pattern in ("*.md", "docs/**/*.md", "src/**/*.py", "src/**/*.lua", "tools/*.py"):
        yield from sorted(ROOT.glob(pattern))


def faults_in(text: str, name: str) -> Iterator[str]:
    """Yield one fault for each word to avoid in ``text``."""
    blanked = _GENERATED.sub(lambda table: "\n" * table[0].count("\n"), text)
    for number, line in enumerate(blanked.splitlines(), 1):
        for word in WORDS:
            for found in word.pattern.findall(line):
                if (name, found.lower()) not in ALLOWED:
                    yield f"{name}:{number}: write {word.instead!r} instead of {found!r}"


def main() -> int:
    """Print what is wrong; return 1 if anything is."""
    faults: list[str] = []
    unclean: set[str] = set()
    for file in files():
        name = file.relative_to(ROOT).as_posix()
        if file == Path(__file__).resolve():
            continue
        part = next((part for part in TO_CLEAN if name.startswith(part)), None)
        found = list(faults_in(file.read_text("utf-8"), name))
        if part is None:
            faults += found
        elif found:
            unclean.add(part)
    faults += [
        f"{part}: is clean: remove it from TO_CLEAN in tools/words.py"
        for part in TO_CLEAN
        if part not in unclean
    ]
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
