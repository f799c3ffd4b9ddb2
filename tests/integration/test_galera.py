# SPDX-License-Identifier: Apache-2.0
"""A Galera cluster of three nodes, all in mysql.hosts: nodes die, freeze, lose their cluster, lag and write against each other, and every gift that was
accepted is settled once. Locks are the node's own here; what two nodes do to the same rows meets at COMMIT."""

import contextlib
import os
import threading

import pymysql
import pytest

from servers import COINS, ROLES, Cluster, Load, OwnServer, free_port, lagging, sessions
from stack import wait_until

PROVIDER = "/usr/lib/galera/libgalera_smm.so"


class Node(OwnServer):
    """rsync's state transfer does not work as root: a node of root's is mysql's."""

    def __init__(self, directory, ports, group):
        self.group_port = ports["group"]
        provider = f"base_host=127.0.0.1;base_port={ports['group']};gmcast.listen_addr=tcp://127.0.0.1:{ports['group']};ist.recv_addr=127.0.0.1:{ports['ist']};gcache.size=32M"
        options = [
            "--binlog-format=ROW", "--innodb-autoinc-lock-mode=2", "--innodb-log-file-size=32M", "--wsrep-on=ON", f"--wsrep-provider={PROVIDER}", "--wsrep-cluster-name=gf",
            f"--wsrep-cluster-address=gcomm://{group}", f"--wsrep-node-name={directory.name}", f"--wsrep-node-address=127.0.0.1:{ports['group']}",
            f"--wsrep-node-incoming-address=127.0.0.1:{ports['sql']}", "--wsrep-sst-method=rsync", f"--wsrep-sst-receive-address=127.0.0.1:{ports['sst']}",
            f"--wsrep-provider-options={provider}",
        ]  # fmt: skip
        super().__init__(directory, ports["sql"], options, user="mysql" if os.getuid() == 0 else None)

    def status(self, name):
        return self.rows(f"SHOW GLOBAL STATUS LIKE 'wsrep_{name}'")[0]["Value"]

    def is_synced(self, size=3):
        try:
            return self.status("local_state_comment") == "Synced" and self.status("cluster_status") == "Primary" and int(self.status("cluster_size")) == size
        except pymysql.MySQLError:
            return False

    def await_synced(self, size=3):
        wait_until(lambda: self.process.poll() is not None or self.is_synced(size), 180, f"{self.dir.name} is synced")
        assert self.process.poll() is None, self.log()[-3000:]

    def connect(self, database=None, read_timeout=60):
        """Never behind another node."""
        conn = super().connect(database, read_timeout)
        with conn.cursor() as cursor:
            cursor.execute("SET SESSION wsrep_sync_wait=%s", (1 if database else 0,))
        return conn


class Galera(Cluster):
    def form(self):
        ports = [{name: free_port() for name in ("sql", "group", "ist", "sst")} for _ in range(3)]
        group = ",".join(f"127.0.0.1:{each['group']}" for each in ports)
        for i, each in enumerate(ports):
            self.nodes.append(Node(self.dir / f"n{i + 1}", each, group))
            self.nodes[i].start(*(["--wsrep-new-cluster"] if i == 0 else []))
            self.nodes[i].await_synced(i + 1)

    def await_whole(self):
        for node in self.nodes:
            node.await_synced()


@pytest.fixture(scope="module")
def galera():
    cluster = Galera()
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


UNCERTAIN = "giftflow_settle_uncertain_commits_total"
RETRIES = ('giftflow_settle_retries_total{class="retry"}', 'giftflow_settle_retries_total{class="uncertain"}')
FENCED = "giftflow_settle_fenced_total"


def test_the_writer_dies_in_a_commit_and_another_node_takes_over(galera):
    """F7: the two others are frozen for a moment, so that a COMMIT waits for them when the writer is killed; what became of it only they know."""
    writer, others = galera.nodes[0], galera.nodes[1:]

    with Load(galera):
        galera.goes_on()
        galera.kill_in_a_commit(writer, others)
        galera.look_at(others[0])
        galera.are_ready(*ROLES)
        galera.goes_on()
        writer.start()
        galera.await_whole()
    assert galera.counted(UNCERTAIN) >= 1
    galera.check()


def test_the_writer_is_frozen_and_comes_back(galera):
    writer, other = galera.nodes[0], galera.nodes[1]
    galera.first_ask(writer, *ROLES)
    galera.look_at(other)
    with Load(galera):
        galera.goes_on()
        writer.freeze()
        galera.goes_on(500)
        galera.are_ready(*ROLES)
        writer.thaw()
        galera.await_whole()
        galera.goes_on()
    galera.check()


