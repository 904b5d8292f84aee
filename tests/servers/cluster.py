"""A real Redis Cluster of separate processes, which tests fail over, reshard and break.

Who is what changes while a test runs, so nothing here remembers roles: each question goes to the
live nodes, and where they differ, the highest configuration epoch is right (Redis Cluster
specification, https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/).

Known weakness: nodes keep no data files. A primary that is killed and restarted before its replica
took over comes back empty, and its replicas follow it in that, as Redis documents. Wait for
`wait_ok`, or ask for `persistent`, before `heal`.
"""

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import redis

from .binaries import valkey_binary
from .ports import LOOPBACK
from .process import OPEN_ACCESS, PERSISTENT_CONFIG, SERVER_CONFIG, Access, RedisProcess
from .proxy import Proxy
from .wait import eventually

SLOTS = 16_384
NODE_TIMEOUT_MS = 2_000

CLUSTER_CONFIG = (
    "cluster-enabled yes",
    f"cluster-node-timeout {NODE_TIMEOUT_MS}",
    # A replica takes over however old its link is, and stays with its primary's shard otherwise.
    "cluster-replica-validity-factor 0",
    "cluster-allow-replica-migration no",
)

# What a node says of another when all isn't well with it. "fail?" is one node's suspicion.
TROUBLES = frozenset({"fail", "fail?", "handshake", "noaddr"})


@dataclass(frozen=True, slots=True)
class NodeView:
    """What one node holds another (or itself) to be: a line of CLUSTER NODES."""

    node_id: str
    flags: frozenset[str]
    primary_id: str | None
    is_linked: bool
    slots: tuple[range, ...]

    @property
    def role(self) -> tuple[str | None, tuple[range, ...]]:
        """Return what all nodes have to agree on: whom it follows, or which slots it owns."""
        return self.primary_id, self.slots

    @classmethod
    def parse(cls, line: str) -> "NodeView":
        """Read one line; slots that are being migrated count for their owner alone."""
        node_id, _, flags, primary_id, _, _, _, link, *slots = line.split()
        owned = [slot.split("-") for slot in slots if not slot.startswith("[")]
        return cls(
            node_id=node_id,
            flags=frozenset(flags.split(",")),
            primary_id=None if primary_id == "-" else primary_id,
            is_linked=link == "connected",
            slots=tuple(range(int(bounds[0]), int(bounds[-1]) + 1) for bounds in owned),
        )


class ClusterNode(RedisProcess):
    """A server that is part of a cluster, under an id that it keeps."""

    node_id: str = ""

    def view(self) -> dict[str, NodeView]:
        """Return what this node holds every node to be, by node id."""
        lines = self.cli("CLUSTER", "NODES").splitlines()
        return {view.node_id: view for view in map(NodeView.parse, lines)}

    def cluster_info(self) -> dict[str, str]:
        """Return the fields of CLUSTER INFO."""
        lines = self.cli("CLUSTER", "INFO").splitlines()
        return dict(line.split(":", 1) for line in lines)


