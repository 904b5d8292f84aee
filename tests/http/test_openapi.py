"""The document and the page agree with the code, and stand on their own."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import msgspec
import pytest
import schemathesis
from hypothesis import example, given
from hypothesis import strategies as st

from flowcache.admin.docs import page
from flowcache.admin.inspector.circuits import (
    Control,
    Switched,
    circuits_view,
    read_order,
    switched_view,
)
from flowcache.admin.inspector.view import AuditFilter, view
from flowcache.admin.openapi import document
from flowcache.admin.pages import PagesSettings, pages
from flowcache.api.app import ROUTE
from flowcache.api.data_action import DataActionSettings
from flowcache.audit.ring import AuditRing
from flowcache.contract import answer, request
from flowcache.errors import Failure, all_failures
from flowcache.measures import Timings
from flowcache.metrics.counters import Counters
from flowcache.operations.catalogue import AS_HASH, CATALOGUE, plan
from flowcache.ports import Access, AuditRecord, Mode, Order
from flowcache.status import (
    CircuitOverride,
    DeliveryStatus,
    EncryptionKeyStatus,
    EncryptionStatus,
    JournalStatus,
    LinkStatus,
    ShardStatus,
    StoreStatus,
    WorkerStatus,
)
from tests.unit.http.asgi import gate
from tests.unit.telemetry.statuses import circuit

if TYPE_CHECKING:
    from tests.service import Service

DOCUMENT = document("1.2.3")
CALL = DOCUMENT["paths"][ROUTE]["post"]
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
MISROUTED = {"not_found", "method_not_allowed"}


def validator(schema: dict[str, Any]) -> jsonschema_rs.Validator:
    """Return a validator of a schema of the document."""
    components = {"components": DOCUMENT["components"]}
    return jsonschema_rs.validator_for({"allOf": [schema], **components})


def walk(node: object) -> Iterator[dict[str, Any]]:
    """Return every object in ``node``."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from walk(item)


# -- the document -------------------------------------------------------------------------------


def test_it_is_openapi() -> None:
    """The document is valid OpenAPI 3.1, and every reference in it leads somewhere."""
    schema = schemathesis.openapi.from_dict(json.loads(msgspec.json.encode(DOCUMENT)))
    schema.validate()
    operations = sum(len(methods) for methods in DOCUMENT["paths"].values())
    assert len(list(schema.get_all_operations())) == operations
    for node in walk(DOCUMENT):
        if "$ref" in node:
            assert node["$ref"].removeprefix("#/components/schemas/") in SCHEMAS


def test_its_schemas_are_json_schema() -> None:
    """Every schema is valid JSON Schema 2020-12, and so are the examples in it."""
    for name, schema in SCHEMAS.items():
        assert jsonschema_rs.meta.is_valid(schema), name
        for node in walk(schema):
            for value in node.get("examples", ()):
                validator(node).validate(value)


def test_it_names_every_operation() -> None:
    """An operation of the catalogue has its request, its answer, and an example of both."""
    asked = CALL["requestBody"]["content"]["application/json"]["examples"]
    told = CALL["responses"]["200"]["content"]["application/json"]
    titles = [branch["title"] for branch in SCHEMAS["Request"]["anyOf"]]
    named = [operation["name"] for operation in DOCUMENT["x-operations"]]
    assert named == list(CATALOGUE)
    assert len(told["schema"]["anyOf"]) == len(CATALOGUE)
    for name in CATALOGUE:
        assert name in titles
        assert name in asked
        assert name in told["examples"]


def test_it_names_every_field() -> None:
    """A request has the fields that all have, and those that its operation takes."""
    for branch in SCHEMAS["Request"]["anyOf"]:
        name, _, of_a_hash = branch["title"].partition(" of a ")
        meant = AS_HASH[name] if of_a_hash else CATALOGUE[name]
        takes = tuple(each.name for each in meant.takes)
        assert tuple(branch["properties"]) == (*request.COMMON_FIELDS, *takes)


def test_it_names_every_code() -> None:
    """Each code stands in the table, in the schema and in the response of its status."""
    codes = {kind.code: kind.status for kind in all_failures()}
    assert {row["code"]: row["status"] for row in DOCUMENT["x-codes"]} == codes
    assert SCHEMAS["FailedAnswer"]["properties"]["code"]["enum"] == list(codes)
    documented = {
        code: int(status)
        for status, response in CALL["responses"].items()
        if status != "200"
        for code in response["content"]["application/json"]["examples"]
    }
    # A POST to this route never misses it.
    assert documented == {c: s for c, s in codes.items() if c not in MISROUTED}


