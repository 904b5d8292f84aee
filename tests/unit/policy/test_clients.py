"""The clients of the configuration: what they may hold, and what is told of a fault."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest

from flowcache.authn.principals import Credential
from flowcache.authn.tokens import TOKEN_PREFIX, digest, new_token, read_digest, show_digest
from flowcache.authz.keys import ALL_KEYS
from flowcache.authz.permissions import Permission
from flowcache.cli.overview import overview
from flowcache.contract.request import TtlLimits
from flowcache.operations.catalogue import CATALOGUE
from flowcache.ports import SizeLimits
from flowcache.ratelimit.buckets import Rate
from flowcache.settings import CLIENT_SETTINGS, Fault
from flowcache.settings.clients import Everybody, read_clients, shown_clients

NEEDED = {name: operation.permissions for name, operation in CATALOGUE.items()}
ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64
LEAST = f'tokens = ["{ONE}"]\npermissions = ["data:read"]\nkeys = ["*"]\n'


def read(text: str, name: str = "acme") -> tuple[tuple[Credential, ...], list[str]]:
    """Read one client and return its credentials and the faults."""
    faults: list[Fault] = []
    tables = tomllib.loads(f"[clients.{json.dumps(name)}]\n{text}")["clients"]
    credentials = read_clients(tables, Everybody(NEEDED), faults).credentials
    return credentials, list(map(str, faults))


def well(text: str) -> tuple[Credential, ...]:
    credentials, faults = read(text)
    assert faults == []
    return credentials


def test_a_client_has_what_its_section_says() -> None:
    """Every setting there is arrives where it counts."""
    text = f"""
tokens = ["{ONE}", {{ hash = "{TWO}", expires = 2027-01-31T12:00:00+02:00 }}]
expires = 2028-01-01
subject = "app-1"
certificates = ["sha256:{"AB:" * 31}AB", "dns:Flow.Example", "uri:spiffe://x/App"]
require_both = true
permissions = ["data:read", "data:write", "inspect:read"]
operations = ["get", "SET"]
namespace = "acme"
keys = ["customer:*"]
min_ttl = 60
max_ttl = 600
max_value_bytes = 1000
max_fields = 7
rate = 2.5
burst = 9
weight = 3
max_in_flight = 7
cidrs = ["10.0.0.0/8", "::1"]
"""
    assert {line.split(" ")[0] for line in text.split("\n") if line} == {
        setting.key for setting in CLIENT_SETTINGS
    }
    first, second = well(text)
    who = first.principal
    assert who is second.principal
    assert first.token.digest == b"\x11" * 32
    assert first.token.expires == 1_830_297_600.0  # 2028-01-01T00:00:00Z
    assert second.token.expires == 1_801_389_600.0  # 2027-01-31T10:00:00Z
    assert who.permissions == {
        Permission.DATA_READ,
        Permission.DATA_WRITE,
        Permission.INSPECT_READ,
    }
    assert who.operations == frozenset({"GET", "SET"})
    assert who.prefix == b"flowcache:ns:acme:"
    assert [who.keys.cover(key) for key in (b"customer:1", b"x")] == [True, False]
    assert who.limits == TtlLimits(default_ttl=600, max_ttl=600, min_ttl=60)
    assert (who.subject, who.expires) == ("app-1", 1_830_297_600.0)
    assert who.certificates == (f"sha256:{'ab' * 32}", "dns:flow.example", "uri:spiffe://x/App")
    assert who.both
    assert (who.weight, who.max_in_flight) == (3, 7)
    assert (who.sizes, who.rate) == (SizeLimits(value=1000, fields=7), Rate(2.5, 9))
    assert who.networks is not None
    assert who.networks.hold("10.1.1.1")


def test_what_a_section_leaves_out_is_not_given() -> None:
    """No permission, key or operation comes from nowhere; no limit either."""
    (only,) = well(LEAST)
    who = only.principal
    assert who.permissions == {Permission.DATA_READ}
    assert (who.prefix, who.limits, who.sizes, who.rate) == (b"", None, None, None)
    (only,) = well(LEAST.replace('keys = ["*"]', 'namespace = "a"'))
    assert only.principal.keys == ALL_KEYS  # of the namespace
    (only,) = well(f'tokens = ["{ONE}"]\npermissions = ["inspect:read"]')
    assert not only.principal.keys.cover(b"k")
    assert well(LEAST + "rate = 0.5")[0].principal.rate == Rate(0.5, 1)


@pytest.mark.parametrize(
    ("default", "low", "high", "expected"),
    [(3600, 1, 60, 60), (3600, 7200, 9000, 7200), (3600, 60, 7200, 3600)],
)
def test_a_call_without_a_ttl_gets_one_that_the_client_may_have(
    default: int, low: int, high: int, expected: int
) -> None:
    """The default, or what of the client's range is next to it."""
    table = tomllib.loads(LEAST + f"min_ttl = {low}\nmax_ttl = {high}")
    everybody = Everybody(NEEDED, TtlLimits(default_ttl=default))
    (only,) = read_clients({"a": table}, everybody, []).credentials
    assert only.principal.limits == TtlLimits(expected, high, low)


