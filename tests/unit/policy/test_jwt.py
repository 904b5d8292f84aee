"""Tokens that an issuer signed: whose they are, and whose they are not."""

from __future__ import annotations

import asyncio
import hmac
import json
from base64 import urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey

from flowcache.authn.gate import Gate, GateSettings
from flowcache.authn.jwt import Jwts
from flowcache.authn.principals import Credential, Principals, Refused, Unverified
from flowcache.authn.settings import JwtSettings
from flowcache.authz.keys import ALL_KEYS
from flowcache.authz.networks import Networks
from flowcache.authz.permissions import Permission
from flowcache.authz.principal import Principal
from flowcache.errors import Unauthorized
from flowcache.ratelimit.buckets import Rate

ISSUER, AUDIENCE, NOW = "https://idp.example/", "flowcache", 1_800_000_000.0
DATA = frozenset({Permission.DATA_READ, Permission.DATA_WRITE})
APP = Principal("app", DATA, ALL_KEYS, subject="app-1")
PLAIN = Principal("plain", DATA, ALL_KEYS)

RSA = RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})
OCT = OctKey.generate_key(256, {"kid": "oct"})
OTHER = RSAKey.generate_key(2048, {"kid": "rsa"})
SIGNERS = {"RS256": RSA, "PS256": RSA, "ES256": EC, "Ed25519": ED}
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "aud": AUDIENCE,
    "sub": "app-1",
    "exp": NOW + 60,
    "scope": "openid data:read data:write",
}


def public(*keys: Any) -> bytes:
    return json.dumps(KeySet(list(keys)).as_dict(private=False)).encode()


def signed(
    claims: dict[str, Any] | bytes, algorithm: str = "ES256", key: Any = None, **header: Any
) -> bytes:
    key = key or SIGNERS[algorithm]
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    named = {"alg": algorithm, "kid": key.kid} | header
    named = {name: value for name, value in named.items() if value is not None}
    return jws.serialize_compact(
        named,
        payload,
        key,
        algorithms=[algorithm],
        registry=jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False),
    ).encode()


def unsigned(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> bytes:
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in parts)


class Day:
    now = NOW

    def __call__(self) -> float:
        return self.now


def verifier(*keys: Any, day: Day | None = None, principals: tuple[Principal, ...] = ()) -> Jwts:
    settings = JwtSettings(ISSUER, AUDIENCE, "unused")
    made = Jwts(settings, principals or (APP, PLAIN), day or Day())
    if keys:
        made.use(public(*keys))
    return made


JWTS = verifier(RSA, EC, ED)


def who(token: bytes) -> Principal | None:
    credential = JWTS.credential(token)
    return credential.principal if isinstance(credential, Credential) else None


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_a_token_of_the_issuer_is_its_subject(algorithm: str) -> None:
    """Each algorithm there is works, and works again from what was remembered."""
    token = signed(CLAIMS, algorithm)
    for _ in range(2):
        known = who(token)
        assert known is not None
        assert (known.name, known.permissions) == ("app", DATA)


def by_the_old_name(key: Any = ED, **header: Any) -> bytes:
    """Sign as most issuers do that have an Ed25519 key: `EdDSA` is in RFC 8037."""
    named = {"alg": "EdDSA", "kid": key.kid} | header
    signing_input = unsigned(
        {name: value for name, value in named.items() if value is not None}, CLAIMS
    ).rpartition(b".")[0]
    signature: bytes = key.get_op_key("sign").sign(signing_input)
    return signing_input + b"." + urlsafe_b64encode(signature).rstrip(b"=")


@pytest.mark.parametrize("own", [None, "EdDSA", "Ed25519"])
def test_an_algorithm_counts_by_its_old_name(own: str | None) -> None:
    """Whichever of its two names the token says and the key, it is one algorithm (RFC 9864)."""
    key = ED.as_dict(private=False) | ({"alg": own} if own else {})
    jwts = verifier()
    jwts.use(json.dumps({"keys": [key]}).encode())
    for token in (by_the_old_name(), by_the_old_name(kid=None), signed(CLAIMS, "Ed25519")):
        assert isinstance(jwts.credential(token), Credential)


