"""Where a call comes from."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from flowcache.authz.networks import Addresses, Networks, read_network

PROXIES = Addresses(Networks(map(read_network, ["10.0.0.0/8", "2001:db8::/32"])))


def forwarded(*lines: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-forwarded-for", line.encode("latin-1")) for line in lines]


@pytest.mark.parametrize(
    ("lines", "caller"),
    [
        (["192.0.2.7"], "192.0.2.7"),
        (["6.6.6.6, 192.0.2.7"], "192.0.2.7"),
        (["6.6.6.6", "192.0.2.7"], "192.0.2.7"),
        (["6.6.6.6, 192.0.2.7, 10.3.2.1"], "192.0.2.7"),
        (["6.6.6.6", "192.0.2.7 ,10.3.2.1", " 2001:db8::5"], "192.0.2.7"),
        (["10.3.2.1, 10.9.9.9"], "10.3.2.1"),
        (["192.0.2.7:4711"], "192.0.2.7"),
        (["[2001:dead::1]:4711"], "2001:dead::1"),
        (["[2001:dead::1]"], "2001:dead::1"),
        (["2001:DEAD:0::1"], "2001:dead::1"),
        (["::ffff:192.0.2.7"], "192.0.2.7"),
        ([], "10.0.0.1"),
        ([""], "10.0.0.1"),
        (["192.0.2.7,"], "10.0.0.1"),
        (["192.0.2.7, unknown"], "10.0.0.1"),
        (["192.0.2.7, nonsense, 10.3.2.1"], "10.3.2.1"),
        (["\xff\xfe"], "10.0.0.1"),
    ],
)
def test_behind_trusted_proxies_the_last_stranger_calls(lines: list[str], caller: str) -> None:
    """What stands left of that is what the caller wrote, and counts for nothing."""
    assert PROXIES.of("10.0.0.1", forwarded(*lines)) == caller
    assert PROXIES.of("10.0.0.1", [(b"host", b"x"), *forwarded(*lines)]) == caller


def test_no_more_than_16_proxies_in_a_row_are_looked_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever fills the header with their addresses costs no more than whoever doesn't."""
    hops = [f"10.0.{number // 250}.{number % 250}" for number in range(1500)]
    assert PROXIES.of("10.0.0.1", forwarded("192.0.2.7", *hops[:15])) == "192.0.2.7"
    read = 0

    def counted(text: str) -> object:
        nonlocal read
        read += 1
        return ip_address(text)

    monkeypatch.setattr("flowcache.authz.networks.ip_address", counted)
    proxies = Addresses(Networks([read_network("10.0.0.0/8")]))
    for lines in ([", ".join(["192.0.2.7", *hops])], ["192.0.2.7", *hops]):
        read = 0
        assert proxies.of("10.0.0.1", forwarded(*lines)) == hops[-16]
        assert read <= 33


@pytest.mark.parametrize("peer", ["192.0.2.1", "11.0.0.1", "::1", "not an address", "", None])
def test_who_is_no_trusted_proxy_is_not_believed(peer: str | None) -> None:
    """Anybody may write the header: it counts only where a proxy that the operator named did."""
    assert PROXIES.of(peer, forwarded("10.0.0.5")) == peer
    assert Addresses(Networks(())).of(peer, forwarded("10.0.0.5")) == peer


def test_a_proxy_over_ipv6_with_an_ipv4_address_is_that_proxy() -> None:
    """A socket for both families shows an IPv4 peer as a mapped address."""
    assert PROXIES.of("::ffff:10.0.0.1", forwarded("192.0.2.7")) == "192.0.2.7"


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("::ffff:10.0.0.0/104", ["10.1.2.3", "::ffff:10.1.2.3"], ["11.0.0.1", "::10.1.2.3", "::1"]),
        ("::ffff:10.1.2.3", ["10.1.2.3", "::ffff:a01:203"], ["10.1.2.4"]),
        ("::ffff:0:0/96", ["192.0.2.1"], ["::1", "2001:db8::1"]),
        ("::/0", ["2001:db8::1", "::1"], ["192.0.2.1", "::ffff:192.0.2.1"]),
        ("::fffe:0:0/95", ["::fffe:0:1"], ["192.0.2.1"]),
    ],
)
def test_a_mapped_network_is_the_one_of_ipv4(
    text: str, inside: list[str], outside: list[str]
) -> None:
    """However it is written, by the operator or by a socket, IPv4 is IPv4, and IPv6 is not."""
    networks = Networks([read_network(text)])
    assert [networks.hold(address) for address in inside] == [True] * len(inside)
    assert [networks.hold(address) for address in outside] == [False] * len(outside)


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "localhost", "", "10.0.0", "*"])
def test_what_is_no_network_is_refused(text: str) -> None:
    """Bits beyond the length are a slip: was it the host or the network that was meant?"""
    with pytest.raises(ValueError, match="is no network"):
        read_network(text)


def test_what_is_kept_of_addresses_is_bounded() -> None:
    """A stranger with many addresses fills no memory; the answers stay right."""
    networks = Networks([read_network("10.0.0.0/8")])
    for number in range(5000):
        first = 10 + number % 2
        assert networks.hold(f"{first}.0.{number // 256}.{number % 256}") is (first == 10)
    assert len(networks._known) <= 4096
