# SPDX-License-Identifier: Apache-2.0
"""A group of three MySQL servers (group replication, single primary), all in mysql.hosts: the primary dies, freezes, hands over and loses its group, and
every gift that was accepted is settled once. It is the group that elects; the roles find out."""

import contextlib
import time

import pymysql
import pytest

from servers import COINS, ROLES, Cluster, Load, OwnServer, free_port, lagging
from stack import wait_until

UNCERTAIN = "giftflow_settle_uncertain_commits_total"
FENCED = "giftflow_settle_fenced_total"
RECOVERY = "CHANGE REPLICATION SOURCE TO SOURCE_USER='repl', SOURCE_PASSWORD='repl' FOR CHANNEL 'group_replication_recovery'"
FOUND = ("SET GLOBAL group_replication_bootstrap_group=ON", "START GROUP_REPLICATION", "SET GLOBAL group_replication_bootstrap_group=OFF")


class Member(OwnServer):
    def __init__(self, directory, number, port, group):
        """It is put out as soon as it is silent, and joins again when the test says so."""
        settings = {
            "group_name": "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa", "start_on_boot": "OFF", "local_address": group[number - 1], "group_seeds": ",".join(group),
            "recovery_get_public_key": "ON", "ip_allowlist": "127.0.0.1/8", "member_expel_timeout": "0", "autorejoin_tries": "0",
        }  # fmt: skip
        self.address = group[number - 1]
        options = [
            f"--server-id={number}", "--log-bin=bin", "--gtid-mode=ON", "--enforce-gtid-consistency=ON", "--report-host=127.0.0.1", f"--report-port={port}",
            "--innodb-redo-log-capacity=64M", "--plugin-load-add=group_replication.so", *(f"--loose-group-replication-{name}={value}" for name, value in settings.items()),
        ]  # fmt: skip
        super().__init__(directory, port, options)

    def create(self):
        """The first time."""
        self.start()
        wait_until(self.answers, 180, self.dir.name)
        self.rows(
            "SET sql_log_bin=0", "CREATE USER repl@'127.0.0.1' IDENTIFIED BY 'repl'",
            "GRANT REPLICATION SLAVE, BACKUP_ADMIN, CONNECTION_ADMIN, GROUP_REPLICATION_STREAM ON *.* TO repl@'127.0.0.1'", RECOVERY,
        )  # fmt: skip

    def members(self):
        """As this one sees them: {port: (state, role)}."""
        rows = self.rows("SELECT member_port AS port, member_state AS state, member_role AS role FROM performance_schema.replication_group_members", read_timeout=20)
        return {row["port"]: (row["state"], row["role"]) for row in rows}

    def is_online(self):
        try:
            return self.members().get(self.port, ("", ""))[0] == "ONLINE"
        except pymysql.MySQLError:
            return False

    def join(self):
        """Again and again: a group that is still finding out who has left takes nobody."""

        def joined():
            if not self.is_online():
                with contextlib.suppress(pymysql.MySQLError):
                    self.rows("STOP GROUP_REPLICATION", "START GROUP_REPLICATION", read_timeout=120)
            return self.is_online()

        wait_until(joined, 180, f"{self.dir.name} is in the group", every=1)

    def is_read_only(self):
        return self.rows("SELECT @@global.super_read_only AS n")[0]["n"] == 1


class Group(Cluster):
    def form(self):
        group = [f"127.0.0.1:{free_port()}" for _ in range(3)]
        for i in range(3):
            self.nodes.append(Member(self.dir / f"m{i + 1}", i + 1, free_port(), group))
        for node in self.nodes:
            node.create()
        self.nodes[0].rows(*FOUND)
        wait_until(lambda: not self.nodes[0].is_read_only(), 120, "the first is the primary")
        for node in self.nodes[1:]:
            node.join()

    def primary(self, among):
        """The one that the others of these believe in, too; looked at from now on."""

        def elected():
            seen = [node.members() for node in among]
            for node in among:
                if all(each.get(node.port) == ("ONLINE", "PRIMARY") for each in seen):
                    return node
            return None

        node = wait_until(elected, 180, "a primary", every=0.5)
        self.look_at(node)
        return node

    def others(self, node):
        return [each for each in self.nodes if each is not node]

    def restore(self):
        """All three are in it."""
        for node in self.nodes:
            if node.process is None:
                node.start()
            wait_until(node.answers, 180, f"{node.dir.name} answers")
            node.join()
            node.rows("SET GLOBAL offline_mode=OFF")  # a member that was put out goes there, and does not come back from there by itself


@pytest.fixture(scope="module")
def group():
    cluster = Group()
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


