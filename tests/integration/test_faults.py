# SPDX-License-Identifier: Apache-2.0
"""Settlement under load while its surroundings misbehave: the connection is cut around COMMIT, foreign sessions hold its rows, members come
and go in the middle of a batch, Redis hangs, the broker dies. Afterwards every gift has one outcome, every wallet and notice is right.

settle reaches MySQL through sql_proxy.py. What else may be killed is in test_settle.py, and with ingest in test_ingest_outages.py."""

import time

import pytest
from conftest import finish
from sql_proxy import SqlProxy
from stack import Stack, wait_until
from test_settle import ONLY_SETTLE, Traffic, add_gift, check_all_settled_once, fund, murmur2_partition, owners, settled_offsets

READ_TIMEOUT_S = 6


@pytest.fixture(scope="module")
def rig():
    """Four partitions, one settle process with two lanes behind the proxy; `sent` remembers every gift, as Traffic wants it."""
    stack = Stack(
        roles={**ONLY_SETTLE, "settle": 0}, settings={"mysql.read_timeout": f"{READ_TIMEOUT_S}s", "kafka.session_timeout": "6s", "settle.batch": 500, "settle.retry_max": "3m"},
    )  # fmt: skip
    stack.sent, stack.proxy = [], None
    try:
        stack.up()
        add_gift(stack, 22, 90)
        stack.proxy = SqlProxy(str(stack.dir / "proxy.sock"), stack.env["GIFTFLOW_MYSQL_SOCKET"])
        stack.environ["GIFTFLOW_MYSQL_HOSTS"] = stack.proxy.path
        stack.start("settle-1")
        stack.users = [stack.new_id() for _ in range(40)]
        fund(stack, stack.users, 10_000_000)
        yield stack
    finally:
        if stack.proxy:
            stack.proxy.close()
        finish(stack)


def metric(stack, name, process="settle-1"):
    return stack.metrics(process)[name]


def uncertain(stack):
    return metric(stack, "giftflow_settle_uncertain_commits_total")


# -- the connection, around COMMIT (F7)


@pytest.mark.parametrize(
    "action, seconds, times",
    [
        ("lose_answer", 0, 4),
        ("cut_before", 0, 4),
        ("abandon", 0, 1),  # the old session holds its locks until the server gives it up
        ("hold_request", READ_TIMEOUT_S + 2, 1),  # it arrives when the answer is not waited for any more, and counts
        ("hold_answer", READ_TIMEOUT_S + 2, 1),
    ],
)
def test_f7_a_connection_that_fails_around_commit(rig, action, seconds, times):
    def lines(event):
        return rig.log_text("settle-1").count(f"event={event}")

    before, claimed, looked_up, contested = uncertain(rig), lines("partition_claimed"), lines("commit_looked_up"), lines("partition_contested")
    with Traffic(rig) as traffic:

        def doubted():
            """False: settle stood still with its machine for so long that it has missed nothing."""
            goal, fired = uncertain(rig) + 1, rig.proxy.fired
            traffic.wait_settled(200)
            rig.proxy.order(action, seconds)
            wait_until(lambda: rig.proxy.fired > fired, 60, "a COMMIT on its way")
            end = time.monotonic() + seconds + 20
            wait_until(lambda: uncertain(rig) >= goal or time.monotonic() > end, 60, "the doubt is noticed")
            return uncertain(rig) >= goal

        for _ in range(times):
            wait_until(doubted, 120, "a COMMIT in doubt")
        traffic.wait_settled(200)
    check_all_settled_once(rig)
    if lines("partition_claimed") == claimed:  # else a doubt may be its next owner's
        assert lines("commit_looked_up") - looked_up == uncertain(rig) - before, "each doubt was settled by the progress row"
    # An unlocked read sees the offset from before a COMMIT that is still to come, and the redone batch runs into the fence: its own, so that
    # nobody has the partition until it is contested. Another member takes it at once; a starved machine may make that happen.
    assert lines("partition_contested") == contested


# -- foreign sessions in the way


class Foreign:
    """A session of somebody else, in a transaction."""

    def __init__(self, stack):
        self.stack, self.db = stack, stack.connect_db("root")

    def __enter__(self):
        self.db.begin()
        return self

    def __exit__(self, *_):
        self.db.close()  # rolls back

    def run(self, query, *args):
        with self.db.cursor() as cursor:
            cursor.execute(query, args or None)
            return cursor.fetchall()

    def wait_for_waiter(self):
        """Until settle waits for a lock of ours."""
        watcher = self.stack.connect_db("root")

        def waits():
            with watcher.cursor() as cursor:
                cursor.execute("SELECT COUNT(*) n FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'")
                return cursor.fetchall()[0]["n"] > 0

        try:
            wait_until(waits, 60, "settle waits for the lock", every=0.25)  # the table is a copy that is renewed when nobody has read it for 0.1 s
        finally:
            watcher.close()


def test_a_deadlock_with_a_foreign_session_is_retried(rig):
    """The other session has written more, so that MySQL ends settle's transaction: 1213."""
    pair = [rig.new_id(), rig.new_id()]
    while partition(pair[0]) != partition(pair[1]):
        pair[1] = rig.new_id()
    fund(rig, pair, 1000)
    pads = ",".join(map(str, rig.users[:20]))

    def met():
        with Foreign(rig) as foreign:
            foreign.run(f"UPDATE wallet SET updated_ms = updated_ms + 1 WHERE user_id IN ({pads})")
            foreign.run("UPDATE wallet SET updated_ms = updated_ms + 1 WHERE user_id = %s", pair[1])
            send(rig, pair)
            foreign.wait_for_waiter()
            foreign.run("UPDATE wallet SET updated_ms = updated_ms + 1 WHERE user_id = %s", pair[0])  # settle has it, if both gifts are one batch
        return "mysql 1213" in rig.log_text("settle-1")

    wait_until(met, 120, "a deadlock")
    check_all_settled_once(rig)


