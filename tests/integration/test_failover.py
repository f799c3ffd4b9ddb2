# SPDX-License-Identifier: Apache-2.0
"""A primary and its semi-synchronous replica, both in mysql.hosts: the primary dies under load, the replica is promoted, nothing accepted is lost.

The roles work as a user with config/mysql-grants.sql and a password, over a socket and over TCP."""

import time

import pymysql
import pytest

from servers import MYSQL, ROLES, Books, Load, OwnServer, Server, free_port
from stack import wait_until

LOGGED = "--skip-networking=0 --bind-address=127.0.0.1 --log-bin=bin --sync-binlog=1"
MARIADB_OPTS = f"{LOGGED} --gtid-strict-mode=ON --log-slave-updates=ON --rpl-semi-sync-slave-enabled=ON --rpl-semi-sync-master-wait-point=AFTER_SYNC"
MYSQL_OPTS = f"{LOGGED} --gtid-mode=ON --enforce-gtid-consistency=ON --plugin-load-add=semisync_source.so --plugin-load-add=semisync_replica.so --loose-rpl-semi-sync-replica-enabled=ON"
OPTS = MYSQL_OPTS if MYSQL else MARIADB_OPTS
FOREVER_MS = 1_000_000_000  # a primary that went on alone after a while would lose what it then says is safe


class Replica(OwnServer):
    def __init__(self, directory, port):
        super().__init__(directory, port, ["--server-id=2", *OPTS.split()])
        self.start()
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


class Pair(Books):
    """The stack's server is the primary."""

    def __init__(self):
        self.ports = [free_port(), free_port()]
        super().__init__(env={"GIFTFLOW_MYSQL_OPTS": f"{OPTS} --server-id=1 --port={self.ports[0]}"})
        self.replica = None

    def up(self):
        self.stack.up()
        socket = self.stack.env["GIFTFLOW_MYSQL_SOCKET"]
        self.primary = Server(socket)
        self.replica = Replica(self.stack.dir / "replica", self.ports[1])
        self.primary.rows("CREATE USER repl@'127.0.0.1' IDENTIFIED BY 'repl'", "GRANT REPLICATION SLAVE ON *.* TO repl@'127.0.0.1'")
        self.create_user(self.primary, "localhost", "127.0.0.1")
        self.replica.follow(self.ports[0])
        word = "source" if MYSQL else "master"
        self.primary.rows(f"SET GLOBAL rpl_semi_sync_{word}_timeout={FOREVER_MS}", f"SET GLOBAL rpl_semi_sync_{word}_enabled=ON")
        status = f"SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_{word}_clients'"
        wait_until(lambda: int(self.primary.rows(status)[0]["Value"]) == 1, 60, "the replica is connected")
        self.configure([socket, f"127.0.0.1:{self.ports[1]}"])
        self.start_roles(*ROLES)
        self.open()


@pytest.fixture(scope="module")
def pair():
    both = Pair()
    try:
        both.up()
        yield both
    finally:
        both.down([both.replica] if both.replica else [])


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
        replica.freeze()
        for _ in range(10):
            rows = pair.primary.rows("SELECT info FROM information_schema.processlist WHERE state LIKE 'Waiting for semi-sync ACK%'")
            if any(row["info"] == "COMMIT" for row in rows):
                return True
            time.sleep(0.05)
        replica.thaw()
        return False

    with Load(pair):
        wait_until(lambda: pair.settled() >= 200, 120, "gifts settled")
        stack.stop("sweep-1")  # it commits too
        wait_until(commit_waits, 120, "a COMMIT that waits for the replica")
        stack.kill("mysql")
        stack.start("sweep-1", wait=False)
        replica.thaw()
        for role in ROLES:
            wait_until(lambda role=role: pair.is_red(role, "mysql.sock: mysql 2002", f"127.0.0.1:{pair.ports[1]}: server is read-only"), 60, f"{role} is red and says why")
        replica.promote()
        pair.look_at(replica)
        pair.are_ready(*ROLES)
        pair.goes_on()
    assert stack.metrics("settle-1")["giftflow_settle_uncertain_commits_total"] >= 1
    pair.check()


def test_a_first_address_that_is_read_only_is_skipped(pair):
    """The old primary comes back as it should, read-only, with the gifts that it had when it died."""
    stack = pair.stack
    stack.environ["GIFTFLOW_MYSQL_OPTS"] += " --read-only=1"
    stack.start("mysql")
    for role in ROLES:
        stack.stop(role)
        stack.start(role)  # a new process asks the first address first
    pair.send(pair.users)
    pair.check()
    assert pair.primary.rows("SELECT COUNT(*) AS n FROM giftflow.trade WHERE kind = 1")[0]["n"] < len(pair.sent)


def test_where_both_are_read_only_readiness_is_red_and_says_so(pair):
    pair.replica.read_only(True)
    for role in ROLES:
        wait_until(lambda role=role: pair.is_red(role, "mysql.sock: server is read-only", f"127.0.0.1:{pair.ports[1]}: server is read-only"), 60, f"{role} is red and says why")
    pair.send(pair.users)
    pair.replica.read_only(False)
    pair.are_ready(*ROLES)
    pair.check()
