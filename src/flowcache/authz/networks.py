"""Addresses: where a caller speaks from, and whether that is where it may.

Behind proxies the connection's own address is a proxy's. Each proxy appends whom it heard to
``X-Forwarded-For``; what stands left of that came from the caller, who may write anything. So the
list is read from the right, past the proxies that the operator named, to the first address that is
none of them. With no proxy named the header counts for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

__all__ = ["Addresses", "Network", "Networks", "read_network"]

Network = IPv4Network | IPv6Network
_Address = IPv4Address | IPv6Address

_MAPPED_BITS = 96
"""How much of a mapped address (RFC 4291, 2.5.5.2) stands before the IPv4 one."""

_MOST_HOPS = 16
"""Trusted proxies in a row that are skipped. Each takes some microseconds to read, and a caller may
write any number of them into the header."""
_MOST_KNOWN = 4096
"""Addresses whose answer is kept: reading one costs more than all the rest of a check."""


def read_network(text: str) -> Network:
    """Return the network of a CIDR, as ``10.0.0.0/8`` or ``2001:db8::/32``; one address is one.

    ``::ffff:10.0.0.0/104`` is ``10.0.0.0/8``, as an address that is written so is IPv4.

    Raises:
        ValueError: it is none, or has bits beyond its length.
    """
    try:
        network = ip_network(text)
    except ValueError:
        raise ValueError(f'"{text}" is no network; expected one as 10.0.0.0/8') from None
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None and network.prefixlen >= _MAPPED_BITS:
        return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


class Networks:
    """Some networks, and a quick answer whether an address is in one."""

    __slots__ = ("_known", "_networks")

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = tuple(networks)
        self._known: dict[str, bool] = {}

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __str__(self) -> str:
        return ", ".join(map(str, self._networks))

    def hold(self, address: str | None) -> bool:
        """Tell whether ``address`` is in one of them. What is no address is in none."""
        if address is None:
            return False
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            read = _read(address)
            known = read is not None and any(read in network for network in self._networks)
            self._known[address] = known
        return known


class Addresses:
    """Find out where a call comes from, past ``proxies``."""

    __slots__ = ("_proxies",)

    def __init__(self, proxies: Networks) -> None:
        self._proxies = proxies

    def of(self, peer: str | None, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Return the caller's address; ``peer`` is who is at the other end of the connection.

        What a trusted proxy hands on and is no address leads no further: the proxy's own counts.
        Neither does what stands left of `_MOST_HOPS` proxies.
        """
        if not self._proxies or not self._proxies.hold(peer):
            return peer
        hops = b",".join(value for name, value in headers if name == b"x-forwarded-for")
        caller = peer
        for hop in reversed(hops.rsplit(b",", _MOST_HOPS)[-_MOST_HOPS:]):
            address = _read(_without_port(hop.strip().decode("latin-1")))
            if address is None:
                break
            caller = str(address)
            if not self._proxies.hold(caller):
                break
        return caller


def _without_port(text: str) -> str:
    """Return an address without the port that some proxies put behind it."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def _read(text: str) -> _Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # A socket for both families shows an IPv4 caller as ::ffff:10.0.0.1.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
