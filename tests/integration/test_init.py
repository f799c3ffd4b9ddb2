# SPDX-License-Identifier: Apache-2.0
"""giftflow init: a repeat changes nothing, two at once are one, and what was pinned cannot change by accident."""

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import finish
from stack import Stack, wait_until

AS_INIT_MAKES_IT = {
    "message.timestamp.type": "LogAppendTime", "cleanup.policy": "delete", "retention.ms": "2592000000", "retention.bytes": "-1",
    "min.insync.replicas": "1", "unclean.leader.election.enable": "false",
}  # fmt: skip
TABLES = ("schema_migration", "topic", "progress", "rollup")


@pytest.fixture(scope="module")
def servers():
    """Kafka, MariaDB and Redis without any role; the tests follow each other in this file's order."""
    stack = Stack(roles={role: 0 for role in ("ingest", "settle", "router", "gateway", "sweep")}, partitions=3)
    try:
        yield stack.up()
    finally:
        finish(stack)


def start_init(stack, *args, **env):
    return subprocess.Popen(
        [stack.env["GIFTFLOW_BIN"], "init", *args, "--config", stack.env["GIFTFLOW_CONFIG"]],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**stack.environ, **env},
    )  # fmt: skip


def init(stack, *args, **env):
    process = start_init(stack, *args, **env)
    out, error = process.communicate(timeout=120)
    return process.returncode, out, error


def rows(stack):
    return {table: stack.sql(f"SELECT * FROM {table}") for table in TABLES}


def test_an_init_waits_for_another_one_longer_than_statements_usually_may(servers):
    other = servers.connect_db()
    with other.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        cursor.execute("SELECT GET_LOCK('giftflow.init', 0) AS got")
        assert cursor.fetchone()["got"] == 1
        second = pool.submit(init, servers, GIFTFLOW_MYSQL_READ_TIMEOUT="10s")
        waiting = "SELECT MAX(time) AS s FROM information_schema.processlist WHERE info LIKE 'SELECT GET_LOCK%%'"
        try:
            wait_until(lambda: (servers.sql(waiting)[0]["s"] or 0) >= 11 or second.done(), 60, "the second init waits")
        finally:
            other.close()
        status, _, error = second.result(120)
    assert status == 0, error


def test_a_repeat_changes_nothing(servers):
    before = rows(servers)
    assert [(row["log"], row["part"], row["partitions"], row["live"]) for row in before["progress"]] == [(1, 0, 3, 1), (2, 1, 3, 1), (3, 2, 3, 1)]
    assert {row["topic"]: row["partitions"] for row in before["topic"]} == {
        "giftflow.commands": 3, "giftflow.notices": 3, "giftflow.catalogue": 1, "giftflow.dlq": 1,
    }  # fmt: skip
    assert init(servers)[0] == 0
    assert rows(servers) == before


def test_it_makes_the_database_and_two_at_once_are_one(servers):
    db = servers.connect_db(user="root")
    with db.cursor() as cursor:
        cursor.execute(f"DROP DATABASE {servers.env['GIFTFLOW_MYSQL_DB']}")
    db.close()
    servers.close_db()
    processes = [start_init(servers) for _ in range(3)]
    for process in processes:
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, out + error
    assert len(servers.sql("SELECT * FROM progress")) == 3
    assert len(servers.sql("SELECT * FROM rollup")) == 3


def test_it_makes_the_database_though_another_server_of_the_list_is_down(servers):
    hosts = f"127.0.0.1:1,{servers.env['GIFTFLOW_MYSQL_SOCKET']}"
    status, out, error = init(servers, "--wait", "30", GIFTFLOW_MYSQL_HOSTS=hosts, GIFTFLOW_MYSQL_DATABASE="giftflow_late", GIFTFLOW_KAFKA_PREFIX="late")
    assert status == 0 and "database giftflow_late: created" in out, error
    status, out, error = init(servers, GIFTFLOW_MYSQL_HOSTS=hosts, GIFTFLOW_MYSQL_DATABASE="giftflow_late", GIFTFLOW_KAFKA_PREFIX="late")
    assert status == 0 and "created" not in out, error