def test_the_primary_dies_in_a_commit_and_the_group_elects_another(group):
    """F7: what became of the COMMIT only the new primary knows."""
    old = group.primary(group.nodes)
    others = group.others(old)
    with Load(group):
        group.goes_on()
        group.kill_in_a_commit(old, others)
        group.primary(others)
        group.are_ready(*ROLES)
        group.goes_on()
        group.restore()
    assert group.counted(UNCERTAIN) >= 1
    group.check()


def test_a_frozen_primary_comes_back_expelled_and_is_not_believed(group):
    old = group.primary(group.nodes)
    others = group.others(old)
    with Load(group):
        group.goes_on()
        old.freeze()
        group.primary(others)
        group.are_ready(*ROLES)
        group.goes_on()
        old.thaw()
        group.first_ask(old, *ROLES)
        group.goes_on()
        wait_until(old.is_read_only, 120, "the old primary knows")
        group.first_ask(old, *ROLES)
        asks = "SELECT id FROM information_schema.processlist WHERE user = 'giftflow_app' AND command <> 'Connect'"
        wait_until(lambda: not old.rows(asks), 60, "nobody stays at the old primary")
        group.goes_on()
        group.restore()
    group.check()


def test_a_planned_hand_over_loses_nothing(group):
    with Load(group):
        for _ in range(3):
            old = group.primary(group.nodes)
            new = group.others(old)[0]
            group.goes_on()
            old.rows(f"SELECT group_replication_set_as_primary('{new.rows('SELECT @@server_uuid AS id')[0]['id']}')")
            assert group.primary(group.nodes) is new
            group.goes_on()
    group.are_ready(*ROLES)
    group.check()


@pytest.mark.parametrize("leaves", (False, True))
def test_without_a_majority_nothing_is_settled_and_afterwards_all_once(group, leaves):
    """Its COMMITs hang until somebody says that the two are not coming back; or it has had enough, rolls them back and goes offline."""
    last = group.primary(group.nodes)
    others = group.others(last)
    last.rows(f"SET GLOBAL group_replication_unreachable_majority_timeout={5 if leaves else 0}")
    uncertain = group.counted(UNCERTAIN)
    failed = lambda: group.stack.log_text("settle-1").count("event=commit_lookup_failed")  # noqa: E731
    with Load(group):
        group.goes_on()
        before = failed()
        for node in others:
            node.end()
        wait_until(lambda: group.counted(UNCERTAIN) > uncertain, 180, "a COMMIT without an answer")
        if leaves:
            for role in ROLES:
                wait_until(lambda role=role: group.is_red(role, f"127.0.0.1:{last.port}: mysql 6400"), 180, f"{role} is red and says why")
            last.rows("STOP GROUP_REPLICATION", *FOUND, "SET GLOBAL offline_mode=OFF")
        else:
            wait_until(lambda: failed() > before, 180, "nobody says what became of it")
            last.rows(f"SET GLOBAL group_replication_force_members='{last.address}'", "SET GLOBAL group_replication_force_members=''", read_timeout=180)
        assert group.primary([last]) is last
        group.goes_on()
        group.restore()
    group.are_ready(*ROLES)
    last.rows("SET GLOBAL group_replication_unreachable_majority_timeout=0")
    group.check()


@pytest.mark.parametrize("consistency", ("BEFORE_ON_PRIMARY_FAILOVER", "EVENTUAL"))
def test_a_new_primary_is_asked_behind_all_that_the_old_one_has_acknowledged(group, consistency):
    """Both others lag when the primary dies. What it has said is safe stands in the one that is elected, but is not applied yet: not the COMMITs of settlement,
    nor a credit whose command is in Kafka."""
    old, user, stack = group.primary(group.nodes), group.stack.new_id(), group.stack
    others = group.others(old)
    for node in group.nodes:
        node.rows(f"SET GLOBAL group_replication_consistency='{consistency}'")
    group.first_ask(old, *ROLES)  # sessions of their own, with what is the default now
    fenced = group.counted(FENCED)
    with Load(group):
        group.goes_on()
        with lagging(others[0], old), lagging(others[1], old):
            group.goes_on(500)
            record = group.credit(user)
            old.end()
            stack.produce_many([record])
            wait_until(lambda: any(role == "PRIMARY" and port != old.port for node in others for port, (_, role) in node.members().items()), 120, "an election")
            time.sleep(10)  # for settlement to ask, and to be told wrong
        group.primary(others)
        group.goes_on()
        group.restore()
    assert group.counted(FENCED) == fenced
    stack.drain(180)
    assert stack.balance(user) == COINS
    group.check()
