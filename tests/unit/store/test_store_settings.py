"""How places are written, and what is said about those that are written wrong."""

import string
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowcache.secret import Secret
from flowcache.store.settings import Address, Location, parse_location, without_credentials

T = TypeVar("T")

SECRET = "s3cret"
NODE = Address("h", 6379)
# What makes URLs hard, and a password that can be recognised.
PIECES = st.sampled_from(
    [
        *("@:/?#[]%,=&. \t\n\\"),
        *("//", "redis://", "unix://", "redis+sentinel://", "host", "6379", "user", "db=0"),
        *("::1", "[::1]", "0", "99999", "-1", "\x00", "%00", "\ud800", SECRET),
        *("\N{SNOWMAN}", "\N{FULLWIDTH COLON}", "\N{KELVIN SIGN}"),
    ]
)
TEXTS = st.lists(PIECES, max_size=12).map("".join) | st.text()


def outcome(parse: Callable[[str], T], text: str) -> T | ValueError:
    """Return what is read, or why it can't be."""
    try:
        return parse(text)
    except ValueError as fault:
        return fault


class TestAddress:
    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("host", Address("host", 6379)),
            ("host:1", Address("host", 1)),
            ("host:65535", Address("host", 65535)),
            ("host:", Address("host", 6379)),
            ("10.0.0.1:7000", Address("10.0.0.1", 7000)),
            ("[::1]:7000", Address("::1", 7000)),
            ("[::1]", Address("::1", 6379)),
            ("redis.example.com", Address("redis.example.com", 6379)),
        ],
    )
    def test_what_is_read(self, text: str, address: Address) -> None:
        """Host and port, IPv6 in brackets; the port may be left out."""
        assert Address.parse(text) == address

    @pytest.mark.parametrize(
        "text",
        [
            *("", ":", ":1", "host:0", "host:65536", "host:-1", "host:port", "host:1:2", "::1"),
            *("host/path", "host?query", "host#part", "a@host", "[::1", "[::1]x", "host:\u0663"),
        ],
    )
    def test_what_is_not(self, text: str) -> None:
        """Anything else is refused with a sentence."""
        with pytest.raises(ValueError, match=r"expected host:port|needs a URL"):
            Address.parse(text)

    @settings(deadline=None)
    @given(TEXTS)
    def test_anything(self, text: str) -> None:
        """Whatever the text, it is an address that one can connect to, or a ValueError."""
        read = outcome(Address.parse, text)
        if isinstance(read, ValueError):
            assert SECRET not in str(read)
        else:
            assert read.host
            assert 0 < read.port < 65536

    @settings(deadline=None)
    @given(
        st.text(string.ascii_lowercase + string.digits + ".-", min_size=1)
        | st.ip_addresses().map(str),
        st.integers(1, 65535),
    )
    def test_what_is_shown_can_be_read(self, host: str, port: int) -> None:
        """An address as it is shown, in a log say, is read back as the same."""
        address = Address(host, port)
        assert Address.parse(str(address)) == address

    def test_unix_sockets_are_shown_as_paths(self) -> None:
        """A Unix socket is known by its path alone."""
        assert str(Address("/run/redis.sock", 0)) == "/run/redis.sock"