def test_locks_that_are_held_too_long_are_waited_for_again(rig):
    """1205, once for a wallet and once for the progress row; the other lane's partitions go on meanwhile."""
    user = rig.users[0]
    home = partition(user)
    before = rig.log_text("settle-1").count("mysql 1205")
    with Foreign(rig) as foreign, Traffic(rig) as traffic:
        foreign.run("SELECT * FROM wallet WHERE user_id = %s FOR UPDATE", user)
        wait_until(lambda: rig.log_text("settle-1").count("mysql 1205") > before, 60, "a lock wait time-out")
        foreign.db.rollback()
        traffic.wait_settled(200)
        before = rig.log_text("settle-1").count("mysql 1205")
        foreign.db.begin()
        foreign.run("SELECT * FROM progress WHERE part = %s AND topic = 'giftflow.commands' FOR UPDATE", home)
        wait_until(lambda: rig.log_text("settle-1").count("mysql 1205") > before, 60, "another one")
        traffic.wait_settled(200)  # of other partitions: this one is still locked
        foreign.db.rollback()
        traffic.wait_settled(200)
    check_all_settled_once(rig)


def partition(user):
    return murmur2_partition(str(user), 4)


def send(stack, users):
    commands = [stack.gift_command(user) for user in users]
    stack.produce_many([(str(command["user_id"]), command) for command in commands])
    stack.sent += [(command["request_id"], command["user_id"]) for command in commands]


# -- members come and go


def test_one_then_three_then_two_processes_while_a_batch_is_in_the_middle(rig):
    """settle-1 sits in a COMMIT that the proxy keeps while the others join: the group waits for it or fences it out, and either is right."""
    with Traffic(rig) as traffic:
        traffic.wait_settled(200)
        for goal, change in ((3, lambda: (rig.start("settle-2"), rig.start("settle-3"))), (2, lambda: rig.kill("settle-1")), (1, lambda: rig.stop("settle-3"))):
            fired = rig.proxy.fired
            rig.proxy.order("hold_request", 3)
            wait_until(lambda: rig.proxy.fired > fired, 60, "a batch in the middle")
            change()
            wait_until(lambda: len(owners(rig)) == goal, 60, f"{goal} owners")
            traffic.wait_settled()
        rig.start("settle-1")
        rig.stop("settle-2")
        wait_until(lambda: len(owners(rig)) == 1, 60, "settle-1 alone again")
        traffic.wait_settled()
    check_all_settled_once(rig)


def test_mysql_away_for_less_than_retry_max_costs_no_partition(rig):
    """The members keep their partitions and their place in the group for longer than Kafka's session time-out; prefetch is all that grows.
    settle.retry_max is what no start of a server takes."""
    with Traffic(rig) as traffic:

        def kept():
            """False: the machine stood still for a whole session, say, and Kafka has put the members out."""
            traffic.wait_settled(200)
            before, left = claims(rig), rig.log_text("settle-1").count("event=group_left")
            rig.kill("mysql")
            memory, end = rig.resident("settle-1"), time.monotonic() + 9  # one and a half session time-outs
            wait_until(lambda: time.monotonic() > end, 60, "a while without MySQL", every=0.5)
            assert rig.resident("settle-1") < memory + (64 << 20)
            assert rig.is_alive("settle-1")
            wait_until(lambda: rig.http("GET", "/readyz", base=rig.ops_url("settle-1"))[0] == 503, 60, "not ready without MySQL")
            rig.start("mysql")
            wait_until(lambda: rig.is_ready("settle-1"), 60, "ready again")
            traffic.wait_settled()
            return rig.log_text("settle-1").count("event=group_left") == left and claims(rig) == before

        wait_until(kept, 120, "all partitions kept")
    check_all_settled_once(rig)


def claims(stack):
    return {row["log"]: row["epoch"] for row in stack.sql("SELECT log, epoch FROM progress WHERE live = 1")}


# -- Redis hangs, the broker dies


def test_a_redis_that_hangs_holds_up_no_settlement(rig):
    with Traffic(rig) as traffic:
        traffic.wait_settled(200)
        with rig.frozen("redis"):
            wait_until(lambda: metric(rig, "giftflow_publish_pending") > 0, 60, "wallets wait for Redis")
            traffic.wait_settled(2000)
        traffic.wait_settled(200)
    rig.drain()
    wait_until(lambda: metric(rig, "giftflow_publish_pending") == 0, 60, "Redis is told")
    check_all_settled_once(rig)  # verify compares Redis with MySQL


def test_the_broker_dies_under_a_backlog(rig):
    """What was read and not settled is read again; what was settled and not told is told again."""
    with rig.frozen("settle-1"):
        for _ in range(10):
            send(rig, rig.users * 25)
    start = settled_offsets(rig)
    wait_until(lambda: settled_offsets(rig) > start, 60, "the backlog is begun")
    rig.kill("kafka")
    wait_until(lambda: not rig.is_ready("settle-1"), 60, "not ready without Kafka")
    rig.start("kafka")
    wait_until(lambda: rig.is_ready("settle-1"), 120, "ready again")
    check_all_settled_once(rig)
