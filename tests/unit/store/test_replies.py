"""What follows from an error reply."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcache.errors import (
    Declined,
    Failure,
    Forbidden,
    NotYet,
    RedisUnavailable,
    TooLarge,
    WrongType,
)
from flowcache.store.replies import (
    EXPIRED,
    FULL,
    LOST,
    NOT_SENT,
    OVERSIZED,
    REACTIONS,
    ErrorReply,
    Fault,
    Reaction,
    reaction,
)


@pytest.mark.parametrize(
    ("text", "what", "failure"),
    [
        # As servers word them.
        ("MOVED 3999 127.0.0.1:6381", Reaction.MOVED, RedisUnavailable),
        ("ASK 3999 127.0.0.1:6381", Reaction.ASK, RedisUnavailable),
        (
            "TRYAGAIN Multiple keys request during rehashing of slot",
            Reaction.AGAIN,
            Declined,
        ),
        ("NOSCRIPT No matching script.", Reaction.SCRIPT, RedisUnavailable),
        (
            "READONLY You can't write against a read only replica.",
            Reaction.REFRESH,
            RedisUnavailable,
        ),
        ("CLUSTERDOWN Hash slot not served", Reaction.REFRESH, NotYet),
        ("CLUSTERDOWN The cluster is down", Reaction.REFRESH, NotYet),
        ("MASTERDOWN Link with MASTER is down", Reaction.REFRESH, NotYet),
        ("LOADING Redis is loading the dataset in memory", Reaction.REFUSE, NotYet),
        ("BUSY Redis is busy running a script.", Reaction.REFUSE, NotYet),
        ("OOM command not allowed when used memory > 'maxmemory'.", Reaction.REFUSE, Declined),
        ("MISCONF Redis is configured to save RDB snapshots", Reaction.REFUSE, Declined),
        ("NOREPLICAS Not enough good replicas to write.", Reaction.REFUSE, Declined),
        ("WRONGTYPE Operation against a key", Reaction.ANSWER, WrongType),
        (
            "ERR string exceeds maximum allowed size (proto-max-bulk-len)",
            Reaction.ANSWER,
            TooLarge,
        ),
        (
            "ERR ACL failure in script: User f has no permissions to run the 'xadd' command",
            Reaction.ANSWER,
            Forbidden,
        ),
        ("ERR unknown command 'FOO'", Reaction.REFUSE, Declined),
        ("A word of some later version", Reaction.REFUSE, Declined),
        ("", Reaction.REFUSE, Declined),
        # Only the first word counts, and all of it.
        ("ERR MOVED", Reaction.REFUSE, Declined),
        ("MOVEDX 1", Reaction.REFUSE, Declined),
        ("moved 1", Reaction.REFUSE, Declined),
    ],
)
def test_what_follows(text: str, what: Reaction, failure: type[Failure]) -> None:
    """Each error that servers are known to send leads where it should."""
    assert reaction(ErrorReply(text))[:2] == (what, failure)


def test_every_reaction_is_used() -> None:
    """No row of the table is missing for a reaction that the store knows."""
    in_the_table = {what for what, _, _ in REACTIONS.values()}
    assert in_the_table == set(Reaction)


def test_messages_are_sentences() -> None:
    """A flow author reads whole sentences, none twice for different things to do."""
    told: dict[str, Reaction] = {}
    for code, (what, _, message) in REACTIONS.items():
        assert message[0].isupper(), code
        assert message.endswith("."), code
        assert what not in (Reaction.REFUSE, Reaction.ANSWER) or message not in told, code
        told[message] = what


@settings(deadline=None)
@given(st.text())
def test_any_text(text: str) -> None:
    """Any text has a reaction, and a message that repeats nothing of it."""
    what, failure, message = reaction(ErrorReply(text))
    assert isinstance(what, Reaction)
    assert issubclass(failure, Failure)
    known = {told for _, _, told in REACTIONS.values()}
    assert message in known | {
        "Redis refused the command.",
        "value: larger than Redis takes.",
    }


def test_all_that_is_no_reply_is_a_fault() -> None:
    """One look at the class tells a reply from what came in its place."""
    for fault in (EXPIRED, FULL, LOST, NOT_SENT, OVERSIZED, ErrorReply("ERR")):
        assert isinstance(fault, Fault)
    assert LOST.sent
    assert not NOT_SENT.sent


def test_an_error_shows_its_text() -> None:
    """In a traceback or a debugger an error reply can be told from others."""
    assert repr(ErrorReply("ERR no")) == "ErrorReply('ERR no')"
    assert ErrorReply("ERR no").code == "ERR"


SHA = "8dc1c6099f7bbb8945a2a0c5b8af4f8ebfe3edfc"
AS_IN_62 = [
    ("@user_script: 42: -READONLY You can't write against a read only replica.", "READONLY"),
    ("@user_script: 56: -OOM command not allowed when used memory > 'maxmemory'.", "OOM"),
    ("@user_script: 36: -MISCONF Redis is configured to save RDB snapshots, but it is", "MISCONF"),
    (
        f"ERR Error running script (call to f_{SHA}): @user_script:57: @user_script: 57: "
        "-READONLY You can't write against a read only replica. ",
        "READONLY",
    ),
    ("READONLY You can't write against a read only replica.", "READONLY"),
    ("NOREPLICAS Not enough good replicas to write.", "NOREPLICAS"),
    ("CLUSTERDOWN Hash slot not served", "CLUSTERDOWN"),
    (
        "@user_script: 36: The user executing the script can't run this command or subcommand",
        "NOPERM",
    ),
    (
        f"ERR Error running script (call to f_{SHA}): @user_script:67: @user_script: 67: "
        "The user executing the script can't run this command or subcommand",
        "NOPERM",
    ),
]
"""What a Redis 6.2.5 said, and the code that it means."""


@pytest.mark.parametrize(("text", "code"), AS_IN_62)
def test_an_error_in_a_script_is_what_it_is_outside(text: str, code: str) -> None:
    """Redis 6.2 wraps what a command in a script is refused with; the reaction is the same."""
    assert reaction(ErrorReply(text)) == REACTIONS[code]


@pytest.mark.parametrize(
    "text",
    [
        "ERR the value is @user_script: 1: -READONLY x",
        "@user_script: 1: READONLY x",
        "@user_script: x: -READONLY x",
        "ERR Error running script (call to f_zz): @user_script: 1: -READONLY x",
    ],
)
def test_and_a_text_that_looks_alike_is_not(text: str) -> None:
    """A code counts where Redis puts it, and not in the middle of a text."""
    assert ErrorReply(text).code in ("ERR", "@user_script:")


def test_a_code_has_a_length() -> None:
    """A code of any length becomes one of 64 characters: it is logged."""
    assert len(ErrorReply("X" * 10_000).code) == 64
