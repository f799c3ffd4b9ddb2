# SPDX-License-Identifier: Apache-2.0
"""./dev itself: what `up` starts, `down` stops; nobody else's process is touched; servers come back with their data on the same address."""

import base64
import fcntl
import hashlib
import hmac
import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from stack import BUILD, ROOT, Stack, process_state, wait_until

NO_ROLES = {"ingest": 0, "settle": 0, "router": 0, "gateway": 0, "sweep": 0}


def is_running(pid):
    return process_state(pid) != "Z"


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


def test_settings_that_the_program_refuses_change_nothing(servers):
    pids = [servers.pid(name) for name in ("kafka", "mysql", "redis")]
    none = [f"{role}=0" for role in NO_ROLES]
    for wrong in ("settle.lanes=0", "settle.lane=2", "log.level=loud"):
        with pytest.raises(AssertionError, match=wrong.split("=")[0]):
            servers.dev("up", "--no-build", *none, "--set", wrong)
    assert pids == [servers.pid(name) for name in ("kafka", "mysql", "redis")] and all(map(is_running, pids))
    servers.dev("up", "--no-build", *none)
    assert "lane" not in (servers.dir / "giftflow.conf").read_text()


def test_a_role_that_cannot_start_ends_alone(servers):
    pids = [servers.pid(name) for name in ("kafka", "mysql", "redis")]
    command = [str(ROOT / "dev"), "up", "--no-build", *(f"{role}=0" for role in NO_ROLES if role != "sweep"), "--dir", str(servers.dir)]
    done = subprocess.run(command, env={**servers.environ, "GIFTFLOW_ROLE_ARGS": "--no-such"}, capture_output=True, text=True, timeout=400)
    assert done.returncode == 1 and "unknown argument '--no-such'" in done.stderr, done.stderr
    assert pids == [servers.pid(name) for name in ("kafka", "mysql", "redis")] and all(map(is_running, pids))
    assert not (servers.dir / "pid" / "sweep-1.pid").exists()


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


def test_nothing_is_lost_in_a_directory_that_is_somebody_elses(tmp_path):
    (tmp_path / "mysql").mkdir()
    (tmp_path / "mysql" / "table").write_text("precious")
    done = subprocess.run([str(ROOT / "dev"), "up", "--no-build", "--dir", str(tmp_path)], env={**os.environ, "GIFTFLOW_BUILD": BUILD},
                          capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 1 and f"{tmp_path}/mysql of its own" in done.stderr, done.stderr
    assert (tmp_path / "mysql" / "table").read_text() == "precious"
    assert not (tmp_path / "ports").exists()


def test_a_purge_leaves_what_is_not_the_stacks(tmp_path):
    (tmp_path / "notes").write_text("precious")
    (tmp_path / "more").mkdir()
    stack = Stack(directory=tmp_path, roles=NO_ROLES, partitions=1).up()
    stack.down()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["more", "notes"]


def test_who_waits_for_a_stack_that_is_purged_does_not_share_it(tmp_path):
    """The file that he waits for is gone when he gets it; others take a new one."""
    (tmp_path / "ports").touch()
    lock = tmp_path / "lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        down = subprocess.Popen([str(ROOT / "dev"), "down", "--dir", str(tmp_path)], stdin=subprocess.DEVNULL)
        inode = os.fstat(held.fileno()).st_ino
        wait_until(lambda: any("->" in line and f":{inode} " in line for line in open("/proc/locks")), 60, "it waits for the lock")
        lock.unlink()
    assert down.wait(60) == 0
    assert lock.exists()


def test_a_second_demo_is_refused():
    (ROOT / "build").mkdir(exist_ok=True)
    with (ROOT / "build" / ".demo.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = subprocess.run([str(ROOT / "dev"), "demo"], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 1 and "another demo" in done.stderr


def test_a_tree_may_have_a_blank_in_its_name(tmp_path):
    tree, directory = tmp_path / "my tree", tmp_path / "stack"
    tree.mkdir()
    shutil.copy(ROOT / "dev", tree / "dev")
    for name in ("build", "config", "tests"):
        (tree / name).symlink_to(ROOT / name)
    environ = {**os.environ, "GIFTFLOW_BUILD": BUILD, "GIFTFLOW_MYSQL_POOL": "128M"}

    def dev(*args):
        return subprocess.run([str(tree / "dev"), *args, "--dir", str(directory)], env=environ, capture_output=True, text=True, timeout=400,
                              stdin=subprocess.DEVNULL, check=True).stdout

    try:
        dev("up", "--no-build", *(f"{role}=0" for role in NO_ROLES), "--partitions", "1")
        sourced = subprocess.run(["bash", "-ec", f'source {directory}/env; "$GIFTFLOW_BIN" version'], capture_output=True, text=True, timeout=60)
        assert sourced.returncode == 0 and sourced.stdout.startswith("giftflow "), sourced.stderr
    finally:
        dev("down", "--purge")


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
    assert usage_error("up", "--dir")
