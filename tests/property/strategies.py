"""What may come in, from the tame to the absurd: shared by the property tests."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from flowcache.settings import SETTINGS

__all__ = [
    "anything",
    "documents",
    "dumped",
    "environments",
    "json_values",
    "modest",
    "numerals",
    "objects",
    "raw_bodies",
    "replies",
    "scalars",
    "stored",
    "surrogates",
    "texts",
    "toml",
]

modest = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""How long a property is tried: the whole suite stays quick, and no slow machine fails it."""


def dumped(value: object, ascii_only: bool = False) -> bytes:
    """Return ``value`` as a client would send it."""
    return json.dumps(value, ensure_ascii=ascii_only).encode()


# -- JSON ------------------------------------------------------------------------------------------

_brackets = st.text('[]{}"\\:, \x00\n\u2028é漢😀ab', max_size=20)
texts = st.text(max_size=20) | _brackets
surrogates = st.builds("{}{}{}".format, texts, st.characters(categories=["Cs"]), texts)
_whole = st.integers() | st.integers(-(10**30), 10**30)
_finite = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | _whole | _finite | texts


def _nested(
    leaves: st.SearchStrategy[Any], names: st.SearchStrategy[Any]
) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
        max_leaves=12,
    )


json_values = _nested(scalars, texts)
anything = _nested(
    scalars
    | st.floats()
    | surrogates
    | st.binary(max_size=20)
    | st.sampled_from([10**4000, -(10**4000), object(), b"", set(), ...]),
    texts | surrogates | _whole | st.booleans() | st.tuples(texts),
)
"""Python values, most of them JSON, some of them nothing that JSON can say."""


@st.composite
def numerals(draw: st.DrawFn) -> str:
    """Return what a flow may think is a number."""
    pad = st.sampled_from(["", "", " ", "\t\n", "\u00a0"])
    sign = draw(st.sampled_from(["", "", "+", "-", "--", "٣"]))
    zeros = "0" * draw(st.sampled_from([0, 0, 1, 30, 5000]))
    digits = draw(st.text("0123456789", max_size=25))
    fraction = draw(st.sampled_from(["", "", ".", ".0", ".000", ".5", ".0.0", "e1", "_0"]))
    return f"{draw(pad)}{sign}{zeros}{digits}{fraction}{draw(pad)}"


# -- bodies of data actions ------------------------------------------------------------------------

_placeholders = st.builds("${{{}}}".format, texts)
_unset = st.none() | st.just("") | _placeholders
_long = st.builds(
    lambda letter, times: letter * times, st.sampled_from("aé漢😀"), st.integers(60, 520)
)
_numbers = st.integers(-5, 10**7) | _finite | numerals()

_PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "operation": st.sampled_from(["SET", "get", "HSet", "HGETALL", "del", "INCR", "", "x" * 40]),
    "key": st.text(min_size=1, max_size=20) | _long | _unset,
    "value": json_values,
    "ttl": _numbers | _unset,
    "type": st.sampled_from(["string", "hash", "HASH", "list"]) | _unset,
    "flowId": scalars | _long | _unset,
    "interactionId": scalars | _long | _unset,
    "deadlineMs": _numbers | _unset,
    "idempotencyKey": scalars | _long | _unset,
}

objects = st.fixed_dictionaries(
    {},
    optional={name: likely | json_values for name, likely in _PLAUSIBLE.items()}
    | {"somethingElse": json_values},
)
"""JSON objects that look like a data action, more or less."""


@st.composite
def _spoiled(draw: st.DrawFn) -> bytes:
    body = dumped(draw(objects))
    start = draw(st.integers(0, len(body)))
    end = draw(st.integers(start, min(len(body), start + 10)))
    return body[:start] + draw(st.binary(max_size=6)) + body[end:]


_deep = st.builds(
    lambda depth, name: b'{"%s":' % name + b"[" * depth + b"]" * depth + b"}",
    st.integers(0, 3000),
    st.sampled_from([b"value", b"somethingElse"]),
)
_encoded = st.builds(
    lambda value, code: json.dumps(value, ensure_ascii=False).encode(code),
    objects,
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-7"]),
)
_figures = st.builds(
    lambda figure, times: b'{"value":%s}' % (figure * times),
    st.sampled_from([b"9", b"1e9", b"-1"]),
    st.integers(1, 5000),
)

raw_bodies = (
    st.binary(max_size=100)
    | st.builds(dumped, json_values)
    | st.builds(dumped, objects)
    | _encoded
    | _spoiled()
    | _deep
    | _figures
)
"""Bytes that somebody may post."""


# -- what Redis may say ----------------------------------------------------------------------------

stored = (
    st.binary(max_size=60)
    | st.builds(dumped, json_values)
    | st.builds(str.encode, texts)
    | st.builds(str.encode, numerals())
    | st.builds(lambda depth: b"[" * depth + b"]" * depth, st.integers(0, 3000))
    | st.builds(lambda digits: b"7" * digits, st.integers(1, 5000))
)
"""Bytes that another program may have left under a key."""

replies = st.recursive(
    st.none() | _whole | stored | st.sampled_from([b"OK", True, 1.5, "OK"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.binary(max_size=8) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)


# -- configurations --------------------------------------------------------------------------------

_locations = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "redis://", "rediss://", "unix://", "redis+sentinel://", "x://", "//"]),
    st.sampled_from(["", "user@", "user:secret@", ":secret@", "[", "%"]),
    st.sampled_from(["cache", "cache:7000", "[::1]:7", "a,b:1", ":", "/run/redis", "cache:70000"]),
    st.sampled_from(["", "/", "/0", "/name/1", "?db=x", "?db=1", "#x", "@", ","]),
)
_settings_texts = (
    texts
    | numerals()
    | _locations
    | st.sampled_from(["~nobody-of-that-name/x", "/", ".", "\x00", "true", "no", "inf", "1e999"])
)
_toml_scalars = (
    st.booleans() | _whole | st.floats() | _settings_texts | st.sampled_from([10**400, -(10**400)])
)
_toml_values = st.recursive(
    _toml_scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)

_rows = st.sampled_from(SETTINGS)
_junk = st.dictionaries(
    texts | st.sampled_from(["http", "redis"]),
    st.dictionaries(texts, _toml_values, max_size=3) | _toml_values,
    max_size=2,
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Return what a TOML file may hold: settings with any values, and now and then junk."""
    document: dict[str, Any] = draw(st.just({}) | _junk)
    for row, value in draw(st.dictionaries(_rows, _toml_values, max_size=6)).items():
        section = document.setdefault(row.section, {})
        if isinstance(section, dict):
            section[row.key] = value
    return document


environments = st.dictionaries(
    st.sampled_from([name for row in SETTINGS for name in (row.variable, *row.names)])
    | st.builds("FLOWCACHE_{}".format, texts)
    | texts,
    _settings_texts | surrogates,
    max_size=6,
)


def toml(value: object) -> str:
    """Write a value as TOML; a dict as an inline table."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case float():
            return repr(value)
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return (
                f"{{{', '.join(f'{toml(name)} = {toml(inner)}' for name, inner in value.items())}}}"
            )
        case _:
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
