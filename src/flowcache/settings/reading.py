"""Read the configuration: the command line, then the environment, then one TOML file.

What is wrong becomes a `Fault`, a value; reading goes on, so that all faults are reported together.
A setting with a fault has its default here, and `Reading.is_faulty` tells: what depends on it is
not checked.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from flowcache.settings.declarations import CLIENT_SETTINGS, SECTIONS, SETTINGS, Config
from flowcache.settings.declaring import Setting, toml, toml_key

__all__ = [
    "ConfigurationError",
    "Fault",
    "Reading",
    "Sources",
    "find_unknown",
    "read",
    "read_file",
    "read_table",
    "service_links",
]

_DEFAULT, _GENERATED, _COMMAND_LINE = "default", "generated", "command line"
_ROWS = {row.name: row for row in SETTINGS}


class Fault(NamedTuple):
    """What is wrong with the configuration, and where.

    ``path`` is a setting, as ``redis.nodes``, a file or a variable; ``value`` its bad value as it
    may be shown; ``source`` is where that comes from.
    """

    path: str
    reason: str
    value: str = ""
    source: str = ""

    def __str__(self) -> str:
        source = f" ({self.source})" if self.source else ""
        value = f" = {self.value}" if self.value else ""
        return f"{self.path}{source}{value}: {self.reason}"


class ConfigurationError(Exception):
    """The configuration has faults."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(map(str, self.faults)))


@dataclass(frozen=True, slots=True)
class Reading:
    """The configuration as it was read, and the faults that were found so far."""

    config: Config
    sources: Mapping[str, str]
    """Name of a setting -> where its value comes from."""
    faults: list[Fault]

    def is_faulty(self, *names: str) -> bool:
        """Tell whether one of the settings, or the file of a secret, has a fault.

        A name that ends with ``.`` or ``_`` stands for all settings that begin so.
        """
        return any(
            fault.path in (name, f"{name}_file")
            or (name[-1] in "._" and fault.path.startswith(name))
            for fault in self.faults
            for name in names
        )

    def value(self, name: str) -> Any:
        """Return the value of a setting by its name."""
        section, _, key = name.partition(".")
        return getattr(getattr(self.config, section), key)

    def shown(self, name: str) -> Any:
        """Return the value of a setting as people and JSON may see it."""
        return _ROWS[name].kind.show(self.value(name))

    def fault(self, name: str, reason: str) -> None:
        """Add a fault of a value that is valid by itself."""
        shown, source = self.shown(name), self.sources[name]
        value = "" if shown is None or _ROWS[name].is_secret else toml(shown)
        self.faults.append(Fault(name, reason, value, "" if source == _DEFAULT else source))


# -- the file --------------------------------------------------------------------------------------


def read_file(file: Path | None, faults: list[Fault]) -> dict[str, Any]:
    """Return what is in a file of TOML: nothing without a file, or with a fault."""
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as fault:
        faults.append(Fault(str(file), f"can't be read: {fault.strerror}"))
    except (ValueError, RecursionError) as fault:  # tomllib raises other errors of value, too
        faults.append(Fault(str(file), f"not valid TOML: {fault}"))
    return {}


def find_unknown(
    document: Mapping[str, Any], environment: Mapping[str, str], file: str, faults: list[Fault]
) -> None:
    """Report whatever is set and unknown: a misspelt setting would have no effect.

    The tables of clients are left to `read_table`.
    """
    for section, keys in document.items():
        if section == "clients":
            continue
        if not isinstance(keys, dict):
            reason = "unknown outside of a section; did you forget [http]?"
            faults.append(Fault(toml_key(section), reason, source=file))
            continue
        if section not in SECTIONS and not keys:
            reason = f"unknown section{_suggestion(section, SECTIONS)}"
            faults.append(Fault(toml_key(section), reason, source=file))
        for name in (f"{toml_key(section)}.{toml_key(key)}" for key in keys):
            if name not in _ROWS:
                reason = f"unknown setting{_suggestion(name, _ROWS)}"
                faults.append(Fault(name, reason, source=file))
    variables = {name for row in SETTINGS for name in (row.variable, *row.names)}
    for name, value in environment.items():
        is_ours = name.startswith("FLOWCACHE_") and not _is_service_link(name, value)
        if is_ours and name not in variables:
            faults.append(Fault(name, f"unknown variable{_suggestion(name, variables)}"))


def _suggestion(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, sorted(known), 1, 0.75)
    return f"; did you mean {near[0]}?" if near else ""


