# SPDX-License-Identifier: Apache-2.0
"""A primary and its semi-synchronous replica, both in mysql.hosts: the primary dies under load, the replica is promoted, nothing accepted is lost.

The roles work as a user with config/mysql-grants.sql and a password, over a socket and over TCP."""

import os
import random
import signal
import socket
import subprocess
import threading
import time
import uuid

import pymysql
import pytest

from stack import ENGINE, ROOT, Stack, uuid7, wait_until

MYSQL = ENGINE == "mysql"
ROLES = ("settle-1", "ingest-1", "sweep-1")
LOGGED = "--skip-networking=0 --bind-address=127.0.0.1 --log-bin=bin --sync-binlog=1"
MARIADB_OPTS = f"{LOGGED} --gtid-strict-mode=ON --log-slave-updates=ON --rpl-semi-sync-slave-enabled=ON --rpl-semi-sync-master-wait-point=AFTER_SYNC"
MYSQL_OPTS = f"{LOGGED} --gtid-mode=ON --enforce-gtid-consistency=ON --plugin-load-add=semisync_source.so --plugin-load-add=semisync_replica.so --loose-rpl-semi-sync-replica-enabled=ON"
OPTS = MYSQL_OPTS if MYSQL else MARIADB_OPTS
FOREVER_MS = 1_000_000_000  # a primary that went on alone after a while would lose what it then says is safe


