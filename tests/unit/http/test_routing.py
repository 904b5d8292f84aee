"""The router: which page is found, and what stands around whatever it answers."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest

from flowcache.admin.routing import Request, Response, Router, as_json, shielded
from flowcache.errors import Failure, Forbidden
from flowcache.server.turns import Turnstile
from tests.unit.http.asgi import Script

HSTS = b"strict-transport-security"


class Site:
    """A router of a few pages, and what it was told to do besides."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.router = Router(
            {"/a": {"GET": self.page}, "/b": {"GET": self.page, "POST": self.page}},
            self.misdirected,
            self.settle,
            lambda: "next id",
            Site.Turns(self.done),
        )
        self.fault: Exception | None = None
        self.kept: Awaitable[bool] | None = None

    class Turns(Turnstile):
        def __init__(self, done: list[str]) -> None:
            super().__init__()
            self.done = done

        async def wait(self) -> None:
            self.done.append("turn")

    async def misdirected(self, request: Request, failure: Failure) -> None:
        self.done.append(f"misdirected {request.path}")

    async def settle(self, kept: Awaitable[bool]) -> None:
        self.done.append(f"settled {await kept}")

    async def page(self, request: Request) -> Response:
        self.done.append(f"page {request.method} {request.path}")
        if self.fault is not None:
            request.id, request.kept = "its id", self.kept
            raise self.fault
        return as_json({"is": "well"})

    async def ask(
        self, path: str, method: str = "GET", scheme: str = "http", router: Router | None = None
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        said: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            said.append(message)

        scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "scheme": scheme}
        scope |= {"headers": [], "query_string": b""}
        await (router or self.router)(scope, Script(), send)
        return said[0]["status"], dict(said[0]["headers"]), said[1]["body"]


@pytest.fixture
def site() -> Site:
    return Site()


async def test_whatever_is_asked_waits_for_its_turn(site: Site) -> None:
    """Before anything else is done: a page that does not exist as well."""
    await site.ask("/a")
    await site.ask("/nothing")
    assert site.done == ["turn", "page GET /a", "turn", "misdirected /nothing"]


async def test_head_is_a_get(site: Site) -> None:
    """Its page is that of GET; where there is none for GET there is none for HEAD."""
    assert (await site.ask("/a", "HEAD"))[0] == 200
    status, headers, _ = await site.ask("/a", "POST")
    assert (status, headers[b"allow"]) == (405, b"GET, HEAD")


@pytest.mark.parametrize("path", ["/a", "/nothing"])
async def test_over_tls_a_browser_is_told_to_keep_to_it(site: Site, path: str) -> None:
    """And over plain HTTP it is not."""
    assert HSTS in (await site.ask(path, scheme="https"))[1]
    assert HSTS not in (await site.ask(path))[1]


async def test_what_is_repeated_is_cut(site: Site) -> None:
    """Method and path are a stranger's words: a refusal repeats a few of them."""
    body = (await site.ask("/" + "p" * 5000, "M" * 5000))[2]
    assert b"M" * 80 in body
    assert b"M" * 81 not in body
    assert b"p" * 81 not in body


async def test_a_part_of_the_pages(site: Site) -> None:
    """They are the named ones and no others; the data action stands beside them."""
    only = site.router.only({"/b"})
    assert (await site.ask("/b", router=only))[0] == 200
    assert (await site.ask("/a", router=only))[0] == 404
    assert (await site.ask("/data-action/redis", router=only))[0] == 405


async def test_where_no_data_action_is_served_there_is_none(site: Site) -> None:
    """On the address for operators its path is not found, and all pages are."""
    admin = site.router.without_data_action()
    assert (await site.ask("/data-action/redis", router=admin))[0] == 404
    for path in ("/a", "/b"):
        assert (await site.ask(path, router=admin))[0] == 200


async def test_a_refused_attempt_is_settled_and_has_its_id(site: Site) -> None:
    """Its record is on disk before it is answered, and the answer names it."""

    async def kept() -> bool:
        return True

    site.fault, site.kept = Forbidden("not for you"), kept()
    status, _, body = await site.ask("/a")
    assert status == 403
    assert b"its id" in body
    assert site.done[-1] == "settled True"
    site.kept = None
    site.fault = RuntimeError("a bug")
    status, _, body = await site.ask("/a")
    assert status == 500
    assert b"a bug" not in body


def test_a_page_may_say_otherwise() -> None:
    """Each page has the headers that shield it, and its own count where both say something."""
    headers = dict(shielded({b"cache-control": b"no-cache", b"etag": b'"1"'}))
    assert headers[b"cache-control"] == b"no-cache"
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers[b"etag"] == b'"1"'