def test_another_partition_count_is_refused(servers):
    before = rows(servers)
    status, _, error = init(servers, GIFTFLOW_KAFKA_PARTITIONS="4")
    assert status == 1 and "pinned to 3 partitions" in error, error
    servers.sql("UPDATE topic SET partitions = 5 WHERE topic = 'giftflow.notices'")
    status, _, error = init(servers, GIFTFLOW_KAFKA_PARTITIONS="3")
    assert status == 1 and "giftflow.notices is pinned to 5" in error, error
    servers.sql("UPDATE topic SET partitions = 3 WHERE topic = 'giftflow.notices'")
    assert rows(servers) == before


def test_a_topic_that_another_hand_made_with_another_count_is_refused(servers):
    status, _, error = init(servers, GIFTFLOW_KAFKA_PREFIX="other", GIFTFLOW_KAFKA_PARTITIONS="2")
    assert status == 0, error
    servers.sql("DELETE FROM progress WHERE topic = 'other.commands'")
    servers.sql("DELETE FROM topic WHERE topic = 'other.commands'")
    status, _, error = init(servers, GIFTFLOW_KAFKA_PREFIX="other", GIFTFLOW_KAFKA_PARTITIONS="4")
    assert status == 1 and "has 2 partitions, not 4" in error, error


def test_a_topic_that_is_gone_is_refused_once_records_of_it_were_settled(servers):
    servers.sql("INSERT INTO topic VALUES ('lost.commands', 1, 3, 0), ('lost.notices', 4, 3, 0)")
    servers.sql("INSERT INTO progress (log, topic, part, incarnation, live, partitions, next_offset) VALUES (9, 'lost.commands', 0, 1, 1, 3, 7)")
    status, _, error = init(servers, GIFTFLOW_KAFKA_PREFIX="lost")
    assert status == 1 and "lost.commands is gone from Kafka" in error, error
    servers.sql("UPDATE progress SET next_offset = 0 WHERE log = 9")
    assert init(servers, GIFTFLOW_KAFKA_PREFIX="lost")[0] == 0
    # Frame numbers must go on rising although the new topic's offsets start at 0 again.
    assert servers.sql("SELECT incarnation FROM topic WHERE topic = 'lost.notices'")[0]["incarnation"] == 5


def test_it_waits_only_as_long_as_it_was_told(servers):
    status, _, error = init(servers, "--wait", "1", GIFTFLOW_KAFKA_BROKERS="127.0.0.1:1")
    assert status == 1 and "kafka" in error, error
    status, _, error = init(servers, "--wait", "1", GIFTFLOW_MYSQL_SOCKET="/nonexistent/mysql.sock")
    assert status == 1 and "mysql" in error, error


def test_topics_are_made_as_promised(servers):
    about = json.loads(servers._kcat("-L", "-J", "-t", "giftflow.commands"))
    assert len(about["topics"][0]["partitions"]) == 3
    servers.produce(1, "x", topic="giftflow.catalogue")
    assert servers.records("giftflow.catalogue")[0]["tstype"] == "logappend"


@pytest.mark.parametrize("setting", [("message.timestamp.type", "CreateTime"), ("cleanup.policy", "compact"), ("retention.ms", "604800000"), ("retention.bytes", "1000000")])
def test_a_commands_topic_with_other_settings_is_refused(servers, setting):
    name, value = setting
    prefix = name.replace(".", "-")
    servers.create_topic(f"{prefix}.commands", 3, {**AS_INIT_MAKES_IT, name: value})
    status, _, error = init(servers, GIFTFLOW_KAFKA_PREFIX=prefix)
    assert status == 1 and f"{prefix}.commands has {name}={value}, wanted is {AS_INIT_MAKES_IT[name]}" in error, error
    assert not servers.sql("SELECT 1 FROM progress WHERE topic = %s", f"{prefix}.commands")


