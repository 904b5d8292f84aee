"""The kinds of values: how each is read, and how it is shown.

A reader takes a value of TOML. It returns what the value means, or raises ValueError with what it
expected, and never with what it got.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, time
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from flowcache.authn.certificates import read_name
from flowcache.authn.tokens import Token, read_digest
from flowcache.authz.keys import KeyPatterns, namespace_prefix, read_patterns
from flowcache.authz.networks import Networks, read_network
from flowcache.authz.permissions import Permission
from flowcache.encryption.keys import WrittenKeys, is_key_id
from flowcache.outbound.urls import is_safe
from flowcache.resilience.breaker import Unit, Window
from flowcache.secret import Secret, SecretInFile
from flowcache.settings.declaring import Kind, ranged, toml
from flowcache.store.settings import Location, parse_location, without_credentials

__all__ = ["choice", "content", "number", "whole"]

WordT = TypeVar("WordT", bound=str)

# -- texts -----------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("expected a text")
    return value.strip()


TEXT = Kind("text", _text)


def choice(*words: WordT) -> Kind[WordT]:
    """Return the kind of values that are one of these words."""
    known = {str(word): word for word in words}

    def read(value: Any) -> WordT:
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"expected {' or '.join(known)}")
        return known[value]

    return Kind(" or ".join(f"`{word}`" for word in known), read)


_LONGEST_KEY = 512


def _stream(value: Any) -> str:
    read = _text(value)
    if len(read.encode()) > _LONGEST_KEY:
        raise ValueError(f"expected at most {_LONGEST_KEY} bytes")
    return read


STREAM = Kind("key of Redis", _stream)

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_TAKEN = {"authorization", "x-api-key", "x-forwarded-for", "host", "cookie"}


def _header(value: Any) -> bytes:
    name = _text(value).lower()
    if not _HEADER.fullmatch(name) or name in _TAKEN:
        raise ValueError(f"expected the name of a header other than {', '.join(sorted(_TAKEN))}")
    return name.encode()


HEADER = Kind("name of a header", _header)
"""RFC 9110, 5.1."""


def _key_id(value: Any) -> str:
    read = _text(value)
    if not is_key_id(read):
        raise ValueError("expected the id of a key: 1 to 32 letters, digits, - _ and .")
    return read


KEY_ID = Kind("id of a key", _key_id)

# -- numbers and flags -----------------------------------------------------------------------------


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
FLAG = Kind("true or false", _flag, lambda text: _FLAGS.get(text.lower(), text))


def whole(low: int, high: int, unit: str = "") -> Kind[int]:
    """Return the kind of whole numbers from ``low`` to ``high``, both included."""

    def read(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return value

    about = f"{unit or 'whole number'}, {ranged(low, high, unit)}"
    return Kind(about, read, partial(_parsed, int), unit=unit)


def number(low: float, high: float, unit: str = "seconds") -> Kind[float]:
    """Return the kind of numbers from ``low`` to ``high``, both included."""

    def read(value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high:
            raise ValueError(f"expected {unit} from {low:g} to {high:g}")
        return float(value)

    return Kind(f"{unit}, {ranged(low, high, unit)}", read, partial(_parsed, float), unit=unit)


def _parsed(convert: Callable[[str], Any], text: str) -> Any:
    try:
        return convert(text)
    except ValueError:
        return text


SHARE = number(0, 1, "a share")


def _ratio(value: Any) -> float:
    read = SHARE.read(value)
    if read == 0:
        raise ValueError("expected a share above 0")
    return read


RATIO = replace(SHARE, read=_ratio, about="a share, above 0 to 1")

_LONGEST_WINDOW = {"calls": 100_000, "seconds": 3600}


def _window(value: Any) -> Window | None:
    if value == "off":
        return None
    size, _, unit = value.partition(" ") if isinstance(value, str) else ("", "", "")
    length = int(size) if size.isascii() and size.isdigit() and len(size) < 9 else 0
    if not 1 <= length <= _LONGEST_WINDOW.get(unit, 0):
        raise ValueError(
            'expected "1 calls" to "100000 calls", "1 seconds" to "3600 seconds", or "off"'
        )
    return Window(length, Unit(unit))


WINDOW = Kind(
    'number and unit: `"100 calls"`, `"30 seconds"`, or `"off"`',
    _window,
    show=lambda window: "off" if window is None else str(window),
)


def _instant(value: Any) -> float:
    """Return the Unix time of a TOML date, which begins in UTC, or of a date and time."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("expected an offset behind the time, as Z for UTC")
        return value.timestamp()
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC).timestamp()
    raise ValueError("expected a date without quotes, as 2027-01-31 or 2027-01-31T18:00:00Z")


INSTANT = Kind("date, or date and time with offset", _instant)