class Cluster:
    """Ask, break and mend a formed cluster."""

    def __init__(
        self,
        nodes: Sequence[ClusterNode],
        proxies: dict[ClusterNode, Proxy],
        launch: Callable[[], ClusterNode],
    ) -> None:
        """Take nodes that know of one another, and a way to start more; `cluster` makes them."""
        self.nodes = tuple(nodes)
        self._proxies = proxies
        self._launch = launch

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Return host and port of every node as clients see them: the proxies', where there are."""
        return [(LOOPBACK, self._proxies.get(node, node).port) for node in self.nodes]

    def proxy(self, node: ClusterNode) -> Proxy:
        """Return the proxy in front of a node of a cluster made with `proxied`."""
        return self._proxies[node]

    def primaries(self) -> list[ClusterNode]:
        """Return the nodes that own slots, in the order of their slots."""
        owners = [view for view in self._view().values() if view.slots]
        return [self._node(view) for view in sorted(owners, key=lambda view: view.slots[0].start)]

    def replicas_of(self, node: ClusterNode) -> list[ClusterNode]:
        """Return the nodes that follow a primary."""
        views = self._view().values()
        return [self._node(view) for view in views if view.primary_id == node.node_id]

    def node_of_slot(self, slot: int) -> ClusterNode:
        """Return the primary that owns a slot."""
        for view in self._view().values():
            if any(slot in owned for owned in view.slots):
                return self._node(view)
        raise LookupError(f"nobody owns slot {slot}")

    def slot_of(self, key: str | bytes) -> int:
        """Return the slot that a key falls into, as a server says."""
        return int(self._live()[0].cli("CLUSTER", "KEYSLOT", key))

    def node_of_key(self, key: str | bytes) -> ClusterNode:
        """Return the primary that owns a key's slot."""
        return self.node_of_slot(self.slot_of(key))

    def failover(self, replica: ClusterNode, *how: str, within: float = 30.0) -> None:
        """Make a replica the primary of its shard; wait until the cluster is of one mind again.

        Args:
            replica: who takes over.
            how: nothing for the orderly way, which needs the primary; "FORCE" or "TAKEOVER".
            within: seconds.
        """

        def is_primary() -> bool:
            return "master" in replica.view()[replica.node_id].flags

        def takes_over() -> bool:
            # An election can fail in silence; the node gives up on it after five seconds.
            if not is_primary():
                replica.cli("CLUSTER", "FAILOVER", *how)
            with suppress(TimeoutError):
                return eventually(is_primary, within=6)
            return False

        eventually(takes_over, within=within, what=f"{replica} to take over")
        self.wait_ok(within)

    def migrate_slot(
        self, slot: int, source: ClusterNode, target: ClusterNode, *, leave_open: bool = False
    ) -> None:
        """Move a slot and its keys from one primary to another.

        Clients that have the older map get MOVED from `source`.

        Args:
            slot: which; it belongs to `source`.
            source: who gives it.
            target: who gets it.
            leave_open: only open the move. `source` answers ASK for keys it doesn't have; after
                `move_keys` some are over there, and a command on keys of both sides gets TRYAGAIN.
                A second call without `leave_open` finishes the move.
        """
        target.cli("CLUSTER", "SETSLOT", slot, "IMPORTING", source.node_id)
        source.cli("CLUSTER", "SETSLOT", slot, "MIGRATING", target.node_id)
        if leave_open:
            return
        self._close_slot(slot, source, target)
        self.wait_ok()

    def reshard(
        self, slots: Iterable[int], source: ClusterNode, target: ClusterNode, within: float = 30.0
    ) -> None:
        """Move many slots, one after the other as `redis-cli --cluster reshard` does.

        Args:
            slots: which; they belong to `source`.
            source: who gives them.
            target: who gets them.
            within: seconds for the cluster to be of one mind afterwards.
        """
        others = [node for node in self.primaries() if node not in (source, target)]
        for slot in slots:
            self.migrate_slot(slot, source, target, leave_open=True)
            self._close_slot(slot, source, target)
            for node in others:
                node.cli("CLUSTER", "SETSLOT", slot, "NODE", target.node_id)
        self.wait_ok(within)

    def _close_slot(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """Move what is in a slot whose move is open, and end the move."""
        while keys := source.cli("CLUSTER", "GETKEYSINSLOT", slot, 100):
            self.move_keys(source, target, *keys)
        # The new owner first: were the old one to know first, both would send clients away.
        for node in (target, source):
            node.cli("CLUSTER", "SETSLOT", slot, "NODE", target.node_id)

    def add_node(self, within: float = 30.0) -> ClusterNode:
        """Start a further primary, which owns no slots yet; wait until all know it."""
        node = self._launch()
        node.wait_ready()
        node.node_id = node.cli("CLUSTER", "MYID")
        for other in self.nodes:
            node.cli("CLUSTER", "MEET", LOOPBACK, other.port)
        self.nodes += (node,)
        self.wait_ok(within)
        return node

    def remove_node(self, node: ClusterNode, within: float = 30.0) -> None:
        """Have the others forget a node that owns no slots, and end it."""
        self.nodes = tuple(other for other in self.nodes if other is not node)
        for other in self.nodes:
            other.cli("CLUSTER", "FORGET", node.node_id)
        node.close()
        self.wait_ok(within)

    def move_keys(self, source: ClusterNode, target: ClusterNode, *keys: str) -> None:
        """Move single keys of a slot whose move is open."""
        source.cli("MIGRATE", LOOPBACK, target.port, "", 0, 5_000, "KEYS", *keys)

    def flush(self) -> None:
        """Remove every key."""
        for node in self.primaries():
            node.cli("FLUSHALL")

    def heal(self, within: float = 40.0) -> None:
        """Start and resume what is down, end the proxies' faults, and wait until all is well."""
        for proxy in self._proxies.values():
            proxy.restore()
        for node in self.nodes:
            if not node.is_running:
                node.start()
            node.resume()
        for node in self.nodes:
            node.wait_ready()
        self.wait_ok(within)

    def wait_ok(self, within: float = 30.0) -> None:
        """Wait until every slot is served, live replicas are in step, and live nodes agree on it.

        Nodes that are killed or paused may stay so; they just must not own slots any more. So after
        the death of a primary this waits for its replica to take over.
        """
        eventually(
            self._is_ok,
            within=within,
            what="the cluster to be well",
            ignoring=(redis.RedisError,),
        )

    def _live(self) -> list[ClusterNode]:
        live = [node for node in self.nodes if node.is_live]
        if not live:
            raise LookupError("no node is live")
        return live

    def _view(self) -> dict[str, NodeView]:
        """Return the view of the live node that has seen the latest epoch."""

        def epoch(node: ClusterNode) -> int:
            return int(node.cluster_info()["cluster_current_epoch"])

        return max(self._live(), key=epoch).view()

    def _node(self, view: NodeView) -> ClusterNode:
        return next(node for node in self.nodes if node.node_id == view.node_id)

    def _is_ok(self) -> bool:
        live = self._live()
        views = {node: node.view() for node in live}
        roles = {node.node_id: views[node][node.node_id].role for node in live}
        for node, view in views.items():
            state = node.cluster_info()["cluster_state"]
            assert state == "ok", f"{node} says cluster_state:{state}"
            assert len(view) == len(self.nodes), f"{node} knows {len(view)} nodes"
            covered = 0
            for other in view.values():
                if other.node_id in roles:
                    troubles = other.flags & TROUBLES
                    assert not troubles, f"{node} finds {other.node_id} {sorted(troubles)}"
                    assert other.is_linked, f"{node} has no link to {other.node_id}"
                    assert other.role == roles[other.node_id], f"{node} is behind on {other}"
                    covered += sum(map(len, other.slots))
            assert covered == SLOTS, f"{node} sees {covered} slots served"
        for node in live:
            primary_id, _ = roles[node.node_id]
            followers = [other for other in live if roles[other.node_id][0] == node.node_id]
            _assert_in_step(node, is_replica=primary_id is not None, followers=len(followers))
        return True


def _assert_in_step(node: ClusterNode, *, is_replica: bool, followers: int) -> None:
    """Raise AssertionError unless a node's replication links, up and down, all stand."""
    replication = node.cli("INFO", "replication")
    role = "slave" if is_replica else "master"
    assert replication["role"] == role, f"{node} is a {replication['role']}, not a {role}"
    link = replication.get("master_link_status", "up")
    assert link == "up", f"{node} has its link {link}"
    replicas = [value for name, value in replication.items() if re.fullmatch(r"slave\d+", name)]
    online = sum(replica["state"] == "online" for replica in replicas)
    assert online >= followers, f"{node} has {online} of {followers} replicas online"


@contextmanager
def cluster(
    primaries: int = 3,
    replicas: int = 1,
    *,
    binary: Path | None = None,
    proxied: bool = False,
    persistent: bool = False,
    config: Sequence[str] = (),
    access: Access = OPEN_ACCESS,
) -> Iterator[Cluster]:
    """Run a cluster of `primaries` shards with `replicas` replicas each, formed and well.

    Args:
        primaries: how many shards; three or more, or nobody can be elected.
        replicas: how many replicas each has.
        binary: Valkey's by default.
        proxied: put a proxy before each node and let nodes announce the proxies' ports to clients,
            while they go on talking to one another directly. Valkey only; Redis 7 cannot.
        persistent: keep append-only files, so that a restarted primary has its keys.
        config: further lines for every node.
        access: how the suite gets in; with TLS, the nodes speak it to one another, too.
    """
    binary = binary or valkey_binary()
    lines = (
        *SERVER_CONFIG,
        *CLUSTER_CONFIG,
        *(PERSISTENT_CONFIG if persistent else ()),
        *(() if access.tls is None else ("tls-cluster yes", "tls-replication yes")),
        *config,
    )
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flowcache-")))
        numbers = count()
        proxies: dict[ClusterNode, Proxy] = {}

        def launch() -> ClusterNode:
            home = directory / str(next(numbers))
            home.mkdir()
            node = ClusterNode(binary, home, lines, access=access)
            stack.callback(node.close)
            if proxied:
                proxies[node] = stack.enter_context(Proxy(node.address))
                node.configure(f"cluster-announce-client-port {proxies[node].port}")
            node.start()
            return node

        nodes = [launch() for _ in range(primaries * (1 + replicas))]
        for node in nodes:
            node.wait_ready()
            node.node_id = node.cli("CLUSTER", "MYID")
        _form(nodes, primaries)
        formed = Cluster(nodes, proxies, launch)
        formed.wait_ok()
        yield formed


def _form(nodes: Sequence[ClusterNode], primaries: int) -> None:
    """Give the first nodes the slots, introduce all, and let the others follow them in turn."""
    for index, node in enumerate(nodes):
        # Each its own epoch, as `--cluster create` does: equal ones are a conflict to be resolved.
        node.cli("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        if index < primaries:
            first, last = (SLOTS * shard // primaries for shard in (index, index + 1))
            node.cli("CLUSTER", "ADDSLOTS", *range(first, last))  # ADDSLOTSRANGE is Redis 7's
        # All to all: waiting for gossip to do it costs a second.
        for other in nodes[:index]:
            node.cli("CLUSTER", "MEET", LOOPBACK, other.port)
    for index, node in enumerate(nodes[primaries:]):
        primary = nodes[index % primaries]

        def follows(node: ClusterNode = node, primary: ClusterNode = primary) -> bool:
            return bool(node.cli("CLUSTER", "REPLICATE", primary.node_id))

        # Until it has met its primary, it answers "Unknown node".
        eventually(
            follows, what=f"{node} to know {primary}", ignoring=(redis.exceptions.ResponseError,)
        )