def test_the_fate_of_a_write_is_told_as_to_flow_authors() -> None:
    """What docs/flow-authors.md calls unknown, or open, is so in the document, and nothing else."""
    told = {code["code"] for code in DOCUMENT["x-codes"] if "write may have" in code["advice"]}
    guide = Path("docs/flow-authors.md").read_text("utf-8").partition("## When a write fails")[2]
    said = guide.partition("all other codes")[0]
    assert told == {kind.code for kind in all_failures() if f"`{kind.code}`" in said}
    assert {"deadline_exceeded", "redis_unavailable", "audit_unavailable", "internal"} < told


def test_it_names_every_route() -> None:
    """The routes of the document are those that are served."""

    async def none(*_: object) -> Any:
        raise NotImplementedError

    control = Control(Mode.AUTO, list, none)
    served = pages(PagesSettings("1", {}), gate({}), none, none, control, str, AuditRing(0))
    methods = {path: {m.lower() for m in methods} for path, methods in served.routes.items()}
    documented = {path: set(each) for path, each in DOCUMENT["paths"].items()}
    assert documented == methods | {ROUTE: {"post"}}


def test_it_names_every_query_parameter() -> None:
    """The inspector's parameters are those of its filter."""
    parameters = DOCUMENT["paths"]["/inspector"]["get"]["parameters"]
    assert tuple(p["name"] for p in parameters) == AuditFilter.__struct_fields__


def test_its_limits_are_those_configured() -> None:
    """The document of a service tells this service's limits."""
    settings = DataActionSettings(limits=request.TtlLimits(77, 7777), max_body=4321, deadline=0.25)
    told = document("1", settings)
    schemas = told["components"]["schemas"]
    assert schemas["Ttl"]["default"] == 77
    assert schemas["Ttl"]["anyOf"][0]["maximum"] == 7777
    assert "250" in schemas["DeadlineMs"]["description"]
    assert "4321 bytes" in told["paths"][ROUTE]["post"]["description"]
    assert {row["what"]: row["limit"] for row in told["x-limits"]}["Body"] == 4321


# -- its schemas against the code ---------------------------------------------------------------

ACCEPTED = validator(SCHEMAS["Request"])
LIMITS = request.TtlLimits()


def accepts(body: object) -> bool:
    """Tell whether the code takes ``body``."""
    try:
        plan(request.coerce(request.decode(msgspec.json.encode(body)), LIMITS), 1)
    except Failure:
        return False
    return True


# Texts of ASCII: a schema counts characters, where the code counts bytes.
texts = st.text("aeghinrst{}$ \t\n.0169+-_", max_size=10)
limits = [0, 1, LIMITS.max_ttl, LIMITS.max_ttl + 1, 2**31, 2**31 + 1]
numerals = st.tuples(
    st.sampled_from(["", " ", "+", "-", "0", "\t+00"]),
    st.sampled_from(limits).map(str) | st.integers(0, 10**8).map(str),
    st.sampled_from(["", ".", ".0", ".5", ".00 ", "e1", "\n"]),
).map("".join)
scalars = st.one_of(
    st.sampled_from([None, True, False, "", "${input.x}", "${", "HASH", "x" * 257, *limits]),
    st.integers(-(2**60), 2**60),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
    numerals,
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)
names = st.sampled_from([*CATALOGUE, *map(str.lower, CATALOGUE), "hSeT"])
often = st.one_of
bodies = st.fixed_dictionaries(
    {},
    optional={
        "operation": often(names, names, names, scalars),
        "key": often(st.just("k"), st.just("k" * 513), texts, json_values),
        "value": json_values,
        "ttl": scalars,
        "type": often(st.sampled_from(["hash", "Hash", "string", None]), json_values),
        "flowId": json_values,
        "interactionId": scalars,
        "deadlineMs": scalars,
        "idempotencyKey": scalars,
        "unknown": scalars,
    },
)
well_formed = st.builds(
    lambda name, rest: {"operation": name, "key": "k"} | rest,
    names,
    st.fixed_dictionaries(
        {}, optional={"value": json_values, "type": st.sampled_from(["hash", ""]), "ttl": scalars}
    ),
)


