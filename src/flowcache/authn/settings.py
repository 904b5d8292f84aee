"""What the operator says of an issuer; apart from `jwt`, which brings a library along."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["JwtSettings"]


class JwtSettings(NamedTuple):
    """Whose tokens count, for whom they must be made, and where the keys are. In seconds:
    ``refresh``, how often the keys are read, and ``leeway``, how far clocks may be apart."""

    issuer: str
    audience: str
    keys: str
    refresh: float = 300.0
    leeway: float = 5.0
