# SPDX-License-Identifier: Apache-2.0
"""Database servers of a test's own beside the stack's, and settlement on several of them: gifts all the time, and the proof that each is settled once."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import pymysql

from stack import ENGINE, ROOT, Stack, wait_until
from world import uuid8

MYSQL = ENGINE == "mysql"
ROLES = ("settle-1", "ingest-1", "sweep-1")
COINS = 1_000_000


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

    def connect(self, database=None, read_timeout=60):
        return pymysql.connect(
            unix_socket=str(self.path), user="root", database=database, charset="utf8mb4", autocommit=True,
            cursorclass=pymysql.cursors.DictCursor, read_timeout=read_timeout, write_timeout=60,
        )  # fmt: skip

    def rows(self, *queries, read_timeout=60):
        conn = self.connect(read_timeout=read_timeout)
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


def sessions(server, seconds=0):
    """What the roles have asked this server, and it has not answered for so long."""
    rows = server.rows("SELECT info, time FROM information_schema.processlist WHERE user = 'giftflow_app' AND command <> 'Sleep'")
    return [row["info"] for row in rows if row["time"] >= seconds]


class OwnServer(Server):
    """A server that the test starts, kills and freezes. It ends with the test's process, however that ends."""

    def __init__(self, directory, port, options, user=None):
        super().__init__(directory / "r.sock")
        self.dir, self.port, self.process, self.frozen = directory, port, None, False
        directory.mkdir()
        command = str(ROOT / "build" / "mysql" / "mysqld") if MYSQL else "/usr/sbin/mariadbd"
        base = ["--no-defaults", f"--datadir={directory}/data", f"--tmpdir={directory}", *(["--user=root"] if os.getuid() == 0 and not user else [])]
        drop = ["--reuid", user, "--regid", user, "--clear-groups"] if user else []
        self.command = [
            "setpriv", *drop, "--pdeathsig", "KILL", command, *base, f"--socket={self.path}", f"--pid-file={directory}/pid", f"--port={port}",
            "--skip-name-resolve", "--bind-address=127.0.0.1", "--innodb-buffer-pool-size=64M", *options,
        ]  # fmt: skip
        if user:
            shutil.chown(directory, user, user)
        install = [command, *base, "--initialize-insecure"] if MYSQL else ["mariadb-install-db", *base, "--auth-root-authentication-method=normal", "--skip-test-db"]
        with open(directory / "log", "ab") as log:
            subprocess.run(["setpriv", *drop, *install] if drop else install, check=True, stdout=log, stderr=log, timeout=180, env={**os.environ, "TMPDIR": str(directory)})

    def start(self, *options):
        self.path.with_name(self.path.name + ".lock").unlink(missing_ok=True)  # MySQL's: one that was killed leaves it, and its number may be another process's by now
        with open(self.dir / "log", "ab") as log:
            self.process = subprocess.Popen([*self.command, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def log(self):
        return (self.dir / "log").read_text(errors="replace")

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self):
        if self.process:
            self.process.send_signal(signal.SIGCONT)
        self.frozen = False

    def end(self):
        """SIGKILL."""
        if self.process:
            self.process.kill()
            self.process.wait()
        self.process, self.frozen = None, False


@contextlib.contextmanager
def lagging(server, writer):
    """What the writer commits waits at this server, in its order, behind a row for a table that is locked there."""
    conn = server.connect()
    try:
        with conn.cursor() as cursor:
            cursor.execute("LOCK TABLES hold.here READ")
            writer.rows("INSERT INTO hold.here VALUES (NULL)")
            waits = "SELECT id FROM information_schema.processlist WHERE state = 'Waiting for table metadata lock'"
            wait_until(lambda: server.rows(waits), 60, "the row waits")
            yield
    finally:
        conn.close()


class Books:
    """A stack whose roles work as a user with config/mysql-grants.sql over mysql.hosts, and the gifts that it took. `look_at` says where the tests read."""

    def __init__(self, env=None, settings=None):
        self.stack = Stack(roles={"settle": 0, "ingest": 0, "router": 0, "gateway": 0, "sweep": 0}, env=env, settings={"settle.batch": 100, **(settings or {})})
        self.sent, self.users = [], []

    def create_user(self, server, *hosts):
        grants = (ROOT / "config" / "mysql-grants.sql").read_text()
        lines = [line for line in grants.splitlines() if not line.startswith("--")]
        for host in hosts:
            user = f"giftflow_app@'{host}'"
            server.rows(f"CREATE USER {user} IDENTIFIED BY 'a secret'", *(line.replace("giftflow_app@'%'", user) for line in lines))

    def configure(self, hosts):
        """The address list instead of the socket, and the roles' own user."""
        conf, secret = self.stack.dir / "giftflow.conf", self.stack.dir / "secrets" / "mysql.password"
        secret.write_text("a secret")
        lines = conf.read_text().splitlines()
        at = lines.index("[mysql]")
        lines = [line for line in lines if not line.startswith(("socket =", "user = giftflow"))]
        lines[at + 1 : at + 1] = [f"hosts = {', '.join(hosts)}", "user = giftflow_app", f"password_file = {secret}"]
        conf.write_text("\n".join(lines) + "\n")

    def start_roles(self, *roles):
        for role in roles:
            self.stack.start(role, wait=False)
        self.are_ready(*roles)

    def are_ready(self, *roles, deadline=120):
        for role in roles:
            wait_until(lambda role=role: self.stack.is_ready(role), deadline, f"{role} is ready")

    def look_at(self, server):
        self.stack.close_db()
        self.stack.connect_db = lambda user=None: server.connect("giftflow")

    def readiness(self, role):
        return self.stack.http("GET", "/readyz", base=self.stack.ops_url(role))

    def is_red(self, role, *reasons):
        status, _, text = self.readiness(role)
        return status == 503 and all(reason in text for reason in reasons)

    def open(self):
        """A gift of one coin, and twenty users who can give it a million times."""
        self.stack.sql("INSERT INTO gift (gift_id, name, cover_url, effect_url, max_quantity, status, ver, updated_ms) VALUES (1, 'Rose', '', '', 9999, 1, 1, 0)")
        self.stack.sql("INSERT INTO gift_price VALUES (1, 0, 9223372036854775807, 1, 5000)")
        self.users = [self.stack.new_id() for _ in range(20)]
        self.stack.produce_many([self.credit(user) for user in self.users])
        self.stack.drain()

    def credit(self, user, sql=None):
        """A row of `credit`, and the record that names it."""
        credit_id = uuid8()
        (sql or self.stack.sql)(
            "INSERT INTO credit (credit_id, kind, user_id, coins, actor, reason, status, created_ms) VALUES (%s, 3, %s, %s, 'test', 'test', 1, %s)",
            uuid.UUID(credit_id).bytes, user, COINS, int(time.time() * 1000),
        )  # fmt: skip
        return str(user), {"v": 1, "type": "credit", "request_id": credit_id, "user_id": user, "kind": "adjust", "ts": 1}

    def send(self, users, count=1):
        """Kafka has taken them: accepted."""
        commands = [self.stack.gift_command(user, gift_id=1, price=1) for user in users for _ in range(count)]
        self.stack.produce_many([(str(command["user_id"]), command) for command in commands])
        self.sent += [(command["user_id"], command["request_id"]) for command in commands]

    def settled(self):
        return self.stack.sql("SELECT COUNT(*) AS n FROM trade WHERE kind = 1 AND outcome = 0")[0]["n"]

    def goes_on(self, more=100, deadline=120):
        """Gifts are settled, by whichever server it is now."""
        before = self.settled()
        wait_until(lambda: self.settled() >= before + more, deadline, "more gifts settled")

    def check(self):
        """Each gift that Kafka took is settled once, nothing else is, and each has its notice."""
        self.stack.drain(180)
        rows = self.stack.sql("SELECT log, off, user_id, request_id, outcome FROM trade WHERE kind = 1")
        assert all(row["outcome"] == 0 for row in rows)
        settled = Counter((row["user_id"], str(uuid.UUID(bytes=row["request_id"]))) for row in rows)
        assert settled == Counter(self.sent), ("lost, more than once", Counter(self.sent) - settled, settled - Counter(self.sent))
        assert sum(COINS - self.stack.balance(user) for user in self.users) == len(self.sent)
        assert self.stack.sql("SELECT COUNT(*) AS n FROM dead_letter")[0]["n"] == 0
        ids = {f"{row['log']}-{row['off']}:5556" for row in rows}
        told = lambda: ids <= {record["payload"].split('"')[3] for record in self.stack.records("giftflow.notices")}  # noqa: E731
        wait_until(told, 90, "a notice of every gift", every=0.5)
        self.stack.verify()

    def down(self, servers):
        """Roles first: they drain while the servers are there, the frozen ones of a failed test too."""
        for server in servers:
            server.thaw()
        try:
            self.stack.down(purge=False)
            found = self.stack.bad_log_lines()
        finally:
            for server in servers:
                server.end()
            self.stack.dev("down", "--purge", check=False)
        assert not found, "\n".join(found)


class Cluster(Books):
    """Own servers in the place of the stack's, each with the whole of the database; `form` makes them one."""

    def __init__(self, settings=None):
        super().__init__(settings=settings)
        self.dir = Path(tempfile.mkdtemp(prefix="gf-cluster-", dir="/tmp"))  # not in TMPDIR: a server that is not root's may not go there
        self.dir.chmod(0o755)
        self.nodes = []

    def form(self):
        raise NotImplementedError

    def up(self):
        self.form()
        self.stack.up()
        self.stack.stop("mysql")
        first = self.nodes[0]
        first.rows(
            "CREATE DATABASE giftflow CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", "CREATE USER giftflow@'127.0.0.1' IDENTIFIED BY 'a secret'",
            "GRANT ALL ON giftflow.* TO giftflow@'127.0.0.1'", "CREATE DATABASE hold", "CREATE TABLE hold.here (id INT AUTO_INCREMENT PRIMARY KEY)",
        )  # fmt: skip
        self.configure([f"127.0.0.1:{node.port}" for node in self.nodes])
        self.init()
        self.create_user(first, "127.0.0.1")
        self.look_at(first)
        self.start_roles(*ROLES)
        self.open()

    def init(self):
        env, config = self.stack.env, self.stack.env["GIFTFLOW_CONFIG"]
        command = [env["GIFTFLOW_BIN"], "init", "--config", config]
        done = subprocess.run(command, env={**self.stack.environ, "GIFTFLOW_MYSQL_USER": "giftflow"}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr

    def first_ask(self, node, *roles):
        """Starts these roles anew, with this node as the first of their list."""
        at = self.nodes.index(node)
        self.stack.environ["GIFTFLOW_MYSQL_HOSTS"] = ", ".join(f"127.0.0.1:{each.port}" for each in self.nodes[at:] + self.nodes[:at])
        for role in roles:
            if not self.stack.has_ended(role):
                self.stack.stop(role)
        self.start_roles(*roles)

    def counted(self, *names, role="settle-1"):
        metrics = self.stack.metrics(role)
        return sum(metrics[name] for name in names)

    def kill_in_a_commit(self, writer, others):
        """The others are frozen for a moment, for less than the five seconds after which they are put out, so that a COMMIT waits for them."""

        def waits():
            for node in others:
                node.freeze()
            for _ in range(10):
                if "COMMIT" in sessions(writer):
                    return True
                time.sleep(0.05)
            for node in others:
                node.thaw()
            return False

        self.stack.stop("sweep-1")  # it commits too
        wait_until(waits, 120, "a COMMIT that waits for the others", every=0.5)
        writer.end()
        self.stack.start("sweep-1", wait=False)
        for node in others:
            node.thaw()

    def down(self):
        try:
            super().down(self.nodes)
        finally:
            shutil.rmtree(self.dir, ignore_errors=True)


class Load:
    """Gifts all the time."""

    def __init__(self, books):
        self.books, self.stop, self.error = books, threading.Event(), None
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            while not self.stop.is_set():
                self.books.send(self.books.users, 2)
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
