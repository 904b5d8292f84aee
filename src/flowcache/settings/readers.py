"""How values are read: what TOML gave, or the text of an environment variable.

A reader returns the value, or raises ValueError with what it expected, never with what it got.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from flowcache.authz.keys import namespace_prefix
from flowcache.authz.networks import Networks, read_network
from flowcache.encryption.keys import WrittenKeys, is_key_id
from flowcache.outbound.urls import is_safe
from flowcache.resilience.breaker import Unit, Window
from flowcache.secret import Secret, SecretInFile
from flowcache.store.settings import Location, parse_location

__all__ = [
    "base_url",
    "content",
    "encryption_keys",
    "file",
    "flag",
    "header",
    "key",
    "key_id",
    "keys",
    "location",
    "namespaces",
    "networks",
    "new_file",
    "number",
    "one_of",
    "output",
    "password",
    "path",
    "rate",
    "seconds",
    "secret",
    "share",
    "stream",
    "text",
    "url",
    "window",
]


def text(value: Any) -> str:
    """Read a text that is not blank, without the space around it."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("expected a text")
    return value.strip()


def secret(value: Any) -> Secret:
    """Read a secret that is sent in a header: printable ASCII without spaces."""
    if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable():
        raise ValueError("expected printable ASCII characters, at least one")
    if value != value.strip() or " " in value:
        raise ValueError("expected no spaces")
    return Secret(value)


def password(value: Any) -> Secret:
    """Read a password: any text."""
    if not isinstance(value, str):
        raise ValueError("expected a text")
    return Secret(value)


def file(value: Any) -> str:
    """Read the path of a file that can be read; what is returned is absolute.

    Links are left as they are: a mounted secret is one that leads elsewhere after each change.
    """
    try:
        path = Path(text(value)).expanduser()
        _bytes_of(path)
    except OSError as fault:
        raise ValueError(f"can't be read: {fault.strerror}") from None
    except RuntimeError:
        raise ValueError("has a home directory that nobody has") from None
    return str(path.absolute())


def _bytes_of(path: Path) -> bytes:
    """Read a regular file: to read a pipe may take for ever, and all calls with it."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
        if stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            return opened.read()
    raise OSError(errno.EINVAL, "it is no regular file")


def new_file(value: Any) -> Path:
    """Read the path of a file that may not be there yet; its directory has to be."""
    try:
        path = Path(text(value)).expanduser().absolute()
        is_in_directory, is_directory = path.parent.is_dir(), path.is_dir()
    except RuntimeError:
        raise ValueError("has a home directory that nobody has") from None
    except OSError as fault:  # a name too long for any file, a directory that may not be entered
        raise ValueError(f"can't be looked for: {fault.strerror}") from None
    if not is_in_directory:
        raise ValueError("its directory is not there")
    if is_directory:
        raise ValueError("is a directory")
    return path


def output(value: Any) -> str:
    """Read the path of a file to append to, or ``-`` for standard output."""
    if value == "-":
        return "-"
    path = new_file(value)
    if path.exists() and not path.is_file():  # /dev/stdout, a pipe: nobody can tell what is in it
        raise ValueError('is no regular file; standard output is "-"')
    return str(path)


def url(value: Any) -> str:
    """Read to where something is sent. In clear to this host only: it could be read on the way."""
    location = text(value)
    if not is_safe(location):
        raise ValueError("expected an https:// URL without credentials")
    return location


def base_url(value: Any) -> str:
    """Read a URL that paths are appended to."""
    return url(value).rstrip("/")


def path(value: Any) -> str:
    """Read the path of a URL, which stays on its server."""
    read = text(value)
    if not read.startswith("/") or read.startswith("//") or not read.isascii():
        raise ValueError("expected a path as /a/b")
    if not read.isprintable() or any(each in read for each in " #\\"):
        raise ValueError("expected a path without spaces, # and \\")
    return read


_LONGEST_KEY = 512


def stream(value: Any) -> str:
    """Read the name of a stream in Redis."""
    read = text(value)
    if len(read.encode()) > _LONGEST_KEY:
        raise ValueError(f"expected at most {_LONGEST_KEY} bytes")
    return read


_KEY_LENGTH = 32


def key(value: Any) -> Secret:
    """Read a secret that a hash is keyed with: too long to be guessed."""
    read = secret(value)
    if len(read.reveal()) < _KEY_LENGTH:
        raise ValueError(f"expected at least {_KEY_LENGTH} characters")
    return read


def content(read: Callable[[Any], Secret]) -> Callable[[Any], Secret]:
    """Return a reader of the path of a file that holds a secret, which ``read`` reads.

    White space around it does not count: editors end a file with a new line.
    """

    def read_file(value: Any) -> Secret:
        return SecretInFile(partial(held, file(value)))

    def held(path: str) -> Secret:
        try:
            text = _bytes_of(Path(path)).decode().strip()
        except UnicodeDecodeError:
            raise ValueError("expected a file of text") from None
        except OSError as fault:
            raise ValueError(f"can't be read: {fault.strerror}") from None
        if not text:
            raise ValueError("is empty")
        return read(text)

    return read_file


def flag(value: Any) -> bool:
    """Read true or false, or their usual words in the environment."""
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError("expected true or false")


def number(low: int, high: int) -> Callable[[Any], int]:
    """Return a reader of whole numbers, both ends included."""

    def read(value: Any) -> int:
        try:
            number = int(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        if type(number) is not int or not low <= number <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return number

    return read


def seconds(low: float, high: float) -> Callable[[Any], float]:
    """Return a reader of seconds, both ends included."""

    def read(value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = float("nan")
        if isinstance(value, bool) or not low <= number <= high:
            raise ValueError(f"expected seconds from {low:g} to {high:g}")
        return number

    return read


def share(value: Any) -> float:
    """Read a share from 0 to 1."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if isinstance(value, bool) or not 0 <= number <= 1:
        raise ValueError("expected a share from 0 to 1")
    return number


