"""Clients from outside: a real flowcache, its configuration file, and somebody who tries doors."""

from __future__ import annotations

import json
import signal
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from flowcache.authn.tokens import show_digest
from flowcache.secret import Secret
from tests.contract.wire import post, wire
from tests.servers import Cluster, RedisProcess, eventually
from tests.service import ROUTE, TOKEN, Answer, Service, service
from tests.unit.issuer.issuers import answer, issuer

TOKENS = {
    name: f"fc_{name}-{'x' * 40}" for name in ("acme", "next", "other", "reader", "old", "writer")
}
HASHES = {name: show_digest(Secret(token)) for name, token in TOKENS.items()}

CLIENTS = f"""
[clients.acme]
tokens = ["{HASHES["acme"]}", "{HASHES["next"]}"]
permissions = ["data:read", "data:write"]
namespace = "acme"

[clients.other]
tokens = ["{HASHES["other"]}"]
permissions = ["data:read", "data:write"]
namespace = "acme-2"
min_ttl = 60
max_value_bytes = 20

[clients.reader]
tokens = ["{HASHES["reader"]}", {{ hash = "{HASHES["old"]}", expires = 2020-01-01 }}]
permissions = ["data:read", "inspect:read"]
keys = ["customer:*"]

[clients.writer]
tokens = ["{HASHES["writer"]}"]
permissions = ["data:write"]
keys = ["customer:*"]
"""


@contextmanager
def serving(
    redis: Mapping[str, str], directory: Path, text: str = CLIENTS, **settings: str
) -> Iterator[Service]:
    file = directory / "flowcache.toml"
    file.write_text(text)
    environment = {"FLOWCACHE_DATA_DEADLINE_MS": "10000"} | dict(redis) | settings
    with service(environment, "--config", str(file)) as running:
        yield running


def nodes(*servers: RedisProcess) -> dict[str, str]:
    return {
        "REDIS_NODES": ",".join(f"127.0.0.1:{server.port}" for server in servers),
        "FLOWCACHE_REDIS_HEDGE_BUDGET": "0",  # a replica may lack what was written a moment ago
    }


