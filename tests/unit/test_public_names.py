"""The house rules that no linter knows: what is public, and what an import may do."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import flowcache

ROOT = Path(flowcache.__file__).parent
NAMES = sorted(
    module.name
    for module in pkgutil.walk_packages(flowcache.__path__, "flowcache.")
    if module.name != "flowcache.__main__"  # runs the command line: that is what it is for
)
every = pytest.mark.parametrize("name", ["flowcache", *NAMES])


def source(name: str) -> ast.Module:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    return ast.parse(Path(module.__file__).read_text("utf-8"))


def defined(tree: ast.Module) -> set[str]:
    """Return the functions and classes of a module that have no underscore."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in tree.body if isinstance(node, kinds) and node.name[0] != "_"}


def imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield what a module imports from other modules of flowcache: module and name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flowcache"):
            yield from ((node.module or "", alias.name) for alias in node.names)


def public(module: ModuleType) -> list[str]:
    names: list[str] = getattr(module, "__all__", [])
    return names


def order(name: str) -> tuple[int, str]:
    """Sort as `ruff` does: constants, classes, functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@every
def test_public_names_are_there_and_sorted(name: str) -> None:
    """A module that defines anything says what is public, sorted, and it is all there."""
    module = importlib.import_module(name)
    names = public(module)
    assert names or not defined(source(name))
    assert names == sorted(set(names), key=order)
    assert all(hasattr(module, each) for each in names)
    assert not [each for each in names if each[0] == "_" and each != "__version__"]


@every
def test_what_is_imported_from_another_module_is_public_there(name: str) -> None:
    """No module of flowcache reaches for what another keeps to itself."""
    for origin, wanted in imports(source(name)):
        is_module = f"{origin}.{wanted}" in NAMES
        assert is_module or wanted in public(importlib.import_module(origin)), f"{origin}: {wanted}"


@every
def test_a_module_says_what_it_is_for(name: str) -> None:
    """Every module opens with a docstring, and everything public in it has one."""
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip()
    for each in public(module):
        thing = getattr(module, each)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert (thing.__doc__ or "").strip(), each


WATCH = """
import _thread, importlib, sys, threading

seen = []
WATCHED = ("socket.", "subprocess.", "os.fork", "os.posix_spawn", "os.system", "os.exec",
           "os.mkdir", "os.remove", "signal.")

def watch(event, arguments):
    if event.startswith(WATCHED) or event == "open" and arguments[1] not in ("r", "rb", None):
        seen.append(f"{event}{arguments!r}")

def started(function, *arguments, start=_thread.start_new_thread):
    seen.append(f"thread {function!r}")
    return start(function, *arguments)

sys.addaudithook(watch)
_thread.start_new_thread = threading._start_new_thread = started
for name in sys.argv[1:]:
    importlib.import_module(name)
print("\\n".join(seen), end="")
"""


def test_importing_does_nothing() -> None:
    """Importing every module opens no socket, starts no thread or process, writes no file."""
    command = [sys.executable, "-B", "-W", "error", "-c", WATCH, *NAMES]
    path = {"PYTHONPATH": str(ROOT.parent), "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=path, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_watch_would_notice() -> None:
    """A socket and a thread are seen by the watch that the promise above relies on."""
    work = (
        "import socket, threading\nsocket.socket().close()\nthreading.Thread(target=print).start()"
    )
    command = [sys.executable, "-c", WATCH.replace("for name", f"{work}\nfor name")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "socket.__new__" in done.stdout
    assert "thread <bound method Thread" in done.stdout
