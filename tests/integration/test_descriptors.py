# SPDX-License-Identifier: Apache-2.0
"""Clients cannot take all of a process's descriptors: it goes on reaching the parts behind, and answers whoever asks whether it lives."""

import contextlib
import socket
import subprocess
from urllib.parse import urlsplit

import pytest

from stack import ROOT, wait_until


def start_limited(stack, name, limits):
    """As ./dev start does, by a shell with these limits (ulimit)."""
    stack.stop(name)
    script = f"{limits}; exec \"$@\""
    subprocess.run(["bash", "-ec", script, "-", ROOT / "dev", "start", name, "--no-wait", "--dir", stack.dir], env=stack.environ, check=True,
                   stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    stack._read_env()
    wait_until(lambda: stack.is_alive(name), 60, f"{name} answers")


@contextlib.contextmanager
def idle_connections(url, count):
    """So many that were accepted by the kernel, and say nothing."""
    with contextlib.ExitStack() as sockets:
        yield [sockets.enter_context(socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=60)) for _ in range(count)]


def still_open(connection):
    connection.setblocking(False)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False  # closed, or refused with an answer


@pytest.mark.parametrize("role", ["ingest", "gateway"])
def test_clients_leave_descriptors_for_the_rest(make_stack, role):
    name = f"{role}-1"
    settings = {"ingest.header_timeout": "60s", "ingest.idle_timeout": "10m", "gateway.handshake_timeout": "60s"}
    stack = make_stack(roles={"settle": 0, "sweep": 0}, settings=settings, gifts=False)
    url = {"ingest": stack.ingest_url, "gateway": stack.gateway_url}[role]

    start_limited(stack, name, "ulimit -Sn 256")  # it may be raised, and is
    with idle_connections(url(), 300) as connections:
        assert stack.is_alive(name)
        assert all(map(still_open, connections))

    start_limited(stack, name, "ulimit -n 512")  # it may not: fewer clients, and one line that says so
    with idle_connections(url(), 600) as connections:
        assert stack.is_alive(name)
        wait_until(lambda: sum(map(still_open, connections)) == 256, 60, "those beyond the cap are refused")
        assert stack.is_alive(name)
    assert "descriptors_limited limit=512" in stack.log_text(name).replace("event=", "")


def test_those_who_have_not_entered_share_with_those_who_have(make_stack):
    stack = make_stack(roles={"settle": 0, "sweep": 0}, settings={"gateway.handshake_timeout": "60s", "gateway.ping": "10m"}, gifts=False)
    start_limited(stack, "gateway-1", "ulimit -n 512")
    with contextlib.ExitStack() as clients:
        for user in range(1, 201):
            clients.enter_context(stack.ws(user, 1))
        with idle_connections(stack.gateway_url(), 500) as connections:
            wait_until(lambda: sum(map(still_open, connections)) == 64, 60, "256 connections are shared, but 64 may always be on their way in")
            assert stack.is_alive("gateway-1")
        assert stack.metrics("gateway-1")["giftflow_ws_connections"] == 200