def test_a_token_need_not_name_its_key() -> None:
    """It is tried with those that fit its algorithm, if they are few; what fits none is asked for,
    as a new key would be."""
    asked: list[bool] = []
    jwts = Jwts(JwtSettings(ISSUER, AUDIENCE, ""), (APP,), Day(), lambda: asked.append(True))
    later = [ECKey.generate_key("P-256", {"kid": f"k{n}"}) for n in range(8)]
    jwts.use(public(RSA, ED, *later[:7], EC))
    assert all(
        isinstance(jwts.credential(signed(CLAIMS, name, kid=None)), Credential) for name in SIGNERS
    )
    assert asked == []
    assert not isinstance(jwts.credential(signed(CLAIMS, "RS256", OTHER, kid=None)), Credential)
    assert asked == [True]
    jwts.use(public(*later, EC))
    assert not isinstance(jwts.credential(signed(CLAIMS, kid=None)), Credential)
    assert isinstance(jwts.credential(signed(CLAIMS)), Credential)


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("data:read", {Permission.DATA_READ}),
        (["data:read", "x"], {Permission.DATA_READ}),
        ("data:write inspect:read circuits:write", {Permission.DATA_WRITE}),
        ("data:rea data:readx DATA:READ", set()),
        ("data:read\tdata:write", set()),
        ("x\u00a0data:read  data:write", {Permission.DATA_WRITE}),
        ("", set()),
        ([], set()),
        (None, set()),
    ],
)
def test_a_scope_narrows_and_never_widens(scope: Any, expected: set[Permission]) -> None:
    """It may do what the operator gave and the issuer named; without a scope nothing."""
    claims = {k: v for k, v in (CLAIMS | {"scope": scope}).items() if v is not None}
    known = who(signed(claims))
    assert known is not None
    assert known.permissions == expected


BAD_CLAIMS: list[dict[str, Any]] = [
    {"iss": "https://idp.example"},
    {"iss": f"{ISSUER}tenant"},
    {"iss": None},
    {"aud": "other"},
    {"aud": f"{AUDIENCE}-2"},
    {"aud": ["other", "flowcache-2"]},
    {"aud": None},
    {"sub": "app-2"},
    {"sub": "plain"},
    {"sub": ""},
    {"sub": None},
    {"exp": NOW - 5},
    {"exp": None},
    {"exp": "1900000000"},
    {"exp": -1},
    {"nbf": NOW + 6},
    {"nbf": "soon"},
    {"scope": 7},
]


@pytest.mark.parametrize("change", BAD_CLAIMS, ids=str)
def test_a_claim_that_is_wrong_makes_it_nobodys(change: dict[str, Any]) -> None:
    """Another issuer, audience or subject; not yet, no more; or without the claim at all."""
    assert who(signed(CLAIMS | change)) is None
    (name,) = change
    if name not in ("nbf", "scope"):
        assert who(signed({k: v for k, v in CLAIMS.items() if k != name})) is None


@pytest.mark.parametrize("change", [{"nbf": NOW + 5}, {"exp": NOW - 4}], ids=str)
def test_clocks_may_differ_by_some_seconds(change: dict[str, Any]) -> None:
    """In both directions: an issuer's that is ahead, and one that is behind."""
    assert who(signed(CLAIMS | change)) is not None


def test_an_audience_may_be_one_of_several() -> None:
    """A token may be made for other services, too."""
    assert who(signed(CLAIMS | {"aud": ["other", AUDIENCE]})) is not None