@pytest.mark.parametrize(
    ("line", "key", "wanted"),
    [
        ("tokens = []", "tokens", "one or two"),
        (f'tokens = ["{ONE}", "{TWO}", "{ONE[:-1]}3"]', "tokens", "one or two"),
        ('tokens = ["hunter2"]', "tokens", '"sha256:" and 64 digits'),
        ('tokens = "hunter2"', "tokens", "one or two"),
        ('tokens = [{ hash = "hunter2" }]', "tokens", '"sha256:" and 64 digits'),
        ("tokens = [{ hash = 7 }]", "tokens", "a text as hash"),
        (f'tokens = [{{ hash = "{ONE}", until = 2027-01-01 }}]', "tokens", "hash ="),
        (f'tokens = [{{ hash = "{ONE}", expires = "soon" }}]', "tokens", "a date without quotes"),
        (f'tokens = ["{ONE.upper()}"]', "tokens", '"sha256:" and 64 digits'),
        ('expires = "2027-01-31"', "expires", "a date without quotes"),
        ("expires = 2027-01-31T00:00:00", "expires", "an offset"),
        ("permissions = []", "permissions", "at least one"),
        ('permissions = ["data:*"]', "permissions", "expected circuits:write, data:read"),
        ("permissions = [1]", "permissions", "a list of texts"),
        ('operations = ["SPOP"]', "operations", "is unknown; expected some of SET, GET"),
        ('operations = ["SET"]', "operations", "SET needs data:write"),
        ('namespace = "a:b"', "namespace", "letters, digits"),
        ("namespace = 1", "namespace", "a text"),
        ('keys = ["customer*"]', "keys", 'as in "customer:*"'),
        ("keys = []", "keys", "at least one"),
        (f"keys = {json.dumps(['k'] * 101)}", "keys", "at most 100"),
        ("min_ttl = 0", "min_ttl", "from 1 to"),
        ("max_ttl = true", "max_ttl", "from 1 to"),
        ("max_ttl = 2592001", "max_ttl", "is greater than data.max_ttl"),
        ("min_ttl = 2592001", "min_ttl", "is greater than the maximum TTL"),
        ('max_value_bytes = "1"', "max_value_bytes", "a whole number"),
        ("rate = 0", "rate", "calls a second"),
        ("rate = nan", "rate", "calls a second"),
        ("rate = true", "rate", "calls a second"),
        ("burst = 3", "burst", "needs rate"),
        ('cidrs = ["10.0.0.1/8"]', "cidrs", "is no network"),
        ("colour = 1", "colour", "unknown setting"),
    ],
)
def test_a_fault_names_client_and_key(line: str, key: str, wanted: str) -> None:
    """What is wrong is one fault, with the bad value, and no token in it."""
    least = "".join(each + "\n" for each in LEAST.split("\n") if not each.startswith(f"{key} "))
    credentials, (fault,) = read(least + line)
    assert credentials == ()
    assert fault.startswith(f"clients.acme.{key}")
    assert wanted in fault
    assert "hunter2" not in fault
    assert "1" * 64 not in fault


