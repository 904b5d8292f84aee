"""What a connection asks of its transport."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["Wire"]


class Wire(Protocol):
    """A part of `asyncio.Transport`: what TLS has to offer in its place (`tls.TlsWire`)."""

    def write(self, data: bytes) -> None:
        """Send, or keep until it can be sent."""

    def write_eof(self) -> None:
        """End this side, after what was written."""

    def close(self) -> None:
        """End both sides, after what was written."""

    def abort(self) -> None:
        """End both sides at once."""

    def is_closing(self) -> bool:
        """Whether it is at its end, or on the way there."""

    def get_write_buffer_size(self) -> int:
        """Return the bytes that are kept."""

    def set_write_buffer_limits(self, high: int) -> None:
        """Call for a pause when more than ``high`` bytes are kept."""

    def pause_reading(self) -> None:
        """Read nothing."""

    def resume_reading(self) -> None:
        """Read again."""

    def get_extra_info(self, name: str) -> Any:
        """Return what is known under ``name``."""