def free_port():
    """Below those that ./dev takes, which are below the kernel's own: no outgoing connection has it when the server starts, or starts again."""
    for port in random.sample(range(10000, 20000), 1000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass
    raise AssertionError("no port is free")


class Server:
    """root on one server, by its socket."""

    def __init__(self, path):
        self.path = path

    def rows(self, *queries):
        conn = pymysql.connect(unix_socket=str(self.path), user="root", charset="utf8mb4", autocommit=True, cursorclass=pymysql.cursors.DictCursor, read_timeout=60)
        try:
            with conn.cursor() as cursor:
                for query in queries:
                    cursor.execute(query)
                return cursor.fetchall()
        finally:
            conn.close()

    def answers(self):
        try:
            return bool(self.rows("SELECT 1"))
        except pymysql.MySQLError:
            return False

    def read_only(self, on):
        """MySQL's stronger one brings the other with it, and goes with it."""
        self.rows(f"SET GLOBAL {'super_read_only' if MYSQL and on else 'read_only'}={int(on)}")


class Replica(Server):
    """A server of this test's own beside the stack's."""

    def __init__(self, directory, port):
        super().__init__(directory / "r.sock")
        self.dir, self.port = directory, port
        directory.mkdir()
        command = str(ROOT / "build" / "mysql" / "mysqld") if MYSQL else "/usr/sbin/mariadbd"
        base = ["--no-defaults", f"--datadir={directory}/data", f"--tmpdir={directory}", *(["--user=root"] if os.getuid() == 0 else [])]
        install = [command, *base, "--initialize-insecure"] if MYSQL else ["mariadb-install-db", *base, "--auth-root-authentication-method=normal", "--skip-test-db"]
        with open(directory / "log", "ab") as log:
            subprocess.run(install, check=True, stdout=log, stderr=log, timeout=120, env={**os.environ, "TMPDIR": str(directory)})
            self.process = subprocess.Popen(
                [command, *base, f"--socket={self.path}", f"--pid-file={directory}/pid", f"--port={port}", "--server-id=2", "--skip-name-resolve",
                 "--innodb-buffer-pool-size=64M", *OPTS.split()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        wait_until(self.answers, 120, "the replica")

    def follow(self, port):
        if MYSQL:
            source = f"CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='repl', SOURCE_PASSWORD='repl', SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1"
            self.rows(source, "START REPLICA")
        else:
            self.rows(f"CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='repl', MASTER_PASSWORD='repl', MASTER_USE_GTID=slave_pos", "START SLAVE")
        self.read_only(True)

    def promote(self):
        """As it should be done: all that was received is applied before the replica becomes the primary."""
        if MYSQL:
            got = self.rows("SHOW REPLICA STATUS")[0]["Retrieved_Gtid_Set"]
            assert self.rows(f"SELECT WAIT_FOR_EXECUTED_GTID_SET('{got}', 60) AS late")[0]["late"] == 0
            self.rows("STOP REPLICA", "RESET REPLICA ALL")
        else:
            got = self.rows("SHOW SLAVE STATUS")[0]["Gtid_IO_Pos"]
            assert self.rows(f"SELECT MASTER_GTID_WAIT('{got}', 60) AS late")[0]["late"] == 0
            self.rows("STOP SLAVE", "RESET SLAVE ALL")
        self.read_only(False)

    def end(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


class Pair:
    """The stack whose first server is the primary, and the replica; `server` is where the tests look."""

    def __init__(self):
        self.ports = [free_port(), free_port()]
        env = {"GIFTFLOW_MYSQL_OPTS": f"{OPTS} --server-id=1 --port={self.ports[0]}"}
        self.stack = Stack(roles={"settle": 0, "ingest": 0, "router": 0, "gateway": 0, "sweep": 0}, env=env, settings={"settle.batch": 100})
        self.replica = None
        self.sent = []

    def up(self):
        self.stack.up()
        self.primary = Server(self.stack.env["GIFTFLOW_MYSQL_SOCKET"])
        self.replica = Replica(self.stack.dir / "replica", self.ports[1])
        grants = (ROOT / "config" / "mysql-grants.sql").read_text()
        lines = [line for line in grants.splitlines() if not line.startswith("--")]
        self.primary.rows("CREATE USER repl@'127.0.0.1' IDENTIFIED BY 'repl'", "GRANT REPLICATION SLAVE ON *.* TO repl@'127.0.0.1'")
        for host in ("localhost", "127.0.0.1"):
            user = f"giftflow_app@'{host}'"
            self.primary.rows(f"CREATE USER {user} IDENTIFIED BY 'a secret'", *(line.replace("giftflow_app@'%'", user) for line in lines))
        self.replica.follow(self.ports[0])
        word = "source" if MYSQL else "master"
        self.primary.rows(f"SET GLOBAL rpl_semi_sync_{word}_timeout={FOREVER_MS}", f"SET GLOBAL rpl_semi_sync_{word}_enabled=ON")
        status = f"SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_{word}_clients'"
        wait_until(lambda: int(self.primary.rows(status)[0]["Value"]) == 1, 60, "the replica is connected")
        self._configure()
        for role in ROLES:
            self.stack.start(role, wait=False)
        for role in ROLES:
            wait_until(lambda role=role: self.stack.is_ready(role), 120, f"{role} is ready")
        return self

    def _configure(self):
        """The address list instead of the socket, and the roles' own user."""
        conf, secret = self.stack.dir / "giftflow.conf", self.stack.dir / "secrets" / "mysql.password"
        secret.write_text("a secret")
        lines = conf.read_text().splitlines()
        at = lines.index("[mysql]")
        lines = [line for line in lines if not line.startswith(("socket =", "user = giftflow"))]
        hosts = f"{self.stack.env['GIFTFLOW_MYSQL_SOCKET']}, 127.0.0.1:{self.ports[1]}"
        lines[at + 1 : at + 1] = [f"hosts = {hosts}", "user = giftflow_app", f"password_file = {secret}"]
        conf.write_text("\n".join(lines) + "\n")

    def look_at_the_replica(self):
        """From now on it is the primary for the tests too."""
        self.stack.close_db()
        self.stack.connect_db = lambda user=None: pymysql.connect(
            unix_socket=str(self.replica.path), user="root", database="giftflow", charset="utf8mb4", autocommit=True,
            cursorclass=pymysql.cursors.DictCursor, read_timeout=60, write_timeout=60,
        )  # fmt: skip

    def readiness(self, role):
        return self.stack.http("GET", "/readyz", base=self.stack.ops_url(role))

    def is_red(self, role, *reasons):
        status, _, text = self.readiness(role)
        return status == 503 and all(reason in text for reason in reasons)

    def fund(self, users):
        commands = []
        for user in users:
            raw = bytearray(uuid.UUID(uuid7()).bytes)
            raw[6] = 0x80 | raw[6] & 0x0F
            self.stack.sql(
                "INSERT INTO credit (credit_id, kind, user_id, coins, actor, reason, status, created_ms) VALUES (%s, 3, %s, 1000000, 'test', 'test', 1, %s)",
                bytes(raw), user, int(time.time() * 1000),
            )  # fmt: skip
            commands.append((str(user), {"v": 1, "type": "credit", "request_id": str(uuid.UUID(bytes=bytes(raw))), "user_id": user, "kind": "adjust", "ts": 1}))
        self.stack.produce_many(commands)
        self.stack.drain()

    def send(self, users, count=1):
        """Kafka has taken them: accepted."""
        commands = [self.stack.gift_command(user, gift_id=1, price=1) for user in users for _ in range(count)]
        self.stack.produce_many([(str(command["user_id"]), command) for command in commands])
        self.sent += [(command["user_id"], command["request_id"]) for command in commands]

    def settled(self):
        return self.stack.sql("SELECT COUNT(*) AS n FROM trade WHERE kind = 1 AND outcome = 0")[0]["n"]

    def check(self, users):
        """Each gift that Kafka took is settled once, nothing else is, and each has its notice."""
        self.stack.drain(180)
        rows = self.stack.sql("SELECT log, off, user_id, request_id, outcome FROM trade WHERE kind = 1")
        assert all(row["outcome"] == 0 for row in rows)
        assert sorted((row["user_id"], str(uuid.UUID(bytes=row["request_id"]))) for row in rows) == sorted(self.sent)
        assert sum(1_000_000 - self.stack.balance(user) for user in users) == len(self.sent)
        ids = {f"{row['log']}-{row['off']}:5556" for row in rows}
        told = lambda: ids <= {record["payload"].split('"')[3] for record in self.stack.records("giftflow.notices")}  # noqa: E731
        wait_until(told, 90, "a notice of every gift", every=0.5)
        self.stack.verify()

    def down(self):
        try:
            self.stack.down(purge=False)
            found = self.stack.bad_log_lines()
        finally:
            if self.replica:
                self.replica.end()
            self.stack.dev("down", "--purge", check=False)
        assert not found, "\n".join(found)


@pytest.fixture(scope="module")
def pair():
    both = Pair()
    try:
        both.up()
        stack = both.stack
        stack.sql("INSERT INTO gift (gift_id, name, cover_url, effect_url, max_quantity, status, ver, updated_ms) VALUES (1, 'Rose', '', '', 9999, 1, 1, 0)")
        stack.sql("INSERT INTO gift_price VALUES (1, 0, 9223372036854775807, 1, 5000)")
        both.users = [stack.new_id() for _ in range(20)]
        both.fund(both.users)
        yield both
    finally:
        both.down()


class Load:
    """Gifts all the time."""

    def __init__(self, pair):
        self.pair, self.stop, self.error = pair, threading.Event(), None
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            while not self.stop.is_set():
                self.pair.send(self.pair.users, 2)
                self.stop.wait(0.05)
        except Exception as error:  # told by the test, in its own thread
            self.error = error

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        assert self.error is None, self.error


def test_the_roles_may_not_touch_what_is_settled(pair):
    conn = pymysql.connect(unix_socket=str(pair.primary.path), user="giftflow_app", password="a secret", database="giftflow")
    try:
        for statement in ("UPDATE trade SET amount=0", "DELETE FROM trade", "DELETE FROM batch", "UPDATE batch SET debit=0", "DELETE FROM wallet", "DROP TABLE trade"):
            with conn.cursor() as cursor, pytest.raises(pymysql.MySQLError) as refused:
                cursor.execute(statement)
            assert refused.value.args[0] == 1142, statement
    finally:
        conn.close()


def test_the_primary_dies_in_a_commit_and_the_replica_takes_over(pair):
    """F7: the replica is held back, so that a COMMIT waits for its acknowledgement when the primary is killed; what became of it only the new one knows."""
    stack, replica = pair.stack, pair.replica

    def commit_waits():
        """Of a batch, that is; what else waits for the replica is let go, and it is tried again."""
        replica.process.send_signal(signal.SIGSTOP)
        for _ in range(10):
            rows = pair.primary.rows("SELECT info FROM information_schema.processlist WHERE state LIKE 'Waiting for semi-sync ACK%'")
            if any(row["info"] == "COMMIT" for row in rows):
                return True
            time.sleep(0.05)
        replica.process.send_signal(signal.SIGCONT)
        return False

    with Load(pair):
        wait_until(lambda: pair.settled() >= 200, 120, "gifts settled")
        stack.stop("sweep-1")  # it commits too
        wait_until(commit_waits, 120, "a COMMIT that waits for the replica")
        stack.kill("mysql")
        stack.start("sweep-1", wait=False)
        replica.process.send_signal(signal.SIGCONT)
        for role in ROLES:
            wait_until(lambda role=role: pair.is_red(role, "mysql.sock: mysql 2002", f"127.0.0.1:{pair.ports[1]}: server is read-only"), 60, f"{role} is red and says why")
        replica.promote()
        pair.look_at_the_replica()
        for role in ROLES:
            wait_until(lambda role=role: stack.is_ready(role), 60, f"{role} is ready again")
        before = pair.settled()
        wait_until(lambda: pair.settled() >= before + 100, 60, "gifts settled by the new primary")
    assert stack.metrics("settle-1")["giftflow_settle_uncertain_commits_total"] >= 1
    pair.check(pair.users)


def test_a_first_address_that_is_read_only_is_skipped(pair):
    """The old primary comes back as it should, read-only, with the gifts that it had when it died."""
    stack = pair.stack
    stack.environ["GIFTFLOW_MYSQL_OPTS"] += " --read-only=1"
    stack.start("mysql")
    for role in ROLES:
        stack.stop(role)
        stack.start(role)  # a new process asks the first address first
    pair.send(pair.users)
    pair.check(pair.users)
    assert pair.primary.rows("SELECT COUNT(*) AS n FROM giftflow.trade WHERE kind = 1")[0]["n"] < len(pair.sent)


def test_where_both_are_read_only_readiness_is_red_and_says_so(pair):
    stack = pair.stack
    pair.replica.read_only(True)
    for role in ROLES:
        wait_until(lambda role=role: pair.is_red(role, "mysql.sock: server is read-only", f"127.0.0.1:{pair.ports[1]}: server is read-only"), 60, f"{role} is red and says why")
    pair.send(pair.users)
    pair.replica.read_only(False)
    for role in ROLES:
        wait_until(lambda role=role: stack.is_ready(role), 60, f"{role} is ready again")
    pair.check(pair.users)
