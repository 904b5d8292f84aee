"""How a setting is declared: one call of `setting`, as a field of the class of its section.

From that one call follow its key in the file, its environment variable, the ``_file`` sibling of a
secret, how it is masked, its line in the documentation and in the sample, and what a misspelt name
is compared with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from datetime import date
from typing import Any, Generic, TypeVar, dataclass_transform, overload

__all__ = [
    "Kind",
    "Setting",
    "declared",
    "ranged",
    "section",
    "setting",
    "sized",
    "toml",
    "toml_key",
]

T = TypeVar("T")
_LONGEST = 200


def toml(value: Any) -> str:
    """Return a value as it is written in a file of TOML, on one line and not too long."""
    try:
        match value:
            case bool():
                return str(value).lower()
            case str():
                return json.dumps(value[:_LONGEST], ensure_ascii=not value.isprintable())
            case int() | float():
                return str(value)
            case date():
                return value.isoformat()
            case list():
                return f"[{', '.join(map(toml, value))}]"[:_LONGEST]
            case dict():
                pairs = (f"{key} = {toml(each)}" for key, each in value.items())
                return f"{{ {', '.join(pairs)} }}"[:_LONGEST]
    except (ValueError, RecursionError):  # an integer of more than 4,300 digits, a deep list
        return "(too long to be shown)"
    return repr(value)[:_LONGEST]


_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def toml_key(name: str) -> str:
    """Return a name as a key of TOML: with quotes where it needs them."""
    return name if _BARE_KEY.fullmatch(name) else toml(name)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, bytes):
        return value.decode()
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _same(text: str) -> Any:
    return text


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """The values that a setting may have.

    ``read`` takes a value of TOML. It raises ValueError with the reason, and never quotes it.
    ``parse`` turns the text of an environment variable into a value of TOML.
    ``show`` turns what was read into what people and JSON see; ``mask`` does so with a bad value.
    """

    about: str
    read: Callable[[Any], T]
    parse: Callable[[str], Any] = _same
    show: Callable[[Any], Any] = _plain
    mask: Callable[[Any], str] = toml
    is_secret: bool = False
    unit: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """A setting. ``default`` is a value of TOML; with None, ``unset`` says what happens instead."""

    section: str
    key: str
    kind: Kind[Any]
    about: str
    default: Any = None
    unset: str = ""
    example: Any = None
    names: tuple[str, ...] = ()
    """Environment variables with the same meaning."""
    holds: str | None = None
    """The name of the secret setting whose value is in the file that this setting names."""

    @property
    def name(self) -> str:
        """The name as people write it: ``redis.nodes``."""
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"FLOWCACHE_{self.section}_{self.key}".upper()

    @property
    def is_secret(self) -> bool:
        """Whether its value is never shown, not even a bad one."""
        return self.kind.is_secret


@overload
def setting(
    kind: Kind[T], about: str, *, unset: str, example: Any = ..., names: tuple[str, ...] = ...
) -> T | None: ...


@overload
def setting(kind: Kind[T], about: str, *, default: Any, names: tuple[str, ...] = ...) -> T: ...


def setting(kind: Kind[Any], about: str, **more: Any) -> Any:
    """Declare a setting: it has a ``default``, or ``unset`` says what happens without a value."""
    return field(metadata={"declared": (kind, about, more)})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(setting,))
def section(cls: type[T]) -> type[T]:
    """Make a class the record of a section's values; its docstring describes the section."""
    return dataclass(frozen=True, slots=True, kw_only=True)(cls)


def declared(cls: Any, name: str) -> Iterator[Setting]:
    """Yield the settings that a class declares for the section ``name``."""
    for each in fields(cls):
        kind, about, more = each.metadata["declared"]
        yield Setting(name, each.name, kind, about, **more)


_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def sized(number: int) -> str:
    """Return a number of bytes in the largest unit that divides it."""
    for size, name in _UNITS:
        if number % size == 0:
            return f"{number // size} {name}"
    return str(number)


def ranged(low: float, high: float, unit: str) -> str:
    """Return a range in words."""
    if unit == "bytes":
        return f"{sized(int(low))} to {sized(int(high))}"
    top = f"{high:,g}" if high < 1e6 else f"{int(high):,}"
    return f"{low:,g} to {top}"