@given(bodies | well_formed)
@example({"operation": "SET", "key": "k", "value": None})
@example({"operation": "SET", "key": "k", "value": {}, "type": "hash"})
@example({"operation": "SET", "key": "k", "value": {"f": None}, "type": "HASH"})
@example({"operation": "HSET", "key": "k", "value": {"f": 1}, "ttl": " +0060.00 "})
@example({"operation": "GET", "key": "k", "value": [], "type": "${flow.type}"})
def test_schema_and_code_accept_the_same(body: dict[str, Any]) -> None:
    """What the request's schema allows is what is taken, coercions included."""
    assert ACCEPTED.is_valid(body) == accepts(body), body


def test_examples_of_requests_are_taken() -> None:
    """Whoever copies an example sends a request that runs."""
    for found in CALL["requestBody"]["content"]["application/json"]["examples"].values():
        ACCEPTED.validate(found["value"])
        assert accepts(found["value"])


def test_examples_of_answers_fit_their_schemas() -> None:
    """What the document shows as an answer is one that it allows."""
    for response in CALL["responses"].values():
        content = response["content"]["application/json"]
        allowed = validator(content["schema"])
        for found in content["examples"].values():
            allowed.validate(found["value"])


@pytest.mark.parametrize("kind", all_failures())
def test_a_code_fits_only_its_status(kind: type[Failure]) -> None:
    """A failure's answer fits the response of its status, and of no other."""
    told = msgspec.to_builtins(answer.failed(kind("No."), "1", 0.1, "GET"))
    for status, response in CALL["responses"].items():
        allowed = validator(response["content"]["application/json"]["schema"])
        expected = int(status) == kind.status and kind.code not in MISROUTED
        assert allowed.is_valid(told) is expected


def test_the_inspector_fits_its_schema() -> None:
    """What the inspector shows of a service that has seen something is as described."""
    counters = Counters(CATALOGUE)
    counters.record("GET", "ok", True, 0.5)
    counters.record(None, "invalid_request", None, 0.1)
    link = LinkStatus("127.0.0.1:6379", "ready", 0, 1, 0, None)
    worker = WorkerStatus(
        pid=1,
        alive=True,
        started_at=1.5,
        in_flight=0,
        operations=counters.stats(),
        audit=[
            AuditRecord(2.5, "a-1", "flow", "7", None, "GET", b"\xff", "ok", True, 0.5),
            AuditRecord(3.5, "a-2", None, None, None, None, None, "unauthorized", None, 0.1),
        ],
        audit_total=2,
        circuits=[
            circuit("half-open", "127.0.0.1:6379", access="write", calls=4, failure_rate=0.25),
            circuit("open", mode="forced-open", transitions={"open": 1}),
        ],
        store=StoreStatus(
            "ready",
            "cluster",
            None,
            (ShardStatus("127.0.0.1:6379", ((0, 5), (7, 7)), link, (link,)),),
        ),
        journal=JournalStatus(
            path="/a.db",
            mode="strict",
            writer="0a",
            fault=None,
            queued=1,
            written=2,
            lost=0,
            commits=Timings([], 0.5),
        ),
        encryption=EncryptionStatus({"2027-01": EncryptionKeyStatus(True, 1, 2)}, {"altered": 1}),
    )
    allowed = validator(SCHEMAS["Inspector"])
    delivery = DeliveryStatus("cxone", 1, 2, 3, {"0a": 4}, 0.5, 1.5, "away", 2.5, False)
    document = view([worker, worker], AuditFilter(), {}, "1.2.3", None, [delivery])
    shown = json.loads(msgspec.json.encode(document))
    allowed.validate(shown)
    assert set(shown) == set(SCHEMAS["Inspector"]["properties"])
    assert set(shown["circuits"][0]) == set(SCHEMAS["Circuit"]["properties"])
    overrides = [
        CircuitOverride(Order(Mode.DISABLED), "control", 2.5),
        CircuitOverride(Order(None, "127.0.0.1:6379", Access.READ), "control", 3.5),
    ]
    circuits = msgspec.to_builtins(circuits_view([worker, worker], overrides, Mode.OBSERVE))
    validator(SCHEMAS["Circuits"]).validate(circuits)
    assert set(circuits) == set(SCHEMAS["Circuits"]["properties"])
    order = Order(None, None, Access.READ)
    switched = msgspec.to_builtins(switched_view(order, Switched(6, 2, 0)))
    validator(SCHEMAS["CircuitsSwitched"]).validate(switched)
    assert set(switched) == set(SCHEMAS["CircuitsSwitched"]["properties"])
    assert set(shown["auditLogs"][0]) == set(SCHEMAS["AuditEntry"]["properties"])
    assert set(shown["metrics"]) - {"operations"} == set(SCHEMAS["CallMetrics"]["properties"])