class TestLocation:
    @pytest.mark.parametrize(
        ("text", "location"),
        [
            ("h", Location((NODE,), None, None, None, False, None)),
            (
                "h,h:1 , [::1]:2",
                Location((NODE, Address("h", 1), Address("::1", 2)), None, None, None, False, None),
            ),
            ("redis://h", Location((NODE,), None, None, None, False, None)),
            ("redis://h/", Location((NODE,), None, None, None, False, None)),
            ("redis://h:1/2", Location((Address("h", 1),), None, None, 2, False, None)),
            ("redis://h?db=2", Location((NODE,), None, None, 2, False, None)),
            ("redis://:s3cret@h", Location((NODE,), None, Secret(SECRET), None, False, None)),
            ("redis://me:s3cret@h", Location((NODE,), "me", Secret(SECRET), None, False, None)),
            ("redis://me@h", Location((NODE,), "me", None, None, False, None)),
            ("rediss://h,h:1", Location((NODE, Address("h", 1)), None, None, None, True, None)),
            (
                "unix:///run/redis.sock?db=3",
                Location((Address("/run/redis.sock", 0),), None, None, 3, False, None),
            ),
            (
                "redis+sentinel://:s3cret@h,h:1/flows/4",
                Location(
                    (Address("h", 26379), Address("h", 1)), None, Secret(SECRET), 4, False, "flows"
                ),
            ),
            (
                "rediss+sentinel://h/flows",
                Location((Address("h", 26379),), None, None, None, True, "flows"),
            ),
            # In a password all may stand that a URL would want escaped, and what is escaped is not.
            ("redis://:a%40b%2Fc@h", Location((NODE,), None, Secret("a@b/c"), None, False, None)),
            (
                "redis://:p@ss/w?rd#@h",
                Location((NODE,), None, Secret("p@ss/w?rd#"), None, False, None),
            ),
        ],
    )
    def test_what_is_read(self, text: str, location: Location) -> None:
        """URLs as redis-py reads them, lists of nodes, Sentinels with their service."""
        assert parse_location(text) == location

    @pytest.mark.parametrize(
        "text",
        [
            *("", ",", " , ", "http://h", "://h", "redis://", "redis://,", "redis:///0"),
            *("redis://h/zero", "redis://h/-1", "redis://h/\u0663", "redis://h?db=x"),
            *("redis+sentinel://h", "redis+sentinel://h/", "unix://", "unix://relative/path"),
            *("redis://h:0", "redis://h:99999", "redis://h,h:x"),
        ],
    )
    def test_what_is_not(self, text: str) -> None:
        """Anything else is refused with a sentence."""
        with pytest.raises(ValueError, match=r"[a-z]+ [a-z]+"):
            parse_location(text)

    @settings(deadline=None)
    @given(TEXTS)
    @example("user:s3cret@host:6379")
    @example("//user:s3cret@host:port")
    @example("rediss//:s3cret@host")
    @example("redis://:s3cret/x@host:port")
    @example("redis://:s3cret?x@[host")
    @example("redis://:s3cret#x")
    @example("redis://host/s3cret")
    @example("s3cret://host")
    @example("redis://:s3cret")
    @example("redis://" + "9" * 5000)
    @example("redis://h/" + "9" * 5000)
    @example("redis://h?db=" + "9" * 5000)
    def test_anything(self, text: str) -> None:
        """Whatever the text, it is a place or a ValueError that quotes nothing of it."""
        read = outcome(parse_location, text)
        if isinstance(read, ValueError):
            assert SECRET not in str(read)
        else:
            assert read.nodes
            assert SECRET not in repr(read.password)

    @settings(deadline=None)
    @given(st.text(min_size=1), st.text())
    @example("a@b", "c:d")
    @example("\ud800", "")
    def test_credentials_come_through(self, password: str, user: str) -> None:
        """A user and a password, escaped as URLs want it, arrive as they are."""
        try:
            url = f"redis://{quote(user, safe='')}:{quote(password, safe='')}@h"
        except UnicodeEncodeError:
            return  # a lone surrogate is no text that a URL can carry
        location = parse_location(url)
        assert location.username == (user or None)
        assert location.password == Secret(password)
        assert location.nodes == (NODE,)


class TestShown:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("h:1,h:2", "h:1,h:2"),
            ("redis://me:s3cret@h:1/0", "***@h:1/0"),
            ("redis://:s3@cret@h", "***@h"),
            ("redis://h?password=s3cret", "redis://***"),
        ],
    )
    def test_without_credentials(self, text: str, shown: str) -> None:
        """A place can be shown without what must not be shown."""
        assert without_credentials(text) == shown

    @settings(deadline=None)
    @given(st.text(), st.sampled_from(["redis://", "redis+sentinel://", ""]))
    def test_nothing_before_the_host(self, user: str, scheme: str) -> None:
        """Whatever the user is called, the password is not shown."""
        assert SECRET not in without_credentials(f"{scheme}{user}:{SECRET}@host:6379")
