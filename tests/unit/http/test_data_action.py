"""The way of a data action, against an executor that does what it is told."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from structlog.testing import capture_logs

from flowcache.api.envelope import failure_headers, request_ids
from flowcache.authz.permissions import Permission
from flowcache.errors import (
    CircuitOpen,
    DeadlineExceeded,
    Failure,
    RateLimited,
    RedisUnavailable,
    Unauthorized,
    all_failures,
)
from flowcache.ports import SizeLimits
from tests.commands import command as made_command
from tests.unit.http.asgi import GONE, TOKEN, Clock, Endpoint, Script, bearer, chunk


def body(**fields: Any) -> bytes:
    return json.dumps({"operation": "GET", "key": "k"} | fields).encode()


def headers(failure: Failure) -> dict[bytes, bytes]:
    return dict(failure_headers(failure))


async def test_a_call_that_succeeds_has_the_envelope() -> None:
    """Data, and about the call: id, latency, operation, hit."""
    endpoint = Endpoint(b'{"a":1}')
    answered = await endpoint.act(operation="get", key="k")
    assert answered.status == 200
    assert answered.headers == {
        "content-type": "application/json",
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }
    (record,) = endpoint.audit
    assert answered.json == {
        "success": True,
        "data": {"a": 1},
        "metadata": {
            "requestId": record.request_id,
            "latencyMs": 0.0,
            "operation": "GET",
            "hit": True,
        },
    }


async def test_a_reply_of_a_replica_says_so() -> None:
    """A flow can tell what may be out of date, and what is not says nothing of it."""
    endpoint = Endpoint(b"1")
    endpoint.executor.stale = True
    stale = (await endpoint.act(operation="GET", key="k")).json
    fresh = (await Endpoint(b"1").act(operation="GET", key="k")).json
    assert stale["data"] == fresh["data"] == 1
    assert stale["metadata"]["stale"] is True
    assert "stale" not in fresh["metadata"]


async def test_a_call_that_fails_has_the_envelope() -> None:
    """A failure has no data, and tells what went wrong, by code and in words."""
    endpoint = Endpoint(RedisUnavailable("Redis is gone.", retryable=False, retry_after=0.2))
    answered = await endpoint.act(operation="GET", key="k")
    assert answered.status == 503
    assert answered.headers["retry-after"] == "1"
    assert answered.json | {"metadata": None} == {
        "success": False,
        "data": None,
        "metadata": None,
        "error": "Redis is gone.",
        "code": "redis_unavailable",
        "retryable": False,
    }
    assert answered.json["metadata"]["operation"] == "GET"
    assert answered.json["metadata"]["hit"] is None
    assert endpoint.audit[0].hit is endpoint.metrics[0][2] is None  # a failure is no miss


@pytest.mark.parametrize("kind", all_failures(), ids=lambda kind: kind.code)
async def test_every_failure_is_answered_with_its_code_and_status(kind: type[Failure]) -> None:
    """Whatever the store raises of the tree of failures, the flow reads its code."""
    answered = await Endpoint(kind("Words.")).act(operation="GET", key="k")
    assert (answered.status, answered.json["code"]) == (kind.status, kind.code)
    assert answered.json["error"] == "Words."
    assert ("retry-after" in answered.headers) is kind.default_retryable


@pytest.mark.parametrize(
    ("seconds", "header"), [(0.0, b"1"), (0.1, b"1"), (1.0, b"1"), (1.1, b"2"), (10.0, b"10")]
)
def test_retry_after_is_whole_seconds_rounded_up(seconds: float, header: bytes) -> None:
    """Whoever waits as told comes late enough, and never at once."""
    for kind in (CircuitOpen, RedisUnavailable, DeadlineExceeded, RateLimited):
        assert headers(kind("x", retry_after=seconds))[b"retry-after"] == header


def test_an_unauthorized_caller_is_told_the_scheme() -> None:
    """A 401 says how to authenticate, and nothing else does (RFC 9110, 11.6.1)."""
    assert headers(Unauthorized("x"))[b"www-authenticate"] == b"Bearer"
    others = [kind for kind in all_failures() if kind is not Unauthorized]
    assert not [kind for kind in others if b"www-authenticate" in headers(kind("x"))]


@pytest.mark.parametrize("header", [(b"x", b"y"), bearer("wrong"), (b"authorization", b"\xff")])
async def test_without_a_credential_nothing_is_read_or_run(header: tuple[bytes, bytes]) -> None:
    """A stranger's body is not even received; the attempt is on record."""
    endpoint = Endpoint()
    script = Script(chunk(body()))
    answered = await endpoint.receive(script, header)
    assert answered is not None
    assert (answered.status, answered.json["code"]) == (401, "unauthorized")
    assert answered.headers["www-authenticate"] == "Bearer"
    assert (script.received, endpoint.executor.calls) == (0, [])
    assert (endpoint.audit[0].client, endpoint.audit[0].outcome) == (None, "unauthorized")


