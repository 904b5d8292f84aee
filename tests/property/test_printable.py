"""What strangers wrote, as it is shown: it steers no terminal and hides from no reader."""

from __future__ import annotations

import json
import unicodedata

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from flowcache.audit.chain import Entry, Link
from flowcache.audit.exporting import fields
from flowcache.audit.received import line
from flowcache.printable import printable, printable_json, printable_lines

DECEIVING = "\x1b\x07\x00\t\r\n\x7f\x85\x9b\u200b\u200e\u200f\u202e\u2066\u2069\u2028\ufeff\u3164"
TAGS = "\U000e0041\U000e0100\ufe0f\ud800"
NASTY = st.text(st.one_of(st.characters(), st.sampled_from(DECEIVING + TAGS + '"\\a😀é')))
ENCODABLE = NASTY.map(lambda text: text.encode("utf-8", "ignore").decode())
"""What a journal can hold: UTF-8 has no lone surrogates."""

UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def assert_shown(text: str) -> None:
    """Check it by Unicode's own categories, and that nothing of what deceives is left."""
    assert not [c for c in text if unicodedata.category(c) in UNSEEN]
    assert not set(text) & set(DECEIVING + TAGS)


@given(NASTY)
def test_a_text_steers_no_terminal(text: str) -> None:
    """Nothing in it is a control, and nothing can't be seen; shown twice it is the same."""
    shown = printable(text)
    assert_shown(shown)
    assert printable(shown) == shown


@given(NASTY)
def test_lines_stay_lines(text: str) -> None:
    """Each line is shown as it would be alone, and there are no more of them."""
    assert printable_lines(text).split("\n") == [printable(each) for each in text.split("\n")]


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    """Plain ASCII is shown character by character."""
    assert printable(text) == text


@given(
    st.recursive(NASTY | st.none() | st.integers(), lambda v: st.dictionaries(NASTY, v)),
    st.booleans(),
    st.sampled_from([None, 2]),
)
def test_json_decodes_to_the_same_value(value: object, in_ascii: bool, indent: int | None) -> None:
    """What is escaped in JSON is read by every decoder as it was."""
    shown = printable_json(json.dumps(value, ensure_ascii=in_ascii, indent=indent))
    assert json.loads(shown) == value
    assert_shown(shown.replace("\n", ""))


@given(ENCODABLE, ENCODABLE, ENCODABLE)
def test_an_exported_record_decodes_to_what_is_kept(client: str, flow: str, key: str) -> None:
    """A line of an export or a delivery is harmless JSON, for both decoders we use."""
    entry = Entry(7, 1, "call", 0.0, client=client, flow=flow, key=key)
    encoded = line(Link(entry, bytes(32), None))
    assert_shown(encoded.decode())
    for decoded in (json.loads(encoded), msgspec.json.decode(encoded)):
        assert fields(entry).items() <= decoded.items()