# -- files -----------------------------------------------------------------------------------------


def _file(value: Any) -> str:
    """Return the absolute path of a file that can be read.

    Links are left as they are: a mounted secret is one that leads elsewhere after each change.
    """
    try:
        path = Path(_text(value)).expanduser()
        _bytes_of(path)
    except OSError as fault:
        raise ValueError(f"can't be read: {fault.strerror}") from None
    except RuntimeError:
        raise ValueError("names the home directory of an unknown user") from None
    return str(path.absolute())


def _bytes_of(path: Path) -> bytes:
    """Read a regular file: reading a pipe may take for ever, and block all calls."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
        if stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            return opened.read()
    raise OSError(errno.EINVAL, "it is not a regular file")


def _new_file(value: Any) -> Path:
    try:
        path = Path(_text(value)).expanduser().absolute()
        is_in_directory, is_directory = path.parent.is_dir(), path.is_dir()
    except RuntimeError:
        raise ValueError("names the home directory of an unknown user") from None
    except OSError as fault:  # a name too long for any file, a directory that may not be entered
        raise ValueError(f"can't be looked for: {fault.strerror}") from None
    if not is_in_directory:
        raise ValueError("its directory does not exist")
    if is_directory:
        raise ValueError("is a directory")
    return path


def _output(value: Any) -> str:
    if value == "-":
        return "-"
    path = _new_file(value)
    if path.exists() and not path.is_file():  # a device or a pipe can't be read again
        raise ValueError('is not a regular file; standard output is "-"')
    return str(path)


FILE = Kind("path of a file", _file)
NEW_FILE = Kind("path of a file, in a directory that exists", _new_file)
OUTPUT = Kind("path of a file, or `-`", _output)

# -- secrets ---------------------------------------------------------------------------------------


def _secret(read: Callable[[Any], Secret], about: str) -> Kind[Secret]:
    return Kind(
        f"secret: {about}",
        read,
        show=lambda secret: None if secret is None else "***",
        mask=lambda _: "***",
        is_secret=True,
    )


_QUOTES = "'\"`"


def _token(value: Any) -> Secret:
    if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable():
        raise ValueError("expected printable ASCII characters, at least one")
    if " " in value:
        raise ValueError("expected no spaces")
    if value[0] in _QUOTES or value[-1] in _QUOTES:
        raise ValueError("expected no quotes around it; they would be a part of the token")
    if value.endswith(("\\n", "\\r")):
        raise ValueError("expected no line break, written as a backslash and a letter, at its end")
    return Secret(value)


def _password(value: Any) -> Secret:
    if not isinstance(value, str):
        raise ValueError("expected a text")
    return Secret(value)


_LONG = 32


def _long_secret(value: Any) -> Secret:
    read = _token(value)
    if len(read.reveal()) < _LONG:
        raise ValueError(f"expected at least {_LONG} characters")
    return read


def _encryption_keys(value: Any) -> Secret:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = "\n".join(value)
    written = _password(value)
    WrittenKeys(written).fetch()
    return written


TOKEN = _secret(_token, "printable ASCII without spaces")
PASSWORD = _secret(_password, "text")
LONG_SECRET = _secret(_long_secret, f"printable ASCII without spaces, at least {_LONG} characters")
ENCRYPTION_KEYS = _secret(_encryption_keys, "`ID:BASE64` each, a list or lines of a text")


def content(kind: Kind[Secret]) -> Kind[Secret]:
    """Return the kind of paths of files that contain a secret of ``kind``.

    White space around the secret does not count: editors end a file with a new line.
    """

    def read(value: Any) -> Secret:
        return SecretInFile(partial(held, _file(value)))

    def held(path: str) -> Secret:
        try:
            text = _bytes_of(Path(path)).decode().strip()
        except UnicodeDecodeError:
            raise ValueError("expected a file of text") from None
        except OSError as fault:
            raise ValueError(f"can't be read: {fault.strerror}") from None
        if not text:
            raise ValueError("is empty")
        return kind.read(text)

    return replace(kind, about=FILE.about, read=read, mask=toml, is_secret=False)


# -- places ----------------------------------------------------------------------------------------


def _url(value: Any) -> str:
    """Return where something is sent. In clear to this host only: it could be read on the way."""
    location = _text(value)
    if not is_safe(location):
        raise ValueError("expected an https:// URL without credentials")
    return location


def _base_url(value: Any) -> str:
    return _url(value).rstrip("/")


def _masked_url(value: Any) -> str:
    """Return a bad URL without what may be a secret: before its ``@``, or in its query."""
    has_secret = isinstance(value, str) and any(sign in value for sign in "@?")
    return toml(without_credentials(value) if has_secret else value)


def _shown_url(url: str | None) -> str | None:
    where, has_query, _ = (url or "").partition("?")  # some receivers take their secret there
    return f"{where}?***" if has_query else url


URL = Kind("https:// URL", _url, show=_shown_url, mask=_masked_url)
BASE_URL = Kind("https:// URL", _base_url, show=_shown_url, mask=_masked_url)


def _path(value: Any) -> str:
    read = _text(value)
    if not read.startswith("/") or read.startswith("//") or not read.isascii():
        raise ValueError("expected a path as /a/b")
    if not read.isprintable() or any(each in read for each in " #\\"):
        raise ValueError("expected a path without spaces, # and \\")
    return read


PATH = Kind("path of a URL", _path)


def _key_set(value: Any) -> str:
    location = _text(value)
    if "://" not in location:
        return _file(location)
    if not is_safe(location):
        raise ValueError("expected a file, or an https:// URL without credentials")
    return location


KEY_SET = Kind(
    "path of a file, or an https:// URL",
    _key_set,
    show=_shown_url,
    mask=lambda value: toml(without_credentials(value) if isinstance(value, str) else value),
)


def _joined(value: Any) -> Any:
    """Return a list of texts as one text with commas."""
    is_list = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return ",".join(value) if is_list else value


def _nodes(value: Any) -> Location:
    return parse_location(_text(_joined(value)))


def _masked_nodes(value: Any) -> str:
    nodes = value if isinstance(value, list) else [value]
    shown = [without_credentials(node) if isinstance(node, str) else "***" for node in nodes]
    return toml(",".join(shown))


NODES = Kind(
    "list of `host:port`, or a URL",
    _nodes,
    show=lambda location: [str(node) for node in location.nodes],
    mask=_masked_nodes,
)

# -- lists -----------------------------------------------------------------------------------------


def _networks(value: Any) -> Networks:
    return Networks(read_network(each.strip()) for each in _text(_joined(value)).split(","))


def _namespaces(value: Any) -> tuple[str, ...]:
    names = tuple(each.strip() for each in _text(_joined(value)).split(","))
    if "*" in names and len(names) > 1:
        raise ValueError('expected "*" alone, or names')
    for name in names:
        if name != "*":
            namespace_prefix(name)
    return names


NETWORKS = Kind("list of networks", _networks)
NAMESPACES = Kind("list of names, or `*`", _namespaces)


def _texts(value: Any, most: int = 100) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise ValueError("expected a list of texts, at least one")
    if len(value) > most:
        raise ValueError(f"expected at most {most}")
    return value


def _shown_set(values: Iterable[Any] | None) -> list[str] | None:
    return None if values is None else sorted(map(str, values))


def _permissions(value: Any) -> frozenset[Permission]:
    unknown = [each for each in _texts(value) if each not in set(Permission)]
    if unknown:
        raise ValueError(f"{toml(unknown[0])} is unknown; expected {', '.join(Permission)}")
    return frozenset(map(Permission, value))


def _operations(value: Any) -> frozenset[str]:
    return frozenset(each.upper() for each in _texts(value))


PERMISSIONS = Kind(f"list of {', '.join(Permission)}", _permissions, show=_shown_set)
OPERATIONS = Kind("list of operations", _operations, show=_shown_set)


def _key_patterns(value: Any) -> KeyPatterns:
    return read_patterns(_texts(value))


def _namespace(value: Any) -> bytes:
    return namespace_prefix(_text(value))


def _certificates(value: Any) -> tuple[str, ...]:
    return tuple(map(read_name, _texts(value, most=8)))


KEY_PATTERNS = Kind('list of patterns, as `"customer:*"`', _key_patterns)
NAMESPACE = Kind("name: 1 to 32 letters, digits, `-` and `_`", _namespace)
CERTIFICATES = Kind("list of `sha256:…`, `dns:…` or `uri:…`", _certificates)

_MOST_TOKENS = 2


def _tokens(value: Any) -> tuple[Token, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= _MOST_TOKENS:
        raise ValueError("expected a list of one or two, so that the next can replace the last")
    return tuple(map(_digested, value))


def _digested(value: Any) -> Token:
    if isinstance(value, str):
        return Token(read_digest(value))
    if not isinstance(value, dict) or not {"hash"} <= value.keys() <= {"hash", "expires"}:
        raise ValueError('expected "sha256:..." or { hash = "sha256:...", expires = 2027-01-31 }')
    if not isinstance(value["hash"], str):
        raise ValueError("expected a text as hash")
    expires = value.get("expires")
    return Token(read_digest(value["hash"]), None if expires is None else _instant(expires))


TOKENS = Kind("list of one or two digests", _tokens, mask=lambda _: "***")
"""A bad value is never shown: it may be the token itself."""
