"""The promises of the servers themselves: were one broken, no other test could be believed."""

import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from tests.servers import (
    SERVERS,
    ClientTls,
    Cluster,
    ClusterNode,
    MissingProgramError,
    Proxy,
    RedisProcess,
    SentinelGroup,
    ServerDiedError,
    TlsServer,
    cluster,
    eventually,
    replicated,
    standalone,
    tls_acl,
)
from tests.servers.binaries import program
from tests.servers.ports import BUS_OFFSET, SERVER_PORTS, PortClaim
from tests.servers.resp import CommandCounter

ROOT = Path(__file__).parents[2]

# Two keys of one slot, so that a command can ask for both.
KEY, SIBLING = "{flow}:a", "{flow}:b"


class TestWait:
    def test_returns_what_the_predicate_gives(self) -> None:
        """The first truthy value is the answer."""
        answers = iter([None, 0, "ready"])
        assert eventually(lambda: next(answers)) == "ready"

    def test_says_why_it_gave_up(self) -> None:
        """A wait that ends in vain names what it waited for, and the last reason it was given."""

        def refuse() -> bool:
            raise AssertionError("half of it is missing")

        with pytest.raises(TimeoutError, match="for the whole: half of it is missing"):
            eventually(refuse, within=0.05, what="the whole")


