"""CXone as it is and as the seed means it, and whatever may go wrong on the way there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic, time
from typing import Any

import pytest
import stamina.instrumentation
from structlog.testing import capture_logs

from flowcache.cxone.settings import CxoneSettings, Grant
from flowcache.cxone.target import CxoneTarget
from flowcache.delivery.batch import Batch
from flowcache.delivery.endpoint import EndpointDestination, Fixed
from flowcache.delivery.settings import Endpoint, Shape
from flowcache.outbound.client import Outbound
from flowcache.outbound.judging import NotNow, Refused
from flowcache.secret import Secret
from tests.delivery.loops import looping, state, verified
from tests.delivery.receiver import (
    CLIENT,
    ENDPOINT_TOKEN,
    KEY,
    PATH,
    RESET,
    SILENCE,
    Fault,
    Receiver,
    receiver,
)
from tests.servers import eventually
from tests.unit.audit.journals import chain

SECONDS = 0.3
"""How long the receiver has: no longer than a test may wait for it to say nothing."""

every_grant = pytest.mark.parametrize("grant", Grant)


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "audit.db"
    chain(path, [4, 4])
    return path


@pytest.fixture(autouse=True)
def quiet() -> None:
    stamina.instrumentation.set_on_retry_hooks([])


class Clock:
    """Monotonic seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def cxone(
    settings: CxoneSettings, clock: Clock | None = None, seconds: float = 5.0
) -> EndpointDestination:
    client = Outbound(seconds)
    target = CxoneTarget(settings, client, clock or monotonic, time)
    return EndpointDestination(target, client, Shape.JSONL, time)


@asynccontextmanager
async def delivering(path: Path, destination: EndpointDestination) -> AsyncIterator[None]:
    """Run a loop beside the test, and end it in good order."""
    async with looping(path, destination, batch=4) as loop:
        running = asyncio.create_task(loop.run())
        try:
            yield
        finally:
            await loop.finish(running, 20.0)


async def arrived(there: Receiver, records: int = 10) -> None:
    """Wait until all records are there, in order, and nothing is wrong with them."""
    await asyncio.to_thread(eventually, lambda: len(there.lines) >= records, what="all records")
    assert [record["seq"] for record in there.records()] == list(range(records))
    assert verified(there.lines).is_well


# -- the ways to a token ---------------------------------------------------------------------------


@every_grant
async def test_both_grants(there: Receiver, path: Path, grant: Grant) -> None:
    """A token is had once, by a true form, and all batches show it."""
    async with delivering(path, cxone(there.cxone(grant))):
        await arrived(there)
    assert there.issued == ["issued-token-0"]
    assert [batch.key.partition(":")[2] for batch in there.batches] == ["0-3", "4-7", "8-9"]
    assert {batch.kind for batch in there.batches} == {"application/x-ndjson"}
    assert there.attempts[-4:] == [
        "/auth/token" if grant is Grant.ACCESS_KEY else "/api/api/v2/oauth/token",
        *[f"/api{PATH}"] * 3,
    ]


async def test_the_api_of_a_tenant_is_looked_up_once(there: Receiver, path: Path) -> None:
    """Discovery names the API; where it is configured nobody is asked."""
    async with delivering(path, cxone(there.cxone(Grant.ACCESS_KEY))):
        await arrived(there)
    assert there.attempts.count("/.well-known/cxone-configuration") == 1
    there.attempts.clear()
    configured = there.cxone(Grant.ACCESS_KEY, api_base=f"{there.url}/api", tenant_id=None)
    async with looping(path.with_name("no.db"), cxone(configured)):
        assert there.attempts == []


@pytest.mark.parametrize(
    ("api", "fault", "reason"),
    [
        ("http://api.example", Refused, "the discovery names an API that is not https"),
        ("ftp://127.0.0.1", Refused, "the discovery names an API that is not https"),
        (None, NotNow, "the discovery answered without an api_endpoint"),
    ],
)
async def test_a_discovery_that_leads_astray(
    there: Receiver, api: str | None, fault: type[Exception], reason: str
) -> None:
    """A token is not sent in clear to another host, whoever says so."""
    there.api_endpoint = api
    destination = cxone(there.cxone(Grant.ACCESS_KEY))
    with pytest.raises(fault, match=f"^{reason}$"):
        await destination.send(_batch())
    await destination.close()
    assert there.issued == []