@pytest.mark.parametrize(
    ("permission", "operation", "status"),
    [
        (Permission.DATA_READ, "GET", 200),
        (Permission.DATA_READ, "HGETALL", 200),
        (Permission.DATA_READ, "SET", 403),
        (Permission.DATA_READ, "HSET", 403),
        (Permission.DATA_READ, "DEL", 403),
        (Permission.DATA_WRITE, "GET", 403),
        (Permission.DATA_WRITE, "SET", 200),
        (Permission.DATA_WRITE, "DEL", 200),
        (Permission.INSPECT_READ, "GET", 403),
        (Permission.INSPECT_READ, "DEL", 403),
    ],
)
async def test_a_credential_may_do_what_it_was_given_and_no_more(
    permission: Permission, operation: str, status: int
) -> None:
    """What is forbidden is not run, and is on record with the key it was tried on."""
    endpoint = Endpoint(permissions=[permission])
    answered = await endpoint.act(operation=operation, key="k", value={"a": 1})
    assert answered.status == status
    assert len(endpoint.executor.calls) == (status == 200)
    (record,) = endpoint.audit
    assert (record.client, record.key) == ("flow", b"k")
    assert record.outcome == ("ok" if status == 200 else "forbidden")


async def test_a_read_of_a_hash_in_disguise_needs_what_it_does() -> None:
    """The type of a call changes the operation, not what it takes to run it."""
    endpoint = Endpoint(permissions=[Permission.DATA_READ])
    answered = await endpoint.act(operation="SET", type="hash", key="k", value={"a": 1})
    assert answered.json["code"] == "forbidden"


# -- deadlines -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [(None, 0.8), (100, 0.1), ("100", 0.1), (1, 0.001), (800, 0.8), (9e5, 0.8)],
)
async def test_a_caller_may_lower_the_deadline_and_never_raise_it(
    asked: object, seconds: float
) -> None:
    """The server's deadline is the longest there is."""
    endpoint = Endpoint()
    await endpoint.act(operation="GET", key="k", deadlineMs=asked)
    ((_, deadline),) = endpoint.executor.calls
    assert deadline == pytest.approx(endpoint.clock.now + seconds)


async def test_the_deadline_counts_from_when_the_body_was_there() -> None:
    """A client that sends slowly doesn't eat up the time for Redis."""
    endpoint = Endpoint()

    async def slow() -> Any:
        endpoint.clock.now += 3.0
        return chunk(body())

    answered = await endpoint.receive(slow)
    assert answered is not None
    ((_, deadline),) = endpoint.executor.calls
    assert deadline == pytest.approx(endpoint.clock.now + 0.8)
    assert answered.json["metadata"]["latencyMs"] == 3000.0


async def test_latency_is_from_arrival_to_answer() -> None:
    """What is told, recorded and counted is the same number of milliseconds."""
    endpoint = Endpoint()

    async def work() -> None:
        endpoint.clock.now += 0.0125

    endpoint.executor.meanwhile = work
    answered = await endpoint.act(operation="GET", key="k")
    told = answered.json["metadata"]["latencyMs"]
    assert told == endpoint.audit[0].latency_ms == endpoint.metrics[0][3] == 12.5


# -- what must never happen ------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [RuntimeError("kept quiet"), KeyError("kept quiet"), TypeError()])
async def test_a_bug_is_answered_and_logged_and_not_told(fault: Exception) -> None:
    """The caller learns the id to ask for; what went wrong is in the log."""
    endpoint = Endpoint(fault)
    with capture_logs() as logged:
        answered = await endpoint.act(operation="GET", key="k")
    assert (answered.status, answered.json["code"]) == (500, "internal")
    assert answered.json["retryable"] is False
    assert answered.json["metadata"]["requestId"] in answered.json["error"]
    assert b"kept quiet" not in answered.body
    assert [entry["request_id"] for entry in logged] == [endpoint.audit[0].request_id]
    assert endpoint.audit[0].outcome == "internal"


