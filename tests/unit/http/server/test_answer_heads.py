"""The heads of answers: what is put together once, and what may not be."""

from __future__ import annotations

import pytest

from flowcache.server.exchange import AnswerHeads


def test_the_date_is_of_now() -> None:
    """Lines are kept for as long as the second lasts."""
    heads = AnswerHeads()
    for date in (b"one", b"one", b"two"):
        heads.tell_time(date)
        for status in (200, 503, 200):
            assert heads.begin(status).endswith(b"\r\ndate: %b\r\n" % date)


def test_fields_of_every_kind_take_no_room_without_end() -> None:
    """An application whose fields differ from answer to answer is served, and not remembered."""
    heads = AnswerHeads()
    for number in range(1000):
        fields = ((b"x-number", b"%d" % number),)
        for _ in range(2):
            assert heads.fields(fields) == b"x-number: %d\r\n" % number
    assert len(heads._blocks) < 100


@pytest.mark.parametrize("name", [b"date", b"connection", b"content-length", b"transfer-encoding"])
def test_framing_is_the_servers(name: bytes) -> None:
    """What decides where an answer ends is written once, and not by the application."""
    assert AnswerHeads().fields([(name, b"x"), (b"a", b"b")]) == b"a: b\r\n"


@pytest.mark.parametrize("value", [b"x\r\nset-cookie: a=b", b"x\nset-cookie: a=b", b"x\r"])
def test_a_field_is_one_line(value: bytes) -> None:
    """Whoever can choose a value can't write a second field, nor a second answer."""
    with pytest.raises(ValueError, match="line break"):
        AnswerHeads().fields(((b"x-one", value),))
    with pytest.raises(ValueError, match="line break"):
        AnswerHeads().fields([(b"x-one", value)])
