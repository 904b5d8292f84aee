"""The permissions there are, as ``resource:action``."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Permission"]


class Permission(StrEnum):
    """What a principal may be allowed to do. Sorted."""

    CIRCUITS_WRITE = "circuits:write"
    DATA_READ = "data:read"
    DATA_WRITE = "data:write"
    INSPECT_READ = "inspect:read"