FORGED = {
    "none": unsigned({"alg": "none"}, CLAIMS),
    "None": unsigned({"alg": "None", "kid": "ec"}, CLAIMS),
    "no algorithm": unsigned({"kid": "ec"}, CLAIMS),
    "empty signature": unsigned({"alg": "ES256", "kid": "ec"}, CLAIMS),
    "another key": signed(CLAIMS, "RS256", OTHER),
    "another's name": signed(CLAIMS, "RS256", OTHER, kid="ec"),
    "unknown key": signed(CLAIMS, kid="gone"),
    "extensions that are none": signed(CLAIMS, crit=[]),
    "key's name is no text": unsigned({"alg": "ES256", "kid": [7]}, CLAIMS, b"x"),
    "no key named, and another's": signed(CLAIMS, "RS256", OTHER, kid=None),
    "no key named, nor an algorithm": unsigned({}, CLAIMS, b"x"),
    "its algorithm is no text": unsigned({"alg": ["ES256"], "kid": "ec"}, CLAIMS, b"x"),
    "deep": unsigned({"alg": "ES256", "kid": "ec"}, {}, b"x").replace(
        b".", b"." + b"W1tb" * 1800, 1
    ),
    "deep and signed": signed(b"[" * 5000, "Ed25519"),
    "old name of another algorithm": unsigned({"alg": "EdDSA", "kid": "ec"}, CLAIMS, b"x"),
    "its own key": signed(CLAIMS, "RS256", OTHER, jwk=OTHER.as_dict(private=False)),
    "a URL of keys": signed(CLAIMS, "RS256", OTHER, jku="https://evil.example/jwks"),
    "critical and unknown": unsigned({"alg": "ES256", "kid": "ec", "crit": ["x"]}, CLAIMS, b"x"),
    "RS384": signed(CLAIMS, "RS384", RSA),
    "no JSON": signed(b"{"),
    "no object": signed(b"[]"),
    "not UTF-8": signed(b"\xff\xfe"),
    "two parts": signed(CLAIMS).rpartition(b".")[0],
    "four parts": signed(CLAIMS) + b".x",
    "huge": signed(CLAIMS | {"x": "y" * 9000}),
    "dots": b"..",
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_token_is_nobodys(name: str) -> None:
    """No signature, another's, or one by an algorithm that the operator did not allow."""
    assert who(FORGED[name]) is None


def test_a_public_key_is_no_shared_secret() -> None:
    """A token signed with the text of the public key as HMAC secret: the classic confusion."""
    header = {"alg": "HS256", "kid": "rsa"}
    for secret in (RSA.as_pem(private=False), public(RSA), RSA.as_der(private=False)):
        signing_input = unsigned(header, CLAIMS).rpartition(b".")[0]
        signature = hmac.digest(secret, signing_input, "sha256")
        assert who(unsigned(header, CLAIMS, signature)) is None
    with_secret = verifier()
    with_secret.use(json.dumps(KeySet([RSA, OCT]).as_dict(private=True)).encode())
    assert not isinstance(with_secret.credential(signed(CLAIMS, "HS256", OCT)), Credential)
    assert isinstance(with_secret.credential(signed(CLAIMS, "RS256")), Credential)


@given(st.binary(max_size=60), st.integers(0, 500), st.integers(0, 255))
def test_no_bytes_make_a_bug_or_a_principal(raw: bytes, place: int, byte: int) -> None:
    """Any bytes, with dots or without, and any token with one byte changed: nobody, no error."""
    assert who(raw) is None
    assert who(b".".join((raw, raw, raw))) is None
    token = bytearray(signed(CLAIMS, "Ed25519"))
    place %= len(token)
    if token[place] != byte:
        token[place] = byte
        known = who(bytes(token))
        # The last character of a part has bits that Base64 drops: the same token, spelt otherwise.
        assert known is None or place in (len(token) - 1, token.index(b".") - 1)


def test_a_remembered_token_still_expires() -> None:
    """Verified once, it counts until it expires, with some seconds for clocks that differ."""
    day = Day()
    known = Principals((), day, verifier(EC, day=day).credential)
    headers = [(b"authorization", b"Bearer " + signed(CLAIMS))]
    for now, counts in ((NOW, True), (NOW + 64, True), (NOW + 65, False), (NOW + 64, True)):
        day.now = now
        if counts:
            assert known.authenticate(headers, None).name == "app"
        else:
            with pytest.raises(Unauthorized, match="Unknown credential"):
                known.authenticate(headers, None)


def test_what_is_remembered_of_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An issuer that makes a new token for each call fills no memory."""
    monkeypatch.setattr("flowcache.authn.jwt._MOST_KNOWN", 2)
    jwts = verifier(EC)
    for number in range(5):
        assert isinstance(jwts.credential(signed(CLAIMS | {"jti": number})), Credential)
        assert len(jwts._known) <= 2


def test_a_client_that_ended_is_not_brought_back_by_its_issuer() -> None:
    """`expires` of a client ends the tokens of its issuer as well."""
    ended = Principal("app", DATA, ALL_KEYS, subject="app-1", expires=NOW + 10)
    credential = verifier(EC, principals=(ended,)).credential(signed(CLAIMS))
    assert isinstance(credential, Credential)
    assert credential.token.expires == NOW + 10


def test_keys_are_replaced_and_forgotten() -> None:
    """What a key signed counts for as long as the issuer publishes it, remembered or not."""
    jwts = verifier(RSA, EC)
    token = signed(CLAIMS)
    assert isinstance(jwts.credential(token), Credential)
    jwts.use(public(RSA))
    assert not isinstance(jwts.credential(token), Credential)
    assert isinstance(
        jwts.credential(signed(CLAIMS, "RS256", kid=None)), Credential
    )  # there is but one
    assert not isinstance(verifier().credential(token), Credential)  # none have come yet


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"keys":[]}',
        b'{"keys":7}',
        b'{"keys":{"a":1}}',
        b"[" * 100_000,
        b'{"keys":[' + b"[" * 100_000,
        b'{"keys":[{"kty":"RSA"}]}',
        b'{"keys":[{"kty":"XYZ","kid":"a"}]}',
        json.dumps(KeySet([OCT]).as_dict(private=True)).encode(),
        public(RSAKey.generate_key(2048, {"kid": "e", "use": "enc"})),
    ],
)
def test_what_are_no_keys_leaves_those_there_are(content: bytes) -> None:
    """An issuer that publishes nonsense locks nobody out."""
    jwts = verifier(EC)
    with pytest.raises(ValueError, match=r"no JWKS|no key"):
        jwts.use(content)
    assert isinstance(jwts.credential(signed(CLAIMS)), Credential)


def base64(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


GOOD = EC.as_dict(private=False)
UNUSABLE: dict[str, Any] = {
    "no object": 7,
    "no type": {"kid": "x"},
    "a type to come": {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA", "kid": "x"},
    "a curve to come": {**GOOD, "crv": "P-999", "kid": "x"},
    "a curve that we don't take": {**ECKey.generate_key("P-384").as_dict(private=False)},
    "no point of its curve": {**GOOD, "x": "AAAA", "kid": "x"},
    "to encrypt with": {**GOOD, "use": "enc", "kid": "x"},
    "to sign with only": {**GOOD, "key_ops": ["sign"], "kid": "x"},
    "its use is no text": {**GOOD, "use": 5, "kid": "x"},
    "its name is no text": {**GOOD, "kid": ["x"]},
    "for another algorithm": {**GOOD, "alg": "ECDH-ES", "kid": "x"},
    "to agree on keys": {"kty": "OKP", "crv": "X25519", "x": base64(b"1" * 32), "kid": "x"},
    "a short one": {**RSA.as_dict(private=False), "n": base64(b"\xff" * 128), "kid": "x"},
    "no number": {**RSA.as_dict(private=False), "n": "\u00e9" * 400, "kid": "x"},
    "an exponent of one": {**RSA.as_dict(private=False), "e": "AQ", "kid": "x"},
    "a shared secret": OCT.as_dict(private=True),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_key_that_cannot_be_used_takes_no_other_along(name: str) -> None:
    """It is left out, and the other is the only one, which a token need not name."""
    jwts = verifier()
    keys = jwts.use(json.dumps({"keys": [UNUSABLE[name], GOOD]}).encode())
    assert (list(keys.usable), keys.published) == (["ec"], 2)
    assert isinstance(jwts.credential(signed(CLAIMS, kid=None)), Credential)


@pytest.mark.parametrize("bits", [512, 1024, 2040])
def test_a_weak_key_is_ignored_and_told(bits: int) -> None:
    """Under 2048 bits an RSA key counts for nobody, zeros before it or not (RFC 7518, 3.3)."""
    modulus = (1 << bits) - 1
    for padding in (b"", b"\0" * 256):
        text = base64(padding + modulus.to_bytes(bits // 8))
        weak = {"kty": "RSA", "kid": "weak", "e": "AQAB", "n": text}
        keys = verifier().use(json.dumps({"keys": [weak, GOOD]}).encode())
        assert (list(keys.usable), keys.weak) == (["ec"], ("weak",))
        with pytest.raises(ValueError, match="too short: weak"):
            verifier().use(json.dumps({"keys": [weak]}).encode())
    assert verifier().use(public(RSA)).weak == ()


def test_keys_without_names_are_not_taken_for_each_other() -> None:
    """Each counts by its thumbprint, and for a token without a name by its kind."""
    jwts = verifier()
    nameless = [
        {name: part for name, part in key.as_dict(private=False).items() if name != "kid"}
        for key in (EC, ED)
    ]
    jwts.use(json.dumps({"keys": nameless}).encode())
    assert isinstance(jwts.credential(signed(CLAIMS, kid=EC.thumbprint())), Credential)
    assert isinstance(jwts.credential(signed(CLAIMS, kid=None)), Credential)
    assert not isinstance(jwts.credential(signed(CLAIMS, kid=ED.thumbprint())), Credential)


def test_a_key_that_is_not_known_is_asked_for() -> None:
    """Its issuer may have begun to sign with it since; what is merely wrong asks for nothing."""
    asked: list[bool] = []
    jwts = Jwts(JwtSettings(ISSUER, AUDIENCE, ""), (APP,), Day(), lambda: asked.append(True))
    assert not isinstance(jwts.credential(signed(CLAIMS)), Credential)
    assert len(asked) == 1
    jwts.use(public(EC))
    assert isinstance(jwts.credential(signed(CLAIMS)), Credential)
    for wrong in (signed(CLAIMS | {"aud": "x"}), signed(CLAIMS)[:-4], b"fc_unknown", b"a.b.c"):
        assert not isinstance(jwts.credential(wrong), Credential)
    assert len(asked) == 1
    assert not isinstance(jwts.credential(signed(CLAIMS, "Ed25519")), Credential)
    assert len(asked) == 2


async def test_a_signature_waits_for_a_turn_that_has_room() -> None:
    """Of many tokens that nobody has verified a few are looked at in each turn of the loop; what is
    known needs no turn, and what is no token of an issuer needs none to be refused."""
    jwts = verifier(EC)
    looked = 0

    def stated(token: bytes, verify: bool) -> Credential | Refused | None:
        nonlocal looked
        found = jwts.credential(token, verify)
        looked += verify
        return found

    gate = Gate(
        Principals((), lambda: NOW, stated),
        GateSettings(Networks(()), Rate(1000.0, 1000)),
        {},
        lambda: 0.0,
    )
    good = [(b"authorization", b"Bearer " + signed(CLAIMS))]
    other = ECKey.generate_key("P-256", {"kid": "ec"})
    forged = [(b"authorization", b"Bearer " + signed(CLAIMS, key=other))]
    with pytest.raises(Unverified):
        gate.holder(gate.shown(good, None, None, None))
    waiting = [
        asyncio.create_task(gate.verify(gate.shown(forged, None, None, None))) for _ in range(20)
    ]
    last = asyncio.create_task(gate.verify(gate.shown(good, None, None, None)))
    seen = []
    while looked < 21:
        await asyncio.sleep(0)
        seen.append(looked)
    assert max(after - before for before, after in zip([0, *seen], seen, strict=False)) <= 4
    assert (await last).name == "app"
    assert gate.holder(gate.shown(good, None, None, None)).name == "app"
    with pytest.raises(Unauthorized):
        gate.holder(gate.shown([(b"authorization", b"Bearer fc_unknown")], None, None, None))
    for each in waiting:
        with pytest.raises(Unauthorized):
            await each


WRONG = {
    Refused.MALFORMED: signed(b"[]"),
    Refused.NO_KEY: signed(CLAIMS, kid="another"),
    Refused.SIGNATURE: signed(CLAIMS, "RS256", OTHER),
    Refused.ISSUER: signed(CLAIMS | {"iss": "https://other.example/"}),
    Refused.AUDIENCE: signed(CLAIMS | {"aud": "another"}),
    Refused.SUBJECT: signed(CLAIMS | {"sub": "nobody"}),
    Refused.EXPIRED: signed(CLAIMS | {"exp": NOW - 3600}),
    Refused.NOT_YET: signed(CLAIMS | {"nbf": NOW + 3600}),
}


@pytest.mark.parametrize("why", Refused)
def test_why_a_token_is_refused_is_for_the_operator(
    why: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is in the failure's detail, and once in the log; the caller reads what all read."""
    gate = Gate(
        Principals((), lambda: NOW, JWTS.credential),
        GateSettings(Networks(()), Rate(1000.0, 1000)),
        {},
        lambda: 0.0,
    )
    headers = [(b"authorization", b"Bearer " + WRONG[why])]
    for _ in range(3):
        with pytest.raises(Unauthorized, match=r"^Unknown credential\.$") as caught:
            gate.holder(gate.shown(headers, None, None, None), verify=True)
        assert caught.value.detail == {"why": why.value}
    assert capsys.readouterr().out.count(why.value) == 1


def test_of_what_is_no_token_of_an_issuer_nothing_is_said() -> None:
    """There is nothing to say but that it is unknown."""
    assert JWTS.credential(b"fc_unknown") is None
