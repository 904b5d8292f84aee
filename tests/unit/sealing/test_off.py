"""What encryption costs who does not use it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.envelopes import KEYS

WORKER = """
import asyncio, os, sys
from pathlib import Path
from flowcache.bootstrap import Worker
from flowcache.settings import load

async def main():
    return Worker(load(None, os.environ), Path(sys.argv[1]))

asyncio.run(main())
cipher = ("cryptography.hazmat.primitives", "flowcache.encryption.vault")
print(*(name for name in cipher if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("environment", "loaded"),
    [
        ({}, ""),
        (
            {"FLOWCACHE_ENCRYPTION_KEYS": KEYS},
            "cryptography.hazmat.primitives flowcache.encryption.vault",
        ),
    ],
)
def test_a_worker_loads_the_cipher_only_where_it_has_keys(
    environment: dict[str, str], loaded: str, tmp_path: Path
) -> None:
    """Neither the time of a start nor memory is spent on what is off."""
    clean = {name: value for name, value in os.environ.items() if "FLOWCACHE" not in name}
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(tmp_path)],
        env=clean | {"SERVICE_BEARER_TOKEN": "token"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, loaded, "")
