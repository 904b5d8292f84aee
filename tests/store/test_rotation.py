"""A password that a file holds: each connection shows what the file holds by then."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowcache.secret import SecretInFile
from flowcache.settings.kinds import PASSWORD, content
from flowcache.store.connection import ConnectFault, ask, close, connect
from flowcache.store.settings import Address, StoreSettings
from tests.servers import standalone

pytestmark = pytest.mark.both_loops


@pytest.mark.parametrize("sentinel", [False, True])
async def test_each_connection_reads_the_file_anew(tmp_path: Path, sentinel: bool) -> None:
    """So it is for Redis, and for the Sentinels; what can't be read is told, not shown."""
    file = tmp_path / "password"
    file.write_text("first\n")
    held = content(PASSWORD).read(str(file))
    assert isinstance(held, SecretInFile)
    name = "sentinel_password" if sentinel else "password"
    settings = StoreSettings(**{name: held})  # type: ignore[arg-type]
    with standalone() as server:
        server.cli("CONFIG", "SET", "requirepass", "first")
        address = Address(*server.address)
        first = await connect(address, settings, sentinel=sentinel)
        await ask(first, "CONFIG", "SET", "requirepass", "second")
        with pytest.raises(ConnectFault, match="refused the user or the password"):
            await connect(address, settings, sentinel=sentinel)
        file.write_text("second")
        second = await connect(address, settings, sentinel=sentinel)
        assert await ask(second, "PING") == b"PONG"
        file.unlink()
        with pytest.raises(ConnectFault, match=r"^the file of the password can't be read"):
            await connect(address, settings, sentinel=sentinel)
        await ask(second, "CONFIG", "SET", "requirepass", "")  # the tests' own way in
        for connection in (first, second):
            await close(connection)