@pytest.fixture(scope="module")
def running(
    cluster_servers: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Share a flowcache with clients, in front of a cluster."""
    cluster_servers.flush()
    with serving(nodes(*cluster_servers.nodes), tmp_path_factory.mktemp("clients")) as running:
        yield running


def act(running: Service, client: str, **fields: Any) -> Answer:
    """Post a data action with the token of a client."""
    body = json.dumps(fields).encode()
    return running.request("POST", ROUTE, body, {"x-api-key": TOKENS[client]})


def act_with(running: Service, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return running.request("POST", ROUTE, b'{"operation":"GET","key":"k"}', named)


def in_cluster(servers: Cluster) -> set[bytes]:
    """Return all keys there are."""
    keys: set[bytes] = set()
    for node in servers.primaries():
        with node.client() as client:
            keys |= set(client.scan_iter(count=1000))
    return keys


def test_a_credential_comes_in_three_ways(running: Service) -> None:
    """Bearer, Basic with the client's name, X-API-Key; each of both tokens that count."""
    for token in (TOKENS["acme"], TOKENS["next"]):
        basic = b64encode(f"acme:{token}".encode()).decode()
        assert act_with(running, authorization=f"Bearer {token}").status == 200
        assert act_with(running, authorization=f"Basic {basic}").status == 200
        assert act_with(running, x_api_key=token).status == 200
    wrong = b64encode(f"other:{TOKENS['acme']}".encode()).decode()
    for headers in (
        {"authorization": f"Basic {wrong}"},
        {"authorization": f"Bearer {TOKENS['acme']}", "x_api_key": TOKENS["acme"]},
        {"authorization": f"Bearer {HASHES['acme']}"},
        {"x_api_key": TOKENS["old"]},
    ):
        assert act_with(running, **headers).code == "unauthorized"


def test_all_wrong_tokens_get_the_same_answer(running: Service) -> None:
    """Expired, unknown, of another: the bodies differ in id and latency only."""
    told = set()
    for token in (TOKENS["old"], "unknown", TOKENS["acme"][:-1]):
        answer = act_with(running, x_api_key=token).json
        answer["metadata"]["requestId"] = answer["metadata"]["latencyMs"] = None
        told.add(json.dumps(answer))
    assert len(told) == 1


def test_the_token_of_the_seed_works_beside_clients(running: Service) -> None:
    """It is one client: it may do anything to data but in a namespace, and inspects nothing."""
    assert running.call(operation="SET", key="customer:seed", value=1).data == "OK"
    assert act(running, "reader", operation="GET", key="customer:seed").data == 1
    header = {"authorization": f"Bearer {TOKEN}"}
    assert running.request("GET", "/inspector", None, header).code == "forbidden"


def test_a_client_does_what_it_may_and_no_more(running: Service) -> None:
    """Permission, key, TTL and size: each refusal has its own code and words."""
    reader, other = "reader", "other"
    for client, fields, code, word in (
        (reader, {"operation": "SET", "key": "customer:1", "value": 1}, "forbidden", "data:write"),
        (reader, {"operation": "DEL", "key": "customer:1"}, "forbidden", "data:write"),
        (reader, {"operation": "GET", "key": "customers:1"}, "forbidden", "key:"),
        (reader, {"operation": "GET", "key": "customer"}, "forbidden", "key:"),
        (other, {"operation": "SET", "key": "k", "value": 1, "ttl": 59}, "invalid_request", "60"),
        (other, {"operation": "SET", "key": "k", "value": "x" * 19}, "too_large", "value:"),
        (other, {"operation": "HSET", "key": "h", "value": {"f" * 20: 1}}, "too_large", "value:"),
        (other, {"operation": "GET", "key": "x" * 500}, "too_large", "key:"),
    ):
        answer = act(running, client, **fields)
        assert answer.code == code, fields
        assert word in answer.json["error"]
    assert act(running, other, operation="SET", key="k", value="x" * 18, ttl=60).data == "OK"
    assert act(running, other, operation="GET", key="x" * 492).data is None


def test_a_client_that_may_inspect_reads_the_inspector(running: Service) -> None:
    """The permission opens it, whoever has it; without it nobody gets in."""
    for client, status in (("reader", 200), ("acme", 403)):
        answer = running.request("GET", "/inspector", None, {"x-api-key": TOKENS[client]})
        assert answer.status == status


CRAFTED = [
    *("k", "{k}", "a:k", ":k", "k:", "acme:k", "acme-2:k", "ns:acme:k", "\0k", "../acme/k"),
    *("flowcache", "flowcache:", "flowcache:ns:acme:k", "flowcache:ns:acme-2:k"),
    *(
        "{flowcache:ns:}k",
        "2:k",
        "-2:k",
        "}k{",
        "{acme}:k",
        "flowcache:ns:acme",
        "FLOWCACHE:ns:acme:k",
    ),
]


def test_two_namespaces_never_meet(running: Service, cluster_servers: Cluster) -> None:
    """Whatever keys two clients and the seed's token choose, nobody reads another's value."""
    cluster_servers.flush()
    everybody = ("acme", "other", "flow")

    def call(client: str, **fields: Any) -> Answer:
        return running.call(**fields) if client == "flow" else act(running, client, **fields)

    written: set[tuple[str, str]] = set()
    for client in everybody:
        for key in CRAFTED:
            answer = call(client, operation="SET", key=key, value=client, idempotencyKey="i")
            assert (answer.status == 403) is key.startswith("flowcache:"), key
            if answer.status == 200:
                written.add((client, key))
    for client, key in written:
        assert call(client, operation="GET", key=key).data == client
    values = {key for key in in_cluster(cluster_servers) if not key.startswith(b"flowcache:once:")}
    prefixes = {"acme": "flowcache:ns:acme:", "other": "flowcache:ns:acme-2:", "flow": ""}
    assert values == {(prefixes[client] + key).encode() for client, key in written}
    assert len(values) == len(written)
    for client, key in written:
        if client == "acme":
            assert call(client, operation="DEL", key=key).data == 1
    for client, key in written - {(c, k) for c, k in written if c == "acme"}:
        assert call(client, operation="GET", key=key).data == client


def test_an_idempotency_key_is_its_clients_own(running: Service) -> None:
    """Who may only write learns nothing of another's write to the same key, and takes no token
    before it; two tokens of one client are one client."""
    secret = {"operation": "SET", "key": "customer:secret", "idempotencyKey": "i"}
    assert running.call(**secret, value="4711").status == 200
    assert act(running, "writer", **secret, value="4710").status == 200  # as any write of its own
    assert act(running, "writer", **secret, value="4711").code == "conflict"  # with its own
    running.call(operation="SET", key="customer:secret", value="changed")
    assert running.call(**secret, value="4711").status == 200  # done already
    assert running.call(operation="GET", key="customer:secret").data == "changed"
    count = {"operation": "INCR", "key": "customer:count", "idempotencyKey": "next"}
    assert act(running, "writer", **count).data == 1
    assert running.call(**count).data == 2
    assert running.call(**count).data == 2
    assert act(running, "writer", **count).data == 1
    mine = {"operation": "INCR", "key": "mine", "idempotencyKey": "i"}
    assert act(running, "acme", **mine).data == act(running, "next", **mine).data == 1


def test_keys_with_one_tag_share_a_slot_in_a_namespace(
    running: Service, cluster_servers: Cluster
) -> None:
    """A client's hash tag binds its keys together as it does without a namespace."""
    for suffix in ("a", "b", "c"):
        act(running, "acme", operation="SET", key=f"{{tag-7}}:{suffix}", value=1)
    keys = [key for key in in_cluster(cluster_servers) if b"{tag-7}" in key]
    assert len(keys) == 3
    assert {cluster_servers.slot_of(key) for key in keys} == {cluster_servers.slot_of("tag-7")}


def test_no_token_and_no_hash_is_shown(running: Service) -> None:
    """Neither the log, nor the inspector, nor metrics, nor the pages of documentation."""
    act_with(running, x_api_key="fc_a-token-of-something-else")
    texts = [running.log, json.dumps(running.inspect())]
    texts += [running.request("GET", page).body.decode() for page in ("/metrics", "/docs")]
    for text in texts:
        for secret in (*TOKENS.values(), *HASHES.values(), "fc_a-token-of-something-else", TOKEN):
            assert secret not in text
            assert secret.removeprefix("sha256:") not in text
    shown = json.loads(texts[1])["configuration"]["clients"]["acme"]
    assert shown["tokens"] == ["***", "***"]
    assert shown["namespace"] == "acme"


names = st.sampled_from(["Authorization", "X-API-Key", "x-api-key", "authorization"])
line_bytes = st.binary(max_size=60).map(lambda raw: raw.translate(None, b"\r\n\0"))
schemes = st.sampled_from(
    [b"", b"Bearer ", b"bearer\t", b"Basic ", b"BASIC  ", b"Digest ", b"\xff "]
)
contents = (
    line_bytes
    | line_bytes.map(b64encode)
    | st.sampled_from(
        [
            TOKENS["acme"].encode()[:-1],
            b64encode(b"acme:" + b"x" * 43),
            b64encode(b"acme"),
            b"=" * 9,
        ]
    )
)


@given(st.lists(st.tuples(names, schemes, contents), max_size=3))
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_header_makes_a_bug(running: Service, headers: list[tuple[str, bytes, bytes]]) -> None:
    """Raw bytes in every credential header: 401, or 400 from below; never in, never a 500."""
    lines = b"".join(name.encode() + b": " + s + c + b"\r\n" for name, s, c in headers)
    plain = post(b'{"operation":"GET","key":"k"}', "X-Here: 1", authorization=None)
    with wire(running.port) as connection:
        connection.send(plain.replace(b"X-Here: 1\r\n", lines))
        assert connection.receive().status in (400, 401)


def test_wrong_credentials_are_limited_and_right_ones_are_not(
    standalone_server: RedisProcess, tmp_path: Path
) -> None:
    """Over the limit 429 with Retry-After; every attempt is on record; neighbours get in."""
    limit = {"FLOWCACHE_AUTH_FAILURES_PER_MINUTE": "3"}
    with serving(nodes(standalone_server), tmp_path, **limit) as running:
        answers = [act_with(running, x_api_key="wrong") for _ in range(5)]
        assert [answer.status for answer in answers] == [401] * 3 + [429] * 2
        assert 1 <= int(answers[4].headers["retry-after"]) <= 20
        assert answers[4].code == "rate_limited"
        assert answers[4].json["retryable"] is False
        assert act(running, "acme", operation="GET", key="k").status == 200
        records = running.inspect()["auditLogs"]
        assert [(r["client"], r["outcome"]) for r in records] == [
            *[(None, "unauthorized")] * 3,
            *[(None, "rate_limited")] * 2,
            ("acme", "ok"),
        ]


RATED = f"""
[clients.acme]
tokens = ["{HASHES["acme"]}"]
permissions = ["data:read"]
namespace = "acme"
rate = 0.01
burst = 6
"""


def test_a_client_over_its_rate_waits(standalone_server: RedisProcess, tmp_path: Path) -> None:
    """Six at once, then 429 with a Retry-After that is true; others go on."""
    with serving(nodes(standalone_server), tmp_path, RATED) as running:
        answers = [act(running, "acme", operation="GET", key="k") for _ in range(8)]
        assert [answer.status for answer in answers] == [200] * 6 + [429] * 2
        assert 90 <= int(answers[7].headers["retry-after"]) <= 100
        assert answers[7].json["retryable"] is True
        assert running.call(operation="GET", key="k").status == 200


def test_two_instances_share_a_rate(fresh_standalone: RedisProcess, tmp_path: Path) -> None:
    """What one instance let through counts at the other, without a call waiting for it."""
    shared = {"FLOWCACHE_AUTH_SHARED_RATES": "true"}
    redis = nodes(fresh_standalone)
    with (
        serving(redis, tmp_path, RATED, **shared) as one,
        serving(redis, tmp_path, RATED, **shared) as other,
    ):
        assert [act(one, "acme", operation="GET", key="k").status for _ in range(7)] == [
            *[200] * 6,
            429,
        ]
        eventually(
            lambda: act(other, "acme", operation="GET", key="k").status == 429,
            what="the other instance to hear of it",
        )
        let_through = sum(
            record["outcome"] == "ok"
            for each in (one, other)
            for record in each.inspect()["auditLogs"]
        )
        assert let_through < 12  # less than a burst of each
        assert other.call(operation="GET", key="k").status == 200


# -- rotation: the configuration, read again -------------------------------------------------------


def section(client: str, *tokens: str) -> str:
    listed = ", ".join(f'"{HASHES[token]}"' for token in tokens)
    return (
        f"[clients.{client}]\ntokens = [{listed}]\n"
        f'permissions = ["data:read"]\nnamespace = "{client}"\n'
    )


def test_clients_and_tokens_come_and_go_with_sighup(
    standalone_server: RedisProcess, tmp_path: Path
) -> None:
    """A token is replaced without one refused call; a client that was removed is nobody."""
    with serving(nodes(standalone_server), tmp_path, section("acme", "acme")) as running:

        def status(token: str) -> int:
            return act(running, token, operation="GET", key="k").status

        def reload(text: str, done: Callable[[], bool]) -> None:
            """Have the configuration read again while somebody keeps calling with `next`."""
            (tmp_path / "flowcache.toml").write_text(text)
            running.process.send_signal(signal.SIGHUP)
            eventually(done, what="the new configuration to be in force")

        assert [status(token) for token in ("acme", "next", "other")] == [200, 401, 401]
        reload(section("acme", "acme", "next"), lambda: status("next") == 200)
        assert status("acme") == 200  # both count: the flows change over one by one

        def old_is_out() -> bool:
            assert status("next") == 200
            return status("acme") == 401

        reload(section("acme", "next"), old_is_out)
        reload(section("other", "other"), lambda: status("other") == 200)
        eventually(lambda: status("next") == 401, what="the removed client to be refused")
        # A configuration with a fault changes nothing: nobody is let in or locked out by a slip.
        (tmp_path / "flowcache.toml").write_text("[clients.acme]\ntokens = [1]\n")
        running.process.send_signal(signal.SIGHUP)
        eventually(lambda: "clients.acme.tokens" in running.log, what="the fault to be told")
        assert [status(token) for token in ("next", "other")] == [401, 200]


# -- tokens of an issuer ---------------------------------------------------------------------------


def test_an_issuers_tokens_name_clients(standalone_server: RedisProcess, tmp_path: Path) -> None:
    """What it signed for us is its subject, as far as its scope goes; nothing else gets in.

    It comes as other tokens do, and a key that is too weak is told in the log.
    """
    key, stranger = (ECKey.generate_key("P-256", {"kid": "one"}) for _ in range(2))
    keys = tmp_path / "jwks.json"
    published = KeySet([key]).as_dict(private=False)
    published["keys"].append({"kty": "RSA", "kid": "feeble", "e": "AQAB", "n": "_" * 171})
    keys.write_text(json.dumps(published))
    text = f"""
[jwt]
keys = "{keys}"
issuer = "https://idp.example/"
audience = "flowcache"

[clients.app]
subject = "app-1"
permissions = ["data:read", "data:write"]
namespace = "app"
"""
    claims = {
        **{"iss": "https://idp.example/", "aud": "flowcache", "sub": "app-1"},
        **{"exp": int(time()) + 3600, "scope": "data:read data:write"},
    }

    def made(signer: ECKey, **changes: Any) -> str:
        return jwt.encode({"alg": "ES256", "kid": "one"}, claims | changes, signer)

    def send(signer: ECKey, operation: str = "SET", **changes: Any) -> Answer:
        """Post a data action with a token that ``signer`` signed."""
        body = json.dumps({"operation": operation, "key": "k", "value": 7}).encode()
        header = {"authorization": f"Bearer {made(signer, **changes)}"}
        return served.request("POST", ROUTE, body, header)

    with serving(nodes(standalone_server), tmp_path, text) as served:
        assert send(key).data == "OK"
        assert send(key, "GET").data == 7
        assert served.inspect()["auditLogs"][-1]["client"] == "app"
        assert standalone_server.cli("EXISTS", "flowcache:ns:app:k") in (1, "1")
        assert send(key, "GET", scope="data:read").data == 7
        assert send(key, scope="data:read").code == "forbidden"
        assert "its token has no scope that counts here" in send(key, scope="openid").json["error"]
        for refused, why in (
            (send(stranger), "the signature of the JWT is wrong"),
            (send(key, aud="other"), "the JWT's aud does not have jwt.audience"),
            (send(key, exp=int(time()) - 60), "the JWT has expired"),
            (send(key, sub="app-2"), "the JWT's sub is the subject of no client"),
        ):
            assert refused.code == "unauthorized"
            assert refused.json["error"] == "Unknown credential."
            assert why in served.log
            recorded = served.inspect()["auditLogs"]
            assert [each for each in recorded if why in (each["detail"] or "")]
        assert made(key).encode() not in served.log.encode()
        assert act_with(served, x_api_key=made(key)).status == 200
        for name, status in (("app", 200), ("flow", 401)):
            basic = b64encode(f"{name}:{made(key)}".encode()).decode()
            assert act_with(served, authorization=f"Basic {basic}").status == status
        assert '"keys": ["feeble"]' in served.log


def test_an_issuer_that_is_away_and_changes_its_key_is_followed(
    standalone_server: RedisProcess, tmp_path: Path
) -> None:
    """The service starts without its keys; both the first and a new one are in force soon."""
    first, second = (ECKey.generate_key("P-256", {"kid": name}) for name in ("one", "two"))
    published = (json.dumps(KeySet([key]).as_dict(private=False)) for key in (first, second))
    claims: dict[str, Any] = {"iss": "idp", "aud": "flowcache", "sub": "s", "scope": "inspect:read"}
    claims["exp"] = int(time()) + 3600

    def gets_in(signer: ECKey) -> bool:
        token = jwt.encode({"alg": "ES256", "kid": signer.kid}, claims, signer)
        header = {"authorization": f"Bearer {token}"}
        return served.request("GET", "/inspector", None, header).status == 200

    with issuer(b"garbage\r\n\r\n", *(answer(each.encode()) for each in published)) as there:
        text = f"""
[jwt]
keys = "{there.url}"
issuer = "idp"
audience = "flowcache"

[clients.app]
subject = "s"
permissions = ["inspect:read"]
"""
        with serving(nodes(standalone_server), tmp_path, text) as served:
            eventually(lambda: gets_in(first), what="the keys to be read after all")
            eventually(lambda: gets_in(second), what="the new key to be asked for")
            assert not gets_in(first)
            assert "no proper answer" in served.log