def test_other_settings_that_lose_nothing_are_taken(servers):
    servers.create_topic("kept.commands", 3, {**AS_INIT_MAKES_IT, "retention.ms": "-1"})
    servers.create_topic("kept.notices", 3, {**AS_INIT_MAKES_IT, "retention.ms": "3600000"})
    assert init(servers, GIFTFLOW_KAFKA_PREFIX="kept")[0] == 0
    status, _, error = init(servers, GIFTFLOW_KAFKA_PREFIX="kept", GIFTFLOW_KAFKA_REPLICATION="3", GIFTFLOW_KAFKA_MIN_INSYNC="2")
    assert status == 1 and "kept.commands has min.insync.replicas=1, wanted is 2 or more" in error, error


def test_a_topic_with_fewer_copies_than_planned_is_refused(servers):
    servers.create_topic("single.commands", 3, AS_INIT_MAKES_IT)
    status, _, error = init(servers, GIFTFLOW_KAFKA_PREFIX="single", GIFTFLOW_KAFKA_REPLICATION="3")
    assert status == 1 and "single.commands has 1 copies of a partition, wanted is 3 or more" in error, error
    assert not servers.sql("SELECT 1 FROM progress WHERE topic = 'single.commands'")


@pytest.mark.parametrize("args", [("--new-log",), ("--new-log", "x"), ("--new-log", "1024"), ("--accept-loss",), ("--yes",), ("--new-logs", "1")])
def test_wrong_arguments_are_a_usage_error(servers, args):
    assert init(servers, *args)[0] == 2


def test_a_log_of_which_nothing_was_settled_stays(servers):
    before = rows(servers)
    status, out, error = init(servers, "--new-log", "all")
    assert status == 0 and out.count("nothing was settled") == 3, out + error
    assert rows(servers) == before
    status, _, error = init(servers, "--new-log", "3")
    assert status == 1 and "has no partition 3" in error, error


def test_roles_that_run_before_init_make_no_topics():
    """On a broker that makes what is asked for, as Kafka does by default: theirs would have one partition and its settings, and init would refuse them."""
    roles = ("ingest", "settle", "sweep")
    stack = Stack(roles={role: 0 for role in (*roles, "router", "gateway")}, partitions=3, env={"GIFTFLOW_KAFKA_ARGS": "--override auto.create.topics.enable=true"})
    try:
        stack.up()
        for topic in ("commands", "notices", "catalogue", "dlq"):
            stack.delete_topic(f"giftflow.{topic}")
        for role in roles:
            stack.start(f"{role}-1", wait=False)
        wait_until(lambda: "event=partitions_" in stack.log_text("ingest-1"), 60, "ingest has asked for its topic")
        status, out, error = init(stack)
        assert status == 0 and out.count(": created") == 4, out + error
        for role in roles:
            wait_until(lambda role=role: stack.is_ready(f"{role}-1"), 90, f"{role} is ready")
    finally:
        finish(stack)


# -- a commands topic that is not what it was (F5)


@pytest.fixture(scope="module")
def settling():
    stack = Stack(roles={"ingest": 0, "router": 0, "gateway": 0}, partitions=2)
    try:
        stack.up()
        now = int(time.time() * 1000)
        stack.sql("INSERT INTO gift VALUES (22, 'Heart', '', '', 9999, 1, 1, %s)", now)
        stack.sql("INSERT INTO gift_price VALUES (22, %s, %s, 90, 5000)", now - 3600_000, 2**63 - 1)
        yield stack
    finally:
        finish(stack)


def live(stack):
    return {row["part"]: row for row in stack.sql("SELECT * FROM progress WHERE live = 1")}


def send(stack, users):
    """A gift of each; the balances afterwards are given."""
    stack.produce_many([(user, stack.gift_command(user)) for user in users])


def balances(stack, users):
    return {row["balance"] for row in stack.sql(f"SELECT balance FROM wallet WHERE user_id IN ({','.join(map(str, users))})")}


def await_stop(stack, text):
    wait_until(lambda: stack.log_text("settle-1").count("event=partition_stopped") >= 1 and text in stack.log_text("settle-1"), 60, text)
    assert not stack.is_ready("settle-1")


def start_stopped(stack, text):
    (Path(stack.env["GIFTFLOW_LOG_DIR"]) / "settle-1.log").write_text("")
    stack.start("settle-1", wait=False)
    await_stop(stack, text)


