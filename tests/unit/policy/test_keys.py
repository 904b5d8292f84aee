"""Which keys a pattern covers, and where a namespace's keys lie."""

from __future__ import annotations

import pytest

from flowcache.authz.keys import (
    ALL_KEYS,
    NO_KEYS,
    SEPARATORS,
    KeyPattern,
    namespace_of,
    namespace_prefix,
    read_pattern,
    read_patterns,
)
from flowcache.store.slots import key_slot


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        ("*", ["a", "customer:1", "*"], []),
        ("settings", ["settings"], ["settings:", "setting", "settingss", "Settings", ""]),
        ("customer:*", ["customer:1", "customer:1:x", "customer:", "customer:*"], ["customer"]),
        ("customer:*", ["customer:é"], ["customers:1", "customer.1", "xcustomer:1", "Customer:1"]),
        ("a/b/*", ["a/b/c"], ["a/bc", "a/", "a/b"]),
        ("{42}:*", ["{42}:x"], ["{42}", "{4}:x"]),
        ("a?:*", ["a?:x"], ["ab:x"]),
        ("[ab]:*", ["[ab]:x"], ["a:x"]),
        ("é.*", ["é.x"], ["e.x"]),
    ],
)
def test_a_pattern_is_a_key_or_how_keys_begin(
    pattern: str, inside: list[str], outside: list[str]
) -> None:
    """Nothing but the star at the end is special, and what stands before it is whole segments."""
    keys = read_patterns([pattern])
    assert all(keys.cover(key.encode()) for key in inside)
    assert not [key for key in outside if keys.cover(key.encode())]


@pytest.mark.parametrize(
    "pattern",
    ["customer*", "c*", "**", "*:x", "a:*:b", "a:**", "", "flowcache:x", "flowcache:*", "a-*"],
)
def test_what_could_be_misread_is_no_pattern(pattern: str) -> None:
    """A prefix that ends within a word would let in another's keys: it is refused, not guessed."""
    with pytest.raises(ValueError, match=r"pattern|flowcache's own"):
        read_patterns(["fine:*", pattern])


def test_patterns_add_up() -> None:
    """A key is covered when any of them covers it."""
    keys = read_patterns(["a:*", "b", *(f"{c}*" for c in ("x" + s for s in SEPARATORS))])
    assert [keys.cover(k) for k in (b"a:1", b"b", b"x/1", b"c", b"b1", b"x")] == [
        *(True, True, True),
        *(False, False, False),
    ]


@pytest.mark.parametrize(
    ("pattern", "subject", "name", "is_beginning"),
    [
        ("customer:{subject}:*", "4711", b"customer:4711:", True),
        ("customer:{subject}", "4711", b"customer:4711", False),
        ("{{subject}}:*", "4711", b"{4711}:", True),
        ("{subject}:copy-of:{subject}", "a", b"a:copy-of:a", False),
        ("customer:{subject}:*", "*", b"customer:*:", True),
        ("customer:{subject}", "4711:*", b"customer:4711:*", False),
        ("customer:{subject}:*", "{subject}", b"customer:{subject}:", True),
        ("customer:{subject}", "", b"customer:", False),
        ("*", None, b"", True),
    ],
)
def test_a_subject_is_taken_letter_by_letter(
    pattern: str, subject: str | None, name: bytes, is_beginning: bool
) -> None:
    """Whatever somebody is called, it can't widen a pattern."""
    read = read_pattern(pattern, subject)
    assert read == KeyPattern(name, is_beginning)
    assert read.text == name + b"*" * is_beginning


@pytest.mark.parametrize(
    ("pattern", "subject"),
    [("{subject}*", "a:"), ("{subject}:*", "flowcache:once"), ("{subject}", "flowcache:ns:a:b")],
)
def test_a_subject_makes_no_pattern_of_what_is_none(pattern: str, subject: str) -> None:
    """It neither ends a segment nor reaches what is flowcache's own."""
    with pytest.raises(ValueError, match=r"pattern|flowcache's own"):
        read_pattern(pattern, subject)


def test_all_and_none() -> None:
    """The defaults: what was not given is not covered."""
    assert ALL_KEYS.cover(b"x")
    assert read_patterns(["*"]) == ALL_KEYS
    assert not NO_KEYS.cover(b"x")
    assert not NO_KEYS.cover(b"")


@pytest.mark.parametrize("name", ["a", "A-1_b", "x" * 32])
def test_a_namespace_is_a_prefix_without_a_tag(name: str) -> None:
    """The hash tag of a key means in a namespace what it means without one."""
    prefix = namespace_prefix(name)
    assert prefix == b"flowcache:ns:" + name.encode() + b":"
    for key in (b"{a}b", b"x{a}y", b"}{a}", b"a}b{c}", b"{a{b}c}"):
        assert key_slot(prefix + key) == key_slot(key)


@pytest.mark.parametrize("name", ["", "a:b", "a b", "{a}", "a}", "-a", "é", "x" * 33, "a\n", "*"])
def test_a_namespace_has_a_name(name: str) -> None:
    """A separator or a brace in it could make two namespaces meet, or move the keys."""
    with pytest.raises(ValueError, match="expected"):
        namespace_prefix(name)


def test_a_client_has_a_namespace_by_its_name() -> None:
    """Its own name where that may be one, and else one that clients with like names don't share."""
    assert [namespace_of(name) for name in ("crm", "x" * 32)] == ["crm", "x" * 32]
    alike = ["crm.v2", "crm-v2", "crm.v2.", *("x" * length for length in (32, 33, 64))]
    made = [namespace_of(name) for name in alike]
    assert len(set(map(namespace_prefix, made))) == len(alike)
    assert made[0].startswith("crm-v2-")
