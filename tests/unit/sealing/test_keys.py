"""Keys as they are written down."""

from __future__ import annotations

from base64 import b64encode

import pytest

from flowcache.encryption.keys import Key, WrittenKeys, is_key_id, new_key
from flowcache.secret import Secret
from tests.envelopes import SECRETS, line


def fetched(text: str) -> tuple[Key, ...]:
    return WrittenKeys(Secret(text)).fetch()


def fault(text: str) -> str:
    with pytest.raises(ValueError, match=r"key|BASE64") as caught:
        fetched(text)
    return str(caught.value)


def test_a_file_of_keys() -> None:
    """Keys come in their order; comments, which may hold commas, and empty lines say nothing."""
    text = f"# ours: old, new\n\n{line('k2')}\r\n  {line('k1')}  \n # end\n"
    assert [(key.id, key.material()) for key in fetched(text)] == [
        ("k2", SECRETS["k2"]),
        ("k1", SECRETS["k1"]),
    ]


def test_commas_in_place_of_lines() -> None:
    """An environment variable is one line."""
    assert [key.id for key in fetched(f"{line('k1')}, {line('k2')},")] == ["k1", "k2"]


def test_a_new_key_is_a_line_of_the_file() -> None:
    """What `new_key` writes is read back, and no two are the same."""
    one, other = new_key("2027-01"), new_key("2027-01")
    assert fetched(one.line()) == (one,)
    assert len(one.material()) == 32
    assert one != other


def test_a_key_does_not_show() -> None:
    """Neither key nor provider tells what it holds."""
    encoded = b64encode(SECRETS["k1"]).decode()
    (key,) = fetched(line("k1"))
    for shown in (repr(key), str(key), f"{WrittenKeys(Secret(line('k1')))!r}"):
        assert encoded not in shown
        assert repr(SECRETS["k1"]) not in shown


@pytest.mark.parametrize(
    "entry",
    [
        "needle",
        ":needle",
        "k1:needle",
        "k1:" + b64encode(b"x" * 31).decode(),
        "k1:" + b64encode(b"x" * 33).decode(),
        "k1:" + b64encode(b"x" * 32).decode().rstrip("="),
        "k1:" + b64encode(b"\xff" * 32).decode().replace("/", "_"),
        "k1: " + b64encode(b"x" * 32).decode(),
        "k1:" + b64encode(b"x" * 32).decode()[:-2] + "B=",  # another spelling of the same bytes
        "-k1:" + b64encode(b"x" * 32).decode(),
        "k" * 33 + ":" + b64encode(b"x" * 32).decode(),
        "ké:" + b64encode(b"x" * 32).decode(),
    ],
)
def test_what_is_no_key_is_not_repeated(entry: str) -> None:
    """The fault says which line, and nothing of what might be a secret."""
    told = fault(f"{line('k2')}\n{entry}")
    assert told == 'line 2: expected ID:BASE64, as "flowcache encryption new-key" prints it'


def test_all_faults_are_told_together() -> None:
    """Two keys of one id, one key with two ids, and what is none: each is told, with its line."""
    same = line("k2").replace("k2", "other")
    told = fault(f"{line('k1')}\n{line('k1')}\nx\n{line('k2')}\n{same}")
    assert [part.partition(":")[0] for part in told.split("; ")] == ["line 2", "line 3", "line 5"]
    assert "a second key k1" in told
    assert "the key other is the same as another" in told


@pytest.mark.parametrize("text", ["", " \n", "# nothing", ",,"])
def test_no_keys_are_a_fault(text: str) -> None:
    """A file that was mounted empty does not turn encryption off."""
    assert fault(text) == "expected at least one key"


def test_ids() -> None:
    """An id fits into an envelope and a metric's label."""
    assert all(map(is_key_id, ("1", "2027-01", "k_1.b", "k" * 32)))
    assert not any(map(is_key_id, ("", "-1", ".", "a b", "a:b", "k" * 33, "é", "k\n")))