async def test_an_answer_over_its_limit_is_refused_whole() -> None:
    """What is too long to send is told in the envelope, and counted as what it is."""
    sizes = SizeLimits(reply=1024, held=10)
    endpoint = Endpoint(b'"' + b"x" * sizes.answer + b'"', sizes=sizes)
    answered = await endpoint.act(operation="GET", key="k")
    assert (answered.status, answered.json["code"]) == (413, "too_large")
    assert len(answered.body) < 1024
    assert endpoint.audit[0].outcome == endpoint.metrics[0][1] == "too_large"


@pytest.mark.parametrize(
    "fields",
    [
        {"operation": "\x00" * 99},
        {"operation": "\U0001f600" * 99},
        {"operation": '"' * 99},
        {"type": "\x00" * 99},
        {"ttl": "\U000e0001" * 99},
        {"deadlineMs": "\x00" * 99},
        {"operation": "HSET", "value": {"\x00" * 999: None}},
        {"operation": "HSET", "value": {"\U0001f600" * 999: None}},
    ],
)
async def test_a_refusal_fits_into_the_shortest_answer(fields: dict[str, Any]) -> None:
    """Even with the least limit there is, a refusal can say what it refuses."""
    answered = await Endpoint(sizes=SizeLimits(reply=1024)).post(body(**fields))
    assert answered.json["code"] == "invalid_request"
    assert len(answered.body) < 1024


async def test_chunks_are_read_to_their_end() -> None:
    """A length beside chunks is not what counts (RFC 9112, 6.3), if a server lets it through."""
    whole = body(key="a key that is cut")
    script = Script(chunk(whole[:20], True), chunk(whole[20:]))
    beside = ((b"content-length", b"20"), (b"transfer-encoding", b"chunked"))
    answered = await Endpoint().receive(script, bearer(TOKEN), *beside)
    assert answered is not None
    assert answered.status == 200


async def test_a_body_that_breaks_off_is_answered_and_on_record() -> None:
    """Whoever may still be there is told; nothing is run."""
    endpoint = Endpoint()
    answered = await endpoint.receive(Script(chunk(b"{", True), GONE))
    assert answered is not None
    assert (answered.status, answered.json["code"]) == (400, "invalid_request")
    assert endpoint.executor.calls == []
    assert endpoint.audit[0].outcome == endpoint.metrics[0][1] == "invalid_request"


async def test_a_call_that_is_cancelled_is_on_record() -> None:
    """A call that ran into Redis and was cancelled may have done its work: it is an attempt."""
    endpoint = Endpoint()
    running = asyncio.Event()

    async def hang() -> None:
        running.set()
        await asyncio.Event().wait()

    endpoint.executor.meanwhile = hang
    task = asyncio.create_task(endpoint.act(operation="DEL", key="k"))
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert endpoint.calls.in_flight == 0
    assert [(record.operation, record.key) for record in endpoint.audit] == [("DEL", b"k")]


@pytest.mark.parametrize("reply", [b"1", RedisUnavailable("x"), RuntimeError("x")])
async def test_no_call_stays_in_flight(reply: object) -> None:
    """Success, failure, bug: each call is over when it is over."""
    endpoint = Endpoint(reply)
    seen: list[int] = []

    async def look() -> None:
        seen.append(endpoint.calls.in_flight)

    endpoint.executor.meanwhile = look
    with capture_logs():
        await endpoint.act(operation="GET", key="k")
    assert (seen, endpoint.calls.in_flight) == ([1], 0)


# -- the record ------------------------------------------------------------------------------------


async def test_the_record_tells_who_did_what_to_which_key() -> None:
    """Client, flow, interaction, operation, key, outcome: one record a call."""
    endpoint = Endpoint(b"1")
    await endpoint.act(operation="GET", key="clé", flowId="f-1", interactionId=17)
    (record,) = endpoint.audit
    assert (record.client, record.flow_id, record.interaction_id) == ("flow", "f-1", "17")
    assert (record.operation, record.key) == ("GET", "clé".encode())
    assert (record.outcome, record.hit) == ("ok", True)
    assert endpoint.metrics == [("GET", "ok", True, 0.0)]


async def test_the_record_tells_what_ran_and_the_answer_what_was_called() -> None:
    """SET of a hash is answered as SET, and counted as the HSET that it is."""
    endpoint = Endpoint()
    answered = await endpoint.act(operation="set", type="hash", key="k", value={"a": 1})
    assert answered.json["metadata"]["operation"] == "SET"
    assert endpoint.audit[0].operation == endpoint.metrics[0][0] == "HSET"


