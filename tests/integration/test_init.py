# SPDX-License-Identifier: Apache-2.0
"""giftflow init: a repeat changes nothing, two at once are one, and what was pinned cannot change by accident."""

import json
import subprocess

import pytest
from conftest import finish
from stack import Stack

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