_TRANSPORT = "PORT_[0-9]+_(?:TCP|UDP|SCTP)"
_ADDRESS = "[0-9A-Fa-f.:]+"
_SERVICE_LINKS = [
    (re.compile(rf"FLOWCACHE(?:_[A-Z0-9_]+)?_(?:{names})"), re.compile(values))
    for names, values in (
        (f"SERVICE_HOST|{_TRANSPORT}_ADDR", _ADDRESS),
        (f"SERVICE_PORT(?:_[A-Z0-9_]+)?|{_TRANSPORT}_PORT", "[0-9]+"),
        (f"{_TRANSPORT}_PROTO", "tcp|udp|sctp"),
        (f"PORT|{_TRANSPORT}", rf"(?:tcp|udp|sctp)://\[?{_ADDRESS}\]?:[0-9]+"),
    )
]
"""The variables that Kubernetes sets in a pod for each Service, as Docker's links did: the forms of
names and of their values. For a Service named ``flowcache`` one is ``FLOWCACHE_PORT``."""


def _is_service_link(name: str, value: str) -> bool:
    return any(n.fullmatch(name) and v.fullmatch(value) for n, v in _SERVICE_LINKS)


def service_links(environment: Mapping[str, str]) -> list[str]:
    """Return the variables that describe a Kubernetes Service, and are not settings."""
    return sorted(name for name, value in environment.items() if _is_service_link(name, value))


# -- values ----------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """Where a value was found, and what it is; a source of lower ``rank`` takes precedence."""

    source: str
    raw: Any
    rank: int
    is_text: bool = False
    """Whether ``raw`` is the text of a value, and not yet a value of TOML."""


class Sources(NamedTuple):
    """Where values may come from; the first takes precedence."""

    overrides: Mapping[str, Any]
    environment: Mapping[str, str]
    document: Mapping[str, Any]
    fallbacks: Mapping[str, Any]
    file: str = ""
    """The name of the document."""

    def find(self, row: Setting) -> _Found:
        """Return the raw value of a setting."""
        given = self.overrides.get(row.name)
        if given is not None:
            return _Found(_COMMAND_LINE, given, 0, isinstance(given, str))
        for name in (row.variable, *row.names):
            text = self.environment.get(name)
            if text and not _is_service_link(name, text):
                return _Found(name, text, 1, is_text=True)
        section = self.document.get(row.section)
        if isinstance(section, dict) and row.key in section:
            return _Found(self.file, section[row.key], 2)
        if row.name in self.fallbacks:
            return _Found(_GENERATED, self.fallbacks[row.name], 3)
        return _Found(_DEFAULT, row.default, 4)


def read(sources: Sources, faults: list[Fault]) -> Reading:
    """Return the value of every setting.

    A secret may be set by its file instead. If both are set, the source that takes precedence
    counts; both in one source are a fault.
    """
    found = {row.name: sources.find(row) for row in SETTINGS}
    files = {row.holds: row.name for row in SETTINGS if row.holds is not None}
    for pair in files.items():
        stronger, weaker = sorted(pair, key=lambda name: found[name].rank)
        if found[stronger].raw is not None and found[weaker].rank > found[stronger].rank:
            found[weaker] = _Found(_DEFAULT, None, 4)  # it is not even read
    values = {name: _value(_ROWS[name], name, each, faults) for name, each in found.items()}
    origins = {name: each.source for name, each in found.items()}
    for name, held_by in files.items():
        if None not in (values[name], values[held_by]):
            reason = f"set together with {held_by}; remove one of them"
            faults.append(Fault(name, reason, source=origins[name]))
        elif values[held_by] is not None:
            values[name], origins[name] = values[held_by], f"{held_by}, {origins[held_by]}"
    return Reading(Config.of(values), origins, faults)


def read_table(
    path: str, table: Mapping[str, Any], file: str, faults: list[Fault]
) -> dict[str, Any]:
    """Return the values of a client's table by key; see `read`."""
    known = [row.key for row in CLIENT_SETTINGS]
    for key in table:
        if key not in known:
            reason = f"unknown setting{_suggestion(key, known)}"
            faults.append(Fault(f"{path}.{toml_key(key)}", reason, source=file))
    found = {
        row.key: _Found(file, table[row.key], 2)
        if row.key in table
        else _Found(_DEFAULT, row.default, 4)
        for row in CLIENT_SETTINGS
    }
    return {
        row.key: _value(row, f"{path}.{row.key}", found[row.key], faults) for row in CLIENT_SETTINGS
    }


def _value(row: Setting, path: str, found: _Found, faults: list[Fault]) -> Any:
    """Return a value; with a fault, the default in its place."""
    if found.raw is None:
        return None
    try:
        return row.kind.read(row.kind.parse(found.raw) if found.is_text else found.raw)
    except ValueError as fault:
        faults.append(Fault(path, str(fault), row.kind.mask(found.raw), found.source))
    return None if row.default is None else row.kind.read(row.default)
