"""Bytes of a server in, replies out: hiredis behind a bound on what a server may announce.

hiredis makes room for a list as soon as its length is announced, and has no bound of its own that
helps: ``*1000000000`` is 8 GB. So no such announcement reaches it unseen:

1. A regular expression looks for the announcement of 1,000 or more (elements or bytes) in each
   read. On nearly every read there is none, and hiredis gets the read whole.
2. The same text may stand inside a stored value. From a place where an item begins, `_walk` goes
   from item to item and knows the difference. Where no such place is known, hiredis tells: it is
   given all that comes before the text. If it then has bytes left over, it is in the middle of a
   value; else it waits for an item, and the announcement is a real one.
3. What one reply announces is added up, at three bytes an element (the shortest there is). More
   than ``max_reply`` is refused before room is made for it. The end of a long string is known from
   then on, so that nothing inside it is looked at.
4. What stands at the end of a read and may be the beginning of an announcement is held back until
   the next read.

hiredis bounds the depth of nesting (1,024). It gives an attribute (``|``) out as if it was a reply,
so that all replies behind it would go to the wrong callers. No server sends one without being asked
to: it breaks the protocol.

Known weakness: a reply of small lists inside lists takes up to 20 times its bytes in memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import hiredis

__all__ = ["NOT_ENOUGH", "Parser"]

NOT_ENOUGH: Final = object()

_MOST_LINE = 65_536
"""Bytes without an end to the line or the short string that they belong to."""
_ELEMENT = 3
"""The fewest bytes of an element of a list: ``_`` and the end of its line."""
_HELD = 22
"""The longest beginning of an announcement: its type, 19 digits and a CR, and one to spare."""

_LONG = rb"\n(?<=[0-9]{4}\r\n)(?:%b)" % b"|".join(
    rb"(?<=[*%%~>$=][0-9]{%d}\r\n)" % digits for digits in range(4, 20)
)
_ATTRIBUTE = b"|".join(rb"\n(?<=\|[0-9]{%d}\r\n)" % digits for digits in range(1, 20))
# Both begin with the end of a line, which the search finds much faster than one of seven types.
_find_long = re.compile(_LONG).search
_find_any = re.compile(_LONG + b"|" + _ATTRIBUTE).search
_TORN = re.compile(rb"[*%~>|$=][0-9]{0,19}\r?\Z")
_ANNOUNCEMENT = re.compile(rb"[*%~>|$=][0-9]{1,19}\r\n\Z")
_ITEM = re.compile(rb"(?:([*%~>|$=])([0-9]{1,19})|[^*%~>|$=][^\r]*|.-1)\r\n")
"""A whole line at the beginning of an item, with type and length where it announces one."""
_NEW_LINE, _BAR = b"\n|"
_STRINGS = (b"$", b"=")
_MANY = 1000
"""What four digits announce at least."""


class _BrokenProtocol(Exception):
    """What the server sends is not RESP."""


class Parser:
    """The replies of one connection. ``make_error`` makes a value of the text of an error reply."""

    def __init__(self, max_reply: int, make_error: Callable[[str], Any]) -> None:
        self.fault: str | None = None
        """Why nothing more can be read; the connection is of no more use."""
        self.is_oversized = False
        """Whether the fault is that the reply which comes next is too large."""
        self._max_reply = max_reply
        # Any value will do as an error, see its source.
        self._reader = hiredis.Reader(
            protocolError=_BrokenProtocol,
            replyError=make_error,
            notEnoughData=NOT_ENOUGH,
        )
        self._size = 0
        """Bytes since the last whole reply."""
        self._announced = 0
        """Bytes that the reply which comes next is going to have at least."""
        self._inside = 0
        """Bytes that are still to come of a long string."""
        self._held = b""
        self._last = _NEW_LINE
        """The last byte that hiredis was given."""
        self._is_plain = True
        """Whether nothing is held back, and the last read ended a line outside of long strings."""

    @property
    def is_torn(self) -> bool:
        """Whether a read has brought a part of a reply, and no whole one since."""
        return self._size > 0

    def parse(self, data: bytes) -> list[Any]:
        """Return the replies that ``data`` completes. Afterwards look at `fault`."""
        replies: list[Any] = []
        try:
            if (
                self._is_plain
                and data[-1] == _NEW_LINE
                and _find_long(data) is None
                and _BAR not in data
            ):
                # `_take`, written out: this is done for each read there is.
                reader = self._reader
                reader.feed(data)
                reply = reader.gets()
                while reply is not NOT_ENOUGH:
                    replies.append(reply)
                    if not reader.has_data():
                        break
                    reply = reader.gets()
                if replies:
                    self._announced = 0
            else:
                self._take_slowly(data, replies)
            if replies:
                self._size = 0
            else:
                self._size += len(data)
                self._bound()
        except _BrokenProtocol as fault:
            self.fault = f"the server does not speak RESP: {fault}"
        except (TypeError, MemoryError) as fault:
            # A list as the key of a map, or a length for which there is no room.
            self.fault = f"the server sent a reply that can't be read: {type(fault).__name__}"
        return replies

    def _take(self, data: bytes | memoryview, replies: list[Any]) -> None:
        reader = self._reader
        reader.feed(data)  # type: ignore[arg-type]  # it takes any buffer
        while (reply := reader.gets()) is not NOT_ENOUGH:
            replies.append(reply)
            self._announced = 0  # it was that reply's

    def _take_slowly(self, data: bytes, replies: list[Any]) -> None:
        """Take ``data`` in pieces, each of which ends before a real announcement."""
        data = self._held + data
        self._held = b""
        view, fed, place = memoryview(data), 0, self._inside
        is_edge = place > 0 or (self._last == _NEW_LINE and not self._reader.has_data())
        find = _find_any if _BAR in data else _find_long
        while found := find(data, place):
            end = found.end()
            if not is_edge:
                text = _ANNOUNCEMENT.search(data, max(fed, end - _HELD), end)
                begin = text.start() if text else end
                self._take(view[fed:begin], replies)
                fed = begin
                if text is None or self._reader.has_data():
                    place = end
                    continue  # in the middle of a value
                if (data[begin - 1] if begin else self._last) != _NEW_LINE:
                    # hiredis doesn't look how a string ends; this may be in the middle of a line.
                    raise _BrokenProtocol("an announcement that does not begin a line")
                is_edge, place = True, begin
            while place < end:
                item = _ITEM.match(data, place)
                if item is None:
                    raise _BrokenProtocol("an item without type or length")
                kind, begin, place = item[1], place, item.end()
                if kind is None:
                    continue
                count = int(item[2])
                if count >= _MANY or kind == b"|":
                    if begin > fed:
                        self._take(view[fed:begin], replies)
                        fed = begin
                    if not self._allows(kind, count):
                        return
                if kind in _STRINGS:
                    place += count + 2
        self._inside = max(0, place - len(data))
        end = len(data)
        if not self._inside and data[-1] != _NEW_LINE:
            torn = _TORN.search(data, max(fed, place, end - _HELD))
            if torn is not None:
                end = torn.start()
                self._held = data[end:]
        self._take(view[fed:end], replies)
        if end:
            self._last = data[end - 1]
        self._is_plain = not (self._inside or self._held) and self._last == _NEW_LINE

    def _allows(self, kind: bytes, count: int) -> bool:
        """Tell whether there may be room for what is announced; else there is a fault."""
        if kind == b"|":
            raise _BrokenProtocol("an attribute that nobody asked for")
        self._announced += count if kind in _STRINGS else count * _ELEMENT
        if self._announced > self._max_reply:
            self._refuse()
        return self.fault is None

    def _bound(self) -> None:
        if self._size > self._max_reply:
            self._refuse()
        elif not self._inside and self._reader.len() > _MOST_LINE:
            self.fault = f"a line is longer than {_MOST_LINE} bytes"

    def _refuse(self) -> None:
        self.is_oversized = True
        self.fault = f"a reply is larger than {self._max_reply} bytes"