def rate(value: Any) -> float:
    """Read a share above 0."""
    rate = share(value)
    if rate == 0:
        raise ValueError("expected a share above 0")
    return rate


def window(value: Any) -> Window | None:
    """Read a number and its unit: one key that can't contradict another."""
    if value == "off":
        return None
    size, _, unit = value.partition(" ") if isinstance(value, str) else ("", "", "")
    longest = {"calls": 100_000, "seconds": 3600}
    number = int(size) if size.isascii() and size.isdigit() and len(size) < 9 else 0
    if not 1 <= number <= longest.get(unit, 0):
        raise ValueError(
            'expected "1 calls" to "100000 calls", "1 seconds" to "3600 seconds", or "off"'
        )
    return Window(number, Unit(unit))


def one_of(*choices: str) -> Callable[[Any], str]:
    """Return a reader of one of these words."""

    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"expected {' or '.join(choices)}")
        return str(value)

    return read


def location(value: Any) -> Location:
    """Read nodes: a text, or in TOML also a list of ``host:port``."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ",".join(value)
    return parse_location(text(value))


_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_TAKEN = {"authorization", "x-api-key", "x-forwarded-for", "host", "cookie"}


def header(value: Any) -> bytes:
    """Read the name of a header that means nothing else here (RFC 9110, 5.1)."""
    name = text(value).lower()
    if not _HEADER.fullmatch(name) or name in _TAKEN:
        raise ValueError("expected the name of a header of its own")
    return name.encode()


def networks(value: Any) -> Networks:
    """Read networks: a text with commas, or in TOML also a list."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ",".join(value)
    return Networks(read_network(each.strip()) for each in text(value).split(","))


def keys(value: Any) -> str:
    """Read where keys are. In clear from this host only: on the way they could be altered."""
    location = text(value)
    if "://" not in location:
        return file(location)
    if not is_safe(location):
        raise ValueError("expected a file, or an https:// URL without credentials")
    return location


def encryption_keys(value: Any) -> Secret:
    """Read lines of ``ID:BASE64``: a text, or in TOML also a list of them."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = "\n".join(value)
    if not isinstance(value, str):
        raise ValueError("expected a text")
    written = Secret(value)
    WrittenKeys(written).fetch()
    return written


def key_id(value: Any) -> str:
    """Read the id of a key for encryption."""
    read = text(value)
    if not is_key_id(read):
        raise ValueError("expected the id of a key: 1 to 32 letters, digits, - _ and .")
    return read


def namespaces(value: Any) -> tuple[str, ...]:
    """Read names of namespaces, or ``*``: a text with commas, or in TOML also a list."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ",".join(value)
    names = tuple(each.strip() for each in text(value).split(","))
    if "*" in names and len(names) > 1:
        raise ValueError('expected "*" alone, or names')
    for name in names:
        if name != "*":
            namespace_prefix(name)
    return names