async def test_of_a_body_that_was_refused_the_record_has_what_could_be_read() -> None:
    """Even a call that makes no sense says who tried it, on which key."""
    endpoint = Endpoint()
    await endpoint.act(operation="get", key="k", flowId=5, interactionId="i", ttl="soon")
    (record,) = endpoint.audit
    assert (record.operation, record.key) == ("GET", b"k")
    assert (record.flow_id, record.interaction_id) == ("5", "i")


async def test_a_name_that_is_no_operation_is_in_no_record() -> None:
    """A customer's data in the wrong field reaches neither the audit nor the metrics."""
    endpoint = Endpoint()
    answered = await endpoint.act(operation="4111 1111 1111 1111", key="k")
    assert answered.json["metadata"]["operation"] == "4111 1111 1111 1111"
    assert endpoint.audit[0].operation is endpoint.metrics[0][0] is None


@pytest.mark.parametrize("tokens", [(TOKEN, "wrong"), ("wrong", TOKEN), (TOKEN, TOKEN)])
async def test_two_credentials_are_none(tokens: tuple[str, str]) -> None:
    """Which of two headers counts is not for us to guess."""
    endpoint = Endpoint()
    answered = await endpoint.post(body(), *map(bearer, tokens))
    assert (answered.status, answered.json["code"]) == (401, "unauthorized")
    assert endpoint.executor.calls == []


@pytest.mark.parametrize("odd", [True, False, ["x"], {"x": 1}, None, "", "${input.flow}"])
async def test_the_record_guesses_no_context(odd: object) -> None:
    """What would be no flow or interaction in a good call is none in a bad one."""
    endpoint = Endpoint()
    await endpoint.act(operation="GET", key=odd, flowId=odd, interactionId=odd, ttl="soon")
    (record,) = endpoint.audit
    assert (record.flow_id, record.interaction_id) == (None, None)


async def test_a_record_is_bounded() -> None:
    """A body full of text leaves no more of it in a record than a good one could."""
    endpoint = Endpoint()
    long = "é" * 5000
    await endpoint.act(operation="GET", key=long, flowId=long, interactionId=long)
    (record,) = endpoint.audit
    assert len(record.key or b"") <= 512
    for text in (record.flow_id, record.interaction_id):
        assert text is not None
        assert len(text.encode()) <= 256


@pytest.mark.parametrize("reply", [b'"kept quiet"', [b"kept quiet"], {b"kept quiet": b"x"}])
async def test_no_value_is_in_a_record_or_a_log(reply: object) -> None:
    """What is stored, read or refused shows in no record and no line of the log."""
    endpoint = Endpoint(reply)
    with capture_logs() as logged:
        await endpoint.act(operation="GET", key="k")
        await endpoint.act(operation="SET", key="k", value="kept quiet")
        await endpoint.act(operation="HSET", key="k", value={"a": "kept quiet", "b": None})
    assert "kept quiet" not in repr((endpoint.audit, endpoint.metrics, logged))


async def test_no_credential_is_in_a_record_a_log_or_an_answer() -> None:
    """Tokens, right or wrong, are shown nowhere."""
    endpoint = Endpoint(RuntimeError("a bug"))
    with capture_logs() as logged:
        right = await endpoint.post(body())
        wrong = await endpoint.post(body(), bearer("wrong-token"))
    told = repr((endpoint.audit, endpoint.metrics, logged, right, wrong))
    assert TOKEN not in told
    assert "wrong-token" not in told


async def test_the_record_comes_before_the_answer() -> None:
    """What a caller was told has been counted."""
    endpoint = Endpoint()
    seen: list[int] = []

    async def send(_: object) -> None:
        seen.append(len(endpoint.audit))

    scope = {"type": "http", "headers": [bearer(TOKEN)]}
    await endpoint.app(scope, Script(chunk(body())), send)
    assert seen == [1, 1]


async def test_a_command_is_what_the_catalogue_planned() -> None:
    """The executor gets the command of the call, with what makes it happen once."""
    endpoint = Endpoint(once_lifetime=1.5)
    await endpoint.act(operation="SET", key="k", value=1, ttl=5, idempotencyKey="o")
    ((command, _),) = endpoint.executor.calls
    assert command.once is not None
    once = command.once
    set_command = made_command(b"SET", b"k", b"1", ttl=5, writes=True, once=once, client="flow")
    assert command == set_command
    assert (command.once.token, command.once.lifetime_ms) == (b"flow:o", 1500)


# -- too much to do --------------------------------------------------------------------------------


