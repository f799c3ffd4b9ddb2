# SPDX-License-Identifier: Apache-2.0
"""./dev itself: what `up` starts, `down` stops; nobody else's process is touched; servers come back with their data on the same address."""

import base64
import hashlib
import hmac
import json
import os
import signal
import subprocess
import time

import pytest

from stack import ROOT, Stack, wait_until

NO_ROLES = {"ingest": 0, "settle": 0, "router": 0, "gateway": 0, "sweep": 0}


def is_running(pid):
    try:
        state = open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1][0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture(scope="module")
def servers():
    stack = Stack(roles=NO_ROLES, partitions=3)
    try:
        yield stack.up()
    finally:
        stack.down()


def usage_error(*args):
    done = subprocess.run([str(ROOT / "dev"), *args], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    return done.returncode == 2 and "./dev help" in done.stderr


def test_up_starts_three_servers_with_the_money_settings(servers):
    got = {row["Variable_name"]: row["Value"] for row in servers.sql("SHOW VARIABLES")}
    assert got["innodb_flush_log_at_trx_commit"] == "1"
    assert got["tx_isolation"] == "READ-COMMITTED"
    assert got["skip_networking"] == "ON"
    assert servers.redis("config", "get", "maxmemory-policy").split()[1] == "volatile-lru"
    assert len(servers.end_offsets("giftflow.commands")) == 3


def test_env_names_what_outside_programs_need(servers):
    for name in ("BIN CONFIG INGEST_URL ADMIN_URL ADMIN_KEY GATEWAY_URL OPS_URLS KAFKA MYSQL_SOCKET MYSQL_USER MYSQL_DB REDIS_URL JWT_SECRET_FILE PID_DIR LOG_DIR").split():
        assert f"GIFTFLOW_{name}" in servers.env
    assert os.stat(servers.dir).st_mode & 0o077 == 0, "the secrets are nobody else's"


@pytest.mark.parametrize("server", ["mysql", "redis", "kafka"])
def test_a_killed_server_comes_back_on_the_same_address_with_its_data(servers, server):
    address = {k: servers.env[k] for k in ("GIFTFLOW_KAFKA", "GIFTFLOW_MYSQL_SOCKET", "GIFTFLOW_REDIS_URL")}
    servers.sql("CREATE TABLE IF NOT EXISTS seen (id INT PRIMARY KEY)")
    servers.sql("REPLACE INTO seen VALUES (7)")
    before = servers.end_offsets("giftflow.dlq")[0]
    servers.produce("k", "v", topic="giftflow.dlq")
    old = servers.pid(server)
    servers.kill(server)
    assert not is_running(old)
    servers.start(server)
    assert servers.pid(server) != old and is_running(servers.pid(server))
    assert servers.sql("SELECT id FROM seen") == [{"id": 7}]
    assert servers.end_offsets("giftflow.dlq")[0] == before + 1
    assert servers.redis("ping") == "PONG"
    assert address.items() <= servers.env.items()


def test_a_second_start_of_what_runs_is_refused(servers):
    with pytest.raises(AssertionError, match="runs already"):
        servers.start("redis")


def test_a_second_up_changes_nothing_and_keeps_the_partition_count(servers):
    pids = [servers.pid(name) for name in ("kafka", "mysql", "redis")]
    servers.dev("up", "--no-build", *(f"{role}=0" for role in NO_ROLES), "--partitions", "9")
    assert pids == [servers.pid(name) for name in ("kafka", "mysql", "redis")]
    assert servers.sql("SELECT COUNT(*) AS n FROM progress WHERE topic = 'giftflow.commands' AND live = 1") == [{"n": 3}]


def test_the_token_names_the_user_and_is_signed_with_the_secret(servers):
    signed, signature = servers.dev("token", 7, "--ttl", 60).strip().rsplit(".", 1)
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in signed.split("."))
    assert header == {"alg": "HS256", "typ": "JWT"}
    assert claims["sub"] == "7" and claims["exp"] - claims["iat"] == 60 and abs(claims["iat"] - time.time()) < 600
    assert base64.urlsafe_b64decode(signature + "==") == hmac.new(servers.secret, signed.encode(), hashlib.sha256).digest()


def test_down_touches_no_process_that_it_did_not_start():
    """A pid file may be old and its number somebody else's by now."""
    stack = Stack(roles=NO_ROLES, partitions=1).up()
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        (stack.dir / "pid" / "settle-1.pid").write_text(f"{stranger.pid}\n")
        ours = [stack.pid(name) for name in ("kafka", "mysql", "redis")]
        stack.down()
        assert stranger.poll() is None
        assert not any(is_running(pid) for pid in ours)
        assert not stack.dir.exists()
    finally:
        stranger.kill()
        stranger.wait()
        stack.dev("down", "--purge", check=False)


def test_a_failed_start_leaves_nothing_running():
    stack = Stack(roles=NO_ROLES, partitions=1, env={"GIFTFLOW_MYSQL_OPTS": "--no-such-option"})
    with pytest.raises(AssertionError, match="unknown option"):
        stack.up()
    assert list((stack.dir / "pid").glob("*.pid")) == []
    out = subprocess.run(["pgrep", "-f", str(stack.dir)], capture_output=True, text=True).stdout.split()
    assert not [pid for pid in out if is_running(int(pid))]
    stack.dev("down", "--purge")


def test_down_wakes_and_ends_a_stopped_process():
    stack = Stack(roles=NO_ROLES, partitions=1).up()
    pid = stack.pid("redis")
    os.kill(pid, signal.SIGSTOP)
    stack.down()
    wait_until(lambda: not is_running(pid), 60, "redis has ended")


def test_wrong_usage_is_told():
    assert usage_error("no-such-command")
    assert usage_error("up", "sette=2")
    assert usage_error("up", "--partitions")
    assert usage_error("up", "--set", "settle=1")
    assert usage_error("token", "0")
    assert usage_error("bench", "../x")