def settles_again(stack):
    stack.drain()
    wait_until(lambda: stack.is_ready("settle-1"), 60, "ready")
    stack.verify()


def test_a_topic_made_anew_stops_its_partitions_until_they_get_new_logs(settling):
    users = settling.new_users(20, 1000)
    send(settling, users)
    settling.drain()
    assert balances(settling, users) == {910}
    settling.stop("settle-1")
    settling.delete_topic("giftflow.commands")
    for args in ((), ("--new-log", "0")):
        status, _, error = init(settling, *args)
        assert status == 1 and "gone from Kafka although" in error, error
    settling.create_topic("giftflow.commands", 2, AS_INIT_MAKES_IT)
    send(settling, users)
    start_stopped(settling, "truncated or made anew; see giftflow init --help")
    assert balances(settling, users) == {910}

    before = live(settling)
    status, out, error = init(settling, "--new-log", "all")
    assert status == 0, error
    settles_again(settling)
    assert balances(settling, users) == {820}
    for part, row in live(settling).items():
        assert row["log"] > max(old["log"] for old in before.values())
        assert (row["incarnation"], row["partitions"]) == (before[part]["incarnation"] + 1, 2)
        assert f"partition {part}: log {before[part]['log']} closed at {before[part]['next_offset']}, log {row['log']} begins at 0" in out
        assert f"partition {part}: requests from {before[part]['next_offset']} on that the lost records held, if any, get no outcome" in out
    closed = settling.sql("SELECT epoch FROM progress WHERE live IS NULL ORDER BY part")
    assert [row["epoch"] > before[part]["epoch"] for part, row in enumerate(closed)] == [True, True]  # its owner, were there one, is fenced out


def test_a_healthy_log_is_closed_only_with_yes_and_nothing_settles_twice(settling):
    users = settling.new_users(20, 1000)
    send(settling, users)
    settling.drain()
    behind = "SELECT COUNT(*) AS n FROM progress p JOIN rollup r ON r.log = p.log WHERE r.rolled_offset < p.next_offset OR p.notified_offset < p.next_offset"
    wait_until(lambda: settling.sql(behind)[0]["n"] == 0, 60, "notices and roll-up, which come after settlement")
    before = rows(settling)
    status, _, error = init(settling, "--new-log", "all")
    assert status == 1 and "looks healthy" in error and "--yes" in error, error
    assert rows(settling) == before
    settling.stop("settle-1")
    status, _, error = init(settling, "--new-log", "all", "--yes")
    assert status == 0, error
    settling.start("settle-1")
    settles_again(settling)
    assert balances(settling, users) == {910}
    assert settling.sql("SELECT SUM(duplicate) AS n FROM batch b JOIN progress p ON p.log = b.log AND p.live = 1")[0]["n"] >= 40


def test_records_that_retention_took_are_given_up_only_on_demand(settling):
    users = settling.new_users(20, 1000)
    settling.drain()
    settling.stop("settle-1")
    send(settling, users)
    ends = settling.end_offsets()
    settling.delete_records("giftflow.commands", 0, ends[0])
    start_stopped(settling, "are gone unsettled; see giftflow init --help")
    before = live(settling)
    lost = ends[0] - before[0]["next_offset"]
    assert lost > 0
    status, _, error = init(settling, "--new-log", "0")
    assert status == 1 and "--accept-loss" in error, error
    status, out, error = init(settling, "--new-log", "0", "--accept-loss")
    assert status == 0 and f"records [{before[0]['next_offset']}, {ends[0]}) are lost" in out, out + error
    assert live(settling)[1]["log"] == before[1]["log"]
    settling.verify()  # a log of which nothing was consumed yet, and that does not begin at 0
    send(settling, users)
    settles_again(settling)
    sums = settling.sql(f"SELECT SUM(balance) AS n FROM wallet WHERE user_id IN ({','.join(map(str, users))})")
    assert sums[0]["n"] == 20 * (1000 - 180) + 90 * lost
    assert settling.sql("SELECT MIN(first_offset) AS n FROM batch WHERE log = %s", live(settling)[0]["log"])[0]["n"] == ends[0]
