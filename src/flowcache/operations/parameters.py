"""What an operation takes besides the fields that all have: a struct, one field a parameter.

    class Step(msgspec.Struct, frozen=True):
        value: Annotated[int, Whole(-9, 9, "steps", "how far to count")] = 1

The name is that of the field in the body. The `Kind` in the annotation says how it is coerced and
what its JSON Schema is. A field with a default may be left out, or absent (`coercion.is_absent`).
The request, OpenAPI and docs are derived from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Any, Protocol, get_type_hints

import msgspec

from flowcache.contract import coercion
from flowcache.contract.coercion import is_absent, kind
from flowcache.contract.request import Body
from flowcache.errors import InvalidRequest, TooLarge

__all__ = [
    "ABSENT",
    "HashFields",
    "Json",
    "Kind",
    "Nothing",
    "Parameter",
    "Text",
    "Texts",
    "Whole",
    "numerals",
    "parameters_of",
]

ABSENT = {"$ref": "#/components/schemas/Absent"}
"""The schema of what counts as not sent."""

_encode = msgspec.json.Encoder().encode


class Kind(Protocol):
    """A kind of parameter; ``about`` says to a flow author what it must be."""

    @property
    def about(self) -> str: ...

    @property
    def schema(self) -> dict[str, Any]:
        """What `coerce` takes, as JSON Schema."""

    def coerce(self, operation: str, field: str, value: Any) -> Any:
        """Return what ``value`` means.

        Raises:
            InvalidRequest: it means nothing; the sentence names the field and what it wanted.
        """


class Nothing(msgspec.Struct, frozen=True, gc=False):
    """No parameters: the key says all."""


@dataclass(frozen=True, slots=True)
class Json:
    """Any JSON value, null included; it becomes its compact text."""

    about: str

    @property
    def schema(self) -> dict[str, Any]:
        return {}

    def coerce(self, operation: str, field: str, value: Any) -> bytes:
        return _encode(value)


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from ``low`` to ``high``, or a text of one."""

    low: int
    high: int
    unit: str
    about: str

    @property
    def schema(self) -> dict[str, Any]:
        signs = [("-", 1, -self.low), (r"\+?", max(0, self.low), self.high)]
        numbers = "|".join(
            f"{sign}0*(?:{numerals(high)}{'' if low else '|0'})"
            for sign, low, high in signs
            if high > 0
        )
        return {
            "anyOf": [
                {"type": "integer", "minimum": self.low, "maximum": self.high},
                {"type": "string", "pattern": rf"^\s*(?:{numbers})(?:\.0*)?\s*$"},
            ]
        }

    def coerce(self, operation: str, field: str, value: Any) -> int:
        return coercion.integer(field, value, self.low, self.high, self.unit)


@dataclass(frozen=True, slots=True)
class HashFields:
    """An object of at least one field. A string stays as it is, anything else is its JSON text."""

    about: str

    @property
    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {"type": ["string", "number", "boolean", "object", "array"]},
        }

    def coerce(self, operation: str, field: str, value: Any) -> dict[str, bytes]:
        if not isinstance(value, dict):
            raise InvalidRequest(
                f"{field}: {operation} needs an object of fields, got {kind(value)}."
            )
        if not value:
            raise InvalidRequest(
                f"{field}: {operation} needs at least one field, got an empty object."
            )
        return {name: _field_value(field, name, one) for name, one in value.items()}


def _field_value(field: str, name: str, value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if value is None:
        raise InvalidRequest(
            f'{field}: the field "{name[:80]}" is null; a hash holds no nulls. Leave the field out.'
        )
    return _encode(value)


_FILLED = {"type": "string", "minLength": 1, "not": {"pattern": r"^\$\{[\s\S]*\}$"}}


@dataclass(frozen=True, slots=True)
class Text:
    """A string that is neither empty nor a placeholder that was not filled in."""

    about: str

    @property
    def schema(self) -> dict[str, Any]:
        return _FILLED

    def coerce(self, operation: str, field: str, value: Any) -> bytes:
        if not isinstance(value, str) or is_absent(value):
            got = kind(value) if not isinstance(value, str) else "an empty one or a placeholder"
            raise InvalidRequest(f"{field}: {operation} needs a string, got {got}.")
        return value.encode()


@dataclass(frozen=True, slots=True)
class Texts:
    """An array of 1 to ``most`` strings, as `Text`; one string stands for an array of it."""

    most: int
    about: str

    @property
    def schema(self) -> dict[str, Any]:
        array = {"type": "array", "minItems": 1, "maxItems": self.most, "items": _FILLED}
        return {"anyOf": [_FILLED, array]}

    def coerce(self, operation: str, field: str, value: Any) -> tuple[bytes, ...]:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not items:
            got = "an empty one" if items == [] else kind(value)
            raise InvalidRequest(f"{field}: {operation} needs an array of strings, got {got}.")
        if len(items) > self.most:
            raise TooLarge(f"{field}: {len(items)} items; {operation} takes at most {self.most}.")
        one = Text(self.about)
        return tuple(one.coerce(operation, field, item) for item in items)


_REQUIRED = msgspec.UNSET

_LOOKED_AT = 16
"""Fields of a body that are compared with a missing one: a body may have thousands."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of an operation: a field of the body, and of the struct."""

    name: str
    kind: Kind
    default: Any = _REQUIRED

    @property
    def is_required(self) -> bool:
        """Whether a call that lacks it is refused."""
        return self.default is _REQUIRED

    @property
    def schema(self) -> dict[str, Any]:
        """What may be sent, as JSON Schema."""
        schema = self.kind.schema
        return schema if self.is_required else {"anyOf": [*schema.get("anyOf", [schema]), ABSENT]}

    def read(self, operation: str, body: Body) -> Any:
        """Return its value in a body.

        Raises:
            InvalidRequest: it is missing, or not what it should be.
        """
        value = body.get(self.name, msgspec.UNSET)
        if not self.is_required and (value is msgspec.UNSET or is_absent(value)):
            return self.default
        if value is msgspec.UNSET:
            near = get_close_matches(self.name, islice(body, _LOOKED_AT), 1)
            hint = f' Rename "{near[0]}" to "{self.name}".' if near else ""
            raise InvalidRequest(
                f"{self.name}: missing; {operation} needs {self.kind.about}.{hint}"
            )
        return self.kind.coerce(operation, self.name, value)


def parameters_of(struct: type[msgspec.Struct]) -> tuple[Parameter, ...]:
    """Return the parameters that a struct declares, in order."""
    hints = get_type_hints(struct, include_extras=True)
    return tuple(
        Parameter(
            field.name,
            hints[field.name].__metadata__[0],
            _REQUIRED if field.default is msgspec.NODEFAULT else field.default,
        )
        for field in msgspec.structs.fields(struct)
    )


def numerals(high: int) -> str:
    """Return a regular expression of the numerals 1 to ``high``, without leading zeros.

    A shorter numeral is smaller; one as long is, at the first digit where it differs.
    """
    digits = str(high)
    rest = len(digits) - 1
    found = [f"[1-9][0-9]{{0,{rest - 1}}}"] if rest else []
    for place, digit in enumerate(digits):
        low = 0 if place else 1
        if int(digit) > low:
            lower = f"[{low}-{int(digit) - 1}]"
            found.append(f"{digits[:place]}{lower}[0-9]{{{rest - place}}}")
    return "|".join([*found, digits])
