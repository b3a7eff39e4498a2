"""Ports: free ones, and never the same for two."""

import os
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import pytest

from evalscope_evalflow.processes import ports

LEASER = """
import sys
from evalscope_evalflow.processes import ports
first = int(sys.argv[1]) or None
leases = [ports.lease("127.0.0.1", first) for _ in range(int(sys.argv[2]))]
print(*(lease.port for lease in leases), flush=True)
sys.stdin.readline()
"""


@contextmanager
def listening(host="127.0.0.1", port=0, family=socket.AF_INET):
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, port))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def first():
    """A port that is free, and so are some after it: of the range that we choose from."""
    lease = ports.lease("127.0.0.1")
    lease.release()
    return lease.port


@contextmanager
def leaser(first, number):
    """Another process that holds leases: its ports."""
    with subprocess.Popen(
        [sys.executable, "-c", LEASER, str(first or 0), str(number)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process, lambda: [int(port) for port in process.stdout.readline().split()]
        finally:
            process.kill()


def test_a_port_can_be_bound_while_it_is_leased():
    lease = ports.lease("127.0.0.1")
    try:
        assert lease.port in ports.RANGE
        with listening(port=lease.port) as port:
            assert port == lease.port
    finally:
        lease.release()


def test_range_is_outside_that_of_outgoing_connections():
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        low, high = map(int, file.read().split())
    assert not set(ports.RANGE) & set(range(low, high + 1))


def test_first_choice(first):
    lease = ports.lease("127.0.0.1", first)
    assert lease.port == first
    lease.release()


def test_next_free_one(first):
    """After one that a server holds, and one that is leased."""
    with listening(port=first):
        second = ports.lease("127.0.0.1", first)
        third = ports.lease("127.0.0.1", first)
        assert first < second.port < third.port
        second.release()
        third.release()


def test_given_back(first):
    for _ in range(3):
        lease = ports.lease("127.0.0.1", first)
        assert lease.port == first
        lease.release()


def test_leases_of_one_process_differ():
    with ExitStack() as cleanup:
        leased = [ports.lease("127.0.0.1") for _ in range(50)]
        for lease in leased:
            cleanup.callback(lease.release)
        assert len({lease.port for lease in leased}) == 50


@pytest.mark.parametrize("same_first", [True, False])
def test_processes_never_get_the_same(first, same_first):
    """At the same time, with the same first choice."""
    with ExitStack() as stack:
        processes = [stack.enter_context(leaser(first if same_first else None, 5)) for _ in range(4)]
        found = [port for _, leased in processes for port in leased()]
        assert len(found) == 20
        assert len(set(found)) == 20


def test_a_killed_process_holds_no_lease(first):
    with leaser(first, 1) as (process, leased):
        (port,) = leased()
        other = ports.lease("127.0.0.1", port)
        assert other.port != port
        other.release()
        process.kill()
        process.wait()
        again = ports.lease("127.0.0.1", port)
        assert again.port == port
        again.release()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("taken", ["127.0.0.1", "0.0.0.0"])
def test_is_free(host, taken):
    with listening(taken) as port:
        assert not ports.is_free(host, port)
    assert ports.is_free(host, port)


def test_is_free_after_a_connection(first):
    """Closed connections (TIME_WAIT) do not take a port: servers bind with SO_REUSEADDR."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", first))
        server.listen()
        with socket.create_connection(("127.0.0.1", first)) as client:
            end, _ = server.accept()
            end.close()  # the server's side closes first: TIME_WAIT is its
            assert client.recv(1) == b""
    assert ports.is_free("127.0.0.1", first)


def test_ipv6():
    with listening("::1", family=socket.AF_INET6) as port:
        assert not ports.is_free("::1", port)
    assert ports.is_free("::1", port)


def test_an_address_that_is_not_ours():
    assert not ports.is_free("192.0.2.1", 20000)  # of a range for documentation
    with pytest.raises(OSError, match=r"cannot listen at 192\.0\.2\.1: "):
        ports.lease("192.0.2.1", 65500)


@pytest.mark.parametrize("host", ["\x80", "a\0b", "\ud800", "a" * 70 + ".x", " "])
def test_a_text_that_is_no_host_name(host):
    reason = ports.why_not(host, 0)
    assert isinstance(reason, OSError)
    assert reason.strerror


def test_a_lease_is_not_inherited(first):
    """A server that outlived us would hold it."""
    lease = ports.lease("127.0.0.1", first)
    other = subprocess.Popen([sys.executable, "-ISc", "import time; time.sleep(600)"], close_fds=False)
    try:
        lease.release()
        again = ports.lease("127.0.0.1", first)
        assert again.port == first
        again.release()
    finally:
        other.kill()
        other.wait()


def test_locks_are_where_only_we_write(first):
    ports.lease("127.0.0.1", first).release()
    folder = ports._lock_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.stat().st_uid == os.getuid()
