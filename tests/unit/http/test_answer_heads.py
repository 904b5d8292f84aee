"""The heads of answers: what they have in common, and what can't be slipped in."""

from __future__ import annotations

import pytest

from flowcache.http.exchange import AnswerHeads

HSTS = ((b"strict-transport-security", b"max-age=63072000"),)


def test_what_is_common_is_in_every_head() -> None:
    """Whatever the status, also of answers that no application gave; before the date is known."""
    heads = AnswerHeads(HSTS)
    heads.tell_time(b"now")
    for status in (200, 404, 500, 200):
        lines = heads.begin(status).split(b"\r\n")
        assert lines[1:] == [b"date: now", b"strict-transport-security: max-age=63072000", b""]


def test_by_default_nothing_is() -> None:
    """An answer over plain HTTP says nothing of transport security."""
    heads = AnswerHeads()
    heads.tell_time(b"now")
    assert heads.begin(200) == b"HTTP/1.1 200 OK\r\ndate: now\r\n"


@pytest.mark.parametrize("value", [b"x\r\nset-cookie: a=b", b"x\nset-cookie: a=b", b"x\r"])
def test_a_field_is_one_line(value: bytes) -> None:
    """Whoever can choose a value can't write a second field, nor a second answer."""
    with pytest.raises(ValueError, match="line break"):
        AnswerHeads(((b"x-one", value),))
    with pytest.raises(ValueError, match="line break"):
        AnswerHeads().fields([(b"x-one", value)])