async def test_an_api_may_be_named_with_a_slash_at_its_end(there: Receiver) -> None:
    """The path is appended to it, and begins with one."""
    there.api_endpoint = f"{there.url}/api/"
    destination = cxone(there.cxone(Grant.ACCESS_KEY))
    await destination.send(_batch())
    await destination.close()
    assert [batch.key for batch in there.batches] == [_batch().key]


async def test_a_token_is_renewed_before_it_expires(there: Receiver) -> None:
    """Shortly before its end a new one is had; nobody meets a 401."""
    clock = Clock()
    destination = cxone(there.cxone(), clock)
    await destination.send(_batch())
    clock.now = 3539.0
    await destination.send(_batch())
    assert len(there.issued) == 1
    clock.now = 3541.0
    await destination.send(_batch())
    await destination.close()
    assert [batch.token for batch in there.batches] == [
        "issued-token-0",
        "issued-token-0",
        "issued-token-1",
    ]


async def test_a_token_that_expired_early_is_renewed_once(there: Receiver) -> None:
    """A 401 is answered with a new token, at once, and the batch arrives."""
    destination = cxone(there.cxone())
    await destination.send(_batch())
    there.expire()
    await destination.send(_batch())
    await destination.close()
    assert [batch.token for batch in there.batches] == ["issued-token-0", "issued-token-1"]


async def test_a_401_to_a_new_token_backs_off(there: Receiver, path: Path) -> None:
    """Two 401 in a row are not met with a third token at once: the back-off is between."""
    there.intake_faults.extend([Fault(401), Fault(401)])
    destination = cxone(there.cxone())
    with pytest.raises(NotNow, match=r"^the endpoint answered 401, to a new token as well$"):
        await destination.send(_batch())
    assert len(there.issued) == 2
    async with delivering(path, destination):
        await arrived(there)


# -- faults ----------------------------------------------------------------------------------------

PASSING = [
    pytest.param(Fault(429, {"retry-after": "0"}), "answered 429", id="429"),
    pytest.param(Fault(500), "answered 500", id="500"),
    pytest.param(Fault(503, {"retry-after": "nonsense"}), "answered 503", id="503"),
    pytest.param(RESET, "no connection: ", id="reset"),
    pytest.param(SILENCE, f"no answer within {SECONDS} s", id="slow"),
]


@pytest.mark.parametrize(("fault", "reason"), PASSING)
@pytest.mark.parametrize("where", ["token_faults", "intake_faults", "discovery_faults"])
async def test_what_passes_is_waited_for(
    there: Receiver, path: Path, where: str, fault: Fault, reason: str
) -> None:
    """Whatever is wrong for a while, and at whichever server: everything arrives, in order."""
    getattr(there, where).extend([fault, fault])
    # Who is merely slow must not be taken for silent: what it took would come twice.
    seconds = SECONDS if fault.silent else 5.0
    with capture_logs() as logs:
        async with delivering(path, cxone(there.cxone(Grant.ACCESS_KEY), seconds=seconds)):
            await arrived(there)
    assert state(path).failures == 2
    assert reason in logs[0]["fault"]
    assert logs[-1]["event"] == "audit_delivery_resumed"


@pytest.mark.parametrize("where", ["token_faults", "intake_faults"])
async def test_retry_after_is_told(there: Receiver, where: str) -> None:
    """The time that CXone asks for is what the loop will wait, up to a bound."""
    getattr(there, where).append(Fault(429, {"retry-after": "7"}))
    destination = cxone(there.cxone())
    with pytest.raises(NotNow) as caught:
        await destination.send(_batch())
    await destination.close()
    assert caught.value.after == 7.0


