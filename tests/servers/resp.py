"""Find where each request ends in a stream of the Redis protocol."""


class CommandCounter:
    """Follow the requests of one connection, in whatever pieces they come.

    Requests are arrays of bulk strings, or lines (inline commands):
    https://redis.io/docs/latest/develop/reference/protocol-spec/. Bytes under TLS count for
    nothing.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._arguments_left = 0
        self._bytes_left = 0

    def ends(self, chunk: bytes) -> list[int]:
        """Return the offsets in this next chunk at which a request is complete."""
        ends = []
        at = 0
        while at < len(chunk):
            if self._bytes_left:
                step = min(self._bytes_left, len(chunk) - at)
                self._bytes_left -= step
                at += step
                is_argument_complete = self._bytes_left == 0
                self._arguments_left -= is_argument_complete
                if is_argument_complete and self._arguments_left == 0:
                    ends.append(at)
                continue
            newline = chunk.find(b"\n", at)
            if newline < 0:
                self._line += chunk[at:]
                break
            self._line += chunk[at:newline]
            at = newline + 1
            if self._is_request(bytes(self._line).rstrip(b"\r")):
                ends.append(at)
            self._line.clear()
        return ends

    def _is_request(self, line: bytes) -> bool:
        """Take in one line; tell whether it is a whole request by itself."""
        kind, number = line[:1], line[1:]
        if kind == b"*" and number.isdigit():
            self._arguments_left = int(number)
            return False
        if kind == b"$" and number.isdigit() and self._arguments_left:
            self._bytes_left = int(number) + len(b"\r\n")
            return False
        return bool(line)