def test_a_node_without_its_cluster_is_red_and_heals(galera):
    writer, others = galera.nodes[0], galera.nodes[1:]
    galera.first_ask(writer, *ROLES)
    galera.look_at(writer)
    with Load(galera):
        galera.goes_on()
        for node in others:
            node.freeze()
        for role in ROLES:
            wait_until(lambda role=role: galera.is_red(role, f"127.0.0.1:{writer.port}: mysql 1047"), 180, f"{role} is red and says why")
        for node in others:
            node.thaw()
        galera.await_whole()
        galera.are_ready(*ROLES)
        galera.goes_on()
    galera.check()


def test_a_foreign_writer_on_another_node_ends_transactions_at_any_statement(galera):
    """Their rows meet when they are certified: whoever is later is rolled back with 1213, here and there."""
    galera.first_ask(galera.nodes[0], *ROLES)
    done, other = threading.Event(), galera.nodes[1]

    def write():
        conn = other.connect("giftflow")
        with conn.cursor() as cursor:
            while not done.wait(0.01):
                with contextlib.suppress(pymysql.MySQLError):
                    cursor.execute("UPDATE wallet SET updated_ms = updated_ms + 1")
        conn.close()

    writer = threading.Thread(target=write)
    before = galera.counted(*RETRIES)
    with Load(galera):
        writer.start()
        try:
            wait_until(lambda: galera.counted(*RETRIES) >= before + 60, 180, "conflicts")
            galera.goes_on()
        finally:
            done.set()
            writer.join()
        galera.goes_on()
    galera.check()


def test_two_settlements_work_at_two_nodes(galera):
    """And take partitions over from each other, from one node to the other."""
    stack = galera.stack
    galera.first_ask(galera.nodes[0], *ROLES)
    with Load(galera):
        galera.first_ask(galera.nodes[1], "settle-2")
        for _ in range(2):
            wait_until(lambda: galera.counted("giftflow_settle_partitions", role="settle-2") > 0, 120, "settle-2 has partitions")
            galera.goes_on(500)
            stack.kill("settle-2")
            galera.goes_on(500)
            galera.first_ask(galera.nodes[1], "settle-2")
        galera.first_ask(galera.nodes[2], "settle-1")
        galera.goes_on(500)
        stack.stop("settle-2")
        galera.goes_on(500)
    galera.check()


def test_a_credit_of_another_node_is_known_where_its_command_is_settled(galera):
    """What ingest has written at one node stands before settlement in Kafka, and not yet in its node: that must wait for it, or bury the command."""
    here, other, user = galera.nodes[0], galera.nodes[1], galera.stack.new_id()
    galera.first_ask(here, *ROLES)
    for role in ROLES[1:]:
        galera.stack.stop(role)  # what waits here is settlement
    wait_until(lambda: galera.counted("giftflow_settle_partitions") == 4, 60, "all is claimed")
    galera.send(galera.users)
    galera.stack.drain()
    with lagging(here, other):
        galera.look_at(other)
        galera.stack.produce_many([galera.credit(user)])
        wait_until(lambda: [info for info in sessions(here, 2) if not info.startswith("UPDATE")], 60, "settlement waits")  # UPDATE: of other progress
    galera.stack.drain()
    assert galera.stack.balance(user) == COINS
    for role in ROLES[1:]:
        galera.stack.start(role)
    galera.check()


def test_a_lost_commit_is_asked_about_behind_what_its_node_has_committed(galera):
    """F7: the others lag until flow control stops the writer in a COMMIT. It is killed; before the others have caught up, none may say what became of it."""
    writer, (here, other), stack = galera.nodes[0], galera.nodes[1:], galera.stack
    galera.first_ask(writer, *ROLES)
    fenced, uncertain = galera.counted(FENCED), galera.counted(UNCERTAIN)
    for role in ROLES[1:]:
        stack.stop(role)
    galera.look_at(writer)
    looked_up = lambda: stack.log_text("settle-1").count("event=commit_looked_up")  # noqa: E731
    with Load(galera):
        galera.goes_on()
        with lagging(here, writer), lagging(other, writer):
            wait_until(lambda: "COMMIT" in sessions(writer, 3), 120, "flow control stops a COMMIT")
            before = looked_up()
            writer.end()
            wait_until(lambda: looked_up() > before or sessions(here, 2) or sessions(other, 2), 120, "settlement asks")
        galera.look_at(here)
        galera.goes_on()
        writer.start()
        galera.await_whole()
    assert galera.counted(UNCERTAIN) > uncertain and galera.counted(FENCED) == fenced
    for role in ROLES[1:]:
        stack.start(role)
    galera.check()