@pytest.mark.parametrize("status", [400, 403, 404, 413, 302])
@pytest.mark.parametrize("where", ["token_faults", "intake_faults"])
async def test_what_is_refused_stops(there: Receiver, path: Path, where: str, status: int) -> None:
    """Any other answer stops the delivery: it is told, and nothing was dropped or asked twice."""
    elsewhere = {"location": f"{there.url}/elsewhere"}
    getattr(there, where).append(Fault(status, elsewhere))
    with capture_logs() as logs:
        async with looping(path, cxone(there.cxone())) as loop:
            await loop.run()
    assert state(path).stopped
    assert f"answered {status}" in logs[-1]["fault"]
    assert there.batches == []
    assert len(there.attempts) == (1 if where == "token_faults" else 2)
    assert "/elsewhere" not in there.attempts


async def test_a_wrong_secret_stops(there: Receiver, path: Path) -> None:
    """A client that CXone does not know is not tried again and again."""
    with capture_logs():
        async with looping(path, cxone(there.cxone(client_secret=Secret("wrong")))) as loop:
            await loop.run()
    assert (state(path).stopped, state(path).fault) == (True, "the token endpoint answered 400")
    assert there.attempts == ["/api/api/v2/oauth/token"]


async def test_nobody_there(there: Receiver, path: Path) -> None:
    """No server at all: it is waited for, and the reason says that much."""
    gone = there.cxone(api_base="http://127.0.0.1:1")
    destination = cxone(gone)
    with pytest.raises(NotNow, match=r"^no connection: ConnectError$"):
        await destination.send(_batch())
    await destination.close()


# -- secrets ---------------------------------------------------------------------------------------


@every_grant
async def test_no_secret_is_told(there: Receiver, path: Path, grant: Grant) -> None:
    """Neither logs nor what is kept of a failure hold a secret or a token, whatever goes wrong."""
    there.token_faults.extend([Fault(500), RESET, Fault(429)])
    there.intake_faults.extend([Fault(401), Fault(401), Fault(500), RESET, Fault(400)])
    told: list[Any] = []
    with capture_logs() as logs:
        async with looping(path, cxone(there.cxone(grant)), batch=4) as loop:
            while await loop.catch_up() is not None:
                told.append(state(path))
            told.append(state(path))
    assert len(told) > 5
    shown = json.dumps(logs) + repr(told) + repr(there.cxone(grant))
    for secret in (CLIENT[1], KEY[1], "issued-token", "what was sent"):
        assert secret not in shown


# -- a plain endpoint ------------------------------------------------------------------------------


def endpoint(
    there: Receiver, shape: Shape, token: str | None = ENDPOINT_TOKEN
) -> EndpointDestination:
    settings = Endpoint(f"{there.url}/api{PATH}", None if token is None else Secret(token))
    return EndpointDestination(Fixed(settings), Outbound(5.0), shape, time)


@pytest.mark.parametrize("shape", Shape)
async def test_a_plain_endpoint(there: Receiver, path: Path, shape: Shape) -> None:
    """JSON lines or an array, by the type that says so: the records are the same."""
    async with delivering(path, endpoint(there, shape)):
        await arrived(there)
    (kind,) = {batch.kind for batch in there.batches}
    assert kind == {"jsonl": "application/x-ndjson", "json": "application/json"}[shape]


@pytest.mark.parametrize("token", [None, "wrong"])
async def test_a_plain_endpoint_that_wants_another_token(
    there: Receiver, token: str | None
) -> None:
    """There is no other to be had: it is refused at once."""
    destination = endpoint(there, Shape.JSONL, token)
    with pytest.raises(Refused, match=r"^the endpoint answered 401$"):
        await destination.send(_batch())
    await destination.close()
    assert len(there.attempts) == 1


async def test_a_batch_that_is_sent_again_has_its_key(there: Receiver, path: Path) -> None:
    """A receiver that took a batch and could not say so knows it when it comes again."""
    there.intake_faults.extend([SILENCE, Fault(500)])
    async with delivering(path, cxone(there.cxone(), seconds=SECONDS)):
        await arrived(there)
    assert there.keys[:3] == [there.batches[0].key] * 3


def _batch() -> Batch:
    return Batch("0123456789ab", 0, 0, [b'{"seq":0}'], 1, 0, False)
