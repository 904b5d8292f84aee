"""What a policy says is what happens: for any policy, any request, any key."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flowcache.authn.tokens import digest
from flowcache.authz.keys import namespace_prefix
from flowcache.authz.principal import Principal
from flowcache.authz.verdict import Deny, judge, placed, refusal
from flowcache.contract.request import TtlLimits, coerce, decode
from flowcache.errors import Failure
from flowcache.operations.catalogue import CATALOGUE, plan
from flowcache.operations.operation import READS
from flowcache.ports import Once, SizeLimits
from flowcache.settings import Fault
from flowcache.settings.clients import Everybody, read_clients
from flowcache.store.slots import key_slot, once_key
from tests.commands import command as made_command

NEEDED = {name: operation.permissions for name, operation in CATALOGUE.items()}
LIMITS = TtlLimits()

segments = st.sampled_from(["a", "b", "ab", "customer", "é", "{a}", "x}", "*", "flowcache", "ns"])
separators = st.sampled_from([*":/.|", "-", ""])


@st.composite
def keys(draw: st.DrawFn) -> str:
    """Keys that lie near each other: of few segments, with all kinds of separators."""
    parts = draw(st.lists(st.tuples(segments, separators), min_size=1, max_size=4))
    key = "".join(segment + separator for segment, separator in parts)
    return key * draw(st.sampled_from([1, 1, 1, 1, 60]))


patterns = st.one_of(
    st.just("*"),
    keys().map(lambda key: key.replace("*", "s")),
    keys().map(lambda key: key.replace("*", "s").rstrip(":/.|-") + ":*"),
).filter(lambda pattern: not pattern.startswith("flowcache:") and len(pattern) < 100)

permissions = st.sampled_from(
    [["data:read", "data:write"], ["data:read"], ["data:write"], ["inspect:read"]]
)
clients = st.fixed_dictionaries(
    {
        "tokens": st.just(["sha256:" + "0" * 64]),
        "permissions": permissions,
        "keys": st.lists(patterns, min_size=1, max_size=4),
    },
    optional={
        "operations": st.lists(st.sampled_from(sorted(CATALOGUE)), min_size=1),
        "namespace": st.sampled_from(["a", "b", "ab", "customer"]),
        "min_ttl": st.sampled_from([1, 60, 600]),
        "max_ttl": st.sampled_from([600, 3600, 86_400]),
        "max_value_bytes": st.sampled_from([1, 2, 6, 20]),
    },
)

FAMILIAR = ["DEL", "GET", "HGETALL", "HSET", "INCR", "SET"]
"""Operations that the oracle knows: one of each way to come by a value, and to write one."""
VALUES = [1, -12, "four", "a longer text than others", {"f": "v"}, {"field": [1, 2, 3]}]
TTLS = [1, 59, 60, 599, 600, 601, 3600, 3601, 86_400, 86_401]


@st.composite
def calls(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A client and a request of it: mostly one that only a detail decides about."""
    table: dict[str, Any] = draw(clients)
    if "operations" in table:  # those that its permissions never allow are a fault of their own
        may = [o for o in table["operations"] if NEEDED[o] <= set(table["permissions"])]
        table = {k: v for k, v in table.items() if k != "operations"} | (
            {"operations": may} if may else {}
        )
    pattern = draw(st.sampled_from(table["keys"]))
    covered = pattern[:-1] + draw(keys()) if pattern.endswith("*") else pattern
    length = draw(st.integers(485, 513))
    key = draw(
        st.just(covered)
        | st.just(covered.ljust(length, "x"))
        | keys()
        | keys().map("flowcache:".__add__)
    )
    body = {
        "operation": draw(st.sampled_from(FAMILIAR)),
        "key": key,
        "value": draw(st.sampled_from(VALUES)),
    }
    ttl, kind = draw(st.none() | st.sampled_from(TTLS)), draw(st.sampled_from(["string", "hash"]))
    return table, body | ({"ttl": ttl} if ttl else {}) | {"type": kind}


def principal(table: dict[str, Any]) -> Principal:
    """Return the client that ``table`` configures; a contradiction is another test's subject."""
    faults: list[Fault] = []
    read = read_clients({"c": table}, Everybody(NEEDED, LIMITS), faults)
    assume(not faults)
    return read.principals[0]


def oracle(table: dict[str, Any], body: dict[str, Any]) -> str:
    """Say what the documentation says, without any code of the policy: ``ok`` or a code."""
    ttl, key = body.get("ttl"), body["key"]
    if len(key.encode()) > 512:
        return "too_large"
    if ttl is not None and not table.get("min_ttl", 1) <= ttl <= table.get("max_ttl", 2_592_000):
        return "invalid_request"
    runs = body["operation"]
    if body.get("type") == "hash":
        runs = {"SET": "HSET", "GET": "HGETALL"}.get(runs, runs)
    value = body["value"]
    if (runs == "HSET" and not isinstance(value, dict)) or (
        runs == "INCR" and not isinstance(value, int)
    ):
        return "invalid_request"
    needed = "data:read" if runs in ("GET", "HGETALL") else "data:write"
    if needed not in table["permissions"] or runs not in table.get("operations", [runs]):
        return "forbidden"
    if key.startswith("flowcache:") or not any(
        (key + "\0").startswith(p[:-1]) if p.endswith("*") else key == p for p in table["keys"]
    ):
        return "forbidden"
    namespace = table.get("namespace")
    if namespace and len(f"flowcache:ns:{namespace}:{key}".encode()) > 512:
        return "too_large"
    size = {
        "SET": lambda: len(msgspec.json.encode(value)),
        "HSET": lambda: sum(
            len(f) + len(v if isinstance(v, str) else msgspec.json.encode(v))
            for f, v in value.items()
        ),
        "INCR": lambda: len(str(value)),
    }.get(runs, lambda: 0)()
    return "too_large" if size > table.get("max_value_bytes", size) else "ok"