class TestPorts:
    def test_claims_differ_between_processes(self) -> None:
        """A port that one run has claimed isn't given to another, before a server listens on it."""
        with PortClaim() as claim, PortClaim() as other:
            ask = f"from tests.servers.ports import _claim; print(_claim({claim.port}))"
            answer = subprocess.run(
                [sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True
            )
            assert answer.stdout.strip() == "None"
            assert claim.port != other.port

    def test_claims_leave_room_for_the_cluster_bus(self) -> None:
        """A port and its bus port stay below the ephemeral range, and no bus port is a server's."""
        with PortClaim() as claim:
            assert claim.port in SERVER_PORTS
        assert SERVER_PORTS.stop + BUS_OFFSET <= 32_768
        assert SERVER_PORTS.start + BUS_OFFSET >= SERVER_PORTS.stop


class TestProcess:
    def test_missing_program_names_its_package(self) -> None:
        """Who lacks a program is told which Debian package has it."""
        with pytest.raises(MissingProgramError, match="apt-get install redis-server"):
            program("redis-server-of-tomorrow", package="redis-server")

    @pytest.mark.parametrize("binary", SERVERS.values(), ids=list(SERVERS))
    def test_every_make_of_server_answers(self, binary: Callable[[], Path]) -> None:
        """Each starts with what the suite configures, and takes a write."""
        with standalone(binary()) as server:
            assert server.cli("SET", KEY, "1") is True

    def test_server_that_cannot_start_says_why(self) -> None:
        """A server that refuses its configuration fails at once, and its own words are shown."""
        with (
            pytest.raises(ServerDiedError, match="no-such-directive"),
            standalone(config=["no-such-directive yes"]),
        ):
            pass

    def test_killed_server_is_gone_and_comes_back_empty(
        self, fresh_standalone: RedisProcess
    ) -> None:
        """After a kill connections are refused; after a restart the same port answers, empty."""
        fresh_standalone.cli("SET", KEY, "1")
        fresh_standalone.kill()
        assert not fresh_standalone.is_running
        with pytest.raises(redis.ConnectionError):
            fresh_standalone.cli("PING")
        fresh_standalone.restart()
        assert fresh_standalone.cli("GET", KEY) is None

    def test_persistent_server_keeps_what_it_acknowledged(self) -> None:
        """Where persistence is asked for, a write survives a crash."""
        with standalone(persistent=True) as server:
            server.cli("SET", KEY, "1")
            server.kill()
            server.restart()
            assert server.cli("GET", KEY) == "1"

    def test_paused_server_is_silent_until_resumed(self, fresh_standalone: RedisProcess) -> None:
        """A paused server takes connections and answers nothing; resumed, it goes on."""
        fresh_standalone.pause()
        with closing(fresh_standalone.client(socket_timeout=0.1)) as client:
            with pytest.raises(redis.TimeoutError):
                client.ping()
            fresh_standalone.resume()
            assert client.ping()

    def test_paused_server_stops(self, fresh_standalone: RedisProcess) -> None:
        """An orderly stop works on a paused server, without waiting for the kill."""
        fresh_standalone.pause()
        fresh_standalone.stop()
        assert not fresh_standalone.is_running
        assert "ready to exit" in fresh_standalone.log

    def test_server_started_in_a_thread_outlives_it(self, fresh_standalone: RedisProcess) -> None:
        """A server belongs to the test run, not to the thread that (re)started it."""
        thread = threading.Thread(target=fresh_standalone.restart)
        thread.start()
        thread.join()
        run_id = fresh_standalone.cli("INFO", "server")["run_id"]
        assert fresh_standalone.cli("INFO", "server")["run_id"] == run_id
        assert fresh_standalone.is_running

    def test_no_server_survives_a_killed_run(self) -> None:
        """When a test run is killed, the kernel ends its servers, were they paused."""
        code = (
            "from tests.servers import standalone\n"
            "with standalone() as server:\n"
            "    server.pause()\n"
            "    print(server.port, server.directory, flush=True)\n"
            "    input()\n"
        )
        run = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with run:
            assert run.stdout is not None
            port, directory = run.stdout.readline().split()
            run.send_signal(signal.SIGKILL)
        eventually(lambda: _is_refused(int(port)), what="the orphan to end")
        shutil.rmtree(directory)


class TestReplicated:
    def test_replica_follows(self) -> None:
        """What the primary has, the replica has, once it has caught up."""
        with replicated() as pair:
            pair.primary.cli("SET", KEY, "1")
            pair.wait_linked()
            assert pair.replica.cli("GET", KEY) == "1"


class TestCluster:
    def test_is_whole(self, cluster_servers: Cluster) -> None:
        """Three primaries share the slots, and each has a replica, as every node sees it."""
        primaries = cluster_servers.primaries()
        replicas = [cluster_servers.replicas_of(primary) for primary in primaries]
        assert len(primaries) == 3
        assert {len(of_one) for of_one in replicas} == {1}
        assert {*primaries, *(of_one[0] for of_one in replicas)} == set(cluster_servers.nodes)
        assert cluster_servers.node_of_slot(0) is primaries[0]
        assert cluster_servers.node_of_slot(16_383) is primaries[-1]

    def test_takes_a_write_after_its_primary_is_killed(self, breakable_cluster: Cluster) -> None:
        """A replica takes over with its keys; the killed primary comes back as its replica."""
        primary = breakable_cluster.node_of_key(KEY)
        (replica,) = breakable_cluster.replicas_of(primary)
        primary.cli("SET", KEY, "1")
        # Replication isn't synchronous: a primary killed right away may take the write with it.
        eventually(lambda: replica.cli("CLUSTER", "COUNTKEYSINSLOT", _slot(breakable_cluster)))
        primary.kill()
        breakable_cluster.wait_ok()
        assert breakable_cluster.node_of_key(KEY) is replica
        assert replica.cli("GET", KEY) == "1"
        assert replica.cli("SET", KEY, "2") is True
        breakable_cluster.heal()
        assert breakable_cluster.replicas_of(replica) == [primary]

    def test_fails_over_in_order(self, breakable_cluster: Cluster) -> None:
        """After an orderly failover the two have changed places, and nothing is lost."""
        primary = breakable_cluster.node_of_key(KEY)
        (replica,) = breakable_cluster.replicas_of(primary)
        primary.cli("SET", KEY, "1")
        breakable_cluster.failover(replica)
        assert breakable_cluster.node_of_key(KEY) is replica
        assert breakable_cluster.replicas_of(replica) == [primary]
        assert replica.cli("GET", KEY) == "1"

    def test_node_joins_and_leaves(self) -> None:
        """A new primary takes slots with their keys, gives them back, and is forgotten by all."""
        with cluster(3, 0) as servers:
            source = servers.node_of_key(KEY)
            source.cli("SET", KEY, "1")
            slots = [_slot(servers), _slot(servers) + 1]
            fresh = servers.add_node()
            servers.reshard(slots, source, fresh)
            assert servers.node_of_key(KEY) is fresh
            assert fresh.cli("GET", KEY) == "1"
            servers.reshard(slots, fresh, source)
            servers.remove_node(fresh)
            assert source.cli("GET", KEY) == "1"
            assert all(fresh.node_id not in node.view() for node in servers.nodes)

    def test_moved_slot_gives_moved(self, breakable_cluster: Cluster) -> None:
        """After a slot has moved, with its keys, the old owner points to the new one."""
        source, target = _source_and_target(breakable_cluster)
        source.cli("SET", KEY, "1")
        breakable_cluster.migrate_slot(_slot(breakable_cluster), source, target)
        with pytest.raises(redis.exceptions.MovedError, match=str(target.port)):
            source.cli("GET", KEY)
        assert target.cli("GET", KEY) == "1"

    def test_slot_on_the_move_gives_ask_and_tryagain(self, breakable_cluster: Cluster) -> None:
        """While a slot is on the move: ASK for what has gone, TRYAGAIN for both sides at once."""
        source, target = _source_and_target(breakable_cluster)
        source.cli("MSET", KEY, "1", SIBLING, "2")
        slot = _slot(breakable_cluster)
        breakable_cluster.migrate_slot(slot, source, target, leave_open=True)
        breakable_cluster.move_keys(source, target, KEY)
        assert source.cli("GET", SIBLING) == "2"
        with pytest.raises(redis.exceptions.AskError, match=str(target.port)):
            source.cli("GET", KEY)
        with pytest.raises(redis.exceptions.TryAgainError):
            source.cli("MGET", KEY, SIBLING)
        breakable_cluster.migrate_slot(slot, source, target)
        assert target.cli("MGET", KEY, SIBLING) == ["1", "2"]

    def test_proxied_cluster_sends_clients_to_its_proxies(self) -> None:
        """Clients of a proxied cluster see the proxies' addresses, in the map and in MOVED."""
        with cluster(replicas=0, proxied=True) as servers:
            source, target = _source_and_target(servers)
            with pytest.raises(redis.exceptions.MovedError, match=str(servers.proxy(source).port)):
                target.cli("GET", KEY)
            shown = {port for _, _, (_, port, *_) in source.cli("CLUSTER", "SLOTS")}
            assert shown == {port for _, port in servers.addresses}
            servers.proxy(source).drop()
            with (
                closing(source.client(port=servers.proxy(source).port, socket_timeout=0.1)) as lost,
                pytest.raises(redis.TimeoutError),
            ):
                lost.ping()
            servers.wait_ok()


class TestSentinels:
    def test_replace_a_killed_primary(self, breakable_sentinels: SentinelGroup) -> None:
        """The Sentinels name another primary after a crash, and it takes writes."""
        old = breakable_sentinels.primary()
        old.kill()
        new = breakable_sentinels.wait_primary_changed(old)
        assert new is not old
        assert new.cli("SET", KEY, "1") is True
        breakable_sentinels.heal()
        assert old in breakable_sentinels.replicas()

    def test_fail_over_on_request(self, breakable_sentinels: SentinelGroup) -> None:
        """A failover on request makes another server the primary."""
        old = breakable_sentinels.primary()
        new = breakable_sentinels.failover()
        assert breakable_sentinels.primary() is new
        assert new is not old


class TestTls:
    def test_right_password_gets_in(self, tls_server: TlsServer) -> None:
        """The user of flowcache works over TLS with its password."""
        with closing(_as_flowcache(tls_server)) as client:
            assert client.set(KEY, "1", ex=60)
            assert client.eval("return redis.call('GET', KEYS[1])", 1, KEY) == b"1"
            assert client.execute_command("ROLE")[0] == b"master"  # type: ignore[no-untyped-call]

    def test_wrong_password_stays_out(self, tls_server: TlsServer) -> None:
        """A wrong password, and none, are both refused."""
        with (
            closing(_as_flowcache(tls_server, password="wrong")) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()
        reply = _first_reply(tls_server, tls_server.certificates.client_tls())
        assert reply.startswith(b"-NOAUTH")

    @pytest.mark.parametrize(
        "command",
        ["KEYS *", "FLUSHALL", "CONFIG GET *", "SORT k", "BLPOP k 0", "SCAN 0", "ACL WHOAMI"],
    )
    def test_acl_refuses_what_flowcache_never_asks(
        self, tls_server: TlsServer, command: str
    ) -> None:
        """The user of flowcache can't list, wipe, configure or stall the server."""
        with (
            closing(_as_flowcache(tls_server)) as client,
            pytest.raises(redis.exceptions.NoPermissionError),
        ):
            client.execute_command(*command.split())  # type: ignore[no-untyped-call]

    def test_plain_text_is_refused(self, tls_server: TlsServer) -> None:
        """The only port speaks TLS only."""
        assert tls_server.process.cli("CONFIG", "GET", "port") == ["port", "0"]
        with (
            closing(_as_flowcache(tls_server, ssl=False)) as client,
            pytest.raises(redis.ConnectionError),
        ):
            client.ping()

    def test_other_authority_is_not_trusted(self, tls_server: TlsServer) -> None:
        """A client that trusts another authority doesn't talk to the server."""
        other = str(tls_server.certificates.other_authority.certificate)
        with (
            closing(_as_flowcache(tls_server, ssl_ca_certs=other)) as client,
            pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            client.ping()

    def test_client_certificates_are_verified_where_asked(self) -> None:
        """With client verification: a signed certificate gets in, a stranger's and none don't."""
        with tls_acl(verify_clients=True) as server:
            with closing(_as_flowcache(server)) as client:
                assert client.ping()
            certificates = server.certificates
            assert _first_reply(server, certificates.client_tls(shows=certificates.client))
            for shows in (None, certificates.stranger):
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    _first_reply(server, certificates.client_tls(shows=shows))


class TestProxy:
    @pytest.fixture
    def proxy(self, standalone_server: RedisProcess) -> Iterator[Proxy]:
        """Stand before the shared server."""
        with Proxy(standalone_server.address) as proxy:
            yield proxy

    @pytest.fixture
    def client(self, proxy: Proxy, standalone_server: RedisProcess) -> Iterator[redis.Redis]:
        """Talk through the proxy on one connection, which is open, with little patience."""
        with closing(
            standalone_server.client(
                port=proxy.port, socket_timeout=0.2, single_connection_client=True
            )
        ) as client:
            client.delete(KEY)
            yield client

    def test_forwards(self, proxy: Proxy, client: redis.Redis) -> None:
        """A healthy proxy isn't noticed, at any size."""
        value = bytes(range(256)) * 4096
        client.set(KEY, value)
        assert client.get(KEY) == value
        assert proxy.accepted == proxy.open_connections == 1

    def test_drop_is_silent_and_keeps_connections(self, proxy: Proxy, client: redis.Redis) -> None:
        """A partition: connections stay and open, nothing comes back; it heals."""
        proxy.drop()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        with socket.create_connection(proxy.address, timeout=0.1) as fresh:
            fresh.sendall(b"PING\r\n")
            with pytest.raises(TimeoutError):
                fresh.recv(1)
            proxy.restore()
            fresh.settimeout(5)
            assert fresh.recv(64) == b"+PONG\r\n"
        assert client.ping()

    def test_dropped_answers_leave_the_write_done(
        self, proxy: Proxy, client: redis.Redis, standalone_server: RedisProcess
    ) -> None:
        """With answers dropped, a write that looks failed was run."""
        proxy.drop("answers")
        with pytest.raises(redis.TimeoutError):
            client.incr(KEY)
        assert standalone_server.cli("GET", KEY) == "1"

    def test_dropped_request_of_a_client_that_left_is_run_after_all(
        self, proxy: Proxy, client: redis.Redis, standalone_server: RedisProcess
    ) -> None:
        """A request held in a partition arrives when it heals, although nobody waits any more."""
        proxy.drop("requests")
        with pytest.raises(redis.TimeoutError):
            client.incr(KEY)
        assert standalone_server.cli("GET", KEY) is None
        proxy.restore()
        eventually(lambda: standalone_server.cli("GET", KEY) == "1", what="the late write")

    def test_delay_holds_each_request_back_once(self, proxy: Proxy, client: redis.Redis) -> None:
        """A pipeline of many is late by one delay; restore ends it for what is under way, too."""
        proxy.delay(0.05)
        began = time.monotonic()
        assert client.ping()
        assert time.monotonic() - began >= 0.05
        proxy.delay(60)
        with pytest.raises(redis.TimeoutError):
            client.incr(KEY)
        proxy.restore()
        eventually(lambda: client.get(KEY) == b"1", what="the delayed write")

    def test_reset_cuts_at_once(self, proxy: Proxy, client: redis.Redis) -> None:
        """A reset reaches the client as one (RST, not an orderly end); a new connection works."""
        with socket.create_connection(proxy.address, timeout=5) as raw:
            raw.sendall(b"PING\r\n")
            assert raw.recv(64) == b"+PONG\r\n"
            proxy.reset()
            with pytest.raises(ConnectionResetError):
                raw.recv(64)
        assert proxy.open_connections == 0
        with pytest.raises(redis.ConnectionError):
            client.ping()
        assert client.ping()

    def test_reset_every_n_commands(
        self, proxy: Proxy, client: redis.Redis, standalone_server: RedisProcess
    ) -> None:
        """Each n-th command is run, and its answer lost; those around it are answered."""
        proxy.reset_every(commands=3)
        outcomes = [_outcome(client) for _ in range(7)]
        assert outcomes == [1, 2, None, 4, 5, None, 7]
        assert standalone_server.cli("GET", KEY) == "7"

    def test_reset_every_n_bytes_tears_a_command(
        self, proxy: Proxy, client: redis.Redis, standalone_server: RedisProcess
    ) -> None:
        """A command cut in the middle isn't run."""
        proxy.reset_every(n_bytes=10)
        assert _outcome(client) is None
        assert standalone_server.cli("GET", KEY) is None

    def test_dead_server_behind_it_is_a_reset(self, fresh_standalone: RedisProcess) -> None:
        """While the server is down a client is cut; when it is back the same proxy works."""
        with (
            Proxy(fresh_standalone.address) as proxy,
            closing(fresh_standalone.client(port=proxy.port)) as client,
        ):
            assert client.ping()
            fresh_standalone.kill()
            with pytest.raises(redis.ConnectionError):
                client.ping()
            fresh_standalone.restart()
            assert client.ping()


def test_counts_commands_in_pieces() -> None:
    """Requests are counted however the stream is cut, and by lines where they are inline."""
    stream = b"*2\r\n$3\r\nGET\r\n$4\r\n\r\n*1\r\n*1\r\n$4\r\nPING\r\nPING\r\n"
    whole = CommandCounter().ends(stream)
    assert [stream[end - 6 : end] for end in whole] == [b"\r\n*1\r\n", b"PING\r\n", b"PING\r\n"]
    by_byte = CommandCounter()
    assert [i + 1 for i in range(len(stream)) if by_byte.ends(stream[i : i + 1])] == whole


def _slot(servers: Cluster) -> int:
    return servers.slot_of(KEY)


def _source_and_target(servers: Cluster) -> tuple[ClusterNode, ClusterNode]:
    source = servers.node_of_key(KEY)
    return source, next(node for node in servers.primaries() if node is not source)


def _as_flowcache(server: TlsServer, **options: object) -> redis.Redis:
    access = server.access
    asked: dict[str, object] = {"username": access.username, "password": access.password}
    return server.process.client(**(asked | options))


def _first_reply(server: TlsServer, tls: ClientTls) -> bytes:
    """Ask for PING without a word about who asks; TLS 1.3 refuses a client no sooner than here."""
    with (
        socket.create_connection(server.process.address, timeout=5) as plain,
        tls.context().wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(b"PING\r\n")
        return secure.recv(64)


def _outcome(client: redis.Redis) -> object:
    try:
        return client.incr(KEY)
    except redis.ConnectionError:
        return None


def _is_refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