@given(
    st.dictionaries(
        st.sampled_from(["mode", "shard", "access", "shards"]),
        st.sampled_from([None, "a:1", 7, "", *Mode, *Access]),
    )
)
def test_an_order_is_taken_as_the_document_says(body: dict[str, Any]) -> None:
    """What the schema of an order refuses, the code does; but for shards that are not there."""
    allowed = validator(SCHEMAS["CircuitOrder"]).is_valid(body)
    refusal = ""
    try:
        read_order(json.dumps(body).encode(), {"a:1"})
    except Failure as failure:
        refusal = str(failure)
    assert allowed == (not refusal) or refusal.startswith("shard: ")


# -- the page -----------------------------------------------------------------------------------

VOID = {"meta", "link", "br", "hr", "img"}


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "pre":
            self.blocks.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "pre" in self._open:
            self.blocks[-1] += data


PAGE = Page(page("1.2.3"))


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """It loads nothing, runs nothing, and leads to nothing but itself and the document."""
    identifiers = {attributes.get("id") for _, attributes in PAGE.elements}
    for tag, attributes in PAGE.elements:
        assert tag not in {"script", "iframe", "object", "embed", "form", "base", "img"}
        assert not [name for name in attributes if name.startswith("on")]
        assert "src" not in attributes
        assert "style" not in attributes
        target = attributes.get("href") or "#codes"
        assert target in {"data:,", "openapi.json"} or target.removeprefix("#") in identifiers
    assert not re.search(r"@import|url\(|https?://(?!127\.0\.0\.1:3000'\n)", page("1.2.3"))


def test_the_page_names_every_operation_and_code() -> None:
    """Whoever reads it learns of all there is."""
    text = page("1.2.3")
    for name in (*CATALOGUE, *(kind.code for kind in all_failures()), *DOCUMENT["paths"]):
        assert name in text


def pasted() -> list[tuple[str, Any]]:
    """Return the address and the body of each curl on the page, as a shell reads them."""
    calls = [shlex.split(block) for block in PAGE.blocks if block.startswith("curl")]
    return [(words[2], json.loads(words[words.index("-d") + 1])) for words in calls]


def test_every_operation_has_a_curl_to_paste() -> None:
    """A shell reads each curl as one command that posts a body the service takes."""
    assert {body["operation"] for _, body in pasted()} == set(CATALOGUE)
    assert all(accepts(body) for _, body in pasted())
    assert {url for url, _ in pasted()} == {"$FLOWCACHE/data-action/redis"}


def test_what_is_pasted_answers_as_shown(service: Service) -> None:
    """Whoever pastes the calls of the page one after the other sees the answers it shows."""
    shown = CALL["responses"]["200"]["content"]["application/json"]["examples"]
    bodies = [body for _, body in pasted()]
    for key in {body["key"] for body in bodies}:
        service.call(operation="DEL", key=key)
    for body in bodies:
        told, expected = service.call(**body).json, shown[body["operation"]]["value"]
        if body["operation"] == "TTL":  # time has passed since the key was written
            assert 0 < told["data"] <= expected["data"]
        else:
            assert told["data"] == expected["data"]
        assert told["metadata"]["hit"] is expected["metadata"]["hit"]
        assert told.keys() == expected.keys()
        assert told["metadata"].keys() == expected["metadata"].keys()


def test_the_page_escapes_what_it_shows() -> None:
    """A version can't bring markup along."""
    text = page("<script>1</script>")
    assert "<script" not in text
    Page(text)


def test_the_page_shows_no_backticks() -> None:
    """What is quoted with them is code."""
    assert "`" not in page("1.2.3")


def test_the_page_fills_its_template() -> None:
    """No placeholder is left in it."""
    assert not re.search(r"\$(?!TOKEN|FLOWCACHE|\{input)", page("1.2.3"))