def outcome(who: Principal, body: dict[str, Any]) -> str:
    """Do what the data action does, up to where Redis would be asked."""
    try:
        wanted = coerce(decode(msgspec.json.encode(body)), who.limits or LIMITS)
        operation, command = plan(wanted, 1000, who.sizes or SizeLimits())
    except Failure as failure:
        return failure.code
    verdict = judge(who, operation.permissions, operation.name, command)
    return refusal(verdict).code if isinstance(verdict, Deny) else "ok"


@given(calls())
@settings(max_examples=800, deadline=None)
def test_what_the_policy_says_is_what_happens(call: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """For any client and any request, an oracle that knows the documentation only agrees."""
    table, body = call
    assert outcome(principal(table), body) == oracle(table, body)


@given(calls())
def test_less_given_is_less_allowed(call: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """What is left out of the permissions, operations or keys never allows more."""
    table, body = call
    if outcome(principal(table), body) == "ok":
        return
    for key in ("permissions", "keys", "operations"):
        for item in table.get(key, ()):
            less = table | {key: [each for each in table[key] if each != item]}
            if less[key]:
                assert outcome(principal(less), body) != "ok"


def key_in_redis(namespace: str | None, key: str) -> bytes | None:
    """Return the key that a client with every right would reach, None when it is refused."""
    table = {"tokens": ["sha256:" + "0" * 64], "permissions": ["data:read"], "keys": ["*"]}
    who = principal(table | ({"namespace": namespace} if namespace else {}))
    try:
        _, command = plan(
            coerce(decode(msgspec.json.encode({"operation": "GET", "key": key})), LIMITS), 1
        )
    except Failure:
        return None
    if isinstance(judge(who, READS, "GET", command), Deny):
        return None
    return placed(command, who).key


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,5}", fullmatch=True) | st.sampled_from("ab")


@st.composite
def crafted(draw: st.DrawFn, names: st.SearchStrategy[str]) -> str:
    """Keys that try to climb out: with the prefix of a namespace, or parts of it, in them."""
    prefix = draw(st.sampled_from(["", "flowcache:", "flowcache:ns:", "ns:", ":", "\0", "/../"]))
    return prefix + draw(names) + draw(st.sampled_from([":", "", "::"])) + draw(st.text(max_size=5))


@given(st.none() | names, st.none() | names, crafted(names) | st.text(), crafted(names) | st.text())
def test_two_namespaces_never_meet(
    one: str | None, other: str | None, key: str, others_key: str
) -> None:
    """No two keys of clients in different namespaces, or in none, are one key in Redis."""
    assume(one != other)
    assume(not any("\ud800" <= c <= "\udfff" for c in key + others_key))
    here, there = key_in_redis(one, key), key_in_redis(other, others_key)
    assert here is None or here != there
    if here is not None and there is not None:
        assert once_key(here, b"i") != once_key(there, b"i")


client_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,5}", fullmatch=True)


@given(client_names, client_names, st.sampled_from([None, "a"]), st.data())
def test_two_clients_never_share_a_record(
    one: str, other: str, namespace: str | None, data: st.DataObject
) -> None:
    """No client has a record of another's idempotent write, whatever tokens both choose."""
    tokens = st.sampled_from(["i", f"{one}:i", f"{other}:i", ":", f"{other}:{one}:i"])

    def record(name: str) -> bytes:
        who = Principal(name, frozenset(), prefix=namespace_prefix(namespace) if namespace else b"")
        once = Once(data.draw(tokens).encode(), b"fingerprint", 1)
        command = placed(made_command(b"DEL", b"k", writes=True, once=once), who)
        assert command.once is not None
        return once_key(command.key, command.once.token)

    assume(one != other)
    assert record(one) != record(other)


@given(names, st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_a_hash_tag_keeps_its_meaning(name: str, before: str, tag: str) -> None:
    """Keys that a client's tag binds to one slot are in one slot, in a namespace too."""
    assume("{" not in before and tag and "}" not in tag)
    key = f"{before}{{{tag}}}after".encode(errors="ignore")
    assert key_slot(namespace_prefix(name) + key) == key_slot(key)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_only_the_same_token_has_the_same_digest(one: bytes, other: bytes) -> None:
    """A look-up by digest is a comparison of tokens."""
    assert (digest(one) == digest(other)) == (one == other)