async def test_more_calls_than_may_be_at_work_are_refused_at_once() -> None:
    """What is past the limit costs no Redis and no decoding, is counted, and may be sent again."""
    endpoint, go = Endpoint(max_in_flight=2), asyncio.Event()

    async def wait() -> None:
        await go.wait()

    endpoint.executor.meanwhile = wait
    calls = [asyncio.create_task(endpoint.act(operation="DEL", key="k")) for _ in range(2)]
    await asyncio.sleep(0)
    refused = await endpoint.post(b"not looked at")
    assert (refused.status, refused.json["code"]) == (503, "overloaded")
    assert (refused.headers["retry-after"], refused.json["retryable"]) == ("1", True)
    assert "too many calls" in refused.json["error"]
    assert len(endpoint.executor.calls) == 2
    assert endpoint.metrics[0][:2] == (None, "overloaded")
    assert (endpoint.calls.admission.at_work, endpoint.calls.admission.refusals) == (2, 1)
    go.set()
    assert [answered.status for answered in await asyncio.gather(*calls)] == [200] * 2
    assert (await endpoint.act(operation="DEL", key="k")).status == 200
    assert (endpoint.calls.admission.at_work, endpoint.calls.admission.refusals) == (0, 1)


@pytest.mark.parametrize("fault", [RedisUnavailable("x"), RuntimeError("x")])
async def test_a_call_that_failed_leaves_its_place(fault: Exception) -> None:
    """However a call ends, the next one may take its place."""
    endpoint = Endpoint(fault, max_in_flight=1)
    for _ in range(3):
        with capture_logs():
            answered = await endpoint.act(operation="GET", key="k")
        assert "too many" not in answered.json["error"]
    assert (endpoint.calls.admission.at_work, endpoint.calls.admission.refusals) == (0, 0)


async def test_bodies_that_are_on_their_way_take_no_place() -> None:
    """Slow senders are bounded otherwise, and keep nobody from Redis."""
    endpoint = Endpoint(max_in_flight=1)
    slow = asyncio.create_task(endpoint.receive(Script(chunk(b"{", True))))
    await asyncio.sleep(0)
    assert endpoint.calls.admission.at_work == 0
    assert (await endpoint.act(operation="GET", key="k")).status == 200
    slow.cancel()


async def test_a_body_that_gives_way_counts_as_an_overload() -> None:
    """What was refused for want of room is one number, whatever there was no room for."""
    endpoint = Endpoint(most_unfinished=1)
    slow = [asyncio.create_task(endpoint.receive(Script(chunk(b"{", True)))) for _ in range(2)]
    (ended,), _ = await asyncio.wait(slow, return_when=asyncio.FIRST_COMPLETED)
    assert ended is slow[0]
    assert endpoint.calls.admission.refusals == 1
    slow[1].cancel()


# -- the end ---------------------------------------------------------------------------------------


async def test_an_idle_endpoint_is_finished_at_once() -> None:
    """With nothing in flight there is nothing to wait for."""
    await asyncio.wait_for(Endpoint().calls.finish(60), 5)


async def test_the_end_waits_for_calls_in_flight() -> None:
    """Calls that are under way are answered before the worker goes, to the last of them."""
    endpoint, places = Endpoint(), asyncio.Semaphore(0)

    async def wait() -> None:
        await places.acquire()

    endpoint.executor.meanwhile = wait
    calls = [asyncio.create_task(endpoint.act(operation="GET", key="k")) for _ in range(3)]
    await asyncio.sleep(0)
    end = asyncio.create_task(endpoint.calls.finish(60))
    for call in calls:
        for _ in range(5):
            await asyncio.sleep(0)
        assert not end.done()
        places.release()
        assert (await call).status == 200
    await asyncio.wait_for(end, 5)
    assert endpoint.calls.in_flight == 0


async def test_the_end_does_not_wait_for_ever() -> None:
    """A call that hangs holds the worker for its grace, and no longer."""
    endpoint = Endpoint()
    task = asyncio.create_task(endpoint.receive(Script()))
    await asyncio.sleep(0)
    await asyncio.wait_for(endpoint.calls.finish(0.01), 5)
    assert endpoint.calls.in_flight == 1
    task.cancel()


def test_ids_are_unique_among_sources() -> None:
    """No two calls of any two workers share an id."""
    one, other = request_ids(), request_ids()
    made = [source() for source in (one, other) for _ in range(100)]
    assert len(set(made)) == 200
    assert all(re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]{8}", each) for each in made)


def test_a_clock_of_these_tests_stands_still() -> None:
    """Nothing here depends on how fast it runs."""
    clock = Clock()
    assert clock() == clock()