@pytest.mark.parametrize("key", ["tokens", "permissions", "keys"])
def test_what_is_needed_is_missed(key: str) -> None:
    """Deny by default is no trap: a client that could do nothing is a fault."""
    least = "\n".join(line for line in LEAST.split("\n") if not line.startswith(key))
    _, (fault,) = read(least)
    assert fault.startswith(f"clients.acme.{key}: missing")


def test_all_faults_of_all_clients_are_told() -> None:
    """An operator mends a configuration once; a client that is well is read all the same."""
    faults: list[Fault] = []
    tables: Any = {
        "good": tomllib.loads(LEAST),
        "bad": {"rate": -1, "burst": 0, "colour": 1},
        "no client": {},
        "": {},
        "flat": 7,
    }
    found = read_clients(tables, Everybody(NEEDED), faults)
    assert [who.name for who in found.principals] == ["good"]
    assert len(faults) == 8
    assert [fault.path for fault in faults[:5]] == [
        "clients.bad.colour",
        "clients.bad.rate",
        "clients.bad.burst",
        "clients.bad.tokens",
        "clients.bad.permissions",
    ]
    faults.clear()
    assert read_clients("x", Everybody(NEEDED), faults) == ((), ())
    assert len(faults) == 1


def test_a_client_may_have_no_token_of_ours() -> None:
    """Its issuer's tokens name it; two clients with one name can't be told apart."""
    table = tomllib.loads('subject = "app-1"\npermissions = ["data:read"]\nnamespace = "a"')
    faults: list[Fault] = []
    found = read_clients({"a": table}, Everybody(NEEDED), faults)
    assert (faults, found.credentials) == ([], ())
    assert found.principals[0].subject == "app-1"
    assert list(overview(found.principals, (), 0.0))[1].endswith("as issued")
    read_clients({"a": table, "b": table}, Everybody(NEEDED), faults)
    assert faults == [Fault("clients.b.subject", '"app-1" already belongs to clients.a')]


def test_what_is_shown_of_clients_is_json_without_tokens() -> None:
    """The inspector shows what each client may do, and how many tokens it has."""
    table = tomllib.loads(LEAST)
    assert shown_clients({"acme": table}) == {"acme": table | {"tokens": ["***"]}}


def test_a_token_has_256_bits_and_a_mark() -> None:
    """Scanners find one that leaked by its mark; nobody guesses one."""
    tokens = {new_token().reveal() for _ in range(1000)}
    assert len(tokens) == 1000
    assert {len(token) for token in tokens} == {len(TOKEN_PREFIX) + 43}
    assert all(token.startswith("fc_") and token.isascii() for token in tokens)
    token = new_token()
    assert read_digest(show_digest(token)) == digest(token.reveal().encode())
    assert token.reveal() not in repr(token) + show_digest(token)


def test_the_overview_shows_each_client_and_warns() -> None:
    """Who may do what on which keys, and which tokens ended or will end within a month."""
    credentials = well(
        LEAST.replace(f'"{ONE}"', f'{{ hash = "{ONE}", expires = 2027-01-01 }}, "{TWO}"')
        + 'namespace = "a"\nrate = 5\nmin_ttl = 60\ncidrs = ["10.0.0.0/8"]'
    )
    end = 1_798_761_600.0  # 2027-01-01T00:00:00Z
    who = (credentials[0].principal,)
    head, row, *warnings = overview(who, credentials, end - 31 * 86_400)
    assert head.split()[:3] == ["client", "may", "keys"]
    for shown in (
        *("acme", "data:read", "* in flowcache:ns:a:", "60..2592000 s", "5/s, 5 at once"),
        *("10.0.0.0/8", "2027-01-01, never"),
    ):
        assert shown in row
    assert warnings == []
    assert list(overview(who, credentials, end - 29 * 86_400))[2:] == [
        "Warning: a token of acme expires on 2027-01-01; add the next."
    ]
    assert list(overview(who, credentials, end))[2:] == [
        "Warning: a token of acme expired on 2027-01-01; remove it."
    ]
